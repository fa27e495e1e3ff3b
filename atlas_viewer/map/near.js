/** Below the map: the neuron in its middle or under the pointer, by name, and the list of those near, all as links. */

import { announce, fill, h, link } from '../base/dom.js'
import { NAMES } from '../base/glossary.js'
import { MAP } from '../base/glossary/map.js'
import { croppedImage } from '../ui/images.js'
import { formatRoute } from '../base/router.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./data.js').NeuronMap} NeuronMap
 * @typedef {import('../base/route.js').Route} Route
 */

/** The caption of a map and its list. */
export class MapNear {
  /** @param {Atlas} atlas with its index @param {NeuronMap} map */
  constructor(atlas, map) {
    this.atlas = atlas
    this.map = map
    this.caption = h('p', { class: 'map-caption' })
    this.list = h('ul', { class: 'neighbor-list' })
  }

  /**
   * Names a neuron in the caption.
   * @param {number} point −1 for none
   * @param {Route} route of the map
   * @param {boolean} aloud whether screen readers say it too
   */
  name(point, route, aloud) {
    if (point < 0) {
      fill(this.caption, MAP.nobody)
      return
    }
    const name = pointName(this.map, point)
    const label = this.labelOf(point)
    const address = formatRoute(neuronRoute(this.map, point, route))
    const open = link(address, { class: 'map-open' }, h('span', { class: 'code' }, name))
    fill(this.caption, open, label ? ` ${label}` : '')
    if (aloud) announce(label ? `${name}, ${label}` : name)
  }

  /** Replaces the list. @param {number[]} points nearest first @param {Route} route of the map */
  fillList(points, route) {
    const { atlas, map } = this
    const columns = map.note.sheet_columns
    const items = points.map((point) => {
      const [name, label, tile] = [pointName(map, point), this.labelOf(point), point % columns ** 2]
      const sheet = `map/${String(Math.floor(point / columns ** 2)).padStart(4, '0')}.webp`
      const cut = { column: tile % columns, row: Math.floor(tile / columns), columns, rows: columns }
      return h('li', {},
        link(formatRoute(neuronRoute(map, point, route)), { class: 'neighbor-link', dataset: { keep: `near-${name}` } },
          croppedImage(atlas, sheet, { ...cut, alternative: '' }),
          h('span', { class: 'neighbor-name' }, label || name),
          label && h('span', { class: 'neighbor-note code' }, name),
        ),
      )
    })
    fill(this.list, ...items)
  }

  /** @param {number} point @returns {string} '' without a label */
  labelOf(point) {
    const { atlas, map } = this
    const { columns } = atlas.index
    const [layer, unit] = [map.names[map.layers[point]], map.units[point]]
    const start = atlas.offsetOf(layer)
    const end = start + (atlas.layer(layer)?.num_neurons ?? 0)
    for (let row = start; row < end; row++) if (columns.unit[row] === unit) return columns.label[row] ?? ''
    return ''
  }
}

/** @param {NeuronMap} map @param {number} point @returns {string} LAYER:UNIT */
export function pointName(map, point) {
  return NAMES.neuron(map.names[map.layers[point]], map.units[point])
}

/**
 * The page of a neuron of the map.
 * @param {NeuronMap} map
 * @param {number} point
 * @param {Route} route of the map
 * @returns {Route}
 */
export function neuronRoute(map, point, route) {
  const neuron = { layer: map.names[map.layers[point]], unit: map.units[point] }
  return { ...route, view: 'neuron', ...neuron, variant: '', mask: false, zoom: '' }
}
