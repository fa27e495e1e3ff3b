import assert from 'node:assert/strict'
import { test } from 'node:test'

import { compareNeuron, compareResults, emptyList, makeRoute, rebase, studyOf } from '../../atlas_viewer/base/route.js'
import { formatRoute, parseRoute } from '../../atlas_viewer/base/router.js'

test('the bare address is home', () => {
  for (const hash of ['', '#', '#/', '#//']) assert.equal(parseRoute(hash).view, 'home')
})

test('a neuron address carries the neuron and the result list', () => {
  const route = parseRoute(
    '#/atlas/lite0/blocks.5/54?q=castle&layer=blocks.5&status=ok,weak&sort=-loss&show=maco:1&mask=1',
  )
  assert.equal(route.view, 'neuron')
  assert.equal(route.layer, 'blocks.5')
  assert.equal(route.unit, 54)
  assert.deepEqual(route.list, {
    query: 'castle',
    layer: 'blocks.5',
    statuses: ['ok', 'weak'],
    method: '',
    sort: 'loss',
    descending: true,
  })
  assert.equal(route.variant, 'maco:1')
  assert.equal(route.mask, true)
})

test('a layer address is the gallery of that layer', () => {
  const route = parseRoute('#/atlas/lite0/blocks.5')
  assert.equal(route.view, 'gallery')
  assert.equal(route.list.layer, 'blocks.5')
})

test('format and parse are inverse for every view and every parameter', () => {
  const list = {
    query: 'a&b #?%/+ “ü” <b>',
    layer: 'blocks.5',
    statuses: ['weak', 'dead'],
    method: 'maco',
    sort: 'loss',
    descending: true,
  }
  const routes = [
    makeRoute(),
    makeRoute({ view: 'about' }),
    makeRoute({ view: 'about', atlas: 'a b/ü' }),
    makeRoute({ view: 'gallery', atlas: 'lite0' }),
    makeRoute({ view: 'gallery', atlas: 'lite0', list, size: 'small' }),
    makeRoute({ view: 'neuron', atlas: 'lite0', layer: 'conv_stem', unit: 0 }),
    makeRoute({
      view: 'neuron',
      atlas: 'lite0',
      layer: 'blocks.5',
      unit: 54,
      list,
      size: 'large',
      variant: 'vital:1',
      mask: true,
      zoom: 'native',
    }),
    makeRoute({ view: 'about', atlas: 'lite0', section: 'methods' }),
    makeRoute({ view: 'compare', atlas: 'lite0' }),
    makeRoute({ view: 'compare', atlas: 'a b/ü', list, size: 'large', from: 25, mask: true }),
    makeRoute({ view: 'compare', atlas: 'lite0', neurons: ['blocks.5:54', 'a&b:1', 'no neuron'], from: 2 }),
    makeRoute({ view: 'map', atlas: 'a b/ü' }),
    makeRoute({ view: 'map', atlas: 'lite0', list, neurons: ['blocks.5:54'], at: '0.5,0.25,8' }),
    makeRoute({ view: 'study', atlas: 'a b/ü' }),
    makeRoute({
      view: 'study',
      atlas: 'lite0',
      list,
      study: { tasks: ['words', 'class'], methods: ['vital', 'maco'], items: 30, seed: 0, rater: 'Ada & Ü <b>' },
    }),
    makeRoute({ view: 'study', atlas: 'lite0', neurons: ['blocks.5:54'] }),
    makeRoute({ view: 'study', atlas: 'lite0', session: '0123456789abcdef' }),
  ]
  for (const route of routes) {
    const hash = formatRoute(route)
    const { address, ...parsed } = parseRoute(hash)
    const { address: unused, ...expected } = route
    assert.deepEqual(parsed, expected, hash)
    assert.equal(`#${address}`, hash)
  }
})

test('parameters at their default are left out', () => {
  assert.equal(formatRoute(makeRoute({ view: 'gallery', atlas: 'lite0', list: emptyList() })), '#/atlas/lite0')
})

