/** The start of a study: the rater's name, what will be asked, and the settings, all of which stand in the address. */

import { copyButton } from '../ui/actions.js'
import { h, link } from '../base/dom.js'
import { joinWords, plural } from '../base/format.js'
import { emptyStudy, formatRoute } from '../base/router.js'
import { MAXIMUM_ITEMS, TASKS } from './plan.js'
import { TASK_WORDS } from './question.js'
import { MAXIMUM_RATER_LENGTH } from './session.js'
import { methodTitle } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../base/router.js').StudyState} StudyState
 * @typedef {import('../ui/filters.js').Go} Go
 * @typedef {import('./plan.js').Settings} Settings
 * @typedef {import('./plan.js').Task} Task
 *
 * @typedef {object} FormOptions
 * @property {Atlas} atlas
 * @property {Route} route
 * @property {Go} go
 * @property {(rater: string) => void} start
 * @property {Settings} settings
 * @property {Record<Task, number>} counts questions that each task would have
 * @property {(task: Task) => string} reason why a task has none
 * @property {string[]} notes about the neurons
 */

/** Whether the settings are unfolded; undecided until a reader touches them. */
let unfolded = /** @type {boolean | null} */ (null)

/**
 * @param {FormOptions} options
 * @returns {HTMLElement}
 */
export function studyForm(options) {
  const { atlas, route, go, start, settings, counts } = options
  const rater = h('input', {
    id: 'study-rater',
    class: 'text-input',
    maxlength: MAXIMUM_RATER_LENGTH,
    autocomplete: 'off',
    spellcheck: 'false',
    value: route.study.rater,
    dataset: { keep: 'rater' },
  })
  /** @param {Partial<StudyState>} part @param {Partial<Route>} [rest] */
  const change = (part, rest = {}) =>
    go({ ...route, ...rest, study: { ...route.study, rater: rater.value.trim(), ...part } }, { replace: true })
  const asked = settings.tasks.filter((task) => counts[task] > 0)
  const total = asked.reduce((sum, task) => sum + counts[task], 0)
  rater.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && total) start(rater.value)
  })

  const details = h(
    'details',
    { class: 'more study-settings', open: unfolded ?? isUnset(route) },
    h('summary', {}, 'What is asked'),
    h(
      'div',
      { class: 'study-fields' },
      tasksField(options, change),
      atlas.methods.length > 1 && methodsField(atlas, settings, change),
      itemsField(settings, change),
      seedField(route, change),
      neuronsField(atlas, route, change),
      options.notes.map((note) => h('p', { class: 'note' }, note)),
      h(
        'div',
        { class: 'action-list' },
        // The link is for others: it goes without the name.
        copyButton('Copy a link to this study', () => {
          const address = formatRoute({ ...route, study: { ...route.study, rater: '' } })
          return new URL(address, location.href).href
        }),
      ),
    ),
  )
  details.addEventListener('toggle', () => {
    unfolded = details.open
  })
  return h(
    'section',
    { class: 'study-start' },
    h('label', { class: 'study-label', for: 'study-rater' }, 'Your name, or a pseudonym'),
    h(
      'div',
      { class: 'study-begin' },
      rater,
      h(
        'button',
        { type: 'button', class: 'button study-button', disabled: !total, onClick: () => start(rater.value) },
        total ? `Start: ${plural(total, 'question')}` : 'Nothing to ask',
      ),
    ),
    total > 0 &&
      h(
        'ul',
        { class: 'study-asked' },
        asked.map((task) => h('li', {}, `${counts[task]} times: ${TASK_WORDS[task].meaning}`)),
      ),
    details,
  )
}

/** @param {Route} route @returns {boolean} whether the address leaves all settings to the atlas */
function isUnset({ study, neurons }) {
  return JSON.stringify({ ...study, rater: '' }) === JSON.stringify(emptyStudy()) && !neurons.length
}

/**
 * @param {string} legend
 * @param {import('../base/dom.js').Child[]} children
 * @returns {HTMLElement}
 */
function group(legend, children) {
  return h('fieldset', { class: 'study-group' }, h('legend', {}, legend), children)
}

/**
 * @param {string} text
 * @param {{checked: boolean, disabled?: boolean, keep: string, change: (checked: boolean) => void}} options
 * @returns {HTMLElement}
 */
function check(text, { checked, disabled = false, keep, change }) {
  const input = h('input', { type: 'checkbox', checked, disabled, dataset: { keep } })
  input.addEventListener('change', () => change(input.checked))
  return h('label', { class: 'check' }, input, h('span', {}, text))
}

