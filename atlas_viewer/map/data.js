/** The places of the neurons of an atlas, from map.parquet, with an index of them; read once. */

import { fetchBytes, LoadError } from '../base/files.js'
import { decodeTable } from '../data/tables.js'
import { FILES } from '../base/glossary/files.js'
import { makeGrid, nearestPoints } from './grid.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./grid.js').Grid} Grid
 *
 * @typedef {import('../data/data.js').MapNote} MapNote
 *
 * @typedef {object} NeuronMap points are neurons, numbered in the order of the table
 * @property {MapNote} note
 * @property {Float32Array} x 0–1
 * @property {Float32Array} y 0–1, downwards
 * @property {Uint16Array} layers number of the layer of each point
 * @property {Int32Array} units
 * @property {string[]} names of the layers
 * @property {Uint32Array} counts of points by layer
 * @property {Grid} grid
 * @property {(layer: string, unit: number) => number} find the point of a neuron, −1 if it is not on the map
 */

/** @param {Atlas} atlas one with a map @returns {Promise<NeuronMap>} */
export function loadMap(atlas) {
  return atlas.once('the map', () => readMap(atlas))
}

/** @param {Atlas} atlas @returns {Promise<NeuronMap>} */
async function readMap(atlas) {
  const note = /** @type {MapNote} */ (atlas.mapNote)
  const url = atlas.url(note.file)
  const { numRows, columns } = await decodeTable(await fetchBytes(url, FILES.places), url, { typed: true })
  if (numRows !== note.num_neurons) {
    throw new LoadError(url, FILES.numPlaces(note.num_neurons), FILES.rows(numRows))
  }
  const names = atlas.layers.map((layer) => layer.name)
  const numbers = new Map(names.map((name, number) => [name, number]))
  const [x, y] = [new Float32Array(numRows), new Float32Array(numRows)]
  const [layers, units] = [new Uint16Array(numRows), new Int32Array(numRows)]
  const counts = new Uint32Array(names.length)
  const points = atlas.layers.map((layer) => new Int32Array(layer.num_units).fill(-1))
  for (let point = 0; point < numRows; point++) {
    const layer = numbers.get(columns.layer[point])
    if (layer === undefined) {
      throw new LoadError(url, FILES.knownLayers, FILES.unknownLayer(columns.layer[point]))
    }
    x[point] = columns.x[point] / (note.side - 1)
    y[point] = columns.y[point] / (note.side - 1)
    layers[point] = layer
    units[point] = columns.unit[point]
    counts[layer]++
    points[layer][units[point]] = point
  }
  return {
    note,
    x,
    y,
    layers,
    units,
    names,
    counts,
    grid: makeGrid(x, y),
    find: (layer, unit) => points[numbers.get(layer) ?? -1]?.[unit] ?? -1,
  }
}

/**
 * Which points a result list has.
 * @param {NeuronMap} map
 * @param {import('../data/results.js').Results} results
 * @returns {Uint8Array | null} 1 or 0 for each point; null when the list has all
 */
export function chosenPoints(map, { table, rows }) {
  const chosen = new Uint8Array(map.x.length)
  let count = 0
  for (const row of rows) {
    const point = map.find(table.columns.layer[row], table.columns.unit[row])
    if (point < 0) continue
    chosen[point] = 1
    count++
  }
  return count === chosen.length ? null : chosen
}

/**
 * Which points have a visualization.
 * @param {NeuronMap} map
 * @param {import('../data/data.js').Table} index
 * @returns {Uint8Array} 1 or 0 for each point
 */
export function visualizedPoints(map, { numRows, columns }) {
  const visualized = new Uint8Array(map.x.length)
  for (let row = 0; row < numRows; row++) {
    const point = map.find(columns.layer[row], columns.unit[row])
    if (point >= 0 && columns.image_path[row]) visualized[point] = 1
  }
  return visualized
}

/**
 * The points nearest to a place, of those chosen.
 * @param {NeuronMap} map
 * @param {{x: number, y: number}} center
 * @param {number} count
 * @param {Uint8Array | null} chosen
 * @returns {number[]}
 */
export function pointsNear(map, center, count, chosen) {
  return nearestPoints(map.grid, map.x, map.y, center, count, chosen ? (point) => chosen[point] === 1 : undefined)
}
