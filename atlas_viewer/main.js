/**
 * The page: follows the address, opens atlases, shows one view at a time, keeps focus and scroll place, hears the keys.
 * Whatever fails is shown in words where the view would have been. The modules of the wall come with the page, those of
 * the other views, and their stylesheets, when they are first asked for.
 */

import { LoadError, openAtlas, openSite } from './data.js'
import { announce, fill, h, problem } from './dom.js'
import { makeHeader } from './header.js'
import { helpIsOpen, toggleHelp } from './help.js'
import { emptySiteView, unknownView } from './notfound.js'
import { formatRoute, parseRoute, rebase } from './router.js'
import { wallView } from './wall.js'

/**
 * @typedef {import('./data.js').Atlas} Atlas
 * @typedef {import('./data.js').SiteEntry} SiteEntry
 * @typedef {import('./router.js').Route} Route
 *
 * @typedef {object} View
 * @property {HTMLElement} element
 * @property {string} title of the window
 * @property {HTMLElement | null} [landing] the heading that a reader is led to; the first one if not given
 * @property {() => Promise<void>} [mounted] once the element is in the page
 * @property {() => void} [restored] after the scroll place is restored
 * @property {(route: Route) => Promise<boolean>} [update] takes a new address itself, or answers false
 * @property {(event: KeyboardEvent) => boolean} [onKey] whether the key was used
 * @property {() => void} [destroy]
 */

/** What neuron.js imports that is not there yet: asked for with it, as each import found later is a round trip more. */
const NEURON_IMPORTS = [
  ...['actions.js', 'charts.js', 'examples.js', 'facts.js', 'mapdata.js', 'mapgrid.js', 'mask.js', 'similar.js'],
  ...['variants.js', 'visualization.js'],
]

/** The modules of the views, fetched when they are first asked for. */
const MODULES = {
  home: () => import('./home.js'),
  about: () => import('./about.js'),
  neuron: () => import('./neuron.js'),
  map: () => withStyle('map.css', import('./map.js')),
  compare: () => withStyle('compare.css', import('./compare.js')),
  study: () => withStyle('study.css', import('./study.js')),
}

/** Keys of the views that the browser itself has no use for: letters, digits and a few by name. */
const WAITING_KEYS = /^([^ ]|ArrowLeft|ArrowRight|Escape)$/

const content = /** @type {HTMLElement} */ (document.getElementById('content'))
const header = makeHeader(/** @type {HTMLElement} */ (document.getElementById('header')), go, toggleHelp)

/** @type {Promise<SiteEntry[]> | null} */
let site = null
/** @type {Map<string, Promise<Atlas>>} */
const atlases = new Map()
/** @type {View | null} */
let view = null
/** @type {{layer: string, unit: number} | null} */
let lastNeuron = null
let shownHash = ''
/** @type {Route | null} of the view that stands in the page */
let shownRoute = null
let turn = 0
/** Whether the view of the address is still on its way. */
let coming = false
/** @type {KeyboardEvent[]} pressed meanwhile: meant for the view that comes, not for the one it replaces */
const waitingKeys = []
/** @type {Map<string, number>} scroll place by address */
const scrollPlaces = new Map()

/**
 * Goes to a view.
 * @param {Route} route
 * @param {{replace?: boolean}} [options]
 */
function go(route, { replace = false } = {}) {
  const hash = formatRoute(route)
  if (hash === location.hash) return
  if (replace) history.replaceState(null, '', hash)
  else history.pushState(null, '', hash)
  show({ keepPlace: replace })
}

/**
 * Goes where the view in the page leads. It knows its own address only: what changed on the way to a view that has not
 * come yet (a filter while a search fetches its labels) stays changed.
 * @param {Route} route
 * @param {{replace?: boolean}} [options]
 */
function goFromView(route, options) {
  const current = parseRoute(location.hash)
  const isChange = coming && shownRoute && shownRoute.view === route.view && route.view === current.view
  const back = shownRoute && formatRoute(route) === formatRoute(shownRoute)
  go(isChange && shownRoute && !back ? rebase(shownRoute, route, current) : route, options)
}

/** @type {Map<string, Promise<unknown>>} loaded, or found missing, by name */
const styles = new Map()

/**
 * A view's module once its stylesheet is there. A view without its looks is better than none: the console names a sheet
 * that is missing.
 * @template T
 * @param {string} name of the stylesheet
 * @param {Promise<T>} module
 * @returns {Promise<T>}
 */
