/**
 * The methods side by side, or two models, or two neurons of one: for the neurons of a result list, a page at a time, or
 * for the neurons an address names.
 */

import { copyButton } from '../ui/actions.js'
import { besidePanes } from './side_by_side.js'
import { comparisonTable } from './table.js'
import {
  comparisonLines,
  fittingCount,
  MAXIMUM_NEURONS,
  namedEntries,
  namedPairs,
  pictureCount,
  presentMethods,
} from './comparison.js'
import { adder, besideSelect } from './choices.js'
import { findCounterpart } from './matched_unit.js'
import { h, link } from '../base/dom.js'
import { formatCount, joinWords, plural } from '../base/format.js'
import { emptyWall } from '../ui/notfound.js'
import { resultList } from '../data/results.js'
import { formatRoute, studyOf } from '../base/router.js'
import { neuronRows } from '../data/variants.js'
import { methodTitle } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../ui/filters.js').Go} Go
 * @typedef {import('./comparison.js').Entry} Entry
 * @typedef {import('./comparison.js').Compared} Compared
 *
 * @typedef {import('../data/data.js').SiteEntry} SiteEntry
 * @typedef {import('./side_by_side.js').Pair} Pair
 *
 * @typedef {object} Page
 * @property {Pair[]} pairs the second is null where the methods of one atlas are compared
 * @property {number} first place of the first neuron in the list, from 0 on
 * @property {number} count neurons in the list
 * @property {Route | null} previous
 * @property {Route | null} next
 */

const PERCENTAGE =
  'The percentage says how many of the data set’s photographs excite the neuron no more than the picture does.'

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @param {SiteEntry[]} options.sites the atlases of the site
 * @param {(entry: SiteEntry) => Promise<Atlas>} options.open opens one of them
 * @returns {Promise<import('../shell/main.js').View>}
 */
