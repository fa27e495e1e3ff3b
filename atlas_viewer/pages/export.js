/** Using an atlas in other programs: text to paste into Python, with the addresses of this atlas in it. */

import { copyButton } from '../ui/actions.js'
import { h } from '../base/dom.js'
import { EXPORT } from '../base/glossary/about.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 */

/** @param {Atlas} atlas @returns {HTMLElement} */
export function exportSection(atlas) {
  const base = atlas.base.replace(/\/$/, '')
  const layer = atlas.layers[atlas.layers.length - 1]
  return h('section', { class: 'export' },
    h('h2', {}, EXPORT.heading),
    withCode(EXPORT.pandas),
    snippet(EXPORT.pandasSnippet(base, layer.file)),
    withCode(EXPORT.duckdb),
    snippet(EXPORT.duckdbSnippet(base)),
    h('p', {}, h('code', {}, 'image_path'), atlas.packed ? EXPORT.packed : EXPORT.plain),
  )
}

/** @param {string[]} parts text, code and text @returns {HTMLElement} */
function withCode([before, code, after]) {
  return h('p', {}, before, h('code', {}, code), after)
}

/** @param {string} text @returns {HTMLElement} */
function snippet(text) {
  return h('div', { class: 'snippet' },
    h('pre', { tabindex: '0' }, text),
    h('p', {}, copyButton(EXPORT.copy, () => text)),
  )
}
