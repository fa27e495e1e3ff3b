/** The rows of one neuron, and which method, facet and seed each of them is. Pure functions. */

import { NAMES } from '../base/glossary.js'
import { rowObject } from './tables.js'

/**
 * @typedef {Record<string, any>} Row of a layer's table
 *
 * @typedef {object} Facet
 * @property {number} facet the cluster of reference images that the visualization was made from, 0, 1, …
 * @property {number} facets how many clusters the neuron has, 1 when its dataset images were not clustered
 * @property {number} seed of the facet, 0, 1, …
 */

/**
 * The rows of one neuron, in the order of the table (method, then seed).
 * @param {import('./data.js').Table} table
 * @param {number} unit
 * @returns {Row[]}
 */
export function neuronRows(table, unit) {
  const rows = []
  for (let row = 0; row < table.numRows; row++) {
    if (table.columns.unit[row] === unit) rows.push(rowObject(table, row))
  }
  return rows
}

/** @param {Row} row @returns {string} METHOD:SEED, as the address names a variant */
export function variantName(row) {
  return `${row.method}:${row.seed}`
}

/**
 * The facet and seed of a row. A table numbers seeds through the facets: number = seed · facets + facet.
 * @param {Row} row
 * @returns {Facet}
 */
export function facetOf(row) {
  const facets = Math.max(1, row.num_facets)
  return { facet: row.seed % facets, facets, seed: Math.floor(row.seed / facets) }
}

/** @param {Row} row @returns {string} such as 'facet 2 of 3', '' for a neuron with one facet */
export function facetTitle(row) {
  const { facet, facets } = facetOf(row)
  return facets > 1 ? NAMES.facet(facet + 1, facets) : ''
}

/** @param {Row} row @returns {string} such as 'facet 2 of 3 · seed 1', or 'seed 1' */
export function variantTitle(row) {
  return [facetTitle(row), NAMES.seed(facetOf(row).seed)].filter(Boolean).join(' · ')
}
