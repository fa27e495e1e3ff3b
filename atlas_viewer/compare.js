/** The methods side by side: for the neurons of a result list, a page at a time, or for the neurons an address names. */

import { copyButton } from './actions.js'
import { comparisonTable } from './comparetable.js'
import {
  comparisonLines,
  fittingCount,
  MAXIMUM_NEURONS,
  namedEntries,
  pictureCount,
  presentMethods,
} from './comparison.js'
import { h, link } from './dom.js'
import { formatCount, joinWords, plural } from './format.js'
import { emptyWall } from './notfound.js'
import { resultList } from './results.js'
import { formatRoute, studyOf } from './router.js'
import { findNeuron } from './search.js'
import { neuronRows } from './variants.js'
import { methodTitle } from './words.js'

/**
 * @typedef {import('./data.js').Atlas} Atlas
 * @typedef {import('./router.js').Route} Route
 * @typedef {import('./filters.js').Go} Go
 * @typedef {import('./comparison.js').Entry} Entry
 * @typedef {import('./comparison.js').Compared} Compared
 *
 * @typedef {object} Page
 * @property {Compared[]} neurons
 * @property {number} first place of the first neuron in the list, from 0 on
 * @property {number} count neurons in the list
 * @property {Route | null} previous
 * @property {Route | null} next
 */

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @returns {Promise<import('./main.js').View>}
 */
export async function compareView({ atlas, route, go }) {
  const chosen = route.neurons.length > 0
  const page = await readPage(atlas, route, chosen ? namedEntries(route.neurons) : await listEntries(atlas, route))
  const rows = page.neurons.flatMap((neuron) => neuron.rows)
  const methods = presentMethods(atlas.methods, rows)
  const wall = /** @type {Route} */ ({ ...route, view: 'wall' })
  const remove = (/** @type {string} */ name) => {
    const neurons = route.neurons.filter((other) => other !== name)
    go(neurons.length ? { ...route, neurons } : wall)
  }
  const toggle = () => go({ ...route, transparency: !route.transparency }, { replace: true })
  const hasMasks = rows.some((row) => row.alpha_path)
  const absent = atlas.methods.filter((method) => !methods.includes(method)).map(methodTitle)

  const element = h(
    'article',
    { class: 'page compare-page' },
    h(
      'nav',
      { 'aria-label': 'Place in the atlas' },
      h(
        'ol',
        { class: 'breadcrumbs' },
        h('li', {}, link(formatRoute(wall), { dataset: { keep: 'wall' } }, atlas.title)),
        h('li', { 'aria-current': 'page' }, 'Compare methods'),
      ),
    ),
    h(
      'header',
      { class: 'compare-head' },
      h('h1', { tabindex: '-1' }, 'Compare methods'),
      h(
        'p',
        { class: 'lead' },
        `${chosen ? plural(page.count, 'chosen neuron') : listWords(route, page.count)}, pictured by several methods. `,
        'The percentage says how many of the data set’s photographs excite the neuron no more than the picture does. ',
        link(formatRoute({ ...route, view: 'about', section: 'methods' }), {}, 'About the methods'),
      ),
    ),
    chosen && adder(atlas, route, go),
    h(
      'div',
      { class: 'compare-bar' },
      h(
        'div',
        { class: 'action-list', role: 'group', 'aria-label': 'Comparison' },
        hasMasks && transparencyButton(route, toggle),
        copyButton('Copy link', () => location.href),
        page.count > 0 && link(formatRoute(studyOf(route)), { class: 'button' }, 'Judge them blind'),
        chosen && link(formatRoute({ ...route, neurons: [], from: 1 }), { class: 'button' }, listButtonWords(route)),
      ),
      pager(page, 'above'),
    ),
    page.neurons.length === 0 && emptyWall(atlas, route),
    page.neurons.length > 0 &&
      h(
        'div',
        { class: 'compare-region', role: 'region', 'aria-label': 'Pictures by neuron and method', tabindex: '0' },
        comparisonTable({ atlas, route, methods, remove: chosen ? remove : null }, page.neurons),
      ),
    absent.length > 0 &&
      rows.length > 0 &&
      h('p', { class: 'note' }, `No column for ${joinWords(absent)}: made for none of the neurons on this page.`),
    pager(page, 'below'),
  )

  return {
    element,
    title: `Compare methods · ${atlas.title}`,
    onKey({ key }) {
      const target = { ArrowLeft: page.previous, k: page.previous, ArrowRight: page.next, j: page.next }[key]
      // In a window too narrow for the table the arrows scroll it, as they do any region that has the focus.
      const region = element.querySelector('.compare-region')
      const scrolls = region && region === document.activeElement && region.scrollWidth > region.clientWidth
      if (target && !(scrolls && key.startsWith('Arrow'))) go(target)
      else if (key === 'Escape') go(wall)
      else if (key === 't' && hasMasks) toggle()
      else return false
      return true
    },
  }
}

/**
 * The neurons of a result list that have several methods to compare; all of it where none has, or where the atlas is
 * older than the column that tells.
 * @param {Atlas} atlas
 * @param {Route} route
 * @returns {Promise<Entry[]>}
 */
