/** What the colors and shapes of the map mean. */

import { h, link, svg } from '../base/dom.js'
import { formatCount } from '../base/format.js'
import { MAP } from '../base/glossary/map.js'
import { layerColor, layerShape, SHAPE_POINTS } from './dots.js'
import { formatRoute } from '../base/router.js'

/**
 * @typedef {import('./data.js').NeuronMap} NeuronMap
 * @typedef {import('../base/route.js').Route} Route
 */

/**
 * The layers, each a link that marks its neurons; the one that is marked leads back to all.
 * @param {NeuronMap} map
 * @param {Route} route
 * @param {boolean} dark
 * @returns {HTMLElement}
 */
export function mapLegend(map, route, dark) {
  const marked = (/** @type {string} */ layer) => ({ ...route, list: { ...route.list, layer } })
  const item = (/** @type {string} */ name, /** @type {number} */ number) => {
    const current = route.list.layer === name
    return h('li', {},
      link(
        formatRoute(marked(current ? '' : name)),
        { class: 'map-layer', 'aria-current': current && 'true', dataset: { keep: `layer-${number}` } },
        shapeMark(number, map.names.length, dark),
        h('span', { class: 'code' }, name),
        h('span', { class: 'filter-count' }, formatCount(map.counts[number])),
      ),
    )
  }
  return h('section', { class: 'map-legend', 'aria-label': MAP.layers },
    h('h2', {}, MAP.layersByDepth),
    route.list.layer && link(formatRoute(marked('')), { class: 'map-all', dataset: { keep: 'all' } }, MAP.markAll),
    h('ul', {}, ...map.names.flatMap((name, number) => (map.counts[number] ? [item(name, number)] : []))),
  )
}

/** @param {number} number of the layer @param {number} numLayers @param {boolean} dark @returns {SVGElement} */
function shapeMark(number, numLayers, dark) {
  const shape = layerShape(number)
  return svg(
    'svg',
    {
      class: 'map-mark',
      viewBox: '-1.3 -1.3 2.6 2.6',
      'aria-hidden': 'true',
      focusable: 'false',
      style: { fill: `rgb(${layerColor(number, numLayers, dark).join(' ')})` },
    },
    shape === 'circle' ? svg('circle', { r: 1 }) : svg('polygon', { points: SHAPE_POINTS[shape] }),
  )
}