/**
 * @template T
 * @param {readonly T[]} all in order
 * @param {T[]} chosen
 * @param {T} one
 * @param {boolean} wanted
 * @returns {T[]} the new choice; empty when it is all of them, or when nothing would be left
 */
function toggled(all, chosen, one, wanted) {
  const next = all.filter((other) => (other === one ? wanted : chosen.includes(other)))
  return next.length === all.length ? [] : next
}

/**
 * @param {FormOptions} options
 * @param {(part: Partial<StudyState>) => void} change
 * @returns {HTMLElement}
 */
function tasksField({ settings, counts, reason }, change) {
  return group(
    'Tasks',
    TASKS.map((task) => {
      const { title, meaning } = TASK_WORDS[task]
      const text = `${title}: ${counts[task] ? meaning : `left out, ${reason(task)}`}`
      return check(text, {
        checked: settings.tasks.includes(task) && counts[task] > 0,
        disabled: !counts[task],
        keep: `task-${task}`,
        change: (wanted) => change({ tasks: toggled(TASKS, settings.tasks, task, wanted) }),
      })
    }),
  )
}

/**
 * @param {Atlas} atlas
 * @param {Settings} settings
 * @param {(part: Partial<StudyState>) => void} change
 * @returns {HTMLElement}
 */
function methodsField({ methods }, settings, change) {
  return group(
    'Methods, not told while answering',
    methods.map((method) =>
      check(methodTitle(method), {
        checked: settings.methods.includes(method),
        keep: `method-${method}`,
        change: (wanted) => change({ methods: toggled(methods, settings.methods, method, wanted) }),
      }),
    ),
  )
}

/**
 * @param {string} label
 * @param {HTMLElement} input
 * @param {string} [note]
 * @returns {HTMLElement}
 */
function field(label, input, note = '') {
  return h(
    'div',
    { class: 'study-field' },
    h('label', { class: 'study-label', for: input.id }, label),
    input,
    note && h('span', { class: 'note' }, note),
  )
}

/**
 * @param {Settings} settings
 * @param {(part: Partial<StudyState>) => void} change
 * @returns {HTMLElement}
 */
function itemsField({ items }, change) {
  const input = h('input', {
    id: 'study-items',
    class: 'text-input',
    type: 'number',
    min: 1,
    max: MAXIMUM_ITEMS,
    value: items,
    dataset: { keep: 'items' },
  })
  input.addEventListener('change', () =>
    change({ items: Math.min(MAXIMUM_ITEMS, Math.max(1, input.valueAsNumber || 1)) }),
  )
  return field('Questions per task, at most', input)
}

/**
 * @param {Route} route
 * @param {(part: Partial<StudyState>) => void} change
 * @returns {HTMLElement}
 */
function seedField({ study }, change) {
  const input = h('input', {
    id: 'study-seed',
    class: 'text-input',
    inputmode: 'numeric',
    placeholder: 'another one for every rater',
    autocomplete: 'off',
    value: study.seed >= 0 ? study.seed : '',
    dataset: { keep: 'seed' },
  })
  input.addEventListener('change', () => {
    const text = input.value.trim()
    change({ seed: /^\d{1,10}$/.test(text) && Number(text) < 2 ** 32 ? Number(text) : -1 })
  })
  return field('Seed of the order', input, 'A whole number below 4294967296.')
}

/**
 * @param {Atlas} atlas
 * @param {Route} route
 * @param {(part: Partial<StudyState>, rest: Partial<Route>) => void} change
 * @returns {HTMLElement}
 */
function neuronsField(atlas, route, change) {
  const { list } = route
  if (route.neurons.length) {
    return h(
      'p',
      { class: 'note' },
      `Neurons: ${joinWords(route.neurons)}. `,
      link(formatRoute({ ...route, neurons: [] }), {}, 'Take all neurons'),
    )
  }
  const select = h(
    'select',
    { id: 'study-layer', dataset: { keep: 'layer' } },
    h('option', { value: '' }, 'All layers'),
    atlas.layers.map(({ name }) => h('option', { value: name, selected: name === list.layer }, name)),
  )
  select.addEventListener('change', () => change({}, { list: { ...list, layer: select.value } }))
  const found = [list.query && `found by “${list.query}”`, list.statuses.length > 0 && list.statuses.join(' or ')]
  return field('Layer', select, found.some(Boolean) ? `Only neurons ${found.filter(Boolean).join(', ')}.` : '')
}
