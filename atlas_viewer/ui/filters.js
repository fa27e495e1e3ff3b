/** The filters of the gallery (layers, statuses, methods) and the bar above it (count, order, tile size, comparison). */

import { fill, h, link } from '../base/dom.js'
import { formatCount } from '../base/format.js'
import { TILE_SIZES } from '../base/routeparameters.js'
import { compareResults } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import { columnTitle, layerKind, methodTitle, STATUSES, statusNote } from '../base/glossary.js'
import { FILTERS, SITE } from '../base/glossary/site.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').ListState} ListState
 * @typedef {import('../base/route.js').Go} Go
 */

/** @param {Atlas} atlas @param {Go} go @returns {{element: HTMLElement, update: (route: Route) => void}} */
export function makeFilters(atlas, go) {
  // Folded away on a narrow window, where the gallery matters more; always open next to a wide one.
  const details = h('details', { class: 'filters-fold' })
  const wide = matchMedia('(min-width: 60rem)')
  const fold = () => {
    details.open = wide.matches
  }
  wide.addEventListener('change', fold)
  fold()

  /** @param {Route} route */
  function update(route) {
    const focused = details.contains(document.activeElement)
      ? /** @type {HTMLElement} */ (document.activeElement).dataset.keep
      : undefined

    fill(
      details,
      h('summary', {}, filterSummary(route.list)),
      layerFilter(atlas, route),
      statusFilter(atlas, route, go),
      atlas.methods.length > 1 ? methodFilter(atlas, route) : [],
    )
    if (focused)
      /** @type {HTMLElement | null} */ (details.querySelector(`[data-keep="${CSS.escape(focused)}"]`))?.focus()
  }

  return { element: h('aside', { class: 'filters', 'aria-label': FILTERS.title }, details), update }
}

/**
 * The address of the gallery with another filter.
 * @param {Route} route
 * @param {Partial<ListState>} part
 * @returns {string}
 */
function filteredAddress(route, part) {
  return formatRoute({ ...route, view: 'gallery', list: { ...route.list, ...part } })
}

/** @param {Atlas} atlas @param {Route} route @returns {HTMLElement[]} */
function layerFilter(atlas, route) {
  const layers = [
    { name: '', title: FILTERS.allLayers, count: atlas.numNeurons },
    ...atlas.layers.map(({ name, num_neurons: count }) => ({ name, title: name, count })),
  ]
  const links = layers.map(({ name, title, count }) =>
    link(
      filteredAddress(route, { layer: name }),
      { class: 'filter-item', 'aria-current': name === route.list.layer && 'true', dataset: { keep: `layer-${name}` } },
      h('span', { class: name ? 'code' : '' }, title),
      layerKind(name) && h('span', { class: 'kind' }, layerKind(name)),
      h('span', { class: 'filter-count' }, formatCount(count)),
    ),
  )
  return [
    h('h2', { id: 'filter-layers' }, FILTERS.layer),
    h('nav', { 'aria-labelledby': 'filter-layers', class: 'filter-list filter-layers' }, links),
  ]
}

/** @param {Atlas} atlas @param {Route} route @param {Go} go @returns {HTMLElement[]} */
function statusFilter(atlas, route, go) {
  const { counts } = atlas.manifest
  const { statuses } = route.list
  const boxes = STATUSES.filter((status) => counts[status] || statuses.includes(status)).map((status) => {
    const onChange = () =>
      go({ ...route, view: 'gallery', list: { ...route.list, statuses: toggle(statuses, status) } })
    const attributes = { type: 'checkbox', checked: statuses.includes(status), onChange }
    return h('label', { class: 'filter-item' },
      h('input', { ...attributes, dataset: { keep: `status-${status}` } }),
      statusLabel(status),
      h('span', { class: 'filter-count' }, formatCount(counts[status] ?? 0)),
    )
  })
  return [
    h('h2', { id: 'filter-status' }, FILTERS.status),
    h('div', { role: 'group', 'aria-labelledby': 'filter-status', class: 'filter-list' }, boxes),
  ]
}