async function withStyle(name, module) {
  if (!styles.has(name)) {
    styles.set(
      name,
      new Promise((resolve) => {
        document.head.append(h('link', { rel: 'stylesheet', href: name, onLoad: resolve, onError: resolve }))
      }),
    )
  }
  await Promise.all([module, styles.get(name)])
  return module
}

/** @returns {Promise<SiteEntry[]>} */
function openSiteOnce() {
  site ??= openSite().catch((error) => {
    site = null
    throw error
  })
  return site
}

/** @param {SiteEntry} entry @returns {Promise<Atlas>} */
function openAtlasOnce(entry) {
  let atlas = atlases.get(entry.slug)
  if (!atlas) {
    atlas = openAtlas(entry)
    atlas.catch(() => atlases.delete(entry.slug))
    atlases.set(entry.slug, atlas)
  }
  return atlas
}

/**
 * Shows the view of the current address.
 * @param {{keepPlace?: boolean, restorePlace?: boolean}} [options]
 */
async function show(options = {}) {
  const mine = ++turn
  coming = true
  content.dataset.coming = '' // for those who wait for the view: tests and benchmarks
  await showAddress(mine, options)
  if (mine !== turn) return
  coming = false
  delete content.dataset.coming
  // One of them may lead on; the others then wait for the view it leads to.
  while (waitingKeys.length && !coming) view?.onKey?.(/** @type {KeyboardEvent} */ (waitingKeys.shift()))
}

/**
 * @param {number} mine the turn
 * @param {{keepPlace?: boolean, restorePlace?: boolean}} options
 */
async function showAddress(mine, { keepPlace = false, restorePlace = false }) {
  const hash = location.hash
  if (shownHash) scrollPlaces.set(shownHash, scrollY)
  shownHash = hash
  const waiting = setTimeout(() => {
    if (mine === turn) content.setAttribute('aria-busy', 'true')
  }, 200)
  /** @type {View} */
  let next
  let route = parseRoute(hash)
  try {
    // Its module is on its way while the atlas is opened; whether it came is asked where it is used.
    if (Object.hasOwn(MODULES, route.view)) MODULES[/** @type {keyof MODULES} */ (route.view)]().catch(() => {})
    if (route.view === 'neuron' && !view) {
      for (const href of NEURON_IMPORTS) document.head.append(h('link', { rel: 'modulepreload', href }))
    }
    const sites = await openSiteOnce()
    // A site with one atlas opens it at once.
    if (route.view === 'home' && sites.length === 1) route = { ...route, view: 'wall', atlas: sites[0].slug }
    const entry = sites.find((candidate) => candidate.slug === route.atlas)
    const atlas = entry ? await openAtlasOnce(entry) : null
    if (mine !== turn) return
    // So is the table of a neuron.
    const layer = route.view === 'neuron' ? atlas?.layer(route.layer) : undefined
    if (layer) atlas?.neuronTable(layer, route.unit).catch(() => {})
    header.update(route, atlas)
    if (await view?.update?.(route)) {
      if (mine === turn) shownRoute = route
      if (restorePlace && mine === turn) scrollTo(0, scrollPlaces.get(hash) ?? 0)
      return
    }
    next = await makeView(route, atlas, sites)
  } catch (error) {
    next = failureView(error)
  } finally {
    clearTimeout(waiting)
    content.removeAttribute('aria-busy')
  }
  if (mine !== turn) return
  await place(next, route, { keepPlace, restorePlace, hash })
}

/**
 * @param {Route} route
 * @param {Atlas | null} atlas
 * @param {SiteEntry[]} sites
 * @returns {Promise<View>}
 */
async function makeView(route, atlas, sites) {
  if (route.view === 'home') return sites.length ? (await MODULES.home()).homeView(sites) : emptySiteView()
  if (route.view === 'about') return (await MODULES.about()).aboutView(atlas, route.section)
  if (route.view === 'wall' && atlas) {
    return wallView({ atlas, route, go: goFromView, lastNeuron, several: sites.length > 1, fail: showFailure })
  }
  if (route.view === 'neuron' && atlas) {
    const { neuronView } = await MODULES.neuron()
    const neuron = await neuronView({ atlas, route, go: goFromView, sites })
    if (neuron) {
      lastNeuron = { layer: route.layer, unit: route.unit }
      return neuron
    }
  }
  if (route.view === 'map' && atlas) return (await MODULES.map()).mapView({ atlas, route, go: goFromView })
  if (route.view === 'compare' && atlas) {
    return (await MODULES.compare()).compareView({ atlas, route, go: goFromView, sites, open: openAtlasOnce })
  }
  await atlas?.loadIndex() // what follows looks through it
  if (route.view === 'study' && atlas) return (await MODULES.study()).studyView({ atlas, route, go: goFromView })
  return unknownView(route, atlas, sites)
}

