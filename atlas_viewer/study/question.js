/** One question of a study as a rater sees it: what is shown, and how it is answered. Nothing here knows the method. */

import { h } from '../base/dom.js'
import { percentages, referenceBox } from '../ui/examples.js'
import { MAXIMUM_WORDS_LENGTH } from './session.js'

/**
 * @typedef {import('./plan.js').Question} Question
 * @typedef {import('./plan.js').Task} Task
 * @typedef {import('./pictures.js').Shown} Shown
 *
 * @typedef {object} Asked
 * @property {HTMLElement} heading that the focus goes to
 * @property {HTMLElement} element
 * @property {HTMLInputElement | null} input where words are typed
 * @property {(key: string) => boolean} press whether the key is an answer
 */

/** @type {Record<Task, {title: string, meaning: string}>} */
export const TASK_WORDS = {
  words: { title: 'Describe', meaning: 'write in a few words what a picture shows' },
  choice: { title: 'Choose', meaning: 'tell which of two photographs goes with the picture' },
  inner: { title: 'Compare', meaning: 'rate how well a picture fits the photographs beside it' },
  class: { title: 'Rate', meaning: 'rate how well a picture shows what its name says' },
}

const SCALE = [1, 2, 3, 4, 5]

/**
 * @param {Question} question
 * @param {Shown} shown
 * @param {(answer: number | string) => void} give
 * @returns {Asked}
 */
export function askQuestion(question, shown, give) {
  const heading = h('h1', { tabindex: '-1', id: 'study-question' }, questionWords(question))
  const pictures = h('div', { class: 'study-pictures', dataset: { count: shown.pictures.length } }, shown.pictures)
  if (question.task === 'words') {
    const input = wordsInput(give)
    const element = h('section', {}, heading, h('div', { class: 'study-stage' }, pictures), wordsAnswer(input, give))
    return { heading, element, input, press: () => false }
  }
  if (question.task === 'choice') {
    const element = h('section', {}, heading, h('div', { class: 'study-stage' }, pictures, choiceAnswer(shown, give)))
    return { heading, element, input: null, press: (key) => pressNumber(key, [1, 2], give) }
  }
  const photographs = question.task === 'inner' && photographList(question, shown)
  const stage = h('div', { class: photographs ? 'study-stage study-beside' : 'study-stage' }, pictures, photographs)
  const element = h('section', {}, heading, stage, scale(give))
  return { heading, element, input: null, press: (key) => pressNumber(key, SCALE, give) }
}

/** @param {Question} question @returns {import('../base/dom.js').Child[]} */
function questionWords({ task, label, pictures }) {
  const several = pictures.length > 1
  if (task === 'words') return ['What does the picture show?']
  if (task === 'choice') return [`Which photograph goes with the ${several ? 'pictures' : 'picture'}?`]
  if (task === 'inner') return ['How well does the picture fit these photographs?']
  return ['How well does the picture show “', h('bdi', {}, label), '”?']
}

/**
 * @param {string} key
 * @param {number[]} numbers
 * @param {(answer: number) => void} give
 * @returns {boolean}
 */
function pressNumber(key, numbers, give) {
  const number = numbers.find((candidate) => String(candidate) === key)
  if (number !== undefined) give(number)
  return number !== undefined
}

/** @param {(answer: number) => void} give @returns {HTMLElement} */
function scale(give) {
  const ends = { 1: 'not at all', 5: 'very well' }
  return h(
    'div',
    { class: 'study-scale', role: 'group', 'aria-labelledby': 'study-question' },
    SCALE.map((number) => {
      const meaning = ends[/** @type {1 | 5} */ (number)]
      return h(
        'button',
        { type: 'button', class: 'button', 'aria-keyshortcuts': String(number), onClick: () => give(number) },
        h('span', { class: 'study-number' }, number),
        meaning && h('span', { class: 'study-end' }, ' ', meaning),
      )
    }),
  )
}

/**
 * @param {Question} question
 * @param {Shown} shown
 * @returns {HTMLElement}
 */
function photographList({ positions }, { photographs }) {
  return h(
    'ol',
    { class: 'study-photographs' },
    photographs.map((photograph, number) => {
      const box = referenceBox(positions[number], 0)
      if (box) photograph.append(h('span', { class: 'example-box', 'aria-hidden': 'true', style: percentages(box) }))
      return h('li', {}, photograph)
    }),
  )
}

/**
 * @param {Shown} shown
 * @param {(answer: number) => void} give
 * @returns {HTMLElement}
 */
function choiceAnswer({ photographs }, give) {
  return h(
    'div',
    { class: 'study-choice', role: 'group', 'aria-labelledby': 'study-question' },
    photographs.map((photograph, number) =>
      h(
        'button',
        { type: 'button', class: 'button', 'aria-keyshortcuts': String(number + 1), onClick: () => give(number + 1) },
        photograph,
        h('span', { class: 'study-number', 'aria-hidden': 'true' }, number + 1),
      ),
    ),
  )
}

/** @param {(answer: string) => void} give @returns {HTMLInputElement} */
function wordsInput(give) {
  const input = h('input', {
    class: 'text-input',
    maxlength: MAXIMUM_WORDS_LENGTH,
    autocomplete: 'off',
    autocapitalize: 'none',
    'aria-labelledby': 'study-question',
  })
  input.addEventListener('keydown', (event) => {
    // An empty answer is given by its own button, not by a slip of the key.
    if (event.key === 'Enter' && !event.repeat && input.value.trim()) give(input.value.trim())
  })
  return input
}

/**
 * @param {HTMLInputElement} input
 * @param {(answer: string) => void} give
 * @returns {HTMLElement}
 */
function wordsAnswer(input, give) {
  const next = () => (input.value.trim() ? give(input.value.trim()) : input.focus())
  return h(
    'div',
    { class: 'study-words' },
    input,
    h('button', { type: 'button', class: 'button', onClick: next }, 'Next'),
    h('button', { type: 'button', class: 'button', onClick: () => give('') }, 'I recognize nothing'),
  )
}
