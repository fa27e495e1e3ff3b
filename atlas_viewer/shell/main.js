/** The whole page: follows the address and has its view shown, a turn for each; hears clicks and the keys. */

import { makeHeader } from './header.js'
import { helpIsOpen, toggleHelp } from '../ui/help.js'
import { Page } from './page.js'
import { rebase } from '../base/route.js'
import { formatRoute, parseRoute } from '../base/router.js'
import { preloadView, Views } from './views.js'

/**
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').View} View
 */

/** Keys of the views that the browser itself has no use for: letters, digits and a few by name. */
const WAITING_KEYS = /^([^ ]|ArrowLeft|ArrowRight|Escape)$/

const content = /** @type {HTMLElement} */ (document.getElementById('content'))
const header = makeHeader(/** @type {HTMLElement} */ (document.getElementById('header')), go, toggleHelp)
const page = new Page(content, () => show())
const views = new Views(goFromView, (error) => page.fail(error))

let turn = 0
/** Whether the view of the address is still on its way. */
let coming = false
/** @type {KeyboardEvent[]} pressed meanwhile: meant for the view that comes, not for the one it replaces */
const waitingKeys = []

/** Goes to a view. @param {Route} route @param {{replace?: boolean}} [options] */
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
  const shown = page.route
  const current = parseRoute(location.hash)
  const isChange = coming && shown && shown.view === route.view && route.view === current.view
  const back = shown && formatRoute(route) === formatRoute(shown)
  go(isChange && !back ? rebase(shown, route, current) : route, options)
}

/** Shows the view of the current address. @param {{keepPlace?: boolean, restorePlace?: boolean}} [options] */
async function show(options = {}) {
  const mine = ++turn
  coming = true
  content.dataset.coming = '' // for those who wait for the view: tests and benchmarks
  await showAddress(mine, options)
  if (mine !== turn) return
  coming = false
  delete content.dataset.coming
  // One of them may lead on; the others then wait for the view it leads to.
  while (waitingKeys.length && !coming) page.view?.onKey?.(/** @type {KeyboardEvent} */ (waitingKeys.shift()))
}

/** @param {number} mine the turn @param {{keepPlace?: boolean, restorePlace?: boolean}} options */
async function showAddress(mine, { keepPlace = false, restorePlace = false }) {
  const hash = location.hash
  page.turnTo(hash)
  const waiting = setTimeout(() => {
    if (mine === turn) content.setAttribute('aria-busy', 'true')
  }, 200)
  /** @type {View} */
  let next
  let route = parseRoute(hash)
  try {
    preloadView(route, !page.view)
    const sites = await views.openSite()
    // A site with one atlas opens it at once.
    if (route.view === 'home' && sites.length === 1) route = { ...route, view: 'gallery', atlas: sites[0].slug }
    const entry = sites.find((candidate) => candidate.slug === route.atlas)
    const atlas = entry ? await views.openAtlas(entry) : null
    if (mine !== turn) return
    // On its way while the view is made, like its module.
    const layer = route.view === 'neuron' ? atlas?.layer(route.layer) : undefined
    if (layer) atlas?.neuronTable(layer, route.unit).catch(() => {})
    header.update(route, atlas)
    if (await page.view?.update?.(route)) {
      if (mine !== turn) return
      page.route = route
      if (restorePlace) page.restoreScroll(hash)
      return
    }
    next = await views.make(route, atlas, sites)
  } catch (error) {
    next = page.failureView(error)
  } finally {
    clearTimeout(waiting)
    content.removeAttribute('aria-busy')
  }
  if (mine !== turn) return
  const mayFocus = await page.place(next, route, { keepPlace, restorePlace, hash })
  if (mayFocus && route.view === 'gallery' && views.lastNeuron) {
    next.restored?.()
    views.lastNeuron = null
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
  } else if (!page.view?.onKey?.(event)) return
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
  if (location.hash !== page.hash) show({ restorePlace: true })
})
show()
