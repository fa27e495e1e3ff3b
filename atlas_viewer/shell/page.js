/**
 * The part of the page where the views stand, one at a time: focus and scroll are where a reader expects them. Whatever
 * fails is shown in words where the view would have been.
 */

import { LoadError, reasonOf } from '../base/files.js'
import { announce, button, definitions, fill, h, problem } from '../base/dom.js'
import { SITE } from '../base/glossary/site.js'

/**
 * @typedef {import('../base/route.js').View} View
 * @typedef {import('../base/route.js').Route} Route
 */

/** The view that stands in the page, and where readers had scrolled to. */
export class Page {
  /** @param {HTMLElement} content @param {() => void} retry shows the view of the address anew, after a failure */
  constructor(content, retry) {
    this.content = content
    this.retry = retry
    /** @type {View | null} */
    this.view = null
    /** @type {Route | null} of the view that stands in the page */
    this.route = null
    /** Address of the view that stands in the page or comes. */
    this.hash = ''
    /** @type {Map<string, number>} scroll place by address */
    this.scrollPlaces = new Map()
  }

  /** Remembers how far the reader had scrolled at the address before. @param {string} hash of the view that comes */
  turnTo(hash) {
    if (this.hash) this.scrollPlaces.set(this.hash, scrollY)
    this.hash = hash
  }

  /** @param {string} hash */
  restoreScroll(hash) {
    scrollTo(0, this.scrollPlaces.get(hash) ?? 0)
  }

  /**
   * Puts a view into the page.
   * @param {View} next
   * @param {Route} route
   * @param {{keepPlace: boolean, restorePlace: boolean, hash: string}} options
   * @returns {Promise<boolean>} whether it stands there and may take the focus, which a reader who types keeps
   */
  async place(next, route, { keepPlace, restorePlace, hash }) {
    const { content } = this
    const kept = content.contains(document.activeElement)
      ? /** @type {HTMLElement} */ (document.activeElement).dataset.keep
      : undefined
    const hadFocus = content.contains(document.activeElement)
    const typing = document.activeElement instanceof HTMLInputElement && !hadFocus
    const first = !this.view
    this.view?.destroy?.()
    this.view = next
    this.route = route
    document.title = next.title
    fill(content, next.element)
    try {
      await next.mounted?.()
    } catch (error) {
      this.fail(error)
      return false
    }
    if (this.view !== next) return false
    if (!keepPlace) {
      if (restorePlace) this.restoreScroll(hash)
      else scrollTo(0, 0)
    }
    if (next.landing && !restorePlace) next.landing.scrollIntoView()
    if (!typing) {
      const same = kept && content.querySelector(`[data-keep="${CSS.escape(kept)}"]`)
      const heading = next.landing ?? content.querySelector('h1')
      const target = /** @type {HTMLElement | null} */ (same || (first ? null : heading))
      target?.focus({ preventScroll: true })
    }
    if (!first) announce(next.title)
    return !typing
  }

  /** Puts what went wrong in the place of the view. @param {unknown} error */
  fail(error) {
    this.view?.destroy?.()
    this.view = this.failureView(error)
    fill(this.content, this.view.element)
  }

  /** @param {unknown} error @returns {View} */
  failureView(error) {
    const retry = button(SITE.retry, () => this.retry())
    if (!(error instanceof LoadError)) console.error(error)
    const lines = error instanceof LoadError && [
      [SITE.file, error.file],
      [SITE.expected, error.expected],
      [SITE.received, error.received],
    ]
    const details = lines ? definitions(lines, { class: 'code' }) : h('p', {}, reasonOf(error))
    const title = error instanceof LoadError ? SITE.unreadable : SITE.unexpected
    return {
      element: h('div', { class: 'page' },
        h('h1', { class: 'visually-hidden', tabindex: '-1' }, title),
        problem(title, [], details),
        retry,
      ),
      title: SITE.problem,
    }
  }
}
