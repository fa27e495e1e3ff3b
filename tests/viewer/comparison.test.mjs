import assert from 'node:assert/strict'
import { test } from 'node:test'

import {
  comparisonLines,
  fittingCount,
  MAXIMUM_NEURONS,
  MAXIMUM_IMAGES,
  imageCount,
  presentMethods,
} from '../../atlas_viewer/compare/comparison.js'
import { namedEntries } from '../../atlas_viewer/base/query.js'
import { facetOf, facetTitle, neuronRows, variantName, variantTitle } from '../../atlas_viewer/data/variants.js'

const row = (/** @type {string} */ method, /** @type {number} */ seed, more = {}) => ({
  method,
  seed,
  image_path: `images/a/00000-${method}-s${seed}.webp`,
  examples_path: '',
  num_facets: 1,
  ...more,
})

test('an index of a seed tells the facet and the seed of the facet', () => {
  const cases = [
    [0, { facet: 0, facets: 3, seed: 0 }],
    [2, { facet: 2, facets: 3, seed: 0 }],
    [3, { facet: 0, facets: 3, seed: 1 }],
    [7, { facet: 1, facets: 3, seed: 2 }],
  ]
  for (const [seed, expected] of cases) assert.deepEqual(facetOf({ seed, num_facets: 3 }), expected)
})

test('an atlas from before there were facets has one facet, and its seeds', () => {
  for (const num_facets of [1]) {
    assert.deepEqual(facetOf({ seed: 2, num_facets }), { facet: 0, facets: 1, seed: 2 })
    assert.equal(facetTitle({ seed: 2, num_facets }), '')
    assert.equal(variantTitle({ seed: 2, num_facets }), 'seed 2')
  }
  assert.equal(variantTitle({ seed: 4, num_facets: 3 }), 'facet 2 of 3 · seed 1')
  assert.equal(variantName({ method: 'maco', seed: 4, num_facets: 3 }), 'maco:4')
})

test('the rows of one neuron, in the order of the table', () => {
  const table = { numRows: 4, columns: { unit: [3, 5, 5, 7], method: ['a', 'a', 'b', 'a'] } }
  assert.deepEqual(neuronRows(table, 5), [
    { unit: 5, method: 'a' },
    { unit: 5, method: 'b' },
  ])
  assert.deepEqual(neuronRows(table, 6), [])
})

test('a neuron has a line per facet, and each cell the first seed of its method', () => {
  const rows = [0, 1, 2, 3].map((seed) => row('vital', seed, { num_facets: 2 }))
  rows.push(row('pixel', 0, { num_facets: 2 }), row('pixel', 1, { num_facets: 2, examples_path: 'examples/b.webp' }))
  const lines = comparisonLines(rows, ['vital', 'maco', 'pixel'])
  assert.equal(lines.length, 2)
  assert.deepEqual(lines[0].cells.vital, { row: rows[0], seeds: 2 })
  assert.deepEqual(lines[1].cells.vital, { row: rows[1], seeds: 2 })
  assert.deepEqual(lines[1].cells.pixel, { row: rows[5], seeds: 1 })
  assert.deepEqual(lines[0].cells.maco, { row: null, seeds: 0 })
  // Dataset images come from whichever row of the facet has them.
  assert.equal(lines[0].reference, rows[0])
  assert.equal(lines[1].reference, rows[5])
})

test('a facet that no row was made for has no visualizations and no datasetImages of another', () => {
  const lines = comparisonLines([row('vital', 0, { num_facets: 2, examples_path: 'x' })], ['vital'])
  assert.equal(lines[1].reference, null)
  assert.equal(lines[1].cells.vital.row, null)
})

test('a neuron that the atlas lacks has no line', () => {
  assert.deepEqual(comparisonLines([], ['vital']), [])
  assert.equal(imageCount([]), 0)
})

test('the visualizations of a neuron are counted, the two lines of dataset images among them', () => {
  const rows = [
    row('vital', 0, { examples_path: 'examples/a.webp' }),
    row('maco', 0, { image_path: '' }),
    row('pixel', 0),
  ]
  assert.equal(imageCount(comparisonLines(rows, ['vital', 'maco', 'fourier', 'pixel'])), 4)
  assert.equal(imageCount(comparisonLines(rows.slice(1), ['vital', 'maco', 'fourier', 'pixel'])), 1)
})

test('as many neurons fit as stay below both limits, and one always does', () => {
  assert.equal(fittingCount([]), 0)
  assert.equal(fittingCount([10 * MAXIMUM_IMAGES, 1]), 1)
  assert.equal(fittingCount([MAXIMUM_IMAGES - 1, 1, 1]), 2)
  assert.equal(fittingCount(new Array(1000).fill(0)), MAXIMUM_NEURONS)
  assert.equal(fittingCount(new Array(1000).fill(21)), Math.floor(MAXIMUM_IMAGES / 21))
})

test('columns are the methods that made anything, in the order of the atlas', () => {
  assert.deepEqual(presentMethods(['vital', 'maco', 'pixel'], [row('pixel', 0), row('vital', 1)]), ['vital', 'pixel'])
})

test('neurons are named once each, and a name that is no neuron’s stays', () => {
  assert.deepEqual(namedEntries(['blocks.5:54', 'nonsense', 'blocks.5:54']), [
    { name: 'blocks.5:54', layer: 'blocks.5', unit: 54 },
    { name: 'nonsense', layer: '', unit: -1 },
  ])
})
