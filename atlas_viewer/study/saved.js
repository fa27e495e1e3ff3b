/** The answers that this browser holds: to be gone on with, downloaded, or deleted. */

import { button, h, link } from '../base/dom.js'
import { STUDY } from '../base/glossary/study.js'
import { makeRoute } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import { downloadAnswers, isFinished } from './run.js'
import { removeSession, savedSessions } from './session.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./session.js').Session} Session
 */

/**
 * Answers of this atlas, the latest first.
 * @param {Atlas} atlas
 * @returns {HTMLElement | null} null when there are none
 */
export function savedPart(atlas) {
  const sessions = savedSessions(atlas.manifest.name)
  if (!sessions.length) return null
  const list = h('ul', {})
  const section = h('section', { class: 'study-saved' }, h('h2', {}, STUDY.saved), list)
  const removed = () => {
    if (!list.childElementCount) section.remove()
  }
  list.append(...sessions.map((session) => savedItem(atlas, session, removed)))
  return section
}

/** @param {Atlas} atlas @param {Session} session @param {() => void} removed @returns {HTMLElement} */
function savedItem(atlas, session, removed) {
  const [done, all] = [session.answers.length, session.questions.length]
  const current = session.atlas.build_id === atlas.manifest.build_id
  const address = formatRoute(makeRoute({ view: 'study', atlas: atlas.slug, session: session.session }))
  const item = h('li', {},
    h('span', { class: 'study-saved-name' },
      h('bdi', {}, session.rater),
      h('span', { class: 'place' },
        STUDY.progress(done, all, session.started.slice(0, 10)),
        !current && STUDY.earlierBuild,
      ),
    ),
    current && !isFinished(session) && link(address, { class: 'button' }, STUDY.goOn),
    button(STUDY.download, () => downloadAnswers(session)),
    deleteButton(() => {
      removeSession(session.session)
      item.remove()
      removed()
    }),
  )
  return item
}

/** A button that asks once more. @param {() => void} remove @returns {HTMLElement} */
function deleteButton(remove) {
  let sure = false
  const element = button(STUDY.remove, () => {
    if (sure) return remove()
    sure = true
    element.textContent = STUDY.removeSure
  })
  element.addEventListener('blur', () => {
    sure = false
    element.textContent = STUDY.remove
  })
  return element
}
