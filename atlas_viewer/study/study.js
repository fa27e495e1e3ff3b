/**
 * A study: people rate the visualizations of an atlas without knowing the method. This is its start: what will be asked,
 * the settings, and the answers that this browser holds. `run.js` asks, `neuron-atlas human-scores` reads the answers.
 */

import { h, link } from '../base/dom.js'
import { NAMES } from '../base/glossary.js'
import { SITE } from '../base/glossary/site.js'
import { STUDY } from '../base/glossary/study.js'
import { namedEntries } from '../base/query.js'
import { resultList } from '../data/results.js'
import { emptyList, makeRoute } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import { studyForm } from './form.js'
import { DEFAULT_ITEMS, drawStudy, eligible, layerCandidates, MAXIMUM_ITEMS, TASKS } from './plan.js'
import { RunView } from './run.js'
import { savedPart } from './saved.js'
import { drawSeed, loadSession, newSession, saveSession } from './session.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
 * @typedef {import('./plan.js').Candidate} Candidate
 * @typedef {import('./plan.js').Settings} Settings
 * @typedef {import('./plan.js').Task} Task
 *
 * @typedef {object} Neurons
 * @property {Candidate[]} candidates asked about
 * @property {Candidate[]} others all of their layers
 * @property {string[]} unknown names of neurons that the atlas does not have
 */

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @returns {Promise<import('../base/route.js').View>}
 */
export async function studyView({ atlas, route, go }) {
  const session = route.session ? loadSession(route.session) : null
  if (session && session.atlas.build_id === atlas.manifest.build_id) return new RunView({ atlas, session, go })

  const neurons = await readNeurons(atlas, route)
  const settings = settingsOf(atlas, route)
  const seed = route.study.seed
  // Drawn once to count: what can be asked depends on the settings, hardly on the seed.
  const counts = countTasks(neurons, { ...settings, tasks: [...TASKS] })
  const start = (/** @type {string} */ rater) => {
    const own = seed >= 0 ? seed : drawSeed()
    const questions = drawStudy({ ...neurons, settings, seed: own })
    // The rater's own name is no part of the study that the address stands for.
    const address = formatRoute({ ...route, session: '', study: { ...route.study, rater: '' } })
    const begun = newSession({ atlas, rater, seed: own, address, settings, questions })
    saveSession(begun)
    go(makeRoute({ view: 'study', atlas: atlas.slug, session: begun.session }))
  }
  const gallery = makeRoute({ view: 'gallery', atlas: atlas.slug, list: route.list })
  const element = h('article', { class: 'page study-page' },
    h('nav', { 'aria-label': SITE.place },
      h('ol', { class: 'breadcrumbs' },
        h('li', {}, link(formatRoute(gallery), {}, atlas.title)),
        h('li', { 'aria-current': 'page' }, STUDY.breadcrumb),
      ),
    ),
    h('h1', { tabindex: '-1' }, STUDY.heading),
    h('p', { class: 'lead' }, STUDY.lead),
    route.session && h('p', { class: 'notice notice-weak' }, STUDY.noSession),
    savedPart(atlas),
    studyForm({
      atlas,
      route: { ...route, session: '' },
      go,
      start,
      settings,
      counts,
      reason: (task) => reasonAgainst(task, neurons, settings.methods),
      notes: neuronNotes(neurons, settings.methods),
    }),
    h('p', { class: 'note' }, STUDY.note),
  )
  return { element, title: STUDY.title(atlas.title) }
}

/**
 * The neurons that are named, or those of the result list.
 * @param {Atlas} atlas
 * @param {Route} route
 * @returns {Promise<Neurons>}
 */
async function readNeurons(atlas, route) {
  const named = route.neurons.length > 0
  const entries = named ? namedEntries(route.neurons) : await listEntries(atlas, route)
  const requested = new Set(entries.map(({ layer, unit }) => NAMES.neuron(layer, unit)))
  const layers = atlas.layers.filter(({ name }) => entries.some(({ layer }) => layer === name))
  const tables = await Promise.all(layers.map((layer) => atlas.layerTable(layer)))
  const others = layers.flatMap((layer, number) => layerCandidates(tables[number], layer))
  const candidates = others.filter(({ layer, unit }) => requested.has(NAMES.neuron(layer, unit)))
  const known = new Set(candidates.map(({ layer, unit }) => NAMES.neuron(layer, unit)))
  const unknown = named ? entries.filter(({ layer, unit }) => !known.has(NAMES.neuron(layer, unit))) : []
  return { candidates, others, unknown: unknown.map(({ name }) => name) }
}

/** @param {Atlas} atlas @param {Route} route @returns {Promise<{name: string, layer: string, unit: number}[]>} */
async function listEntries(atlas, route) {
  const { table, rows } = await resultList(atlas, { ...emptyList(), ...route.list, method: '' })
  const { layer, unit } = table.columns
  return rows.map((row) => ({ name: NAMES.neuron(layer[row], unit[row]), layer: layer[row], unit: unit[row] }))
}

/** @param {Atlas} atlas @param {Route} route @returns {Settings} */
function settingsOf(atlas, { study }) {
  const tasks = TASKS.filter((task) => study.tasks.includes(task))
  const methods = atlas.methods.filter((method) => study.methods.includes(method))
  return {
    tasks: tasks.length ? tasks : [...TASKS],
    methods: methods.length ? methods : [...atlas.methods],
    items: Math.min(MAXIMUM_ITEMS, study.items || DEFAULT_ITEMS),
  }
}

/** @param {Neurons} neurons @param {Settings} settings @returns {Record<Task, number>} questions by task */
function countTasks(neurons, settings) {
  const questions = drawStudy({ ...neurons, settings, seed: 0 })
  const counts = TASKS.map((task) => [task, questions.filter((question) => question.task === task).length])
  return Object.fromEntries(counts)
}

/**
 * Why a task cannot be asked.
 * @param {Task} task
 * @param {Neurons} neurons
 * @param {string[]} methods
 * @returns {string}
 */
function reasonAgainst(task, { candidates, others }, methods) {
  if (!eligible('words', candidates, methods).length) return STUDY.noVisualizations
  if (task === 'class') return STUDY.noClasses
  if (!others.some(({ strip }) => strip)) return STUDY.unpublished
  if (task === 'intermediate') return STUDY.onlyClasses
  return STUDY.noFoils
}

/** @param {Neurons} neurons @param {string[]} methods @returns {string[]} */
function neuronNotes({ candidates, unknown }, methods) {
  const able = eligible('words', candidates, methods).length
  const note = STUDY.neurons(candidates.length, able, methods.length)
  return unknown.length ? [note, STUDY.unknown(unknown)] : [note]
}
