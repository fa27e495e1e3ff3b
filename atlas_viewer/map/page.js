/** What stands around the map: title, buttons, caption, legend, the list of neurons nearby; or that there is no map. */

import { h, link, problem } from '../base/dom.js'
import { MAP } from '../base/glossary/map.js'
import { formatRoute } from '../base/router.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./data.js').NeuronMap} NeuronMap
 * @typedef {import('../base/route.js').Route} Route
 */

/** @param {Atlas} atlas @param {Route} route @param {string} title @returns {import('../base/route.js').View} */
export function noMapView(atlas, route, title) {
  const gallery = link(formatRoute({ ...route, view: 'gallery', neurons: [] }), {}, MAP.toGallery)
  return {
    element: h('div', { class: 'page' },
      h('h1', { tabindex: '-1' }, atlas.title),
      problem(MAP.noMap, [MAP.noMapReason, gallery]),
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
  const missing = atlas.numNeurons - map.x.length
  return h('div', { class: 'page map-page' },
    h('header', { class: 'map-head' },
      h('h1', { tabindex: '-1' }, MAP.heading(atlas.title)),
      h('p', { class: 'lead' }, MAP.lead(map.note.layout), missing > 0 && MAP.missing(missing)),
    ),
    h('div', { class: 'map-columns' },
      h('section', { class: 'map-frame', 'aria-label': MAP.frame },
        canvas,
        h('div', { class: 'map-buttons', role: 'group', 'aria-label': MAP.zoom },
          button('+', MAP.zoomIn, zoomIn),
          button('−', MAP.zoomOut, zoomOut),
          button('⤢', MAP.fit, fit),
        ),
        caption,
      ),
      h('aside', { class: 'map-side' }, marked, legend),
    ),
    notice,
    h('section', { class: 'map-near' }, h('h2', {}, MAP.near), near),
  )
}

/** @param {Atlas} atlas @param {NeuronMap} map @param {Uint8Array | null} chosen @returns {string} */
export function markedText(atlas, map, chosen) {
  if (!chosen) return MAP.all(map.x.length, atlas.modelName)
  return MAP.marked(chosen.reduce((sum, one) => sum + one, 0), map.x.length)
}
