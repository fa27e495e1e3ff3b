/** The top-activating images of a neuron, cut from one strip, with the part that activates it marked on each. */

import { h } from '../base/dom.js'
import { commonLabels, formatNumber } from '../base/format.js'
import { croppedImage } from './images.js'
import { facetTitle } from '../data/variants.js'
import { sourceMeaning } from '../base/glossary.js'
import { TOP_IMAGES } from '../base/glossary/neuron.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 *
 * @typedef {object} Box part of the square dataset image, in 0–1 from its left and top
 * @property {number} left
 * @property {number} top
 * @property {number} width
 * @property {number} height
 */

/**
 * The marked part of one reference, null when none is recorded or it is not a part.
 * @param {ArrayLike<number> | null | undefined} positions x0, y0, x1, y1 per reference
 * @param {number} order
 * @returns {Box | null}
 */
export function referenceBox(positions, order) {
  if (!positions || positions.length < 4 * (order + 1)) return null
  const clip = (/** @type {number} */ value) => Math.min(1, Math.max(0, value))
  const [x0, y0, x1, y1] = [0, 1, 2, 3].map((side) => clip(positions[4 * order + side]))
  if (!(x1 > x0 && y1 > y0)) return null
  return { left: x0, top: y0, width: x1 - x0, height: y1 - y0 }
}

/**
 * The dataset images of a row, in their order; lists may be shorter than others, or empty.
 * @typedef {object} References
 * @property {string[]} keys
 * @property {number[]} activations
 * @property {string[]} labels
 * @property {string[]} captions
 */

/**
 * @param {Atlas} atlas
 * @param {Record<string, any>} row of a layer's table
 * @param {string} name of the neuron, for text alternatives
 * @returns {HTMLElement}
 */
export function topImagesSection(atlas, row, name) {
  /** @type {References} */
  const references = {
    keys: Array.from(row.reference_keys ?? []),
    activations: Array.from(row.reference_activations ?? []),
    labels: Array.from(row.reference_labels ?? []),
    captions: Array.from(row.reference_captions ?? []),
  }
  const { keys, activations, labels, captions } = references
  const shown = row.examples_path ? Number(row.num_examples) || 0 : 0
  const facet = facetTitle(row)
  const heading = h('h2', {},
    row.reference_source === 'label' ? TOP_IMAGES.ofClass : TOP_IMAGES.topActivating,
    facet && `: ${facet}`,
  )
  if (!shown) {
    return h('section', { class: 'top-images' }, heading, unpublishedImages(references))
  }

  const boxes = Array.from({ length: shown }, (_, order) => referenceBox(row.reference_positions, order))
  const list = h('ol', { class: 'top-image-list' },
    boxes.map((box, order) => {
      const label = labels[order] || ''
      const alternative = TOP_IMAGES.alternative(order + 1, shown, name, label)
      const datasetImage = croppedImage(atlas, row.examples_path, {
        alternative,
        column: order,
        row: 0,
        columns: shown,
        rows: 1,
      })
      if (box)
        datasetImage.append(h('span', { class: 'top-image-box', 'aria-hidden': 'true', style: percentages(box) }))
      return h('li', { class: 'top-image' },
        datasetImage,
        h('span', { class: 'top-image-label' }, label || '\u00a0'),
        h('span', { class: 'top-image-value' },
          activations[order] === undefined ? '' : formatNumber(activations[order]),
        ),
        // Three lines of it; the table below has the whole text.
        captions[order]
          ? h('span', { class: 'top-image-caption', dir: 'auto', title: captions[order] }, captions[order])
          : null,
      )
    }),
  )
  const hasBoxes = boxes.some(Boolean)
  return h('section', { class: 'top-images' },
    h('div', { class: 'section-head' }, heading, hasBoxes && boxToggle(list)),
    list,
    h('p', { class: 'note' },
      TOP_IMAGES.explanation(sourceMeaning(row.reference_source)),
      hasBoxes && TOP_IMAGES.frame,
      facet && TOP_IMAGES.facets,
    ),
    keys.length > 0 && keysTable(references),
  )
}

