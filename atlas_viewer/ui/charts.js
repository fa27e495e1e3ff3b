/** The histogram of a neuron's activations over the data set, with its own marks. Drawn as SVG, built node by node. */

import { h, svg } from '../base/dom.js'
import { formatNumber } from '../base/format.js'
import { HISTOGRAM } from '../base/glossary/neuron.js'

/**
 * @typedef {object} Mark
 * @property {string} name
 * @property {string} kind CSS class and shape: 'own' | 'top' | 'mean'
 * @property {number} value
 *
 * @typedef {object} Scale
 * @property {number} low
 * @property {number} high
 * @property {(value: number) => number} fraction position of a value in 0–1, clipped
 */

/**
 * A scale that holds the histogram and every mark.
 * @param {number} low
 * @param {number} high
 * @param {number[]} values of the marks
 * @returns {Scale}
 */
export function makeScale(low, high, values) {
  const finite = values.filter(Number.isFinite)
  const from = Math.min(low, ...finite)
  let to = Math.max(high, ...finite)
  if (!(to > from)) to = from + 1
  // A little air, so that a mark at the very end is not cut.
  const air = (to - from) * 0.02
  const [start, end] = [from === low ? from : from - air, to === high ? to : to + air]
  return { low: start, high: end, fraction: (value) => Math.min(1, Math.max(0, (value - start) / (end - start))) }
}

/**
 * Height of a bar in 0–1 on a logarithmic scale: a single dataset image stays visible next to a thousand.
 * @param {number} count
 * @param {number} largest
 * @returns {number}
 */
export function barHeight(count, largest) {
  if (count <= 0 || largest <= 0) return 0
  return Math.log1p(count) / Math.log1p(largest)
}

/** @param {Record<string, any>} row of a layer's table @returns {HTMLElement | null} null without a histogram */
export function activationHistogram(row) {
  const counts = /** @type {number[]} */ (Array.from(row.histogram_counts ?? []))
  const { histogram_low: low, histogram_high: high } = row
  const total = counts.reduce((sum, count) => sum + count, 0)
  if (!total || !Number.isFinite(low) || !Number.isFinite(high)) return null

  /** @type {Mark[]} */
  const marks = [
    { name: HISTOGRAM.own, kind: 'own', value: row.activation },
    { name: HISTOGRAM.top, kind: 'top', value: row.max_activation },
    { name: HISTOGRAM.mean, kind: 'mean', value: row.mean_activation },
  ].filter((mark) => typeof mark.value === 'number' && Number.isFinite(mark.value))

  const scale = makeScale(
    low,
    high,
    marks.map((mark) => mark.value),
  )
  const largest = Math.max(...counts)
  const step = (high - low) / counts.length
  const bars = counts.map((count, bin) => {
    const left = scale.fraction(low + bin * step) * 1000
    const right = scale.fraction(low + (bin + 1) * step) * 1000
    const height = barHeight(count, largest) * 100
    return count
      ? svg('rect', {
          x: left.toFixed(2),
          width: Math.max(1, right - left - 1.5).toFixed(2),
          y: (100 - height).toFixed(2),
          height: height.toFixed(2),
        })
      : null
  })

  const values = marks.map(({ name, value }) => HISTOGRAM.mark(name, value))
  const summary = HISTOGRAM.summary(total, low, high, values)

  return h('figure', { class: 'histogram' },
    h('div', { class: 'histogram-plot', role: 'img', 'aria-label': summary },
      svg('svg', { viewBox: '0 0 1000 100', preserveAspectRatio: 'none', 'aria-hidden': 'true', focusable: 'false' },
        ...bars,
      ),
      ...marks.map((mark) =>
        h('span', {
          class: `histogram-mark histogram-mark-${mark.kind}`,
          style: { left: `${(scale.fraction(mark.value) * 100).toFixed(2)}%` },
        }),
      ),
    ),
    h('div', { class: 'histogram-axis', 'aria-hidden': 'true' },
      h('span', {}, formatNumber(scale.low)),
      h('span', {}, HISTOGRAM.axis),
      h('span', {}, formatNumber(scale.high)),
    ),
    h('ul', { class: 'histogram-key', 'aria-hidden': 'true' },
      marks.map((mark) =>
        h('li', {},
          h('span', { class: `key-mark key-mark-${mark.kind}` }),
          mark.name,
          ' ',
          h('b', {}, formatNumber(mark.value)),
        ),
      ),
    ),
    h('figcaption', {}, HISTOGRAM.caption(total, largest)),
  )
}
