/** What stands around the map: title, buttons, caption, legend, the list of neurons nearby; or that there is no map. */

import { h, link, problem } from '../base/dom.js'
import { plural } from '../base/format.js'
import { formatRoute } from '../base/router.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./data.js').NeuronMap} NeuronMap
 * @typedef {import('../base/router.js').Route} Route
 */

/**
 * @param {Atlas} atlas
 * @param {Route} route
 * @param {string} title
 * @returns {import('../shell/main.js').View}
 */
export function noMapView(atlas, route, title) {
  const wall = link(formatRoute({ ...route, view: 'wall', neurons: [] }), {}, 'Go to the wall')
  const words = [
    'It was built without one: the map needs the extra “map” of neuron-atlas, or more neurons with photographs.',
    wall,
  ]
  return {
    element: h(
      'div',
      { class: 'page' },
      h('h1', { tabindex: '-1' }, atlas.title),
      problem('This atlas has no map', words),
    ),
    title,
  }
}

/**
 * @param {object} parts
 * @param {Atlas} parts.atlas
 * @param {NeuronMap} parts.map
 * @param {HTMLCanvasElement} parts.canvas
 * @param {HTMLElement} parts.caption
 * @param {HTMLElement} parts.notice
 * @param {HTMLElement} parts.legend
 * @param {HTMLElement} parts.near
 * @param {HTMLElement} parts.marked
 * @param {() => void} parts.zoomIn
 * @param {() => void} parts.zoomOut
 * @param {() => void} parts.fit
 * @returns {HTMLElement}
 */
export function mapPage({ atlas, map, canvas, caption, notice, legend, near, marked, zoomIn, zoomOut, fit }) {
  const button = (/** @type {string} */ sign, /** @type {string} */ name, /** @type {() => void} */ onClick) =>
    h('button', { type: 'button', class: 'icon-button', 'aria-label': name, title: name, onClick }, sign)
  const missing = (atlas.manifest.counts?.neurons ?? map.x.length) - map.x.length
  return h(
    'div',
    { class: 'page map-page' },
    h(
      'header',
      { class: 'map-head' },
      h('h1', { tabindex: '-1' }, `Map of ${atlas.title}`),
      h(
        'p',
        { class: 'lead' },
        'Neurons that the same photographs excite lie near each other, whatever their layers. ',
        `Distances between far groups mean little. Made by ${map.note.layout}.`,
        missing > 0 ? ` Not on it: ${plural(missing, 'neuron')} that no photograph excites.` : '',
      ),
    ),
    h(
      'div',
      { class: 'map-columns' },
      h(
        'section',
        { class: 'map-frame', 'aria-label': 'Map' },
        canvas,
        h(
          'div',
          { class: 'map-buttons', role: 'group', 'aria-label': 'Zoom' },
          button('+', 'Zoom in', zoomIn),
          button('−', 'Zoom out', zoomOut),
          button('⤢', 'Show the whole map', fit),
        ),
        caption,
      ),
      h('aside', { class: 'map-beside' }, marked, legend),
    ),
    notice,
    h('section', { class: 'map-near' }, h('h2', {}, 'Nearest to the middle'), near),
  )
}

/**
 * @param {Atlas} atlas
 * @param {NeuronMap} map
 * @param {Uint8Array | null} chosen
 * @returns {string}
 */
export function markedWords(atlas, map, chosen) {
  if (!chosen) return `${plural(map.x.length, 'neuron')} of ${atlas.modelName}`
  const count = chosen.reduce((sum, one) => sum + one, 0)
  return `${plural(count, 'neuron')} of ${map.x.length.toLocaleString('en-US')} marked; the others are gray`
}