/** @param {Atlas} atlas @param {Route} route @returns {HTMLElement[]} */
function methodFilter({ methods }, route) {
  const links = methods.map((method, order) => {
    const current = (route.list.method || methods[0]) === method && 'true'
    const attributes = { class: 'filter-item', 'aria-current': current, dataset: { keep: `method-${method}` } }
    return link(filteredAddress(route, { method: order === 0 ? '' : method }), attributes, methodTitle(method))
  })
  return [
    h('h2', { id: 'filter-method' }, FILTERS.method),
    h('nav', { 'aria-labelledby': 'filter-method', class: 'filter-list' }, links),
  ]
}

/** @param {ListState} list @returns {string} */
function filterSummary(list) {
  const parts = [list.layer, ...list.statuses, list.method].filter(Boolean)
  return parts.length ? FILTERS.chosen(parts) : FILTERS.title
}

/** @param {string[]} statuses @param {string} status @returns {string[]} */
function toggle(statuses, status) {
  return STATUSES.filter((name) => statuses.includes(name) !== (name === status))
}

/** A status as shape and word. @param {string} status @returns {HTMLElement} */
export function statusLabel(status) {
  const known = STATUSES.includes(status) ? status : 'unknown'
  return h('span', { class: `status status-${known}` },
    h('span', { class: 'status-mark', 'aria-hidden': 'true' }, statusNote(status).mark),
    status,
  )
}

/**
 * @param {Atlas} atlas
 * @param {Go} go
 * @returns {{element: HTMLElement, sort: HTMLElement, update: (route: Route, message: string) => void}}
 */
export function makeResultBar(atlas, go) {
  const count = h('p', { class: 'result-count' })
  const sort = sortSelect(atlas)
  const direction = h('button', { type: 'button', class: 'button' })
  const sizes = h('div', { class: 'segments', role: 'group', 'aria-label': FILTERS.tileSize })
  const attributes = { class: 'button', title: SITE.compareMethodsKey, 'aria-keyshortcuts': 'c' }
  const compare = link('', attributes, SITE.compareMethods)
  const label = h('label', { class: 'field', for: 'sort' }, FILTERS.sort)
  const controls = [label, sort, direction, sizes, atlas.methods.length > 1 && compare]
  const element = h('div', { class: 'result-bar' }, count, h('div', { class: 'result-controls' }, controls))

  /** @param {Route} route @param {string} message how many results */
  function update(route, message) {
    const { list } = route
    count.textContent = count.title = message
    sort.value = [...sort.options].some((option) => option.value === list.sort) ? list.sort : ''
    sort.onchange = () => {
      // Scores are most telling from the top; losses and labels from the bottom.
      const descending = !['', 'label', 'loss'].includes(sort.value)
      go({ ...route, list: { ...list, sort: sort.value, descending } })
    }
    direction.textContent = directionText(list)
    direction.hidden = !list.sort
    direction.onclick = () => go({ ...route, list: { ...list, descending: !list.descending } })
    compare.href = formatRoute(compareResults(route))
    const focused = sizes.contains(document.activeElement)
    fill(sizes, sizeButtons(route, go))
    if (focused) /** @type {HTMLElement | null} */ (sizes.querySelector('[aria-pressed="true"]'))?.focus()
  }

  return { element, sort, update }
}

/** @param {Atlas} atlas @returns {HTMLSelectElement} */
function sortSelect(atlas) {
  const scores = atlas.manifest.scores.map((/** @type {string} */ name) => [name, columnTitle(name)])
  const columns = [['', FILTERS.order], ['label', FILTERS.label], ...scores]
  const options = columns.map(([value, title]) => h('option', { value }, title))
  return h('select', { id: 'sort', 'aria-label': FILTERS.sort }, options)
}

/** @param {ListState} list @returns {string} */
function directionText({ sort, descending }) {
  if (sort === 'label') return descending ? FILTERS.lastLetters : FILTERS.firstLetters
  return descending ? FILTERS.falling : FILTERS.rising
}

/** @param {Route} route @param {Go} go @returns {HTMLElement[]} */
function sizeButtons(route, go) {
  return TILE_SIZES.map((size) => {
    const capital = size.charAt(0).toUpperCase()
    const attributes = {
      type: 'button',
      class: 'segment',
      'aria-pressed': String(route.size === size),
      'aria-label': FILTERS.tiles(size),
      title: FILTERS.tiles(`${capital}${size.slice(1)}`),
    }
    return h('button', { ...attributes, onClick: () => go({ ...route, size }, { replace: true }) }, capital)
  })
}
