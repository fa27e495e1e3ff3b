import assert from 'node:assert/strict'
import { test } from 'node:test'

import { namedPairs, withSecondAtlas, withOther, withoutPair } from '../../atlas_viewer/compare/comparison.js'
import { findMatchedUnit, sameClass } from '../../atlas_viewer/compare/matched_unit.js'
import { linkedPlace } from '../../atlas_viewer/base/linkedscroll.js'
import { makeRoute } from '../../atlas_viewer/base/route.js'
import { formatRoute, parseRoute } from '../../atlas_viewer/base/router.js'

const atlasOf = (/** @type {string} */ title, /** @type {string} */ modelName, /** @type {any} */ layers) => ({
  title,
  modelName,
  layers: Object.keys(layers).map((name) => ({ name, is_classes: name !== 'stem' })),
  layer(/** @type {string} */ name) {
    return this.layers.find((layer) => layer.name === name)
  },
  layerIndex: async (/** @type {any} */ { name }) => ({ columns: layers[name] }),
})
const entry = (/** @type {string} */ layer, /** @type {number} */ unit) => ({ name: `${layer}:${unit}`, layer, unit })

test('pairs are in the address, and come back from it', () => {
  const address = '#/compare/a?n=stem%3A1%2Cstem%3A2&with=b&m=%2Cfc%3A7'
  const route = parseRoute(address)
  assert.deepEqual([route.secondAtlas, route.others], ['b', ['', 'fc:7']])
  assert.equal(formatRoute(route), address)
  assert.deepEqual(
    namedPairs(route).map(({ name, other }) => [name, other]),
    [
      ['stem:1', ''],
      ['stem:2', 'fc:7'],
    ],
  )
  assert.deepEqual(withOther(route, 0, 'fc:1').others, ['fc:1', 'fc:7'])
  const left = withoutPair(route, 0)
  assert.deepEqual([left.neurons, left.others], [['stem:2'], ['fc:7']])
  assert.equal(formatRoute({ ...route, view: 'gallery', atlas: 'a' }), '#/atlas/a')
})

test('two neurons of one atlas go into a pane each, and back', () => {
  const two = makeRoute({ view: 'compare', atlas: 'a', neurons: ['stem:1', 'stem:2'] })
  const paired = withSecondAtlas(two, 'a')
  assert.deepEqual([paired.secondAtlas, paired.neurons, paired.others], ['a', ['stem:1'], ['stem:2']])
  const back = withSecondAtlas(paired, '')
  assert.deepEqual([back.secondAtlas, back.neurons, back.others], ['', ['stem:1', 'stem:2'], []])
  assert.deepEqual(withSecondAtlas(paired, 'b').others, [])
})

test('a class stands for the class of its name, a unit for that of its number in the same model only', async () => {
  const here = atlasOf('Here', 'm', { stem: { unit: [3], label: [''] }, fc: { unit: [7], label: ['tench, Tinca tinca'] } })
  const there = atlasOf('There', 'm', { stem: { unit: [3], label: [''] }, head: { unit: [0, 5], label: ['eel', 'Tench'] } })
  const find = (/** @type {any} */ from, /** @type {any} */ what, /** @type {any} */ to) => findMatchedUnit(from, what, to)
  assert.deepEqual((await find(here, entry('fc', 7), there)).entry, entry('head', 5))
  assert.deepEqual((await find(here, entry('stem', 3), there)).entry, entry('stem', 3))
  assert.equal((await find(here, entry('stem', 3), { ...there, modelName: 'other' })).entry, null)
  assert.equal((await find(here, entry('nothing', 3), there)).entry, null)
  assert.match((await find(there, entry('head', 0), here)).reason, /no class “eel”/)
})

test('a name that two classes share decides nothing', () => {
  assert.equal(sameClass(['crane', 'crane, bird'], 'crane, machine'), -1)
  assert.equal(sameClass(['crane', 'crane, bird'], 'Crane, bird '), 1)
  assert.equal(sameClass(['', 'x'], ''), -1)
})

test('linked panes show the same pair, whatever the heights', () => {
  const [tops, otherTops] = [
    [0, 100, 200],
    [0, 300, 600],
  ]
  const place = (/** @type {number} */ at) => linkedPlace(tops, 250, otherTops, 900, at)
  assert.deepEqual([0, 50, 100, 150, 200, 225, 250].map(place), [0, 150, 300, 450, 600, 750, 900])
  assert.equal(linkedPlace([0], 0, [0], 80, 0), 80) // nothing to scroll here: the other shows its end too
  assert.equal(linkedPlace([0, 100], 50, [0, 300], 40, 50), 40)
})
