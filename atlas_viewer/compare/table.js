/**
 * The table of the compare page: a group of lines per neuron, a column per method. On a narrow window the style sheet
 * stacks it, which would take the meaning of a table from it: the roles are therefore written out.
 */

import { h, link } from '../base/dom.js'
import { photographStrips } from '../ui/examples.js'
import { statusLabel } from '../ui/filters.js'
import { commonLabels, formatScore, plural } from '../base/format.js'
import { showMask } from '../ui/mask.js'
import { picture } from '../ui/images.js'
import { formatRoute, makeRoute } from '../base/router.js'
import { facetWords, variantName } from '../data/variants.js'
import { layerKind, methodMeaning, methodTitle } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('./comparison.js').Cell} Cell
 * @typedef {import('./comparison.js').Compared} Compared
 * @typedef {import('../data/variants.js').Row} Row
 *
 * @typedef {object} Context
 * @property {Atlas} atlas
 * @property {Route} route links lead to neuron pages with its list and transparency
 * @property {string[]} methods the columns
 * @property {((name: string) => void) | null} remove takes a neuron out of the list, null without an explicit list
 */

/** A reason longer than this is cut; the neuron's page has all of it. */
const REASON_LENGTH = 140

/** Pictures of few pixels are enlarged up to this width; larger ones never exceed their own. */
const ENLARGED_PX = 160

/**
 * @param {Context} context
 * @param {Compared[]} neurons
 * @returns {HTMLElement}
 */