async function listEntries(atlas, route) {
  const { table, rows } = await resultList(atlas, route.list)
  const { layer, unit, num_methods: counts } = table.columns
  const several = rows.filter((row) => (counts?.[row] ?? 2) > 1)
  return (several.length ? several : rows).map((row) => ({ name: `${layer[row]}:${unit[row]}`, layer: layer[row], unit: unit[row] }))
}

/**
 * The neurons from `route.from` on, as many as fit, and the pages before and after. Only the tables of the layers that
 * are needed are read.
 * @param {Atlas} atlas
 * @param {Route} route
 * @param {Entry[]} entries
 * @returns {Promise<Page>}
 */
async function readPage(atlas, route, entries) {
  const first = Math.min(route.from, Math.max(1, entries.length)) - 1
  const after = await Promise.all(entries.slice(first, first + MAXIMUM_NEURONS).map((entry) => read(atlas, entry)))
  const before = await Promise.all(
    entries.slice(Math.max(0, first - MAXIMUM_NEURONS), first).map((entry) => read(atlas, entry)),
  )
  const fitting = (/** @type {Compared[]} */ neurons) => fittingCount(neurons.map(({ lines }) => pictureCount(lines)))
  const end = first + fitting(after)
  return {
    neurons: after.slice(0, end - first),
    first,
    count: entries.length,
    previous: first > 0 ? { ...route, from: first - fitting(before.reverse()) + 1 } : null,
    next: end < entries.length ? { ...route, from: end + 1 } : null,
  }
}

/** @param {Atlas} atlas @param {Entry} entry @returns {Promise<Compared>} without rows when there is no such neuron */
async function read(atlas, entry) {
  const layer = atlas.layer(entry.layer)
  const rows = layer ? neuronRows(await atlas.layerTable(layer), entry.unit) : []
  return { ...entry, rows, title: rows[0]?.label || entry.name, lines: comparisonLines(rows, atlas.methods) }
}

/** @param {Route} route @param {number} count @returns {string} */
function listWords({ list }, count) {
  const parts = [
    plural(count, 'neuron'),
    list.statuses.length > 0 && `marked ${list.statuses.join(' or ')}`,
    list.layer && `of ${list.layer}`,
    list.query && `found by “${list.query}”`,
  ]
  return parts.filter(Boolean).join(' ')
}

/** @param {Route} route @param {() => void} toggle @returns {HTMLElement} */
function transparencyButton({ transparency }, toggle) {
  const attributes = { 'aria-pressed': String(transparency), dataset: { keep: 'transparency' } }
  return h('button', { type: 'button', class: 'button', onClick: toggle, ...attributes }, 'Transparency')
}

/** @param {Route} route @returns {string} */
function listButtonWords({ list }) {
  return list.query || list.layer || list.statuses.length ? 'All results' : 'All neurons'
}

/**
 * @param {Page} page
 * @param {'above' | 'below'} where
 * @returns {HTMLElement | null} null when there is one page
 */
function pager({ neurons, first, count, previous, next }, where) {
  const step = (/** @type {Route | null} */ target, /** @type {string} */ word, /** @type {string} */ text) =>
    target
      ? link(formatRoute(target), { class: 'button', rel: word, dataset: { keep: `${word}-${where}` } }, text)
      : h('span', { class: 'button button-off', 'aria-disabled': 'true' }, text)
  if (!previous && !next) return null
  return h(
    'nav',
    { class: 'compare-pager', 'aria-label': `Pages of the comparison, ${where} the table` },
    step(previous, 'prev', '← Previous'),
    h(
      'span',
      { class: 'place' },
      `${formatCount(first + 1)}–${formatCount(first + neurons.length)} of ${plural(count, 'neuron')}`,
    ),
    step(next, 'next', 'Next →'),
  )
}

/**
 * A box that adds a neuron to those of the address.
 * @param {Atlas} atlas
 * @param {Route} route
 * @param {Go} go
 * @returns {HTMLElement}
 */
function adder(atlas, route, go) {
  const example = `${atlas.index.columns.layer[0]}:${atlas.index.columns.unit[0]}`
  const input = h('input', {
    id: 'compare-add',
    class: 'text-input',
    placeholder: example,
    autocomplete: 'off',
    autocapitalize: 'none',
    spellcheck: 'false',
    dataset: { keep: 'add' },
  })
  const message = h('p', { class: 'note', role: 'status' })
  const add = () => {
    const neuron = findNeuron(atlas, input.value)
    if (neuron) {
      go({ ...route, neurons: [...new Set([...route.neurons, `${neuron.layer}:${neuron.unit}`])], from: 1 })
    } else {
      message.textContent = `This atlas has no neuron “${input.value.trim()}”. Expected a layer and a unit, such as ${example}.`
    }
  }
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') add()
  })
  return h(
    'div',
    { class: 'compare-adder' },
    h('label', { class: 'compare-adder-label', for: 'compare-add' }, 'Compare with'),
    input,
    h('button', { type: 'button', class: 'button', 'aria-label': 'Add this neuron', onClick: add }, 'Add'),
    message,
  )
}
