/**
 * Queries as people write them into the search box: reading them, and what is nearest to a name or unit that does not exist.
 *
 * The search box takes words (each must occur in the layer, the label or a label or caption of the top-activating
 * images), "phrases in quotes", neuron ids (`blocks.5:54`, `blocks.5/54`, `MODEL/blocks.5/54`) and conditions (`activation_percentile>99`).
 */

import { layerOfFileName } from './layername.js'

/**
 * @typedef {object} Condition
 * @property {string} column
 * @property {'<' | '<=' | '>' | '>=' | '='} operator
 * @property {number} value
 *
 * @typedef {object} Search
 * @property {string[]} terms lower case
 * @property {{layer: string, unit: number}[]} neurons a row must be one of these, when there are any
 * @property {Condition[]} conditions
 */

/** @param {string} text of the search box @param {string[]} scores names that conditions may use @returns {Search} */
export function parseSearch(text, scores = []) {
  /** @type {Search} */
  const search = { terms: [], neurons: [], conditions: [] }
  for (const [, phrase, word] of text.matchAll(/"([^"]*)"|(\S+)/g)) {
    if (phrase !== undefined) {
      if (phrase.trim()) search.terms.push(phrase.trim().toLowerCase())
      continue
    }
    const condition = /^([A-Za-z0-9_]+)(<=|>=|<|>|=)(-?\d+(?:\.\d+)?)$/.exec(word)
    if (condition && scores.includes(condition[1])) {
      const operator = /** @type {Condition['operator']} */ (condition[2])
      search.conditions.push({ column: condition[1], operator, value: Number(condition[3]) })
      continue
    }
    const neuron = parseNeuron(word)
    if (neuron) search.neurons.push(neuron)
    else search.terms.push(word.toLowerCase())
  }
  return search
}

/**
 * A neuron id as people write it: LAYER:UNIT, or LAYER/UNIT or MODEL/LAYER/UNIT with the layer as in file names.
 * @param {string} text
 * @returns {{layer: string, unit: number} | null}
 */
export function parseNeuron(text) {
  const named = /^(\S+):(\d{1,9})$/.exec(text)
  if (named) return { layer: named[1], unit: Number(named[2]) }
  const match = /^(?:.*\/)?([A-Za-z0-9_.-]+)\/(\d{1,9})$/.exec(text)
  return match ? { layer: layerOfFileName(match[1]), unit: Number(match[2]) } : null
}

/**
 * @typedef {object} Entry a neuron of a list
 * @property {string} name as it was asked for, LAYER:UNIT
 * @property {string} layer '' when the name is no neuron's
 * @property {number} unit
 */

/** The neurons of an explicit list, each once. @param {string[]} names @returns {Entry[]} */
export function namedEntries(names) {
  return [...new Set(names)].map((name) => ({ layer: '', unit: -1, ...parseNeuron(name), name }))
}

/** Whether a search needs labels and captions of the top-activating images. @param {string} query */
export function hasTerms(query) {
  return parseSearch(query).terms.length > 0
}

/**
 * The candidates most like a name, best first.
 * @param {string} name
 * @param {string[]} candidates
 * @param {number} [limit]
 * @returns {string[]}
 */
export function nearestNames(name, candidates, limit = 3) {
  const wanted = name.toLowerCase()
  return candidates
    .map((candidate, order) => ({ candidate, order, distance: editDistance(wanted, candidate.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance || a.order - b.order)
    .slice(0, limit)
    .map((entry) => entry.candidate)
}

/**
 * The existing units nearest to a number, in ascending order.
 * @param {number} unit
 * @param {number[]} units
 * @param {number} [limit]
 * @returns {number[]}
 */
export function nearestUnits(unit, units, limit = 3) {
  return [...units]
    .sort((a, b) => Math.abs(a - unit) - Math.abs(b - unit) || a - b)
    .slice(0, limit)
    .sort((a, b) => a - b)
}

/** Levenshtein distance. @param {string} a @param {string} b @returns {number} */
export function editDistance(a, b) {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const current = [i]
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)
      current.push(Math.min(previous[j] + 1, current[j - 1] + 1, substitution))
    }
    previous = current
  }
  return previous[b.length]
}
