/** The bar at the top of every view: where one is, the search box, the theme, help. */

import { fill, h, svg } from '../base/dom.js'
import { findNeuron } from '../base/query.js'
import { emptyList, formatRoute } from '../base/router.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../ui/filters.js').Go} Go
 */

/** ms after the last keystroke before the wall follows the search box. */
const TYPING_PAUSE_MS = 20

const SEARCH_LABEL = 'Search: a neuron such as blocks.5:54, a layer, a class, a label'

const THEME_KEY = 'neuron-atlas-theme'

/**
 * @param {HTMLElement} element
 * @param {Go} go
 * @param {(hasCaptions: boolean) => void} showHelp
 * @returns {{update: (route: Route, atlas: Atlas | null) => void, focusSearch: () => boolean, help: () => void}}
 */
export function makeHeader(element, go, showHelp) {
  const brand = h('a', { class: 'brand', href: '#/' }, brandMark(), h('span', {}, 'Neuron Atlas'))
  const input = h('input', {
    type: 'search',
    id: 'search',
    class: 'search-input',
    placeholder: 'Search neurons and labels',
    autocomplete: 'off',
    autocapitalize: 'none',
    spellcheck: 'false',
    'aria-keyshortcuts': '/',
  })
  const searchLabel = h('label', { class: 'visually-hidden', for: 'search' }, SEARCH_LABEL)
  const search = h(
    'div',
    // Comes with the other parts that an atlas has, so that none of them moves.
    { class: 'search', role: 'search', hidden: true },
    searchLabel,
    input,
    h('kbd', { 'aria-hidden': 'true' }, '/'),
  )
  const map = h('a', { class: 'header-link', href: '#/', hidden: true }, 'Map')
  const about = h('a', { class: 'header-link', href: '#/about' }, 'About')
  const theme = h('button', { type: 'button', class: 'icon-button', onClick: switchTheme })
  const openHelp = () => showHelp(atlas?.hasCaptions === true)
  const help = h(
    'button',
    { type: 'button', class: 'icon-button', 'aria-label': 'Help and keyboard', title: 'Help (?)', onClick: openHelp },
    '?',
  )
  fill(element, brand, search, map, h('nav', { class: 'header-links', 'aria-label': 'Site' }, about, theme, help))

  /** @type {Route | null} */
  let route = null
  /** @type {Atlas | null} */
  let atlas = null
  let timer = 0
  let typed = false

  const openWall = (/** @type {boolean} */ replace) => {
    clearTimeout(timer)
    typed = false
    if (!route || !atlas) return
    const list = {
      ...(['wall', 'neuron', 'compare', 'map'].includes(route.view) ? route.list : emptyList()),
      query: input.value.trim(),
    }
    // On the map the results are marked where they lie.
    go({ ...route, view: route.view === 'map' ? 'map' : 'wall', atlas: atlas.slug, list }, { replace })
  }
  input.addEventListener('focus', () => atlas?.prepareSearch())
  input.addEventListener('input', () => {
    typed = true
    clearTimeout(timer)
    // On the wall the results follow the typing; elsewhere Enter leads there.
    if (route?.view === 'wall') timer = setTimeout(() => openWall(true), TYPING_PAUSE_MS)
  })
  const openNeuron = async () => {
    clearTimeout(timer)
    const text = input.value
    // Where the table cannot be read, the wall says why.
    const neuron = atlas && (await findNeuron(atlas, text).catch(() => null))
    if (input.value !== text) return
    if (neuron && route && atlas) {
      // Whether or not the wall has followed the typing meanwhile, what names the neuron is no search to walk through.
      const list = { ...route.list, query: '' }
      go({ ...route, view: 'neuron', atlas: atlas.slug, ...neuron, variant: '', list })
    } else openWall(route?.view === 'wall')
  }
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') {
      openNeuron()
    } else if (event.key === 'Escape') {
      if (input.value) {
        input.value = ''
        openWall(true)
      } else {
        input.blur()
      }
      event.preventDefault()
      event.stopPropagation()
    }
  })

  showTheme(theme)
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => showTheme(theme))

  return {
    update(nextRoute, nextAtlas) {
      route = nextRoute
      atlas = nextAtlas
      input.placeholder = `Search neurons${atlas?.hasCaptions ? ', labels, captions' : ' and labels'}`
      fill(searchLabel, `${SEARCH_LABEL}${atlas?.hasCaptions ? ', words of a caption' : ''}`)
      search.hidden = !atlas
      map.hidden = !atlas?.manifest.similar?.map
      const neurons = nextRoute.view === 'neuron' ? [`${nextRoute.layer}:${nextRoute.unit}`] : []
      map.href = formatRoute({ ...nextRoute, view: 'map', atlas: atlas?.slug ?? '', neurons, at: '' })
      about.href = formatRoute({ ...nextRoute, view: 'about', atlas: atlas?.slug ?? '', section: '' })
      // What is being typed is not overwritten by the address that an earlier keystroke made.
      if (!typed && (document.activeElement !== input || input.value.trim() !== nextRoute.list.query)) {
        input.value = nextRoute.list.query
      }
    },
    help: openHelp,
    focusSearch() {
      if (search.hidden) return false
      input.focus()
      input.select()
      return true
    },
  }
}

/** @returns {SVGElement} */
function brandMark() {
  const dot = (/** @type {number} */ x, /** @type {number} */ y, /** @type {string} */ kind) =>
    svg('circle', { cx: x, cy: y, r: 3.6, class: kind })
  return svg(
    'svg',
    { class: 'brand-mark', viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false' },
    dot(6, 6, 'dot'),
    dot(18, 6, 'dot dot-faint'),
    dot(6, 18, 'dot dot-faint'),
    dot(18, 18, 'dot dot-lit'),
  )
}

/** @returns {boolean} whether the page is dark now */
export function isDark() {
  const chosen = document.documentElement.dataset.theme
  return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
}

/** @param {HTMLElement} button */
function showTheme(button) {
  const title = isDark() ? 'Switch to light colors' : 'Switch to dark colors'
  button.title = title
  button.setAttribute('aria-label', title)
  fill(
    button,
    svg(
      'svg',
      { viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false', class: 'icon' },
      isDark()
        ? [
            svg('circle', { cx: 12, cy: 12, r: 4.5 }),
            svg('path', {
              d: 'M12 2.5v2.5M12 19v2.5M2.5 12H5M19 12h2.5M5.3 5.3l1.8 1.8M16.9 16.9l1.8 1.8M5.3 18.7l1.8-1.8M16.9 7.1l1.8-1.8',
            }),
          ]
        : svg('path', { d: 'M20 14.5A8.2 8.2 0 0 1 9.5 4a8.2 8.2 0 1 0 10.5 10.5Z' }),
    ),
  )
}

/** @param {Event} event */
function switchTheme(event) {
  const next = isDark() ? 'light' : 'dark'
  document.documentElement.dataset.theme = next
  try {
    localStorage.setItem(THEME_KEY, next)
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
  showTheme(/** @type {HTMLElement} */ (event.currentTarget))
}
