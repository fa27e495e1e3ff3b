/** The start of a study: the rater's name, what will be asked, and the settings, all of them in the address. */

import { copyButton } from '../ui/actions.js'
import { h, link } from '../base/dom.js'
import { emptyStudy } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import { MAXIMUM_ITEMS, TASKS } from './plan.js'
import { MAXIMUM_RATER_LENGTH } from './session.js'
import { methodTitle } from '../base/glossary.js'
import { STUDY, TASK_NOTES } from '../base/glossary/study.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').StudyState} StudyState
 * @typedef {import('../base/route.js').Go} Go
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

/** @param {FormOptions} options @returns {HTMLElement} */
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

  const details = h('details', { class: 'more study-settings', open: unfolded ?? isUnset(route) },
    h('summary', {}, STUDY.what),
    h('div', { class: 'study-fields' },
      tasksField(options, change),
      atlas.methods.length > 1 && methodsField(atlas, settings, change),
      itemsField(settings, change),
      seedField(route, change),
      neuronsField(atlas, route, change),
      options.notes.map((note) => h('p', { class: 'note' }, note)),
      h('div', { class: 'action-list' },
        // The link is for others: it goes without the name.
        copyButton(STUDY.copyLink, () => {
          const address = formatRoute({ ...route, study: { ...route.study, rater: '' } })
          return new URL(address, location.href).href
        }),
      ),
    ),
  )
  details.addEventListener('toggle', () => {
    unfolded = details.open
  })
  return h('section', { class: 'study-start' },
    h('label', { class: 'study-label', for: 'study-rater' }, STUDY.rater),
    h('div', { class: 'study-begin' },
      rater,
      h('button', { type: 'button', class: 'button study-button', disabled: !total, onClick: () => start(rater.value) },
        STUDY.start(total),
      ),
    ),
    total > 0 &&
      h('ul', { class: 'study-asked' },
        asked.map((task) => h('li', {}, STUDY.asked(counts[task], TASK_NOTES[task].meaning))),
      ),
    details,
  )
}

/** @param {Route} route @returns {boolean} whether the address leaves all settings to the atlas */
function isUnset({ study, neurons }) {
  return JSON.stringify({ ...study, rater: '' }) === JSON.stringify(emptyStudy()) && !neurons.length
}

/** @param {string} legend @param {import('../base/dom.js').Child[]} children @returns {HTMLElement} */
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
 * @param {boolean} checked
 * @returns {T[]} the new choice; empty when it is all of them, or when nothing would be left
 */
function toggled(all, chosen, one, checked) {
  const next = all.filter((other) => (other === one ? checked : chosen.includes(other)))
  return next.length === all.length ? [] : next
}

/** @param {FormOptions} options @param {(part: Partial<StudyState>) => void} change @returns {HTMLElement} */
function tasksField({ settings, counts, reason }, change) {
  return group(
    STUDY.tasks,
    TASKS.map((task) => {
      const { title, meaning } = TASK_NOTES[task]
      const text = STUDY.task(title, counts[task] ? meaning : STUDY.leftOut(reason(task)))
      return check(text, {
        checked: settings.tasks.includes(task) && counts[task] > 0,
        disabled: !counts[task],
        keep: `task-${task}`,
        change: (checked) => change({ tasks: toggled(TASKS, settings.tasks, task, checked) }),
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
    STUDY.methods,
    methods.map((method) =>
      check(methodTitle(method), {
        checked: settings.methods.includes(method),
        keep: `method-${method}`,
        change: (checked) => change({ methods: toggled(methods, settings.methods, method, checked) }),
      }),
    ),
  )
}

/** @param {string} label @param {HTMLElement} input @param {string} [note] @returns {HTMLElement} */
function field(label, input, note = '') {
  return h('div', { class: 'study-field' },
    h('label', { class: 'study-label', for: input.id }, label),
    input,
    note && h('span', { class: 'note' }, note),
  )
}

/** @param {Settings} settings @param {(part: Partial<StudyState>) => void} change @returns {HTMLElement} */
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
  return field(STUDY.items, input)
}

/** @param {Route} route @param {(part: Partial<StudyState>) => void} change @returns {HTMLElement} */
function seedField({ study }, change) {
  const input = h('input', {
    id: 'study-seed',
    class: 'text-input',
    inputmode: 'numeric',
    placeholder: STUDY.seedPlaceholder,
    autocomplete: 'off',
    value: study.seed >= 0 ? study.seed : '',
    dataset: { keep: 'seed' },
  })
  input.addEventListener('change', () => {
    const text = input.value.trim()
    change({ seed: /^\d{1,10}$/.test(text) && Number(text) < 2 ** 32 ? Number(text) : -1 })
  })
  return field(STUDY.seed, input, STUDY.seedNote)
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
    return h('p', { class: 'note' },
      STUDY.chosen(route.neurons),
      link(formatRoute({ ...route, neurons: [] }), {}, STUDY.takeAll),
    )
  }
  const select = h('select', { id: 'study-layer', dataset: { keep: 'layer' } },
    h('option', { value: '' }, STUDY.allLayers),
    atlas.layers.map(({ name }) => h('option', { value: name, selected: name === list.layer }, name)),
  )
  select.addEventListener('change', () => change({}, { list: { ...list, layer: select.value } }))
  return field(STUDY.layer, select, STUDY.only(list.query, list.statuses))
}