test('the gallery does not carry what belongs to a neuron page', () => {
  const hash = formatRoute(
    makeRoute({ view: 'gallery', atlas: 'a', variant: 'maco:1', mask: true, zoom: 'native' }),
  )
  assert.equal(hash, '#/atlas/a')
})

test('a comparison is of a result list or of named neurons, from its beginning', () => {
  const gallery = parseRoute('#/atlas/lite0?q=castle&sort=-loss')
  assert.equal(formatRoute(compareResults({ ...gallery, from: 9 })), '#/compare/lite0?q=castle&sort=-loss')
  const neuron = parseRoute('#/atlas/lite0/blocks.5/54?q=castle&show=maco:1&mask=1')
  assert.equal(formatRoute(compareNeuron(neuron)), '#/compare/lite0?q=castle&n=blocks.5%3A54&mask=1')
})

test('a first place that is none is the first', () => {
  for (const from of ['0', '-3', 'x', '1.5', '', '9999999999']) {
    assert.equal(parseRoute(`#/compare/a?from=${from}`).from, 1, from)
  }
  assert.equal(parseRoute('#/compare/a?from=12').from, 12)
})

test('a study is of what a view shows; the address of a rater says nothing of methods', () => {
  const gallery = parseRoute('#/atlas/lite0?q=castle&method=maco')
  assert.equal(formatRoute(studyOf(gallery)), '#/study/lite0?q=castle&method=maco')
  const begun = { ...parseRoute('#/study/lite0?methods=vital,maco&seed=7'), session: 'ab12' }
  assert.equal(formatRoute(begun), '#/study/lite0/ab12')
  assert.equal(formatRoute({ ...begun, view: 'gallery' }), '#/atlas/lite0')
})

test('seeds and counts that are none are left to the page', () => {
  for (const [seed, items] of [
    ['-1', '0'],
    ['4294967296', '-3'],
    ['x', '1.5'],
    ['', '12345'],
  ]) {
    const { study } = parseRoute(`#/study/a?seed=${seed}&items=${items}`)
    assert.equal(study.seed, -1, seed)
    assert.equal(study.items, 0, items)
  }
  assert.equal(parseRoute('#/study/a?seed=4294967295').study.seed, 4294967295)
})

test('addresses that fit no view are unknown, and keep what was asked for', () => {
  for (const hash of [
    '#/nonsense',
    '#/atlas',
    '#/atlas/a/b/c',
    '#/atlas/a/b/-1',
    '#/atlas/a/b/1/2',
    '#/about/x',
    '#/compare',
    '#/compare/a/b',
    '#/map',
    '#/map/a/b',
    '#/study',
    '#/study/a/b/c',
    '#content',
  ]) {
    assert.equal(parseRoute(hash).view, 'unknown', hash)
  }
  assert.equal(parseRoute('#/atlas/a/b/c').layer, 'b')
})

test('malformed percent signs and sizes do no harm', () => {
  assert.equal(parseRoute('#/atlas/%E0%A4%A').atlas, '%E0%A4%A')
  assert.equal(parseRoute('#/atlas/a?size=gigantic').size, 'medium')
})

test('a change is made to another address than the one it was thought for', () => {
  const shown = parseRoute('#/atlas/lite0?status=ok&sort=-loss')
  const coming = parseRoute('#/atlas/lite0?status=ok&sort=-loss&q=castle')
  const expected = parseRoute('#/atlas/lite0?status=ok,weak&sort=-loss&size=large')
  assert.equal(formatRoute(rebase(shown, expected, coming)), formatRoute(parseRoute(
    '#/atlas/lite0?q=castle&status=ok,weak&sort=-loss&size=large',
  )))
  assert.deepEqual(rebase(shown, expected, shown), expected)
  assert.deepEqual(rebase(shown, shown, coming), coming)
})
