/** The result list of a gallery, remembered, so that previous and next on a neuron page walk the same list. */

import { hasTerms } from '../base/query.js'
import { selectRows } from './search.js'

/**
 * @typedef {import('./data.js').Atlas} Atlas
 * @typedef {import('./data.js').Table} Table
 * @typedef {import('../base/route.js').ListState} ListState
 *
 * @typedef {object} Results
 * @property {Table} table the slim index, or its like for another method
 * @property {number[]} rows of the table, in order
 * @property {number} total neurons that were looked through
 * @property {number} before results that come before the first of `rows`; 0 but for `neighborList`
 * @property {number} count of results; more than `rows` only in `neighborList` and `firstResults`
 */

/** Rows that the beginning of a gallery needs: more than fit into a window, whatever its size. */
const BEGINNING = 256

/** @type {{atlas: Atlas, key: string, results: Promise<Results>} | null} */
let latest = null

/** @param {Atlas} atlas @param {ListState} list @returns {Promise<Results>} */
export function resultList(atlas, list) {
  const key = JSON.stringify(list)
  if (latest?.atlas !== atlas || latest.key !== key) {
    const results = findResults(atlas, list)
    latest = { atlas, key, results }
    results.catch(() => {
      latest = null
    })
  }
  return latest.results
}

/** @param {Atlas} atlas @param {ListState} list @returns {Promise<Results>} */
async function findResults(atlas, list) {
  const table = await listTable(atlas, list)
  if (hasTerms(list.query) && !table.labels) await addLabels(atlas, list, table)
  const rows = selectRows(table, list)
  const total = table.columns.sheet_path ? atlas.numNeurons : table.numRows
  return { table, rows, total, before: 0, count: rows.length }
}

/**
 * Gives a table the labels and captions of its neurons' top-activating images.
 * @param {Atlas} atlas
 * @param {ListState} list that the table is of
 * @param {Table} table the index, its beginning, or a layer's part of it
 */
export async function addLabels(atlas, list, table) {
  if (table.columns.top_labels) return
  const labels = await atlas.loadLabels()
  table.labels = { ...labels, first: table !== atlas.index && list.layer ? atlas.offsetOf(list.layer) : 0 }
}

/** Whether a list is all neurons of the atlas in its own order. @param {ListState} list @returns {boolean} */
function isWhole(list) {
  return !list.query && !list.layer && !list.statuses.length && !list.method && !list.sort
}

/**
 * The beginning of a result list that needs no search, while the index is still on its way; null for another list.
 * @param {Atlas} atlas
 * @param {ListState} list
 * @returns {Promise<Results> | null}
 */
export function firstResults(atlas, list) {
  if (!isWhole(list) || atlas.indexLoaded) return null
  return atlas.beginning(BEGINNING).then((table) => ({
    table,
    rows: Array.from({ length: table.numRows }, (_, row) => row),
    total: atlas.numNeurons,
    before: 0,
    count: atlas.numNeurons,
  }))
}

/**
 * The result list around one neuron: of all neurons of a large atlas only those of its layer, while the index is not
 * there and both neighbors lie in the layer.
 * @param {Atlas} atlas
 * @param {ListState} list
 * @param {import('./data.js').LayerInfo} layer
 * @param {number} unit
 * @returns {Promise<Results>}
 */
export async function neighborList(atlas, list, layer, unit) {
  if (isWhole(list) && !atlas.indexLoaded) {
    const results = await resultList(atlas, { ...list, layer: layer.name })
    const before = atlas.offsetOf(layer.name)
    const position = positionOf(results, layer.name, unit)
    const hasPrevious = position > 0 || before === 0
    const hasNext = position + 1 < results.count || before + results.count === atlas.numNeurons
    if (position >= 0 && hasPrevious && hasNext) return { ...results, before, count: atlas.numNeurons }
  }
  return resultList(atlas, list)
}

/** @type {WeakMap<Atlas, Map<string, Promise<Table>>>} */
const methodTables = new WeakMap()

/** @param {Atlas} atlas @param {ListState} list @returns {Promise<Table>} */
async function listTable(atlas, list) {
  const layer = list.layer ? atlas.layer(list.layer) : undefined
  const index = layer && !atlas.indexLoaded ? await atlas.layerIndex(layer) : await atlas.loadIndex()
  if (!list.method || index.columns.method.every((/** @type {string} */ method) => method === list.method)) return index
  const layers = list.layer ? atlas.layers.filter((layer) => layer.name === list.layer) : atlas.layers
  const tables = methodTables.get(atlas) ?? new Map()
  methodTables.set(atlas, tables)
  const key = `${list.method} ${list.layer}`
  if (!tables.has(key)) {
    const table = atlas.indexOfMethod(list.method, layers)
    table.catch(() => tables.delete(key))
    tables.set(key, table)
  }
  return tables.get(key)
}

/**
 * Position of a neuron in a result list, -1 when it is not in it.
 * @param {Results} results
 * @param {string} layer
 * @param {number} unit
 * @returns {number}
 */
export function positionOf({ table, rows }, layer, unit) {
  return rows.findIndex((row) => table.columns.unit[row] === unit && table.columns.layer[row] === layer)
}
