/** The photographs that excite a neuron most, cut from one strip, with what excites it marked on each. */

import { h } from '../base/dom.js'
import { commonLabels, formatNumber, plural } from '../base/format.js'
import { croppedPicture } from './images.js'
import { facetWords } from '../data/variants.js'
import { sourceWords } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 *
 * @typedef {object} Box part of the square photograph, in 0–1 from its left and top
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
 * What a row says of its photographs, in their order; lists may be shorter than others, or empty.
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
export function examplesSection(atlas, row, name) {
  /** @type {References} */
  const references = {
    keys: Array.from(row.reference_keys ?? []),
    activations: Array.from(row.reference_activations ?? []),
    labels: Array.from(row.reference_labels ?? []),
    captions: Array.from(row.reference_captions ?? []),
  }
  const { keys, activations, labels, captions } = references
  const shown = row.examples_path ? Number(row.num_examples) || 0 : 0
  const facet = facetWords(row)
  const heading = h(
    'h2',
    {},
    row.reference_source === 'label' ? 'Photographs of this class' : 'Photographs that excite it most',
    facet && `: ${facet}`,
  )
  if (!shown) {
    return h('section', { class: 'examples' }, heading, withoutPictures(references))
  }

  const boxes = Array.from({ length: shown }, (_, order) => referenceBox(row.reference_positions, order))
  const list = h(
    'ol',
    { class: 'example-list' },
    boxes.map((box, order) => {
      const label = labels[order] || ''
      const alternative = `Photograph ${order + 1} of ${shown} that excites ${name}${label ? `: ${label}` : ''}`
      const photograph = croppedPicture(atlas, row.examples_path, {
        alternative,
        column: order,
        row: 0,
        columns: shown,
        rows: 1,
      })
      if (box) photograph.append(h('span', { class: 'example-box', 'aria-hidden': 'true', style: percentages(box) }))
      return h(
        'li',
        { class: 'example' },
        photograph,
        h('span', { class: 'example-label' }, label || '\u00a0'),
        h('span', { class: 'example-value' }, activations[order] === undefined ? '' : formatNumber(activations[order])),
        // Three lines of it; the table below has the whole text.
        captions[order] ? h('span', { class: 'example-caption', dir: 'auto', title: captions[order] }, captions[order]) : null,
      )
    }),
  )
  const hasBoxes = boxes.some(Boolean)
  const explanation = `From the data set: ${sourceWords(row.reference_source)}; the number is the neuron’s activation on each.`
  return h(
    'section',
    { class: 'examples' },
    h('div', { class: 'section-head' }, heading, hasBoxes && boxToggle(list)),
    list,
    h(
      'p',
      { class: 'note' },
      explanation,
      hasBoxes && ' The frame marks the part that excites it.',
      facet && ' They were sorted into groups that look alike; a facet is one group, and the picture was made from it.',
    ),
    keys.length > 0 && keysTable(references),
  )
}

/** Where there is little room, the photographs stand in two lines of three; a line is one picture, cut from the strip. */
export const STRIP_LINES = 2
const PHOTOGRAPHS_PER_LINE = 3

/**
 * The first photographs without their numbers.
 * @param {Atlas} atlas
 * @param {Record<string, any>} row
 * @param {string} name of the neuron
 * @returns {HTMLElement[]} at most STRIP_LINES pictures, none when the photographs are not published
 */
export function photographStrips(atlas, row, name) {
  const shown = row.examples_path ? Number(row.num_examples) || 0 : 0
  const lines = Math.min(STRIP_LINES, Math.ceil(shown / PHOTOGRAPHS_PER_LINE))
  return Array.from({ length: lines }, (_, number) => {
    const first = number * PHOTOGRAPHS_PER_LINE
    const last = Math.min(shown, first + PHOTOGRAPHS_PER_LINE)
    const labels = commonLabels(Array.from(row.reference_labels ?? []).slice(first, last), last - first)
    const which = last - first > 1 ? `Photographs ${first + 1} to ${last}` : `Photograph ${last}`
    const strip = croppedPicture(atlas, row.examples_path, {
      alternative: `${which} of ${name}${labels.length ? `: ${labels.join(', ')}` : ''}`,
      column: number,
      row: 0,
      columns: shown / PHOTOGRAPHS_PER_LINE,
      rows: 1,
    })
    strip.classList.add('photograph-strip')
    for (let order = first; order < last; order++) {
      const box = referenceBox(row.reference_positions, order)
      if (!box) continue
      const left = (order - first + box.left) / PHOTOGRAPHS_PER_LINE
      const style = percentages({ ...box, left, width: box.width / PHOTOGRAPHS_PER_LINE })
      strip.append(h('span', { class: 'example-box', 'aria-hidden': 'true', style }))
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
  return h(
    'label',
    { class: 'check' },
    h('input', {
      type: 'checkbox',
      checked: true,
      onChange: (/** @type {Event} */ event) => {
        list.classList.toggle('without-boxes', !(/** @type {HTMLInputElement} */ (event.target).checked))
      },
    }),
    'Mark the exciting part',
  )
}

/**
 * @param {References} references
 * @returns {HTMLElement}
 */
function withoutPictures(references) {
  const { keys, activations } = references
  if (!keys.length && !activations.length) {
    return h('p', { class: 'note' }, 'No photographs are recorded for this neuron.')
  }
  return h(
    'div',
    {},
    h(
      'p',
      { class: 'note' },
      'This atlas does not publish the photographs themselves (their licenses may not allow it). ' +
        'Their names in the data set and the neuron’s activation on each are below.',
    ),
    referenceTable(references),
  )
}

/**
 * @param {References} references
 * @returns {HTMLElement}
 */
function keysTable(references) {
  const what = references.captions.some(Boolean) ? 'Names and captions' : 'Names'
  return h(
    'details',
    { class: 'more' },
    h('summary', {}, `${what} of ${plural(references.keys.length, 'photograph')} in the data set`),
    referenceTable(references),
  )
}

/**
 * @param {References} references
 * @returns {HTMLElement}
 */
function referenceTable({ keys, activations, labels, captions }) {
  const count = Math.max(keys.length, activations.length)
  const hasCaptions = captions.some(Boolean)
  return h(
    'div',
    { class: 'scrollable', tabindex: '0', role: 'region', 'aria-label': 'Photographs in the data set' },
    h(
      'table',
      { class: hasCaptions ? 'table table-captions' : 'table' },
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          ['', 'Activation', 'Label', 'Name', ...(hasCaptions ? ['Caption'] : [])].map((title, column) =>
            h(
              'th',
              { scope: 'col', class: column < 2 ? 'number' : '' },
              title || h('span', { class: 'visually-hidden' }, 'Rank'),
            ),
          ),
        ),
      ),
      h(
        'tbody',
        {},
        Array.from({ length: count }, (_, order) =>
          h(
            'tr',
            {},
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
