/**
 * Finding neurons in the slim index: parsing the search box, filtering, sorting. Pure functions over columns; a result
 * is a list of row numbers.
 *
 * The search box takes words (all must occur in the layer, the label or the labels of the exemplars), "phrases in
 * quotes", neuron ids (`blocks.5:54`, `blocks.5/54`, `MODEL/blocks.5/54`) and conditions (`activation_percentile>99`).
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
])

/**
 * Numeric columns of the index that a reader may sort by, in the order of the table.
 * @param {Table} index
 * @returns {string[]}
 */
export function scoreColumns(index) {
  return Object.keys(index.columns).filter((name) => {
    if (NOT_SCORES.has(name)) return false
    return index.columns[name].some((value) => typeof value === 'number' && Number.isFinite(value))
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
 * @param {{layers: {name: string}[], index: Table}} atlas
 * @param {string} text
 * @returns {{layer: string, unit: number} | null}
 */
export function findNeuron(atlas, text) {
  const search = parseSearch(text)
  if (search.neurons.length !== 1 || search.terms.length) return null
  const [wanted] = search.neurons
  const layer = atlas.layers.find((candidate) => candidate.name.toLowerCase() === wanted.layer.toLowerCase())
  const { layer: layers, unit: units } = atlas.index.columns
  const exists = layer && units.some((unit, row) => unit === wanted.unit && layers[row] === layer.name)
  return layer && exists ? { layer: layer.name, unit: wanted.unit } : null
}

/** @type {WeakMap<Table, string[]>} */
const haystacks = new WeakMap()

/**
 * The searchable text of every row, made once per table.
 * @param {Table} index
 * @returns {string[]}
 */
function searchableText(index) {
  let texts = haystacks.get(index)
  if (!texts) {
    const { layer, label, top_labels: topLabels } = index.columns
    texts = Array.from({ length: index.numRows }, (_, row) =>
      `${layer[row]}\n${label?.[row] ?? ''}\n${topLabels?.[row] ?? ''}`.toLowerCase(),
    )
    haystacks.set(index, texts)
  }
  return texts
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
  const texts = search.terms.length ? searchableText(index) : []
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
    if (!search.terms.every((term) => texts[row].includes(term))) continue
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
  const missing = (/** @type {any} */ value) =>
    value === null || value === undefined || value === '' || Number.isNaN(value)
  const present = rows.filter((row) => !missing(values[row]))
  const sign = descending ? -1 : 1
  if (typeof values[present[0]] === 'number') {
    present.sort((a, b) => sign * (values[a] - values[b]) || a - b)
  } else {
    present.sort((a, b) => sign * String(values[a]).localeCompare(String(values[b]), 'en', { numeric: true }) || a - b)
  }
  return [...present, ...rows.filter((row) => missing(values[row]))]
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
