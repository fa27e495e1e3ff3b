/**
 * What the compare page shows, worked out without the page: which neurons, how many of them at once, and the lines and
 * cells of each. Pure functions over rows.
 */

import { STRIP_LINES } from '../ui/topimages.js'
import { namedEntries } from '../base/query.js'
import { facetOf } from '../data/variants.js'

/**
 * @typedef {import('../data/variants.js').Row} Row
 * @typedef {import('../base/route.js').Route} Route
 *
 * @typedef {import('../base/query.js').Entry} Entry
 *
 * @typedef {object} Cell what one method made for one facet of a neuron
 * @property {Row | null} row its first seed, null when the method made nothing
 * @property {number} seeds
 *
 * @typedef {object} Line one facet of a neuron: its reference images, and the visualizations that were made from them
 * @property {Row | null} reference the row whose reference images are shown
 * @property {Record<string, Cell>} cells by method
 *
 * @typedef {object} Comparison what was made of a neuron
 * @property {string} title its label, else its name
 * @property {Row[]} rows none when the atlas has no such neuron
 * @property {Line[]} lines
 *
 * @typedef {Entry & Comparison} Compared
 */

/** At most so many images, and neurons, are in the page at once. */
export const MAXIMUM_IMAGES = 280
export const MAXIMUM_NEURONS = 24

/**
 * The neurons of an explicit list as they stand, since each belongs to the second of its pair.
 * @param {Pick<Route, 'neurons' | 'others'>} route
 * @returns {(Entry & {other: string})[]} `other` is '' where the second was not chosen
 */
export function namedPairs({ neurons, others }) {
  return neurons.map((name, place) => ({ ...namedEntries([name])[0], other: others[place] ?? '' }))
}

/**
 * The address without one pair; without the last, of the whole list again.
 * @param {Route} route
 * @param {number} place
 * @returns {Route}
 */
export function withoutPair(route, place) {
  const neurons = route.neurons.filter((_, other) => other !== place)
  return { ...route, neurons, others: route.others.filter((_, other) => other !== place), from: 1 }
}

/**
 * The address with another second neuron of a pair.
 * @param {Route} route
 * @param {number} place
 * @param {string} name LAYER:UNIT, '' for the unit that matches the first
 * @returns {Route}
 */
export function withOther(route, place, name) {
  return { ...route, others: route.neurons.map((_, at) => (at === place ? name : (route.others[at] ?? ''))) }
}

/**
 * The address with another atlas in the second pane, or none. Of two neurons of one atlas, the second goes there.
 * @param {Route} route
 * @param {string} slug '' for none
 * @returns {Route}
 */
export function withSecondAtlas(route, slug) {
  const [first, second] = route.neurons
  if (slug === route.atlas && !route.secondAtlas && route.neurons.length === 2) {
    return { ...route, secondAtlas: slug, neurons: [first], others: [second], from: 1 }
  }
  if (!slug && route.secondAtlas === route.atlas) {
    const neurons = [...route.neurons, ...route.others].filter(Boolean)
    return { ...route, secondAtlas: '', neurons, others: [], from: 1 }
  }
  return { ...route, secondAtlas: slug, others: [], from: 1 }
}

/**
 * The lines of one neuron, one per facet.
 * @param {Row[]} rows of the neuron, in the order of the table
 * @param {string[]} methods the columns
 * @returns {Line[]}
 */
export function comparisonLines(rows, methods) {
  const facets = Math.max(0, ...rows.map((row) => facetOf(row).facets))
  return Array.from({ length: facets }, (_, facet) => {
    const members = rows.filter((row) => facetOf(row).facet === facet)
    const cells = methods.map((method) => {
      const made = members.filter((row) => row.method === method)
      return [method, { row: made[0] ?? null, seeds: made.length }]
    })
    return {
      reference: members.find((row) => row.examples_path) ?? members[0] ?? null,
      cells: Object.fromEntries(cells),
    }
  })
}

/** How many images one neuron brings into the page. @param {Line[]} lines @returns {number} */
export function imageCount(lines) {
  let count = 0
  for (const { reference, cells } of lines) {
    if (reference?.examples_path) count += STRIP_LINES
    for (const { row } of Object.values(cells)) if (row?.image_path) count++
  }
  return count
}

/**
 * How many of these neurons, from the first on, fit into the page together; one always does.
 * @param {number[]} images of each
 * @returns {number}
 */
export function fittingCount(images) {
  let total = 0
  let count = 0
  for (const number of images.slice(0, MAXIMUM_NEURONS)) {
    total += number
    if (count > 0 && total > MAXIMUM_IMAGES) break
    count++
  }
  return count
}

/**
 * The methods that made something for any of these rows, in the order of the atlas.
 * @param {string[]} methods of the atlas
 * @param {Row[]} rows
 * @returns {string[]}
 */
export function presentMethods(methods, rows) {
  return methods.filter((method) => rows.some((row) => row.method === method))
}