/**
 * Puts a view into the page, with focus and scroll where a reader expects them.
 * @param {View} next
 * @param {Route} route
 * @param {{keepPlace: boolean, restorePlace: boolean, hash: string}} options
 */
async function place(next, route, { keepPlace, restorePlace, hash }) {
  const kept = content.contains(document.activeElement)
    ? /** @type {HTMLElement} */ (document.activeElement).dataset.keep
    : undefined
  const hadFocus = content.contains(document.activeElement)
  const typing = document.activeElement instanceof HTMLInputElement && !hadFocus
  const first = !view
  view?.destroy?.()
  view = next
  shownRoute = route
  document.title = next.title
  fill(content, next.element)
  try {
    await next.mounted?.()
  } catch (error) {
    showFailure(error)
    return
  }
  if (view !== next) return
  if (!keepPlace) scrollTo(0, restorePlace ? (scrollPlaces.get(hash) ?? 0) : 0)
  if (next.landing && !restorePlace) next.landing.scrollIntoView()
  if (!typing) {
    const same = kept && content.querySelector(`[data-keep="${CSS.escape(kept)}"]`)
    const heading = next.landing ?? content.querySelector('h1')
    const target = /** @type {HTMLElement | null} */ (same || (first ? null : heading))
    target?.focus({ preventScroll: true })
  }
  if (!first) announce(next.title)
  if (route.view === 'wall' && lastNeuron && !typing) {
    next.restored?.()
    lastNeuron = null
  }
}

/**
 * Puts what went wrong in the place of the view.
 * @param {unknown} error
 */
function showFailure(error) {
  view?.destroy?.()
  view = failureView(error)
  fill(content, view.element)
}

/**
 * @param {unknown} error
 * @returns {View}
 */
function failureView(error) {
  const retry = h('button', { type: 'button', class: 'button', onClick: () => show() }, 'Try again')
  if (!(error instanceof LoadError)) console.error(error)
  const details =
    error instanceof LoadError
      ? h(
          'dl',
          { class: 'facts' },
          [
            ['File', error.file],
            ['Expected', error.expected],
            ['Received', error.received],
          ].map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', { class: 'code' }, value))),
        )
      : h('p', {}, error instanceof Error ? error.message : String(error))
  const title =
    error instanceof LoadError ? 'A file of this site could not be read' : 'Something went wrong in this page'
  return {
    element: h(
      'div',
      { class: 'page' },
      h('h1', { class: 'visually-hidden', tabindex: '-1' }, title),
      problem(title, [], details),
      retry,
    ),
    title: 'Problem · Neuron Atlas',
  }
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || helpIsOpen()) return
  const target = /** @type {HTMLElement} */ (event.target)
  if (target.closest('input, select, textarea, [contenteditable]')) return
  if (event.key === '?') header.help()
  else if (event.key === '/') {
    if (!header.focusSearch()) return
  } else if (coming) {
    // A key held down leads on as fast as the views come, and no farther.
    if (WAITING_KEYS.test(event.key) && !event.repeat) waitingKeys.push(event)
    return
  } else if (!view?.onKey?.(event)) return
  event.preventDefault()
}

/** @param {MouseEvent} event */
function onClick(event) {
  if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.defaultPrevented)
    return
  const anchor = /** @type {Element} */ (event.target).closest('a')
  if (anchor?.hasAttribute('data-skip')) {
    event.preventDefault()
    content.focus()
  } else if (anchor?.getAttribute('href')?.startsWith('#/')) {
    // Links go through `go`, so that a popstate is always a step in the history.
    event.preventDefault()
    goFromView(parseRoute(anchor.hash))
  }
}

history.scrollRestoration = 'manual'
addEventListener('keydown', onKey)
addEventListener('click', onClick)
addEventListener('popstate', () => {
  if (location.hash !== shownHash) show({ restorePlace: true })
})
show()
