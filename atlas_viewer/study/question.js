/** One question of a study as a rater sees it: what is shown, and how it is answered. Nothing here knows the method. */

import { button, h } from '../base/dom.js'
import { STUDY, TASK_NOTES } from '../base/glossary/study.js'
import { percentages, referenceBox } from '../ui/topimages.js'
import { MAXIMUM_WORDS_LENGTH } from './session.js'

/**
 * @typedef {import('./plan.js').Question} Question
 * @typedef {import('./images.js').Shown} Shown
 *
 * @typedef {object} Asked
 * @property {HTMLElement} heading that the focus goes to
 * @property {HTMLElement} element
 * @property {HTMLInputElement | null} input where words are typed
 * @property {(key: string) => boolean} press whether the key is an answer
 */

const SCALE = [1, 2, 3, 4, 5]

/** @param {Question} question @param {Shown} shown @param {(answer: number | string) => void} give @returns {Asked} */
export function askQuestion(question, shown, give) {
  const heading = h('h1', { tabindex: '-1', id: 'study-question' }, questionText(question))
  const visualizations = h('div', { class: 'study-visualizations', dataset: { count: shown.visualizations.length } },
    shown.visualizations,
  )
  if (question.task === 'words') {
    const input = wordsInput(give)
    const element = h('section', {},
      heading,
      h('div', { class: 'study-stage' }, visualizations),
      wordsAnswer(input, give),
    )
    return { heading, element, input, press: () => false }
  }
  if (question.task === 'choice') {
    const element = h('section', {},
      heading,
      h('div', { class: 'study-stage' }, visualizations, choiceAnswer(shown, give)),
    )
    return { heading, element, input: null, press: (key) => pressNumber(key, [1, 2], give) }
  }
  const datasetImages = question.task === 'intermediate' && datasetList(question, shown)
  const stage = h('div', { class: datasetImages ? 'study-stage study-side-by-side' : 'study-stage' },
    visualizations,
    datasetImages,
  )
  const element = h('section', {}, heading, stage, scale(give))
  return { heading, element, input: null, press: (key) => pressNumber(key, SCALE, give) }
}

/** @param {Question} question @returns {import('../base/dom.js').Child[]} */
function questionText({ task, label, visualizations }) {
  const [before, after] = TASK_NOTES[task].question(visualizations.length)
  return label ? [before, h('bdi', {}, label), after] : [before]
}

/** @param {string} key @param {number[]} numbers @param {(answer: number) => void} give @returns {boolean} */
function pressNumber(key, numbers, give) {
  const number = numbers.find((candidate) => String(candidate) === key)
  if (number !== undefined) give(number)
  return number !== undefined
}

/** @param {(answer: number) => void} give @returns {HTMLElement} */
function scale(give) {
  return h('div', { class: 'study-scale', role: 'group', 'aria-labelledby': 'study-question' },
    SCALE.map((number) => {
      const meaning = STUDY.scaleEnds[/** @type {1 | 5} */ (number)]
      return h(
        'button',
        { type: 'button', class: 'button', 'aria-keyshortcuts': String(number), onClick: () => give(number) },
        h('span', { class: 'study-number' }, number),
        meaning && h('span', { class: 'study-end' }, meaning),
      )
    }),
  )
}

/** @param {Question} question @param {Shown} shown @returns {HTMLElement} */
function datasetList({ positions }, { datasetImages }) {
  return h('ol', { class: 'study-dataset' },
    datasetImages.map((datasetImage, number) => {
      const box = referenceBox(positions[number], 0)
      if (box)
        datasetImage.append(h('span', { class: 'top-image-box', 'aria-hidden': 'true', style: percentages(box) }))
      return h('li', {}, datasetImage)
    }),
  )
}

/** @param {Shown} shown @param {(answer: number) => void} give @returns {HTMLElement} */
function choiceAnswer({ datasetImages }, give) {
  return h('div', { class: 'study-choice', role: 'group', 'aria-labelledby': 'study-question' },
    datasetImages.map((datasetImage, number) =>
      h(
        'button',
        { type: 'button', class: 'button', 'aria-keyshortcuts': String(number + 1), onClick: () => give(number + 1) },
        datasetImage,
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

/** @param {HTMLInputElement} input @param {(answer: string) => void} give @returns {HTMLElement} */
function wordsAnswer(input, give) {
  const next = () => (input.value.trim() ? give(input.value.trim()) : input.focus())
  return h('div', { class: 'study-words' },
    input,
    button(STUDY.next, next),
    button(STUDY.recognizeNothing, () => give('')),
  )
}
