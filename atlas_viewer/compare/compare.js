/**
 * Methods, two models or two neurons of one side by side: for the neurons of a result list, a page at a time, or for
 * the neurons that an address names.
 */

import { copyButton } from '../ui/actions.js'
import { sideBySidePanes } from './side_by_side.js'
import { comparisonTable } from './table.js'
import { comparisonLines, fittingCount, MAXIMUM_NEURONS, namedPairs, imageCount, presentMethods } from './comparison.js'
import { adder, secondAtlasSelect } from './choices.js'
import { findMatchedUnit } from './matched_unit.js'
import { button, h, link } from '../base/dom.js'
import { joinWords } from '../base/format.js'
import { emptyGallery } from '../ui/notfound.js'
import { resultList } from '../data/results.js'
import { studyOf } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import { neuronRows } from '../data/variants.js'
import { methodTitle, NAMES } from '../base/glossary.js'
import { COMPARE } from '../base/glossary/compare.js'
import { NEURON } from '../base/glossary/neuron.js'
import { SITE } from '../base/glossary/site.js'
import { namedEntries } from '../base/query.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
 * @typedef {import('../base/query.js').Entry} Entry
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

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @param {SiteEntry[]} options.sites the atlases of the site
 * @param {(entry: SiteEntry) => Promise<Atlas>} options.open opens one of them
 * @returns {Promise<import('../base/route.js').View>}
 */
export async function compareView({ atlas, route, go, sites, open }) {
  const chosen = route.neurons.length > 0
  const secondEntry = sites.find(({ slug }) => slug === route.secondAtlas)
  const other = secondEntry ? await open(secondEntry) : null
  const named = other ? namedPairs(route) : namedEntries(route.neurons)
  const page = await readPage(atlas, other, route, chosen ? named : await listEntries(atlas, route, other !== null))
  if (page.pairs.length === 0) await atlas.loadIndex() // what is shown then looks through it
  const hasMasks = rowsOf(page).some((row) => row.alpha_path)
  const toggle = () => go({ ...route, mask: !route.mask }, { replace: true })
  const gallery = /** @type {Route} */ ({ ...route, view: 'gallery' })
  const title = other ? (other === atlas ? COMPARE.neurons : COMPARE.models) : COMPARE.methods

  const element = h('article', { class: 'page compare-page' },
    breadcrumbs(atlas, gallery, title),
    h('header', { class: 'compare-head' }, h('h1', { tabindex: '-1' }, title), lead(atlas, other, route, page)),
    route.secondAtlas && !other && h('p', { class: 'notice' }, COMPARE.noAtlas(route.secondAtlas)),
    h('div', { class: 'compare-choices' },
      secondAtlasSelect(atlas, sites, route, go),
      chosen && adder(atlas, route, go),
    ),
    h('div', { class: 'compare-bar' },
      h('div', { class: 'action-list', role: 'group', 'aria-label': COMPARE.actions },
        hasMasks && maskButton(route, toggle),
        copyButton(SITE.copyLink, () => location.href),
        page.count > 0 && !other && link(formatRoute(studyOf(route)), { class: 'button' }, COMPARE.study),
        chosen &&
          link(formatRoute({ ...route, neurons: [], others: [], from: 1 }), { class: 'button' }, listButtonText(route)),
      ),
      pager(page, 'above'),
    ),
    page.pairs.length ? comparisonParts({ atlas, other, route, go, page }) : emptyGallery(atlas, route),
    pager(page, 'below'),
  )

  return {
    element,
    title: SITE.title(title, atlas.title),
    onKey({ key }) {
      const target = { ArrowLeft: page.previous, k: page.previous, ArrowRight: page.next, j: page.next }[key]
      // In a window too narrow for the table the arrows scroll it, as they do any region that has the focus.
      const region = element.querySelector('.compare-region')
      const scrolls = region && region === document.activeElement && region.scrollWidth > region.clientWidth
      if (target && !(scrolls && key.startsWith('Arrow'))) go(target)
      else if (key === 'Escape') go(gallery)
      else if (key === 't' && hasMasks) toggle()
      else return false
      return true
    },
  }
}

/** @param {Page} page @returns {import('../data/variants.js').Row[]} */
function rowsOf({ pairs }) {
  return pairs.flatMap(({ first, second }) => [...first.rows, ...(second?.rows ?? [])])
}

/** @param {Atlas} atlas @param {Route} gallery @param {string} title @returns {HTMLElement} */
function breadcrumbs(atlas, gallery, title) {
  const items = [
    h('li', {}, link(formatRoute(gallery), { dataset: { keep: 'gallery' } }, atlas.title)),
    h('li', { 'aria-current': 'page' }, title),
  ]
  return h('nav', { 'aria-label': SITE.place }, h('ol', { class: 'breadcrumbs' }, items))
}