export async function compareView({ atlas, route, go, sites, open }) {
  const chosen = route.neurons.length > 0
  const besideEntry = sites.find(({ slug }) => slug === route.beside)
  const other = besideEntry ? await open(besideEntry) : null
  const named = other ? namedPairs(route) : namedEntries(route.neurons)
  const page = await readPage(atlas, other, route, chosen ? named : await listEntries(atlas, route, other !== null))
  if (page.pairs.length === 0) await atlas.loadIndex() // what is said then looks through it
  const neurons = page.pairs.map(({ first }) => first)
  const rows = page.pairs.flatMap(({ first, second }) => [...first.rows, ...(second?.rows ?? [])])
  const methods = presentMethods(atlas.methods, rows)
  const wall = /** @type {Route} */ ({ ...route, view: 'wall' })
  const remove = (/** @type {string} */ name) => {
    const neurons = route.neurons.filter((other) => other !== name)
    go(neurons.length ? { ...route, neurons } : wall)
  }
  const toggle = () => go({ ...route, transparency: !route.transparency }, { replace: true })
  const hasMasks = rows.some((row) => row.alpha_path)
  const absent = other ? [] : atlas.methods.filter((method) => !methods.includes(method)).map(methodTitle)
  const title = other ? (other === atlas ? 'Compare neurons' : 'Compare models') : 'Compare methods'

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
        h('li', { 'aria-current': 'page' }, title),
      ),
    ),
    h(
      'header',
      { class: 'compare-head' },
      h('h1', { tabindex: '-1' }, title),
      h(
        'p',
        { class: 'lead' },
        leadWords(atlas, other, `${chosen ? plural(page.count, 'chosen neuron') : listWords(route, page.count)}`),
        !other && `${PERCENTAGE} `,
        link(formatRoute({ ...route, view: 'about', section: 'methods' }), {}, 'About the methods'),
      ),
    ),
    route.beside && !other && h('p', { class: 'notice' }, `This site has no atlas “${route.beside}”.`),
    h(
      'div',
      { class: 'compare-choices' },
      besideSelect(atlas, sites, route, go),
      chosen && adder(atlas, route, go),
    ),
    h(
      'div',
      { class: 'compare-bar' },
      h(
        'div',
        { class: 'action-list', role: 'group', 'aria-label': 'Comparison' },
        hasMasks && transparencyButton(route, toggle),
        copyButton('Copy link', () => location.href),
        page.count > 0 && !other && link(formatRoute(studyOf(route)), { class: 'button' }, 'Judge them blind'),
        chosen && link(formatRoute({ ...route, neurons: [], others: [], from: 1 }), { class: 'button' }, listButtonWords(route)),
      ),
      pager(page, 'above'),
    ),
    page.pairs.length === 0 && emptyWall(atlas, route),
    other && page.pairs.length > 0 && besidePanes({ atlas, other, route, go, pairs: page.pairs, from: page.first }),
    !other &&
      page.pairs.length > 0 &&
      h(
        'div',
        { class: 'compare-region', role: 'region', 'aria-label': 'Pictures by neuron and method', tabindex: '0' },
        comparisonTable({ atlas, route, methods, remove: chosen ? remove : null }, neurons),
      ),
    absent.length > 0 &&
      rows.length > 0 &&
      h('p', { class: 'note' }, `No column for ${joinWords(absent)}: made for none of the neurons on this page.`),
    other && page.pairs.length > 0 && h('p', { class: 'note' }, PERCENTAGE),
    pager(page, 'below'),
  )

  return {
    element,
    title: `${title} · ${atlas.title}`,
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
 * The neurons of a result list that have several methods to compare; all of it where none has, where the atlas is older
 * than the column that tells, or where something else is compared.
 * @param {Atlas} atlas
 * @param {Route} route
 * @param {boolean} all
 * @returns {Promise<Entry[]>}
 */
async function listEntries(atlas, route, all) {
  const { table, rows } = await resultList(atlas, route.list)
  const { layer, unit, num_methods: counts } = table.columns
  const several = all ? [] : rows.filter((row) => (counts?.[row] ?? 2) > 1)
  return (several.length ? several : rows).map((row) => ({ name: `${layer[row]}:${unit[row]}`, layer: layer[row], unit: unit[row] }))
}

/**
 * The neurons from `route.from` on, as many as fit, and the pages before and after. Only the tables of the layers that
 * are needed are read.
 * @param {Atlas} atlas
 * @param {Atlas | null} other
 * @param {Route} route
 * @param {(Entry & {other?: string})[]} entries
 * @returns {Promise<Page>}
 */
async function readPage(atlas, other, route, entries) {
  const first = Math.min(route.from, Math.max(1, entries.length)) - 1
  const most = other ? MAXIMUM_NEURONS / 2 : MAXIMUM_NEURONS
  const after = await Promise.all(entries.slice(first, first + most).map((entry) => readPair(atlas, other, entry)))
  const before = await Promise.all(
    entries.slice(Math.max(0, first - most), first).map((entry) => readPair(atlas, other, entry)),
  )
  const pictures = (/** @type {Pair} */ { first, second }) => pictureCount([...first.lines, ...(second?.lines ?? [])])
  const fitting = (/** @type {Pair[]} */ pairs) => fittingCount(pairs.map(pictures))
  const end = first + fitting(after)
  return {
    pairs: after.slice(0, end - first),
    first,
    count: entries.length,
    previous: first > 0 ? { ...route, from: first - fitting(before.reverse()) + 1 } : null,
    next: end < entries.length ? { ...route, from: end + 1 } : null,
  }
}

/**
 * @param {Atlas} atlas
 * @param {Atlas | null} other
 * @param {Entry & {other?: string}} entry
 * @returns {Promise<Pair>}
 */
async function readPair(atlas, other, entry) {
  const first = await read(atlas, entry)
  if (!other) return { first, second: null, reason: '' }
  const [named] = entry.other ? namedEntries([entry.other]) : []
  const found = named ? { entry: named, reason: '' } : await findCounterpart(atlas, entry, other)
  return { first, second: found.entry && (await read(other, found.entry)), reason: found.reason }
}

/** @param {Atlas} atlas @param {Entry} entry @returns {Promise<Compared>} without rows when there is no such neuron */
async function read(atlas, entry) {
  const layer = atlas.layer(entry.layer)
  const rows = layer ? neuronRows(await atlas.neuronTable(layer, entry.unit), entry.unit) : []
  return { ...entry, rows, title: rows[0]?.label || entry.name, lines: comparisonLines(rows, atlas.methods) }
}

/** @param {Atlas} atlas @param {Atlas | null} other @param {string} neurons in words @returns {string} */
function leadWords(atlas, other, neurons) {
  if (!other) return `${neurons}, pictured by several methods. `
  const beside = other === atlas ? 'others of this atlas' : `those that stand for them in ${other.title}`
  return `Two panes that scroll together: ${neurons}, beside ${beside}. `
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
function pager({ pairs, first, count, previous, next }, where) {
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
      `${formatCount(first + 1)}–${formatCount(first + pairs.length)} of ${plural(count, 'neuron')}`,
    ),
    step(next, 'next', 'Next →'),
  )
}
