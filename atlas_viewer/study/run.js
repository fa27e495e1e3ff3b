/** Answering: one question after the other, each answer kept at once, and the end of a study. */

import { download, fileStem } from '../ui/actions.js'
import { fill, h, link, problem } from '../base/dom.js'
import { plural } from '../base/format.js'
import { parseRoute } from '../base/router.js'
import { loadPictures } from './pictures.js'
import { askQuestion } from './question.js'
import { answersFile, loadSession, saveSession } from './session.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../ui/filters.js').Go} Go
 * @typedef {import('./session.js').Session} Session
 * @typedef {import('./pictures.js').Shown} Shown
 * @typedef {import('./question.js').Asked} Asked
 */

/** ms that the question before stands there while the next one's pictures come. */
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

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Session} options.session
 * @param {Go} options.go
 * @returns {import('../shell/main.js').View}
 */
export function runView({ atlas, session, go }) {
  const element = h('article', { class: 'page study-page' })
  /** @type {Map<number, Promise<Shown>>} pictures by number of the question */
  const loading = new Map()
  let current = session
  let kept = true
  let since = 0
  let turn = 0
  /** @type {Asked | null} */
  let asked = null

  const load = (/** @type {number} */ number) => {
    let pictures = loading.get(number)
    if (!pictures) {
      pictures = loadPictures(atlas, current.questions[number])
      pictures.catch(() => loading.delete(number))
      loading.set(number, pictures)
    }
    return pictures
  }
  const release = (/** @type {(number: number) => boolean} */ unwanted) => {
    for (const [number, pictures] of loading) {
      if (!unwanted(number)) continue
      loading.delete(number)
      pictures.then((shown) => shown.release()).catch(() => undefined)
    }
  }

  const keep = (/** @type {number | string | null} */ answer) => {
    if (!asked && answer !== null) return
    asked = null
    // Another tab may have gone on with the same answers: what is kept counts, and this question is asked no more.
    const latest = loadSession(current.session)
    if (latest && latest.answers.length !== current.answers.length) current = latest
    else current.answers.push({ answer, milliseconds: Math.round(performance.now() - since) })
    kept = saveSession(current)
    show()
  }
  const back = () => {
    if (!current.answers.length) return
    current.answers.pop()
    kept = saveSession(current)
    show()
  }
  const pause = () => go(parseRoute(current.address))

  const bar = () => {
    const [done, all] = [current.answers.length, current.questions.length]
    const words = `Question ${done + 1} of ${all}`
    return h(
      'div',
      { class: 'study-bar' },
      h('span', { class: 'place', id: 'study-place' }, words),
      h('progress', { class: 'study-progress', value: done, max: all, 'aria-labelledby': 'study-place' }),
      h('button', { type: 'button', class: 'button', disabled: !done, onClick: back }, 'Back'),
      h('button', { type: 'button', class: 'button', onClick: pause, 'aria-keyshortcuts': 'Escape' }, 'Pause'),
      h('button', { type: 'button', class: 'button', onClick: () => downloadAnswers(current) }, 'Download'),
    )
  }
  const warning = () =>
    !kept &&
    h(
      'p',
      { class: 'notice notice-weak', role: 'alert' },
      'This browser keeps no answers: download them before you leave.',
    )

  /** Shows the next question, or the end. */
  const show = async () => {
    const mine = ++turn
    const number = current.answers.length
    asked = null
    since = performance.now()
    if (isFinished(current)) {
      release(() => true)
      fill(element, endPart(current), warning())
      lead(element.querySelector('h1'))
      return
    }
    release((other) => other !== number && other !== number + 1)
    const wait = () => fill(element, bar(), h('h1', { tabindex: '-1' }, 'Loading the pictures …'))
    const waiting = element.childElementCount ? setTimeout(wait, PATIENCE_MS) : wait()
    let next
    try {
      const pictures = await load(number)
      next = askQuestion(current.questions[number], pictures, keep)
    } catch {
      if (mine === turn)
        fill(
          element,
          bar(),
          unshownPart(show, () => keep(null)),
        )
      return
    } finally {
      clearTimeout(waiting ?? undefined)
    }
    if (mine !== turn) return
    fill(element, bar(), warning(), next.element)
    asked = next
    since = performance.now()
    lead(next.input && matchMedia('(pointer: fine)').matches ? next.input : next.heading)
    if (number + 1 < current.questions.length) load(number + 1).catch(() => undefined)
  }

  return {
    element,
    title: `Study · ${atlas.title}`,
    mounted: async () => {
      show() // which waits for pictures, and then leads the reader itself
    },
    onKey({ key, repeat }) {
      if (key === 'Escape') pause()
      else if (repeat || !asked) return false
      else return asked.press(key)
      return true
    },
    destroy() {
      turn++
      release(() => true)
    },
  }
}

/** @param {HTMLElement | null} target what the reader is led to */
function lead(target) {
  scrollTo(0, 0)
  target?.focus({ preventScroll: true })
}

/**
 * A question whose pictures did not come. The message names no file, because its name tells the method.
 * @param {() => void} again
 * @param {() => void} skip
 * @returns {HTMLElement}
 */
function unshownPart(again, skip) {
  return h(
    'div',
    {},
    h('h1', { class: 'visually-hidden', tabindex: '-1' }, 'A picture is missing'),
    problem('A picture of this question could not be loaded', [
      'The connection may be down. Your answers so far are kept. A question that is skipped counts for nothing.',
    ]),
    h(
      'div',
      { class: 'action-list' },
      h('button', { type: 'button', class: 'button', onClick: again }, 'Try again'),
      h('button', { type: 'button', class: 'button', onClick: skip }, 'Skip this question'),
    ),
  )
}

/** @param {Session} session @returns {HTMLElement} */
function endPart(session) {
  /** @type {[string, string | number][]} */
  const facts = [
    ['Rater', session.rater],
    ['Seed of the order', session.seed],
    ['Started', session.started],
    ['Session', session.session],
  ]
  return h(
    'section',
    { class: 'prose' },
    h('h1', { tabindex: '-1' }, 'Thank you'),
    h(
      'p',
      { class: 'lead' },
      `${plural(session.answers.length, 'answer')}. They are kept in this browser and nowhere else: download the file and ` +
        'send it to whoever asked you.',
    ),
    h(
      'div',
      { class: 'action-list' },
      h('button', { type: 'button', class: 'button', onClick: () => downloadAnswers(session) }, 'Download the answers'),
      link(session.address, { class: 'button' }, 'Back to the start'),
    ),
    h(
      'dl',
      { class: 'facts study-facts' },
      facts.map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, value))),
    ),
  )
}
