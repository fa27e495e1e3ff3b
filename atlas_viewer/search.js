/**
 * Finding neurons in the slim index: parsing the search box, filtering, sorting. Pure functions over columns; a result
 * is a list of row numbers.
 *
 * The search box takes words (each must occur in the layer, the label or a label or caption of the exemplars), "phrases
 * in quotes", neuron ids (`blocks.5:54`, `blocks.5/54`, `MODEL/blocks.5/54`) and conditions (`activation_percentile>99`).
 */

/**
 * @typedef {import('./data.js').Table} Table
 * @typedef {import('./router.js').ListState} ListState
 *
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

/** Columns of the index that are not scores: never offered for sorting, never part of a condition. */
const NOT_SCORES = new Set([
  'layer',
  'unit',
  'status',
  'label',
  'method',
  'num_methods',
  'facet',
  'num_facets',
  'image_path',
  'sheet_path',
  'tile',
  'top_labels',
  'top_captions',
])

/**
 * Numeric columns of the index that are scores, in the order of the table.
 * @param {Table} index
 * @returns {string[]}
 */
export function scoreColumns(index) {
  return Object.keys(index.columns).filter((name) => {
    if (NOT_SCORES.has(name)) return false
    const values = index.columns[name]
    return (
      ArrayBuffer.isView(values) ||
      values.some((/** @type {any} */ value) => typeof value === 'number' && Number.isFinite(value))
    )
  })
}

/**
 * @param {string} text of the search box
 * @param {string[]} scores names that conditions may use
 * @returns {Search}
 */
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
 * A neuron id as people write it: LAYER:UNIT, LAYER/UNIT or MODEL/LAYER/UNIT.
 * @param {string} text
 * @returns {{layer: string, unit: number} | null}
 */
export function parseNeuron(text) {
  const match = /^(?:.*\/)?([A-Za-z0-9_.]+)[:/](\d{1,9})$/.exec(text)
  return match ? { layer: match[1], unit: Number(match[2]) } : null
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
  const [wanted] = search.neurons
  const layer = atlas.layers.find((candidate) => candidate.name.toLowerCase() === wanted.layer.toLowerCase())
  if (!layer) return null
  const { columns } = await atlas.layerIndex(layer)
  return columns.unit.includes(wanted.unit) ? { layer: layer.name, unit: wanted.unit } : null
}

/** Whether a search looks through words, and so needs labels and captions of the exemplars. @param {string} query */
export function hasTerms(query) {
  return parseSearch(query).terms.length > 0
}

/**
 * A text column by its few distinct values, so that a word is looked for in each of them once.
 * @typedef {object} Distinct
 * @property {string[]} values in the order of their first row
 * @property {Uint32Array} codes of every row, into `values`
 */

/** @type {WeakMap<object, Distinct>} by column */
const distinctColumns = new WeakMap()

/**
 * @param {any[]} column
 * @returns {Distinct}
 */
function distinctOf(column) {
  let distinct = distinctColumns.get(column)
  if (!distinct) {
    const numbers = new Map()
    const codes = new Uint32Array(column.length)
    for (let row = 0; row < column.length; row++) {
      let code = numbers.get(column[row])
      if (code === undefined) numbers.set(column[row], (code = numbers.size))
      codes[row] = code
    }
    distinct = { values: [...numbers.keys()].map((value) => value ?? ''), codes }
    distinctColumns.set(column, distinct)
  }
  return distinct
}

/**
 * Texts as one string in lower case, in which a word is found many times as fast as in each of them.
 * @typedef {object} Haystack
 * @property {string} text with a line break after each
 * @property {Uint32Array} starts of each, and the end of all
 */

/** @type {WeakMap<string[], Haystack>} by list of texts */
const haystacks = new WeakMap()

/**
 * @param {string[]} texts
 * @returns {Haystack}
 */
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

/**
 * Makes what a search looks through, so that the first one need not.
 * @param {import('./tables.js').Labels} labels
 */
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
 * A test of rows for one word, which may stand in the layer, the label or a label or caption of the exemplars.
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
 * The labels of a neuron's exemplars, most exciting first.
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