/** Where there is little room, the dataset images stand in two lines of three; a line is one image, cut from the strip. */
export const STRIP_LINES = 2
const IMAGES_PER_LINE = 3

/**
 * The first dataset images without their numbers.
 * @param {Atlas} atlas
 * @param {Record<string, any>} row
 * @param {string} name of the neuron
 * @returns {HTMLElement[]} at most STRIP_LINES images, none when the dataset images are not published
 */
export function datasetStrips(atlas, row, name) {
  const shown = row.examples_path ? Number(row.num_examples) || 0 : 0
  const lines = Math.min(STRIP_LINES, Math.ceil(shown / IMAGES_PER_LINE))
  return Array.from({ length: lines }, (_, number) => {
    const first = number * IMAGES_PER_LINE
    const last = Math.min(shown, first + IMAGES_PER_LINE)
    const labels = commonLabels(Array.from(row.reference_labels ?? []).slice(first, last), last - first)
    const strip = croppedImage(atlas, row.examples_path, {
      alternative: TOP_IMAGES.strip(first + 1, last, name, labels),
      column: number,
      row: 0,
      columns: shown / IMAGES_PER_LINE,
      rows: 1,
    })
    strip.classList.add('dataset-strip')
    for (let order = first; order < last; order++) {
      const box = referenceBox(row.reference_positions, order)
      if (!box) continue
      const left = (order - first + box.left) / IMAGES_PER_LINE
      const style = percentages({ ...box, left, width: box.width / IMAGES_PER_LINE })
      strip.append(h('span', { class: 'top-image-box', 'aria-hidden': 'true', style }))
    }
    return strip
  })
}

/** @param {Box} box @returns {Record<string, string>} */
export function percentages(box) {
  return Object.fromEntries(Object.entries(box).map(([side, part]) => [side, `${(part * 100).toFixed(2)}%`]))
}

/** @param {HTMLElement} list @returns {HTMLElement} */
function boxToggle(list) {
  return h('label', { class: 'check' },
    h('input', {
      type: 'checkbox',
      checked: true,
      onChange: (/** @type {Event} */ event) => {
        list.classList.toggle('without-boxes', !(/** @type {HTMLInputElement} */ (event.target).checked))
      },
    }),
    TOP_IMAGES.mark,
  )
}

/** @param {References} references @returns {HTMLElement} */
function unpublishedImages(references) {
  const { keys, activations } = references
  if (!keys.length && !activations.length) {
    return h('p', { class: 'note' }, TOP_IMAGES.none)
  }
  return h('div', {}, h('p', { class: 'note' }, TOP_IMAGES.unpublished), referenceTable(references))
}

/** @param {References} references @returns {HTMLElement} */
function keysTable(references) {
  const { keys, captions } = references
  return h('details', { class: 'more' },
    h('summary', {}, TOP_IMAGES.names(keys.length, captions.some(Boolean))),
    referenceTable(references),
  )
}

/** @param {References} references @returns {HTMLElement} */
function referenceTable({ keys, activations, labels, captions }) {
  const count = Math.max(keys.length, activations.length)
  const hasCaptions = captions.some(Boolean)
  return h('div', { class: 'scrollable', tabindex: '0', role: 'region', 'aria-label': TOP_IMAGES.table },
    h('table', { class: hasCaptions ? 'table table-captions' : 'table' },
      h('thead', {},
        h('tr', {},
          [...TOP_IMAGES.columns, ...(hasCaptions ? [TOP_IMAGES.caption] : [])].map((title, column) =>
            h('th', { scope: 'col', class: column < 2 ? 'number' : '' },
              title || h('span', { class: 'visually-hidden' }, TOP_IMAGES.rank),
            ),
          ),
        ),
      ),
      h('tbody', {},
        Array.from({ length: count }, (_, order) =>
          h('tr', {},
            h('td', { class: 'number' }, order + 1),
            h('td', { class: 'number' }, formatNumber(activations[order])),
            h('td', {}, labels[order] || ''),
            h('td', { class: 'code' }, keys[order] ?? ''),
            hasCaptions && h('td', { class: 'caption-cell', dir: 'auto' }, captions[order] ?? ''),
          ),
        ),
      ),
    ),
  )
}
