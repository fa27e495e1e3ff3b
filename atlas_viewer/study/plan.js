/**
 * Which questions a study asks, drawn from the tables of an atlas. Pure functions: the same neurons, settings and seed
 * give the same questions.
 *
 * Every rater of one address rates the same neurons (as far as `items` go); which method's visualization stands for which
 * neuron, and the order, come from the rater's seed. Each method comes in the same number of a task's questions, give or
 * take one, and a question is about a neuron that every chosen method has a visualization of: no method gets easier ones.
 */

import { facetOf } from '../data/variants.js'

/**
 * @typedef {import('../data/data.js').Table} Table
 * @typedef {import('../data/data.js').LayerInfo} LayerInfo
 * @typedef {import('../ui/topimages.js').Box} Box
 *
 * @typedef {'words' | 'choice' | 'intermediate' | 'class'} Task
 *
 * @typedef {object} Strip the top-activating images of a neuron, side by side in one file
 * @property {string} path
 * @property {number} count
 * @property {string[]} keys
 * @property {string[]} labels
 * @property {ArrayLike<number> | null} positions as `referenceBox` reads them
 *
 * @typedef {object} Visualization
 * @property {string} path
 * @property {number} seed
 * @property {string} sha256
 *
 * @typedef {object} DatasetImage
 * @property {string} neuron id of the neuron that it activates
 * @property {number} rank place in that neuron's strip, from 0 on
 * @property {string} path of the strip
 * @property {number} count dataset images in the strip
 *
 * @typedef {object} Candidate a neuron, with the visualizations and dataset images of its first facet
 * @property {string} id MODEL/LAYER/UNIT
 * @property {string} layer
 * @property {number} unit
 * @property {string} label
 * @property {boolean} isClass
 * @property {Record<string, Visualization[]>} visualizations by method, one per seed
 * @property {Strip | null} strip null when no dataset images are published
 *
 * @typedef {object} Question
 * @property {Task} task
 * @property {string} neuron id
 * @property {string} method
 * @property {string} label shown with the visualization; '' for none
 * @property {Visualization[]} visualizations
 * @property {DatasetImage[]} datasetImages
 * @property {(number[] | null)[]} positions x0, y0, x1, y1 of the activating part per dataset image; empty when not shown
 *
 * @typedef {object} Settings
 * @property {Task[]} tasks
 * @property {string[]} methods
 * @property {number} items at most so many questions per task
 */

/**
 * The tasks, in the order in which they are asked. A later one may show what an earlier one asks for (dataset images, the
 * class's name), never the other way round.
 * @type {readonly Task[]}
 */
export const TASKS = ['words', 'choice', 'intermediate', 'class']

export const DEFAULT_ITEMS = 12
export const MAXIMUM_ITEMS = 200

/** So many seeds of one method explain a neuron in the task “choice”. */
const MAXIMUM_SEEDS = 4

/** Tasks in which a neuron comes at most once: its dataset images, or what the rater wrote, would be remembered. */
const ONCE = new Set(['words', 'choice'])

/** Chooses the neurons, the same ones for all raters of a study. */
const NEURON_SEED = 0

/**
 * Random numbers in [0, 1) from a seed: Mulberry32 (T. Ettinger, 2017), 32 bits of state, enough to shuffle a study.
 * @param {number} seed whole number below 2³²
 * @returns {() => number}
 */
export function randomFrom(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/**
 * A shuffled copy (Fisher–Yates).
 * @template T
 * @param {readonly T[]} values
 * @param {() => number} random
 * @returns {T[]}
 */
export function shuffled(values, random) {
  const result = [...values]
  for (let last = result.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1))
    const moved = result[last]
    result[last] = result[other]
    result[other] = moved
  }
  return result
}

/**
 * The method of question `number`, where question `number` is about neuron `number mod neurons`. Methods take turns, so
 * that their counts never differ by more than one; the shift after each common multiple keeps a neuron from meeting a
 * method again before it has met all of them.
 * @param {number} number from 0 on
 * @param {number} neurons
 * @param {number} methods
 * @returns {number} 0 … methods − 1
 */
export function methodTurn(number, neurons, methods) {
  let [divisor, rest] = [neurons, methods]
  while (rest) [divisor, rest] = [rest, divisor % rest]
  const commonMultiple = (neurons * methods) / divisor
  return (number + Math.floor(number / commonMultiple)) % methods
}

/**
 * The neurons of one layer, with what a study can show of them.
 * @param {Table} table of the layer
 * @param {LayerInfo} layer
 * @returns {Candidate[]} in the order of the table
 */
export function layerCandidates(table, layer) {
  const { columns } = table
  /** @type {Map<number, Candidate>} */
  const found = new Map()
  for (let row = 0; row < table.numRows; row++) {
    const value = (/** @type {string} */ name) => columns[name]?.[row]
    const [unit, seed] = [value('unit'), value('seed')]
    if (facetOf({ seed, num_facets: value('num_facets') }).facet !== 0) continue
    let candidate = found.get(unit)
    if (!candidate) {
      const [id, label] = [value('neuron_id'), value('label') || '']
      candidate = { id, layer: layer.name, unit, label, isClass: layer.is_classes, visualizations: {}, strip: null }
      found.set(unit, candidate)
    }
    candidate.strip ??= stripOf(value)
    if (value('image_path')) {
      const visualization = { path: value('image_path'), seed, sha256: value('image_sha256') || '' }
      const method = value('method')
      candidate.visualizations[method] = [...(candidate.visualizations[method] ?? []), visualization]
    }
  }
  return [...found.values()]
}