export function comparisonTable(context, neurons) {
  const widths = neurons.flatMap(({ rows }) => rows.map((row) => row.width_px ?? 0))
  const width = Math.max(ENLARGED_PX, ...widths)
  return h(
    'table',
    {
      role: 'table',
      class: 'compare-table',
      style: { '--methods': context.methods.length, '--picture': `${width}px` },
    },
    h('caption', { class: 'visually-hidden' }, 'Pictures by neuron (rows) and method (columns)'),
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
  const title = (/** @type {string} */ words, kind = '') =>
    h('th', { role: 'columnheader', scope: 'col', class: kind }, words)
  const help = formatRoute(makeRoute({ view: 'about', atlas: atlas.slug, section: 'methods' }))
  return h(
    'thead',
    { role: 'rowgroup' },
    h(
      'tr',
      { role: 'row', class: 'compare-titles' },
      title('Neuron', 'compare-name'),
      title('Photographs', 'compare-photographs'),
      methods.map((method) => title(methodTitle(method))),
    ),
    h(
      'tr',
      { role: 'row', class: 'compare-notes' },
      h('td', { role: 'cell', class: 'compare-name' }, 'layer and unit'),
      h('td', { role: 'cell', class: 'compare-photographs' }, 'of the data set, for reference'),
      methods.map((method) =>
        h(
          'td',
          { role: 'cell' },
          methodMeaning(method),
          ' ',
          link(help, { class: 'compare-help', 'aria-label': `More about the method ${methodTitle(method)}` }, 'More'),
        ),
      ),
    ),
  )
}

/**
 * The name of a column where the table is stacked and has none; screen readers have the header itself.
 * @param {string} words
 * @returns {HTMLElement}
 */
function columnName(words) {
  return h('span', { class: 'compare-column', 'aria-hidden': 'true' }, words)
}

/**
 * @param {Context} context
 * @param {Compared} neuron
 * @returns {HTMLElement}
 */
function neuronGroup(context, neuron) {
  const { name, lines } = neuron
  const head = h(
    'th',
    { role: 'rowheader', scope: 'rowgroup', rowspan: Math.max(1, lines.length), class: 'compare-name' },
    neuronName(context, neuron),
  )
  const rows = lines.map(({ reference, cells }, order) =>
    h(
      'tr',
      { role: 'row' },
      order === 0 && head,
      photographsCell(context, reference, neuron.title),
      context.methods.map((method) => methodCell(context, method, cells[method], neuron.title)),
    ),
  )
  const nothing = () => {
    const words = `This atlas has no neuron “${name}”.`
    return h('tr', { role: 'row' }, head, h('td', { role: 'cell', colspan: context.methods.length + 1 }, words))
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
      h(
        'button',
        { type: 'button', class: 'button compare-remove', 'aria-label': `Remove ${name}`, onClick: () => remove(name) },
        'Remove',
      ),
  ]
}

/**
 * The photographs that one facet was made from.
 * @param {Context} context
 * @param {Row | null} row
 * @param {string} title of the neuron
 * @returns {HTMLElement}
 */
function photographsCell({ atlas }, row, title) {
  const attributes = { role: 'cell', class: 'compare-photographs' }
  return h('td', attributes, columnName('Photographs'), photographParts(atlas, row, title))
}

/**
 * The photographs that one facet was made from, or why there are none to see.
 * @param {Atlas} atlas
 * @param {Row | null} row
 * @param {string} title of the neuron
 * @returns {HTMLElement[]}
 */
export function photographParts(atlas, row, title) {
  const strips = row ? photographStrips(atlas, row, title) : []
  const facet = row ? facetWords(row) : ''
  return [
    ...(strips.length ? strips : [h('span', { class: 'compare-detail' }, withoutPhotographs(row))]),
    ...(facet ? [h('span', { class: 'compare-facet' }, facet)] : []),
  ]
}

/** @param {Row | null} row @returns {string} */
function withoutPhotographs(row) {
  const labels = commonLabels(row?.reference_labels, 6)
  if (labels.length) return `not published; labeled ${labels.join(', ')}`
  return row?.reference_keys?.length ? 'not published' : 'none recorded'
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
    const nothing = h('span', { class: 'compare-reason' }, 'not made for this neuron')
    return [h('span', { class: 'picture picture-none' }, nothing)]
  }
  const facet = facetWords(row)
  const alternative = `${methodTitle(method)} picture of ${title}${facet && `, ${facet}`}`
  const notice = h('span', { class: 'compare-reason' })
  const frame = row.image_path ? pictureFrame(atlas, row, alternative) : reasonFrame(row, alternative)
  if (route.transparency && row.alpha_path) {
    const say = (/** @type {string} */ message) => {
      notice.textContent = message
    }
    // Masks are as lazy as the pictures: one is asked for when its picture has come near the window.
    frame.querySelector('img')?.addEventListener('load', () => showMask(atlas, row.alpha_path, frame, say))
  }
  const { layer, unit } = row
  return [
    link(
      formatRoute({ ...route, view: 'neuron', layer, unit, variant: variantName(row), zoom: '' }),
      {
        class: 'compare-link',
        dataset: { keep: `${layer}:${unit}-${variantName(row)}` },
      },
      frame,
    ),
    row.image_path && scoreLine(row),
    seeds > 1 && h('span', { class: 'compare-detail' }, `first of ${plural(seeds, 'seed')}`),
    notice,
  ]
}

/** @param {Atlas} atlas @param {Row} row @param {string} alternative */
function pictureFrame(atlas, row, alternative) {
  const { width_px: width, height_px: height } = row
  return picture(atlas, row.image_path, { alternative, attributes: { width, height } })
}

/** @param {Row} row @param {string} alternative */
function reasonFrame(row, alternative) {
  const reason = row.status_reason || 'no picture was made'
  const short = reason.length > REASON_LENGTH ? `${reason.slice(0, REASON_LENGTH).trimEnd()}…` : reason
  return h(
    'span',
    { class: 'picture picture-none' },
    h('span', { class: 'visually-hidden' }, `No ${alternative}: `),
    statusLabel(row.status),
    h('span', { class: 'compare-reason' }, short),
  )
}

/** @param {Row} row @returns {HTMLElement} status and activation percentile */
function scoreLine(row) {
  const percentile = row.activation_percentile
  return h(
    'span',
    { class: 'compare-score' },
    statusLabel(row.status),
    typeof percentile === 'number' &&
      h('span', {}, h('span', { class: 'visually-hidden' }, 'activation percentile '), formatScore(percentile, '%')),
  )
}
