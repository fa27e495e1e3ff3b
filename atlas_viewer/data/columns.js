/**
 * Columns of the slim index: which are scores, the distinct values of one, sorting rows by it.
 * Pure functions; what is made from a column is kept as long as the column.
 */

/** @typedef {import('./data.js').Table} Table */

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

/** Numeric columns of the index that are scores, in the order of the table. @param {Table} index @returns {string[]} */
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
 * A text column by its few distinct values, so that a word is looked for in each of them once.
 * @typedef {object} Distinct
 * @property {string[]} values in the order of their first row
 * @property {Uint32Array} codes of every row, into `values`
 */

/** @type {WeakMap<object, Distinct>} by column */
const distinctColumns = new WeakMap()

/** @param {any[]} column @returns {Distinct} */
export function distinctOf(column) {
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