/**
 * @param {Condition} condition
 * @param {any} value
 * @returns {boolean} false for a missing value
 */
function holds(condition, value) {
  if (typeof value !== 'number' || Number.isNaN(value)) return false
  switch (condition.operator) {
    case '<':
      return value < condition.value
    case '<=':
      return value <= condition.value
    case '>':
      return value > condition.value
    case '>=':
      return value >= condition.value
    default:
      return value === condition.value
  }
}

/** @type {WeakMap<object, Uint32Array>} by column */
const columnRanks = new WeakMap()
const MISSING_RANK = 0xffffffff

/**
 * Numbers that are ordered like the values of a column, MISSING_RANK without a value.
 * @param {any} column
 * @returns {Uint32Array}
 */
function ranksOf(column) {
  let ranks = columnRanks.get(column)
  if (!ranks && column instanceof Float32Array) {
    // The bits of an IEEE 754 number are in the order of the numbers, once those of negative ones are turned over.
    const numbers = new Float32Array(column.length)
    for (let row = 0; row < numbers.length; row++) numbers[row] = column[row] + 0 // -0 is 0
    ranks = new Uint32Array(numbers.buffer)
    for (let row = 0; row < ranks.length; row++) {
      if (Number.isNaN(column[row])) ranks[row] = MISSING_RANK
      else ranks[row] = ranks[row] & 0x80000000 ? ~ranks[row] : ranks[row] | 0x80000000
    }
    columnRanks.set(column, ranks)
  }
  if (!ranks) {
    const missing = (/** @type {any} */ value) =>
      value === null || value === undefined || value === '' || Number.isNaN(value)
    const { values, codes } = distinctOf(column)
    const present = [...values.keys()].filter((code) => !missing(values[code]))
    const collator = new Intl.Collator('en', { numeric: true })
    const numeric = typeof values[present[0]] === 'number'
    const compare = numeric
      ? (/** @type {number} */ a, /** @type {number} */ b) => Number(values[a]) - Number(values[b])
      : (/** @type {number} */ a, /** @type {number} */ b) => collator.compare(String(values[a]), String(values[b]))
    const rankOf = new Uint32Array(values.length).fill(MISSING_RANK)
    let rank = -1
    let previous = -1
    for (const code of present.sort(compare)) {
      // Values that compare as equal share a rank, so that the order of the table decides.
      if (previous < 0 || compare(previous, code) !== 0) rank++
      rankOf[code] = rank
      previous = code
    }
    ranks = codes.map((code) => rankOf[code])
    columnRanks.set(column, ranks)
  }
  return ranks
}

/**
 * A stable sort; rows without a value come last in both directions. An unknown column keeps the order.
 * @param {Table} index
 * @param {number[]} rows
 * @param {string} column
 * @param {boolean} descending
 * @returns {number[]}
 */
export function sortRows(index, rows, column, descending) {
  const values = index.columns[column]
  if (!values) return rows
  const ranks = ranksOf(values)
  // Rank and place in one number: sorting plain numbers is ten times faster than calling a comparison for each pair.
  // A double holds 53 bits: ranks of 32, and lists of up to two million rows.
  const keys = new Float64Array(rows.length)
  const places = rows.length
  for (let i = 0; i < places; i++) {
    const rank = ranks[rows[i]]
    keys[i] = (descending && rank !== MISSING_RANK ? MISSING_RANK - 1 - rank : rank) * places + i
  }
  keys.sort()
  const sorted = new Array(places)
  for (let i = 0; i < places; i++) sorted[i] = rows[keys[i] % places]
  return sorted
}

/**
 * How many rows have each value, for the filters.
 * @param {Table} index
 * @param {string} column
 * @returns {Map<string, number>}
 */
export function countValues(index, column) {
  const counts = new Map()
  for (const value of index.columns[column] ?? []) counts.set(value, (counts.get(value) ?? 0) + 1)
  return counts
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

/**
 * Levenshtein distance.
 * @param {string} a
 * @param {string} b
 * @returns {number}
 */
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
