/**
 * Finding neurons in the slim index: looking for words in its texts, filtering, and the result in the order asked for.
 * Pure functions over columns; a result is a list of row numbers.
 */

import { distinctOf, scoreColumns, sortRows } from './columns.js'
import { parseSearch } from '../base/query.js'

/**
 * @typedef {import('./data.js').Table} Table
 * @typedef {import('../base/query.js').Condition} Condition
 * @typedef {import('../base/route.js').ListState} ListState
 */

/**
 * Texts as one string in lower case, in which a word is found many times as fast as in each of them.
 * @typedef {object} Haystack
 * @property {string} text with a line break after each
 * @property {Uint32Array} starts of each, and the end of all
 */

/** @type {WeakMap<string[], Haystack>} by list of texts */
const haystacks = new WeakMap()

/** @param {string[]} texts @returns {Haystack} */
function haystackOf(texts) {
  let haystack = haystacks.get(texts)
  if (!haystack) {
    const lower = texts.map((text) => `${text.toLowerCase()}\n`)
    const starts = new Uint32Array(texts.length + 1)
    for (let i = 0; i < lower.length; i++) starts[i + 1] = starts[i] + lower[i].length
    haystack = { text: lower.join(''), starts }
    haystacks.set(texts, haystack)
  }
  return haystack
}

/** Makes what a search looks through, so that the first one need not. @param {import('./tables.js').Labels} labels */
export function prepareTexts(labels) {
  haystackOf(labels.names)
  if (labels.captions) haystackOf(labels.captions.names)
}

/**
 * @param {string[]} texts
 * @param {string} term lower case, not empty
 * @returns {Uint8Array} 1 where a text holds the term
 */
function holding(texts, term) {
  const { text, starts } = haystackOf(texts)
  const hits = new Uint8Array(texts.length)
  let number = 0
  let place = text.indexOf(term)
  while (place >= 0) {
    while (starts[number + 1] <= place) number++
    // A term with a line break could reach into the next text.
    const inside = place + term.length < starts[number + 1]
    if (inside) hits[number] = 1
    place = text.indexOf(term, inside ? starts[number + 1] : place + 1)
  }
  return hits
}

/**
 * A test of rows for one word, which may stand in the layer, the label or a label or caption of the top-activating images.
 * @param {Table} index
 * @param {string} term lower case
 * @returns {(row: number) => boolean}
 */
function termTest(index, term) {
  const columns = ['layer', 'label', 'top_labels', 'top_captions'].filter((name) => index.columns[name])
  const tests = columns.map((name) => {
    const { values, codes } = distinctOf(index.columns[name])
    return { codes, hits: holding(values, term) }
  })
  const first = index.labels?.first ?? 0
  const lists = [index.labels, index.labels?.captions].flatMap((packed) => {
    if (!packed) return []
    const hits = holding(packed.names, term)
    return hits.includes(1) ? [{ starts: packed.starts, ids: packed.ids, hits }] : []
  })
  return (row) => {
    for (const test of tests) if (test.hits[test.codes[row]]) return true
    for (const { starts, ids, hits } of lists) {
      for (let at = starts[first + row]; at < starts[first + row + 1]; at++) if (hits[ids[at]]) return true
    }
    return false
  }
}

/**
 * The labels of a neuron's top-activating images, top-activating first.
 * @param {Table} index
 * @param {number} row
 * @returns {string}
 */
export function labelsOf({ columns, labels }, row) {
  if (!labels) return columns.top_labels?.[row] ?? ''
  const { names, starts, ids, first } = labels
  return Array.from(ids.subarray(starts[first + row], starts[first + row + 1]), (id) => names[id]).join('; ')
}

/**
 * The rows that pass every filter, in the order asked for.
 * @param {Table} index
 * @param {ListState} list
 * @returns {number[]} row numbers
 */
export function selectRows(index, list) {
  const { layer, unit, status } = index.columns
  const search = parseSearch(list.query, scoreColumns(index))
  const terms = search.terms.map((term) => termTest(index, term))
  const statuses = new Set(list.statuses)
  const rows = []
  for (let row = 0; row < index.numRows; row++) {
    if (list.layer && layer[row] !== list.layer) continue
    if (statuses.size && !statuses.has(status[row])) continue
    if (
      search.neurons.length &&
      !search.neurons.some(
        (neuron) => neuron.unit === unit[row] && neuron.layer.toLowerCase() === layer[row].toLowerCase(),
      )
    )
      continue
    if (!terms.every((holds) => holds(row))) continue
    if (!search.conditions.every((condition) => holds(condition, index.columns[condition.column][row]))) continue
    rows.push(row)
  }
  return list.sort ? sortRows(index, rows, list.sort, list.descending) : rows
}

/** @type {Record<Condition['operator'], (value: number, limit: number) => boolean>} */
const OPERATORS = {
  '<': (value, limit) => value < limit,
  '<=': (value, limit) => value <= limit,
  '>': (value, limit) => value > limit,
  '>=': (value, limit) => value >= limit,
  '=': (value, limit) => value === limit,
}

/** @param {Condition} condition @param {any} value @returns {boolean} false for a missing value */
function holds(condition, value) {
  if (typeof value !== 'number' || Number.isNaN(value)) return false
  return OPERATORS[condition.operator](value, condition.value)
}

/**
 * The neuron that a text names, when it names just one that exists.
 * @param {import('./data.js').Atlas} atlas
 * @param {string} text
 * @returns {Promise<{layer: string, unit: number} | null>}
 */
export async function findNeuron(atlas, text) {
  const search = parseSearch(text)
  if (search.neurons.length !== 1 || search.terms.length) return null
  const [named] = search.neurons
  const layer = atlas.layers.find((candidate) => candidate.name.toLowerCase() === named.layer.toLowerCase())
  if (!layer) return null
  const { columns } = await atlas.layerIndex(layer)
  return columns.unit.includes(named.unit) ? { layer: layer.name, unit: named.unit } : null
}