/** @param {Atlas} atlas @param {Atlas | null} other @param {Route} route @param {Page} page @returns {HTMLElement} */
function lead(atlas, other, route, { count }) {
  const { statuses, layer, query } = route.list
  const neurons = route.neurons.length ? COMPARE.chosen(count) : COMPARE.listed(count, statuses, layer, query)
  const others = other === atlas ? COMPARE.otherNeurons : COMPARE.matchedUnits(other?.title ?? '')
  return h('p', { class: 'lead' },
    other ? COMPARE.leadPanes(neurons, others) : `${COMPARE.lead(neurons)}${COMPARE.percentage} `,
    link(formatRoute({ ...route, view: 'about', section: 'methods' }), {}, COMPARE.about),
  )
}

/**
 * The table of methods, or two panes.
 * @param {{atlas: Atlas, other: Atlas | null, route: Route, go: Go, page: Page}} options
 * @returns {import('../base/dom.js').Child[]}
 */
function comparisonParts({ atlas, other, route, go, page }) {
  const { pairs } = page
  if (other) {
    const panes = sideBySidePanes({ atlas, other, route, go, pairs, from: page.first })
    return [panes, h('p', { class: 'note' }, COMPARE.percentage)]
  }
  const rows = rowsOf(page)
  const methods = presentMethods(atlas.methods, rows)
  const absent = atlas.methods.filter((method) => !methods.includes(method)).map(methodTitle)
  const remove = (/** @type {string} */ name) => {
    const neurons = route.neurons.filter((candidate) => candidate !== name)
    go(neurons.length ? { ...route, neurons } : { ...route, view: 'gallery' })
  }
  const context = { atlas, route, methods, remove: route.neurons.length ? remove : null }
  const table = comparisonTable(context, pairs.map(({ first }) => first))
  return [
    h('div', { class: 'compare-region', role: 'region', 'aria-label': COMPARE.region, tabindex: '0' }, table),
    absent.length > 0 && rows.length > 0 && h('p', { class: 'note' }, COMPARE.absent(joinWords(absent))),
  ]
}

/**
 * The neurons of a result list that have several methods to compare; all of it where none has, or where something else
 * is compared.
 * @param {Atlas} atlas
 * @param {Route} route
 * @param {boolean} all
 * @returns {Promise<Entry[]>}
 */
async function listEntries(atlas, route, all) {
  const { table, rows } = await resultList(atlas, route.list)
  const { layer, unit, num_methods: counts } = table.columns
  const several = all ? [] : rows.filter((row) => (counts[row] ?? 2) > 1)
  return (several.length ? several : rows).map((row) => ({
    name: NAMES.neuron(layer[row], unit[row]),
    layer: layer[row],
    unit: unit[row],
  }))
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
  const images = (/** @type {Pair} */ { first, second }) => imageCount([...first.lines, ...(second?.lines ?? [])])
  const fitting = (/** @type {Pair[]} */ pairs) => fittingCount(pairs.map(images))
  const end = first + fitting(after)
  return {
    pairs: after.slice(0, end - first),
    first,
    count: entries.length,
    previous: first > 0 ? { ...route, from: first - fitting(before.reverse()) + 1 } : null,
    next: end < entries.length ? { ...route, from: end + 1 } : null,
  }
}

/** @param {Atlas} atlas @param {Atlas | null} other @param {Entry & {other?: string}} entry @returns {Promise<Pair>} */
async function readPair(atlas, other, entry) {
  const first = await read(atlas, entry)
  if (!other) return { first, second: null, reason: '' }
  const [named] = entry.other ? namedEntries([entry.other]) : []
  const found = named ? { entry: named, reason: '' } : await findMatchedUnit(atlas, entry, other)
  return { first, second: found.entry && (await read(other, found.entry)), reason: found.reason }
}

/** @param {Atlas} atlas @param {Entry} entry @returns {Promise<Compared>} without rows when there is no such neuron */
async function read(atlas, entry) {
  const layer = atlas.layer(entry.layer)
  const rows = layer ? neuronRows(await atlas.neuronTable(layer, entry.unit), entry.unit) : []
  return { ...entry, rows, title: rows[0]?.label || entry.name, lines: comparisonLines(rows, atlas.methods) }
}

/** @param {Route} route @param {() => void} toggle @returns {HTMLElement} */
function maskButton({ mask }, toggle) {
  const attributes = { 'aria-pressed': String(mask), dataset: { keep: 'mask' } }
  return button(SITE.mask, toggle, attributes)
}

/** @param {Route} route @returns {string} */
function listButtonText({ list }) {
  return list.query || list.layer || list.statuses.length ? COMPARE.allResults : COMPARE.allNeurons
}

/** @param {Page} page @param {'above' | 'below'} where @returns {HTMLElement | null} null when there is one page */
function pager({ pairs, first, count, previous, next }, where) {
  const step = (/** @type {Route | null} */ target, /** @type {string} */ word, /** @type {string} */ text) =>
    target
      ? link(formatRoute(target), { class: 'button', rel: word, dataset: { keep: `${word}-${where}` } }, text)
      : h('span', { class: 'button button-off', 'aria-disabled': 'true' }, text)
  if (!previous && !next) return null
  return h('nav', { class: 'compare-pager', 'aria-label': COMPARE.pages(where) },
    step(previous, 'prev', NEURON.previousArrow),
    h('span', { class: 'place' }, COMPARE.place(first + 1, first + pairs.length, count)),
    step(next, 'next', NEURON.nextArrow),
  )
}
