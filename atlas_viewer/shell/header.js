/** The bar at the top of every view: the site's name, the search box, links, the theme, help. */

import { darkPreference, isDark } from '../base/darkmode.js'
import { fill, h, svg } from '../base/dom.js'
import { HEADER, SITE } from '../base/glossary/site.js'
import { formatRoute } from '../base/router.js'
import { SearchBox } from './searchbox.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
 */

const THEME_KEY = 'neuron-atlas-theme'

/**
 * @param {HTMLElement} element
 * @param {Go} go
 * @param {(hasCaptions: boolean) => void} showHelp
 * @returns {{update: (route: Route, atlas: Atlas | null) => void, focusSearch: () => boolean, help: () => void}}
 */
export function makeHeader(element, go, showHelp) {
  const search = new SearchBox(go)
  const brand = h('a', { class: 'brand', href: '#/' }, brandMark(), h('span', {}, SITE.name))
  const map = h('a', { class: 'header-link', href: '#/', hidden: true }, HEADER.map)
  const about = h('a', { class: 'header-link', href: '#/about' }, HEADER.about)
  const theme = h('button', { type: 'button', class: 'icon-button', onClick: switchTheme })
  const openHelp = () => showHelp(search.atlas?.hasCaptions === true)
  const attributes = { type: 'button', class: 'icon-button', 'aria-label': HEADER.help, title: HEADER.helpKey }
  const help = h('button', { ...attributes, onClick: openHelp }, '?')
  const links = h('nav', { class: 'header-links', 'aria-label': HEADER.site }, about, theme, help)
  fill(element, brand, search.element, map, links)
  showTheme(theme)
  darkPreference.addEventListener('change', () => showTheme(theme))

  return {
    update(route, atlas) {
      search.update(route, atlas)
      const slug = atlas?.slug ?? ''
      const neurons = route.view === 'neuron' ? [`${route.layer}:${route.unit}`] : []
      map.hidden = !atlas?.manifest.neighbors?.map
      map.href = formatRoute({ ...route, view: 'map', atlas: slug, neurons, at: '' })
      about.href = formatRoute({ ...route, view: 'about', atlas: slug, section: '' })
    },
    help: openHelp,
    focusSearch: () => search.focus(),
  }
}

/** @returns {SVGElement} */
function brandMark() {
  const dot = (/** @type {number} */ x, /** @type {number} */ y, /** @type {string} */ kind) =>
    svg('circle', { cx: x, cy: y, r: 3.6, class: kind })
  return svg('svg', { class: 'brand-mark', viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false' },
    dot(6, 6, 'dot'),
    dot(18, 6, 'dot dot-faint'),
    dot(6, 18, 'dot dot-faint'),
    dot(18, 18, 'dot dot-lit'),
  )
}

/** @param {HTMLElement} button */
function showTheme(button) {
  const title = isDark() ? HEADER.light : HEADER.dark
  button.title = title
  button.setAttribute('aria-label', title)
  fill(
    button,
    svg('svg', { viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false', class: 'icon' },
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