/** @param {(name: string) => any} value of a column @returns {Strip | null} */
function stripOf(value) {
  const count = Number(value('num_examples')) || 0
  if (!value('examples_path') || !count) return null
  return {
    path: value('examples_path'),
    count,
    keys: Array.from(value('reference_keys') ?? []),
    labels: Array.from(value('reference_labels') ?? []),
    positions: value('reference_positions') ?? null,
  }
}

/**
 * The candidates that a task can ask about.
 * @param {Task} task
 * @param {Candidate[]} candidates
 * @param {string[]} methods
 * @returns {Candidate[]}
 */
export function eligible(task, candidates, methods) {
  if (!methods.length) return []
  return candidates.filter(
    ({ isClass, label, strip, visualizations }) =>
      methods.every((method) => visualizations[method]?.length) &&
      (task !== 'class' || (isClass && label !== '')) &&
      (task !== 'intermediate' || (!isClass && strip !== null)) &&
      (task !== 'choice' || strip !== null),
  )
}

/**
 * Whether nothing recorded says that two neurons answer to the same things: no dataset image in common, nor a label.
 * @param {Strip} one
 * @param {Strip} other
 * @returns {boolean}
 */
export function areDissimilar(one, other) {
  const keys = new Set(one.keys.filter(Boolean))
  const labels = new Set(one.labels.filter(Boolean))
  return !other.keys.some((key) => keys.has(key)) && !other.labels.some((label) => labels.has(label))
}

/**
 * The questions of one rater, task by task, in random order within each.
 * @param {object} options
 * @param {Candidate[]} options.candidates the neurons asked about
 * @param {Candidate[]} options.others whose dataset images may stand for “not this neuron”; those asked about among them
 * @param {Settings} options.settings
 * @param {number} options.seed of the rater
 * @returns {Question[]}
 */
export function drawStudy({ candidates, others, settings, seed }) {
  const random = randomFrom(seed)
  const neurons = shuffled(candidates, randomFrom(NEURON_SEED))
  return TASKS.filter((task) => settings.tasks.includes(task)).flatMap((task) => {
    const able = eligible(task, neurons, settings.methods)
    const asked = shuffled(
      task === 'choice' ? withFoils(able, others, settings.items) : able.slice(0, settings.items),
      random,
    )
    return shuffled(drawTask(task, asked, others, settings, random), random)
  })
}

/**
 * The first neurons with which dataset images of another one can be shown.
 * @param {Candidate[]} able
 * @param {Candidate[]} others
 * @param {number} limit
 * @returns {Candidate[]}
 */
function withFoils(able, others, limit) {
  const found = []
  for (const neuron of able) {
    if (found.length === limit) break
    if (others.some((other) => isFoil(neuron, other))) found.push(neuron)
  }
  return found
}

/**
 * @param {Task} task
 * @param {Candidate[]} neurons
 * @param {Candidate[]} others
 * @param {Settings} settings
 * @param {() => number} random
 * @returns {Question[]}
 */
function drawTask(task, neurons, others, { methods, items }, random) {
  const count = Math.min(items, neurons.length * (ONCE.has(task) ? 1 : methods.length))
  const first = Math.floor(random() * methods.length)
  return Array.from({ length: count }, (_, number) => {
    const neuron = neurons[number % neurons.length]
    const method = methods[(first + methodTurn(number, neurons.length, methods.length)) % methods.length]
    const visualizations = shuffled(neuron.visualizations[method], random).slice(
      0,
      task === 'choice' ? MAXIMUM_SEEDS : 1,
    )
    const label = task === 'class' ? neuron.label : ''
    /** @type {Question} */
    const question = { task, neuron: neuron.id, method, label, visualizations, datasetImages: [], positions: [] }
    if (task === 'intermediate') {
      const { strip } = neuron
      question.datasetImages = Array.from({ length: strip?.count ?? 0 }, (_, rank) => datasetImage(neuron, rank))
      question.positions = question.datasetImages.map(({ rank }) => partOf(strip?.positions ?? null, rank))
    } else if (task === 'choice') {
      const foils = others.filter((other) => isFoil(neuron, other))
      const pair = [neuron, foils[Math.floor(random() * foils.length)]].map((one) =>
        datasetImage(one, Math.floor(random() * (one.strip?.count ?? 0))),
      )
      // Left and right take turns; the order of the questions is shuffled afterwards.
      question.datasetImages = number % 2 ? pair.reverse() : pair
    }
    return question
  })
}

/**
 * Whether the dataset images of another neuron of the layer can stand for something else than this neuron's.
 * @param {Candidate} neuron
 * @param {Candidate} other
 * @returns {boolean}
 */
function isFoil({ strip, layer, unit }, other) {
  if (other.layer !== layer || other.unit === unit || !strip || !other.strip) return false
  return areDissimilar(strip, other.strip)
}

/** @param {Candidate} neuron @param {number} rank @returns {DatasetImage} */
function datasetImage({ id, strip }, rank) {
  return { neuron: id, rank, path: strip?.path ?? '', count: strip?.count ?? 0 }
}

/** @param {ArrayLike<number> | null} positions @param {number} rank @returns {number[] | null} */
function partOf(positions, rank) {
  const part = Array.from(positions ?? []).slice(4 * rank, 4 * rank + 4)
  return part.length === 4 ? part : null
}
