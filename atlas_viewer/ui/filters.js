/** The filters beside the wall (layers, statuses, methods) and the bar above it (count, order, tile size, comparison). */

import { scoreColumns } from '../base/columns.js'
import { fill, h, link } from '../base/dom.js'
import { columnTitle, formatCount } from '../base/format.js'
import { TILE_SIZES } from '../base/routeparameters.js'
import { compareResults, formatRoute } from '../base/router.js'
import { layerKind, methodTitle, STATUSES, statusWords } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../base/router.js').ListState} ListState
 * @typedef {(route: Route, options?: {replace?: boolean}) => void} Go
 */

/**
 * @param {Atlas} atlas
 * @param {Go} go
 * @returns {{element: HTMLElement, update: (route: Route) => void}}
 */
export function makeFilters(atlas, go) {
  const element = h('aside', { class: 'filters', 'aria-label': 'Filters' })
  /** @type {Record<string, number>} */
  const statusCounts = atlas.manifest.counts ?? {}
  // Folded away on a narrow window, where the wall matters more; always open beside a wide one.
  const details = h('details', { class: 'filters-fold' })
  const wide = matchMedia('(min-width: 60rem)')
  const fold = () => {
    details.open = wide.matches
  }
  wide.addEventListener('change', fold)
  fold()

  /** @param {Route} route */
  function update(route) {
    const { list } = route
    const change = (/** @type {Partial<ListState>} */ part) =>
      formatRoute({ ...route, view: 'wall', list: { ...list, ...part } })
    const layers = [
      { name: '', title: 'All layers', count: atlas.numNeurons },
      ...atlas.layers.map(({ name, num_neurons: count }) => ({ name, title: name, count })),
    ]
    const focused = details.contains(document.activeElement)
      ? /** @type {HTMLElement} */ (document.activeElement).dataset.keep
      : undefined

    fill(
      details,
      h('summary', {}, filterSummary(list)),
      h('h2', { id: 'filter-layers' }, 'Layer'),
      h(
        'nav',
        { 'aria-labelledby': 'filter-layers', class: 'filter-list filter-layers' },
        layers.map((layer) =>
          link(
            change({ layer: layer.name }),
            {
              class: 'filter-item',
              'aria-current': layer.name === list.layer ? 'true' : null,
              dataset: { keep: `layer-${layer.name}` },
            },
            h('span', { class: layer.name ? 'code' : '' }, layer.title),
            layerKind(layer.name) && h('span', { class: 'kind' }, layerKind(layer.name)),
            h('span', { class: 'filter-count' }, formatCount(layer.count)),
          ),
        ),
      ),
      h('h2', { id: 'filter-status' }, 'Status'),
      h(
        'div',
        { role: 'group', 'aria-labelledby': 'filter-status', class: 'filter-list' },
        STATUSES.filter((status) => statusCounts[status] || list.statuses.includes(status)).map((status) =>
          h(
            'label',
            { class: 'filter-item' },
            h('input', {
              type: 'checkbox',
              checked: list.statuses.includes(status),
              dataset: { keep: `status-${status}` },
              onChange: () =>
                go({ ...route, view: 'wall', list: { ...list, statuses: toggle(list.statuses, status) } }),
            }),
            statusLabel(status),
            h('span', { class: 'filter-count' }, formatCount(statusCounts[status] ?? 0)),
          ),
        ),
      ),
      atlas.methods.length > 1 && [
        h('h2', { id: 'filter-method' }, 'Method shown'),
        h(
          'nav',
          { 'aria-labelledby': 'filter-method', class: 'filter-list' },
          atlas.methods.map((method, order) => {
            const name = order === 0 ? '' : method
            return link(
              change({ method: name }),
              {
                class: 'filter-item',
                'aria-current': (list.method || atlas.methods[0]) === method ? 'true' : null,
                dataset: { keep: `method-${method}` },
              },
              methodTitle(method),
            )
          }),
        ),
      ],
    )
    if (focused)
      /** @type {HTMLElement | null} */ (details.querySelector(`[data-keep="${CSS.escape(focused)}"]`))?.focus()
  }

  element.append(details)
  return { element, update }
}

/** @param {ListState} list @returns {string} */
function filterSummary(list) {
  const parts = [list.layer, ...list.statuses, list.method].filter(Boolean)
  return parts.length ? `Filters: ${parts.join(', ')}` : 'Filters'
}

/**
 * @param {string[]} statuses
 * @param {string} status
 * @returns {string[]}
 */
function toggle(statuses, status) {
  return STATUSES.filter((name) => statuses.includes(name) !== (name === status))
}

/**
 * A status as shape and word.
 * @param {string} status
 * @returns {HTMLElement}
 */
export function statusLabel(status) {
  const known = STATUSES.includes(status) ? status : 'unknown'
  return h(
    'span',
    { class: `status status-${known}` },
    h('span', { class: 'status-mark', 'aria-hidden': 'true' }, statusWords(status).mark),
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
  const sort = h(
    'select',
    { id: 'sort', 'aria-label': 'Sort by' },
    h('option', { value: '' }, 'Layer and unit'),
    h('option', { value: 'label' }, 'Label'),
    ...(atlas.manifest.scores ?? scoreColumns(atlas.index)).map((/** @type {string} */ name) => h('option', { value: name }, columnTitle(name))),
  )
  const direction = h('button', { type: 'button', class: 'button' })
  const sizes = h('div', { class: 'segments', role: 'group', 'aria-label': 'Tile size' })
  const compare = link(
    '',
    { class: 'button', title: 'Compare methods (c)', 'aria-keyshortcuts': 'c' },
    'Compare methods',
  )
  const element = h(
    'div',
    { class: 'result-bar' },
    count,
    h(
      'div',
      { class: 'result-controls' },
      h('label', { class: 'field', for: 'sort' }, 'Sort by'),
      sort,
      direction,
      sizes,
      atlas.methods.length > 1 && compare,
    ),
  )

  /**
   * @param {Route} route
   * @param {string} message how many results
   */
  function update(route, message) {
    const { list } = route
    count.textContent = message
    const known = [...sort.options].some((option) => option.value === list.sort)
    sort.value = known ? list.sort : ''
    sort.onchange = () => {
      // Scores are most telling from the top; losses and labels from the bottom.
      const descending = !['', 'label', 'loss'].includes(sort.value)
      go({ ...route, list: { ...list, sort: sort.value, descending } })
    }
    direction.textContent = list.descending ? '↓ High to low' : '↑ Low to high'
    if (list.sort === 'label') direction.textContent = list.descending ? '↓ Z to A' : '↑ A to Z'
    direction.hidden = !list.sort
    compare.href = formatRoute(compareResults(route))
    direction.onclick = () => go({ ...route, list: { ...list, descending: !list.descending } })
    const focused = sizes.contains(document.activeElement)
    fill(
      sizes,
      TILE_SIZES.map((size) =>
        h(
          'button',
          {
            type: 'button',
            class: 'segment',
            'aria-pressed': String(route.size === size),
            'aria-label': `${size} tiles`,
            title: `${size.charAt(0).toUpperCase()}${size.slice(1)} tiles`,
            onClick: () => go({ ...route, size }, { replace: true }),
          },
          size.charAt(0).toUpperCase(),
        ),
      ),
    )
    if (focused) /** @type {HTMLElement | null} */ (sizes.querySelector('[aria-pressed="true"]'))?.focus()
  }

  return { element, sort, update }
}
