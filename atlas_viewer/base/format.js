/** Numbers, counts and names as readers see them. Pure functions. */

/**
 * A number with about four significant digits.
 * @param {number | null | undefined} value
 * @returns {string} '–' for a missing value
 */
export function formatNumber(value) {
  if (typeof value !== 'number' || Number.isNaN(value)) return '–'
  if (!Number.isFinite(value)) return value > 0 ? '∞' : '−∞'
  if (Number.isInteger(value)) return formatCount(value)
  const size = Math.abs(value)
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return minus(value.toExponential(2))
  const decimals = Math.max(0, 3 - Math.floor(Math.log10(size)))
  const fixed = value.toFixed(Math.min(decimals, 6))
  return minus(fixed.includes('.') ? fixed.replace(/0+$/, '').replace(/\.$/, '') : fixed)
}

/** @param {string} text @returns {string} with a real minus sign */
function minus(text) {
  return text.replace('-', '−')
}

/** @param {number} count @returns {string} with separators of thousands */
export function formatCount(count) {
  return minus(count.toLocaleString('en-US'))
}

/** @param {number} count @param {string} one @param {string} [many] @returns {string} */
export function plural(count, one, many = `${one}s`) {
  return `${formatCount(count)} ${count === 1 ? one : many}`
}

/**
 * A score with its unit.
 * @param {number | string | null | undefined} value
 * @param {string} unit as `columns` of atlas.json names it
 * @returns {string}
 */
export function formatScore(value, unit = '') {
  if (typeof value === 'string') return value || '–'
  if (typeof value !== 'number' || Number.isNaN(value)) return '–'
  if (unit === '0/1') return value >= 0.5 ? 'yes' : 'no'
  if (unit === '%') return `${formatPercent(value)} %`
  if (unit === '×') return `${value.toFixed(2)} ×`
  if (unit === 's') return `${formatNumber(Number(value.toPrecision(3)))} s`
  return formatNumber(value)
}

/**
 * A percentage that never rounds up to 100: 99.997 is not "all of them".
 * @param {number} value 0–100
 * @returns {string}
 */
export function formatPercent(value) {
  if (value >= 100) return '100'
  if (value > 99.9) return String(Math.floor(value * 100) / 100)
  return String(Number(value.toFixed(1)))
}

/** @param {number} bytes @returns {string} */
export function formatBytes(bytes) {
  if (bytes < 1000) return plural(bytes, 'byte')
  const units = ['kB', 'MB', 'GB', 'TB']
  let value = bytes
  let unit = -1
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${value >= 100 ? Math.round(value) : Number(value.toFixed(1))} ${units[unit]}`
}

/**
 * The most frequent labels, the first of equals first.
 * @param {ArrayLike<string> | null | undefined} labels
 * @param {number} limit
 * @returns {string[]}
 */
export function commonLabels(labels, limit) {
  const counts = new Map()
  for (const label of Array.from(labels ?? [])) {
    if (label) counts.set(label, (counts.get(label) ?? 0) + 1)
  }
  return [...counts]
    .sort((a, b) => b[1] - a[1])
    .slice(0, limit)
    .map(([label]) => label)
}

/** @param {string[]} names @returns {string} 'a', 'a and b', 'a, b and c' */
export function joinWords(names) {
  if (names.length < 2) return names.join('')
  return `${names.slice(0, -1).join(', ')} and ${names[names.length - 1]}`
}
