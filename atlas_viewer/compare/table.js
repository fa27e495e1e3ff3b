/**
 * The table of the compare page: a group of lines per neuron, a column per method. On a narrow window the style sheet
 * stacks it, which would take the meaning of a table from it: the roles are therefore written out.
 */

import { button, h, link } from '../base/dom.js'
import { datasetStrips } from '../ui/topimages.js'
import { statusLabel } from '../ui/filters.js'
import { commonLabels, formatScore } from '../base/format.js'
import { showMask } from '../ui/mask.js'
import { imageFrame } from '../ui/images.js'
import { makeRoute } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import { facetTitle, variantName } from '../data/variants.js'
import { layerKind, methodMeaning, methodTitle } from '../base/glossary.js'
import { COMPARE } from '../base/glossary/compare.js'
import { SITE } from '../base/glossary/site.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('./comparison.js').Cell} Cell
 * @typedef {import('./comparison.js').Compared} Compared
 * @typedef {import('../data/variants.js').Row} Row
 *
 * @typedef {object} Context
 * @property {Atlas} atlas
 * @property {Route} route links lead to neuron pages with its list and attribution mask
 * @property {string[]} methods the columns
 * @property {((name: string) => void) | null} remove takes a neuron out of the list, null without an explicit list
 */

/** A reason longer than this is cut; the neuron's page has all of it. */
const REASON_LENGTH = 140

/** Visualizations of few pixels are enlarged up to this width; larger ones never exceed their own. */
const ENLARGED_PX = 160

/** @param {Context} context @param {Compared[]} neurons @returns {HTMLElement} */
export function comparisonTable(context, neurons) {
  const widths = neurons.flatMap(({ rows }) => rows.map((row) => row.width_px ?? 0))
  const width = Math.max(ENLARGED_PX, ...widths)
  return h(
    'table',
    { role: 'table', class: 'compare-table', style: { '--methods': context.methods.length, '--image': `${width}px` } },
    h('caption', { class: 'visually-hidden' }, COMPARE.caption),
    tableHead(context),
    neurons.map((neuron) => neuronGroup(context, neuron)),
  )
}

/**
 * Two lines: the titles, which stay in sight, and what each method does.
 * @param {Context} context
 * @returns {HTMLElement}
 */
function tableHead({ atlas, methods }) {
  const title = (/** @type {string} */ text, kind = '') =>
    h('th', { role: 'columnheader', scope: 'col', class: kind }, text)
  const help = formatRoute(makeRoute({ view: 'about', atlas: atlas.slug, section: 'methods' }))
  return h('thead', { role: 'rowgroup' },
    h('tr', { role: 'row', class: 'compare-titles' },
      title(COMPARE.neuron, 'compare-name'),
      title(COMPARE.datasetImages, 'compare-dataset'),
      methods.map((method) => title(methodTitle(method))),
    ),
    h('tr', { role: 'row', class: 'compare-notes' },
      h('td', { role: 'cell', class: 'compare-name' }, COMPARE.layerAndUnit),
      h('td', { role: 'cell', class: 'compare-dataset' }, COMPARE.forReference),
      methods.map((method) =>
        h('td', { role: 'cell' },
          methodMeaning(method),
          ' ',
          link(help, { class: 'compare-help', 'aria-label': COMPARE.moreAbout(methodTitle(method)) }, COMPARE.more),
        ),
      ),
    ),
  )
}

/**
 * The name of a column where the table is stacked and has none; screen readers have the header itself.
 * @param {string} title
 * @returns {HTMLElement}
 */
function columnName(title) {
  return h('span', { class: 'compare-column', 'aria-hidden': 'true' }, title)
}

/** @param {Context} context @param {Compared} neuron @returns {HTMLElement} */
function neuronGroup(context, neuron) {
  const { name, lines } = neuron
  const head = h(
    'th',
    { role: 'rowheader', scope: 'rowgroup', rowspan: Math.max(1, lines.length), class: 'compare-name' },
    neuronName(context, neuron),
  )
  const rows = lines.map(({ reference, cells }, order) =>
    h('tr', { role: 'row' },
      order === 0 && head,
      datasetCell(context, reference, neuron.title),
      context.methods.map((method) => methodCell(context, method, cells[method], neuron.title)),
    ),
  )
  const nothing = () => {
    const attributes = { role: 'cell', colspan: context.methods.length + 1 }
    return h('tr', { role: 'row' }, head, h('td', attributes, SITE.noNeuron(SITE.thisAtlas, name)))
  }
  return h('tbody', { role: 'rowgroup', dataset: { neuron: name } }, lines.length ? rows : nothing())
}

/**
 * A neuron's name as a link to its page, and what is known of it.
 * @param {Pick<Context, 'route' | 'remove'>} context
 * @param {Compared} neuron
 * @returns {import('../base/dom.js').Child[]}
 */
