/**
 * A study: people judge the pictures of an atlas without knowing the method. This is its start: what will be asked, the
 * settings, and the answers that this browser holds. `studyrun.js` asks, `neuron-atlas human-scores` reads the answers.
 */

import { namedEntries } from '../compare/comparison.js'
import { h, link } from '../base/dom.js'
import { joinWords, plural } from '../base/format.js'
import { resultList } from '../data/results.js'
import { emptyList, formatRoute, makeRoute } from '../base/router.js'
import { studyForm } from './form.js'
import { DEFAULT_ITEMS, drawStudy, eligible, layerCandidates, MAXIMUM_ITEMS, TASKS } from './plan.js'
import { runView } from './run.js'
import { savedPart } from './saved.js'
import { drawSeed, loadSession, newSession, saveSession } from './session.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../ui/filters.js').Go} Go
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
 * @returns {Promise<import('../shell/main.js').View>}
 */
export async function studyView({ atlas, route, go }) {
  const session = route.session ? loadSession(route.session) : null
  if (session && session.atlas.build_id === atlas.manifest.build_id) return runView({ atlas, session, go })

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
  const wall = makeRoute({ view: 'wall', atlas: atlas.slug, list: route.list })
  const element = h(
    'article',
    { class: 'page study-page' },
    h(
      'nav',
      { 'aria-label': 'Place in the atlas' },
      h(
        'ol',
        { class: 'breadcrumbs' },
        h('li', {}, link(formatRoute(wall), {}, atlas.title)),
        h('li', { 'aria-current': 'page' }, 'Study'),
      ),
    ),
    h('h1', { tabindex: '-1' }, 'Judge the pictures'),
    h(
      'p',
      { class: 'lead' },
      'Pictures were made to show what the neurons of a vision model respond to. Say how well they do. There are no ' +
        'right answers to most questions; go by your first impression.',
    ),
    route.session &&
      h(
        'p',
        { class: 'notice notice-weak' },
        'This browser holds no unfinished answers under that address, or the atlas was built again since. Start anew, or ' +
          'take what is kept below.',
      ),
    savedPart(atlas),
    studyForm({
      atlas,
      route: { ...route, session: '' },
      go,
      start,
      settings,
      counts,
      reason: (task) => reasonAgainst(task, neurons, settings.methods),
      notes: neuronWords(neurons, settings.methods),
    }),
    h(
      'p',
      { class: 'note' },
      'Keys 1 to 5 answer, Esc pauses. Each answer is kept in this browser at once, so the page may be closed and opened ' +
        'again. Nothing is sent anywhere: at the end you download one file. It holds your answers, the time each took, ' +
        'and the name given above.',
    ),
  )
  return { element, title: `Study · ${atlas.title}` }
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
  const wanted = new Set(entries.map(({ layer, unit }) => `${layer}:${unit}`))
  const layers = atlas.layers.filter(({ name }) => entries.some(({ layer }) => layer === name))
  const tables = await Promise.all(layers.map((layer) => atlas.layerTable(layer)))
  const others = layers.flatMap((layer, number) => layerCandidates(tables[number], layer))
  const candidates = others.filter(({ layer, unit }) => wanted.has(`${layer}:${unit}`))
  const known = new Set(candidates.map(({ layer, unit }) => `${layer}:${unit}`))
  const unknown = named ? entries.filter(({ layer, unit }) => !known.has(`${layer}:${unit}`)) : []
  return { candidates, others, unknown: unknown.map(({ name }) => name) }
}

/** @param {Atlas} atlas @param {Route} route @returns {Promise<{name: string, layer: string, unit: number}[]>} */
async function listEntries(atlas, route) {
  const { table, rows } = await resultList(atlas, { ...emptyList(), ...route.list, method: '' })
  const { layer, unit } = table.columns
  return rows.map((row) => ({ name: `${layer[row]}:${unit[row]}`, layer: layer[row], unit: unit[row] }))
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

/**
 * @param {Neurons} neurons
 * @param {Settings} settings
 * @returns {Record<Task, number>} questions by task
 */
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
  if (!eligible('words', candidates, methods).length) return 'no neuron has a picture by every method chosen'
  if (task === 'class') return 'none of the neurons is a class'
  if (!others.some(({ strip }) => strip)) return 'this atlas does not publish its photographs'
  if (task === 'inner') return 'all of the neurons are classes'
  return 'no other neuron of the layer differs in all photographs and labels'
}

/** @param {Neurons} neurons @param {string[]} methods @returns {string[]} */
function neuronWords({ candidates, unknown }, methods) {
  const able = eligible('words', candidates, methods).length
  const by = methods.length > 1 ? 'a picture by every method chosen' : 'a picture'
  return [
    `${plural(candidates.length, 'neuron')}, ${able} of them with ${by}; only these are asked about.`,
    unknown.length ? `This atlas has no ${joinWords(unknown)}.` : '',
  ].filter(Boolean)
}
