/** Answering: one question after the other, each answer kept at once, and the end of a study. */

import { download, fileStem } from '../ui/actions.js'
import { button, definitions, fill, h, link, problem } from '../base/dom.js'
import { SITE } from '../base/glossary/site.js'
import { STUDY } from '../base/glossary/study.js'
import { parseRoute } from '../base/router.js'
import { loadImages } from './images.js'
import { askQuestion } from './question.js'
import { answersFile, loadSession, saveSession } from './session.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
 * @typedef {import('./session.js').Session} Session
 * @typedef {import('./images.js').Shown} Shown
 * @typedef {import('./question.js').Asked} Asked
 */

/** ms that the question before stays in the page while the images of the next one come. */
const PATIENCE_MS = 300

/** @param {Session} session */
export function downloadAnswers(session) {
  const text = `${JSON.stringify(answersFile(session), null, 1)}\n`
  const name = `${fileStem(`answers-${session.atlas.name}-${session.rater}-${session.session.slice(0, 6)}`)}.json`
  download(new Blob([text], { type: 'application/json' }), name)
}

/** @param {Session} session @returns {boolean} */
export function isFinished(session) {
  return session.answers.length === session.questions.length
}

/** The view of a session: asks its questions one by one. */
export class RunView {
  /** @param {{atlas: Atlas, session: Session, go: Go}} options */
  constructor({ atlas, session, go }) {
    this.atlas = atlas
    this.session = session
    this.go = go
    this.title = STUDY.title(atlas.title)
    this.element = h('article', { class: 'page study-page' })
    /** @type {Map<number, Promise<Shown>>} images by number of the question */
    this.loading = new Map()
    this.kept = true
    this.since = 0
    this.turn = 0
    /** @type {Asked | null} */
    this.asked = null
  }

  async mounted() {
    this.show() // which waits for images, and then leads the reader itself
  }

  /** @param {number} number @returns {Promise<Shown>} */
  load(number) {
    let images = this.loading.get(number)
    if (!images) {
      images = loadImages(this.atlas, this.session.questions[number])
      images.catch(() => this.loading.delete(number))
      this.loading.set(number, images)
    }
    return images
  }

  /** Gives back the memory of questions. @param {(number: number) => boolean} unneeded */
  release(unneeded) {
    for (const [number, images] of this.loading) {
      if (!unneeded(number)) continue
      this.loading.delete(number)
      images.then((shown) => shown.release()).catch(() => undefined)
    }
  }

  /** Keeps an answer and goes on. @param {number | string | null} answer null for a question that is skipped */
  keep(answer) {
    if (!this.asked && answer !== null) return
    this.asked = null
    // Another tab may have gone on with the same answers: what is kept counts, and this question is asked no more.
    const latest = loadSession(this.session.session)
    if (latest && latest.answers.length !== this.session.answers.length) this.session = latest
    else this.session.answers.push({ answer, milliseconds: Math.round(performance.now() - this.since) })
    this.save()
  }

  back() {
    if (this.session.answers.pop()) this.save()
  }

  save() {
    this.kept = saveSession(this.session)
    this.show()
  }

  pause() {
    this.go(parseRoute(this.session.address))
  }

  /** Shows the next question, or the end. */
  async show() {
    const mine = ++this.turn
    const { element, session } = this
    const number = session.answers.length
    this.asked = null
    this.since = performance.now()
    this.release((other) => other !== number && other !== number + 1)
    if (isFinished(session)) {
      fill(element, endPart(session), this.warning())
      lead(element.querySelector('h1'))
      return
    }
    const asked = await this.nextQuestion(number)
    if (mine !== this.turn) return
    if (!asked) {
      const failure = unshownPart(() => this.show(), () => this.keep(null))
      fill(element, this.bar(), failure)
      return
    }
    fill(element, this.bar(), this.warning(), asked.element)
    this.asked = asked
    this.since = performance.now()
    lead(asked.input && matchMedia('(pointer: fine)').matches ? asked.input : asked.heading)
    if (number + 1 < session.questions.length) this.load(number + 1).catch(() => undefined)
  }

  /** @param {number} number @returns {Promise<Asked | null>} null when its images did not come */
  async nextQuestion(number) {
    const { element } = this
    const wait = () => fill(element, this.bar(), h('h1', { tabindex: '-1' }, STUDY.loading))
    const waiting = element.childElementCount ? setTimeout(wait, PATIENCE_MS) : wait()
    try {
      return askQuestion(this.session.questions[number], await this.load(number), (answer) => this.keep(answer))
    } catch {
      return null
    } finally {
      clearTimeout(waiting ?? undefined)
    }
  }

  /** @returns {HTMLElement} */
  bar() {
    const [done, all] = [this.session.answers.length, this.session.questions.length]
    return h('div', { class: 'study-bar' },
      h('span', { class: 'place', id: 'study-place' }, STUDY.question(done + 1, all)),
      h('progress', { class: 'study-progress', value: done, max: all, 'aria-labelledby': 'study-place' }),
      button(STUDY.back, () => this.back(), { disabled: !done }),
      button(STUDY.pause, () => this.pause(), { 'aria-keyshortcuts': 'Escape' }),
      button(STUDY.download, () => downloadAnswers(this.session)),
    )
  }

  warning() {
    return !this.kept && h('p', { class: 'notice notice-weak', role: 'alert' }, STUDY.notKept)
  }

  /** @param {KeyboardEvent} event @returns {boolean} */
  onKey({ key, repeat }) {
    if (key === 'Escape') this.pause()
    else if (repeat || !this.asked) return false
    else return this.asked.press(key)
    return true
  }

  destroy() {
    this.turn++
    this.release(() => true)
  }
}

/** @param {HTMLElement | null} target what the reader is led to */
function lead(target) {
  scrollTo(0, 0)
  target?.focus({ preventScroll: true })
}

/**
 * A question whose images did not come. The message names no file, because its name tells the method.
 * @param {() => void} again
 * @param {() => void} skip
 * @returns {HTMLElement}
 */
function unshownPart(again, skip) {
  return h('div', {},
    h('h1', { class: 'visually-hidden', tabindex: '-1' }, STUDY.missing),
    problem(STUDY.unshown, [STUDY.unshownNote]),
    h('div', { class: 'action-list' }, button(SITE.retry, again), button(STUDY.skip, skip)),
  )
}

/** @param {Session} session @returns {HTMLElement} */
function endPart(session) {
  const terms = STUDY.session
  /** @type {[string, string | number][]} */
  const metadata = [
    [terms.rater, session.rater],
    [terms.seed, session.seed],
    [terms.started, session.started],
    [terms.session, session.session],
  ]
  return h('section', { class: 'prose' },
    h('h1', { tabindex: '-1' }, STUDY.end),
    h('p', { class: 'lead' }, STUDY.endLead(session.answers.length)),
    h('div', { class: 'action-list' },
      button(STUDY.downloadAnswers, () => downloadAnswers(session)),
      link(session.address, { class: 'button' }, STUDY.toStart),
    ),
    h('div', { class: 'study-metadata' }, definitions(metadata)),
  )
}