export function neuronName({ route, remove }, { name, layer, unit, title, rows }) {
  const hasLabel = title !== name
  const labels = hasLabel ? [] : commonLabels(rows[0]?.reference_labels, 3)
  const kind = layerKind(layer)
  const address = formatRoute({ ...route, view: 'neuron', layer, unit, variant: '', zoom: '' })
  return [
    rows.length > 0
      ? link(address, { class: hasLabel ? 'compare-title' : 'compare-title code', dataset: { keep: name } }, title)
      : h('span', { class: 'compare-title code' }, name),
    hasLabel && h('span', { class: 'compare-detail code' }, name),
    kind && h('span', { class: 'kind' }, kind),
    labels.length > 0 && h('span', { class: 'compare-detail' }, labels.join(', ')),
    remove &&
      button(COMPARE.remove, () => remove(name), {
        class: 'button compare-remove',
        'aria-label': COMPARE.removeNeuron(name),
      }),
  ]
}

/**
 * The reference images of one facet.
 * @param {Context} context
 * @param {Row | null} row
 * @param {string} title of the neuron
 * @returns {HTMLElement}
 */
function datasetCell({ atlas }, row, title) {
  const attributes = { role: 'cell', class: 'compare-dataset' }
  return h('td', attributes, columnName(COMPARE.datasetImages), datasetParts(atlas, row, title))
}

/**
 * The reference images of one facet, or why there are none to see.
 * @param {Atlas} atlas
 * @param {Row | null} row
 * @param {string} title of the neuron
 * @returns {HTMLElement[]}
 */
export function datasetParts(atlas, row, title) {
  const strips = row ? datasetStrips(atlas, row, title) : []
  const facet = row ? facetTitle(row) : ''
  return [
    ...(strips.length ? strips : [h('span', { class: 'compare-detail' }, unpublishedText(row))]),
    ...(facet ? [h('span', { class: 'compare-facet' }, facet)] : []),
  ]
}

/** @param {Row | null} row @returns {string} */
function unpublishedText(row) {
  const labels = commonLabels(row?.reference_labels, 6)
  if (labels.length) return COMPARE.unpublishedLabels(labels)
  return row?.reference_keys?.length ? COMPARE.unpublished : COMPARE.unrecorded
}

/**
 * @param {Context} context
 * @param {string} method
 * @param {Cell} cell
 * @param {string} title of the neuron
 * @returns {HTMLElement}
 */
function methodCell(context, method, cell, title) {
  const attributes = { role: 'cell', class: 'compare-cell' }
  return h('td', attributes, columnName(methodTitle(method)), methodParts(context, method, cell, title))
}

/**
 * What one method made, or why it made nothing.
 * @param {Pick<Context, 'atlas' | 'route'>} context
 * @param {string} method
 * @param {Cell} cell
 * @param {string} title of the neuron
 * @returns {import('../base/dom.js').Child[]}
 */
export function methodParts({ atlas, route }, method, { row, seeds }, title) {
  if (!row) {
    const nothing = h('span', { class: 'compare-reason' }, COMPARE.notMade)
    return [h('span', { class: 'image-frame image-none' }, nothing)]
  }
  const facet = facetTitle(row)
  const alternative = COMPARE.alternative(methodTitle(method), title, facet)
  const notice = h('span', { class: 'compare-reason' })
  const frame = row.image_path ? visualizationFrame(atlas, row, alternative) : reasonFrame(row, alternative)
  if (route.mask && row.alpha_path) {
    const report = (/** @type {string} */ message) => {
      notice.textContent = message
    }
    // Masks are as lazy as the visualizations: one is asked for when its visualization has come near the window.
    frame.querySelector('img')?.addEventListener('load', () => showMask(atlas, row.alpha_path, frame, report))
  }
  const { layer, unit } = row
  return [
    link(
      formatRoute({ ...route, view: 'neuron', layer, unit, variant: variantName(row), zoom: '' }),
      { class: 'compare-link', dataset: { keep: `${layer}:${unit}-${variantName(row)}` } },
      frame,
    ),
    row.image_path && scoreLine(row),
    seeds > 1 && h('span', { class: 'compare-detail' }, COMPARE.firstSeed(seeds)),
    notice,
  ]
}

/** @param {Atlas} atlas @param {Row} row @param {string} alternative */
function visualizationFrame(atlas, row, alternative) {
  const { width_px: width, height_px: height } = row
  return imageFrame(atlas, row.image_path, { alternative, attributes: { width, height } })
}

/** @param {Row} row @param {string} alternative */
function reasonFrame(row, alternative) {
  const reason = row.status_reason || COMPARE.noVisualization
  const short = reason.length > REASON_LENGTH ? `${reason.slice(0, REASON_LENGTH).trimEnd()}…` : reason
  return h('span', { class: 'image-frame image-none' },
    h('span', { class: 'visually-hidden' }, COMPARE.no(alternative)),
    statusLabel(row.status),
    h('span', { class: 'compare-reason' }, short),
  )
}

/** @param {Row} row @returns {HTMLElement} status and activation percentile */
function scoreLine(row) {
  const percentile = row.activation_percentile
  return h('span', { class: 'compare-score' },
    statusLabel(row.status),
    typeof percentile === 'number' &&
      h('span', {}, h('span', { class: 'visually-hidden' }, COMPARE.percentile), formatScore(percentile, '%')),
  )
}
