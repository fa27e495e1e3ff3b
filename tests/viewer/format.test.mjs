import assert from 'node:assert/strict'
import { test } from 'node:test'

import { citation, fileStem } from '../../atlas_viewer/ui/actions.js'
import { barHeight, makeScale } from '../../atlas_viewer/ui/charts.js'
import { referenceBox } from '../../atlas_viewer/ui/topimages.js'
import {
  commonLabels,
  formatBytes,
  formatNumber,
  formatPercent,
  formatScore,
  joinWords,
  plural,
} from '../../atlas_viewer/base/format.js'
import {
  columnTitle,
  layerKind,
  methodMeaning,
  methodSource,
  methodTitle,
  methodSummary,
  sourceMeaning,
  STATUSES,
  statusNote,
} from '../../atlas_viewer/base/glossary.js'

test('numbers keep about four significant digits', () => {
  const cases = /** @type {[any, string][]} */ ([
    [0, '0'],
    [1, '1'],
    [1234, '1,234'],
    [-2.5, '−2.5'],
    [0.123456, '0.1235'],
    [12.3456, '12.35'],
    [1234.56, '1235'],
    [0.00001234, '1.23e−5'],
    [null, '–'],
    [undefined, '–'],
    [NaN, '–'],
    [Infinity, '∞'],
    [-Infinity, '−∞'],
    [0.10000000149, '0.1'],
  ])
  for (const [value, text] of cases) assert.equal(formatNumber(value), text)
})

test('a percentage never rounds up to 100', () => {
  assert.equal(formatPercent(100), '100')
  assert.equal(formatPercent(99.9999), '99.99')
  assert.equal(formatPercent(99.95), '99.95')
  assert.equal(formatPercent(42), '42')
  assert.equal(formatPercent(42.04), '42')
})

test('scores carry their unit', () => {
  assert.equal(formatScore(1, '0/1'), 'yes')
  assert.equal(formatScore(0, '0/1'), 'no')
  assert.equal(formatScore(99.5, '%'), '99.5 %')
  assert.equal(formatScore(1.234, '×'), '1.23 ×')
  assert.equal(formatScore(7.25, 's'), '7.25 s')
  assert.equal(formatScore(0.25, ''), '0.25')
  assert.equal(formatScore('castle', ''), 'castle')
  assert.equal(formatScore(null, '%'), '–')
  assert.equal(formatScore('', '%'), '–')
})

test('sizes, plurals and lists', () => {
  assert.equal(formatBytes(1), '1 byte')
  assert.equal(formatBytes(56_062), '56.1 kB')
  assert.equal(formatBytes(7_200_000_000), '7.2 GB')
  assert.equal(plural(1, 'neuron'), '1 neuron')
  assert.equal(plural(2048, 'neuron'), '2,048 neurons')
  assert.equal(plural(3, 'class', 'classes'), '3 classes')
  assert.equal(joinWords([]), '')
  assert.equal(joinWords(['a']), 'a')
  assert.equal(joinWords(['a', 'b', 'c']), 'a, b and c')
})

test('column names as words', () => {
  assert.equal(columnTitle('activation_percentile'), 'Activation percentile')
  assert.equal(columnTitle('accuracy_top1'), 'Recognized (top 1)')
  assert.equal(columnTitle('accuracy_top5_squeezenet1_1'), 'Recognized (top 5) by squeezenet1_1')
  assert.equal(columnTitle('two_afc'), 'Two-alternative score')
  assert.equal(columnTitle('two_afc_vit_s'), 'Two-alternative score by vit_s')
})

test('common labels: by frequency, then by place; empty ones do not count', () => {
  assert.deepEqual(commonLabels(['a', 'b', '', 'b', 'c', ''], 2), ['b', 'a'])
  assert.deepEqual(commonLabels(null, 2), [])
})

test('the scale holds the histogram and every mark', () => {
  for (const marks of [[], [5], [-20, 40], [NaN, 11]]) {
    const scale = makeScale(0, 10, marks)
    for (const value of [0, 10, ...marks.filter(Number.isFinite)]) {
      assert.ok(scale.fraction(value) >= 0 && scale.fraction(value) <= 1)
    }
    assert.ok(scale.fraction(0) < scale.fraction(10))
  }
  assert.equal(makeScale(3, 3, []).fraction(3), 0)
})

test('bars are logarithmic: one dataset image stays visible next to a thousand', () => {
  assert.equal(barHeight(0, 1000), 0)
  assert.equal(barHeight(1000, 1000), 1)
  assert.ok(barHeight(1, 1000) > 0.05)
  assert.equal(barHeight(0, 0), 0)
})

test('the marked part of a reference', () => {
  const positions = [0, 0, 1, 1, 0.25, 0.5, 0.5, 0.75]
  assert.deepEqual(referenceBox(positions, 1), { left: 0.25, top: 0.5, width: 0.25, height: 0.25 })
  assert.deepEqual(referenceBox([-1, 0.5, 2, 0.75], 0), { left: 0, top: 0.5, width: 1, height: 0.25 })
  assert.equal(referenceBox(positions, 2), null)
  assert.equal(referenceBox([], 0), null)
  assert.equal(referenceBox([0.5, 0.5, 0.5, 0.5], 0), null)
  assert.equal(referenceBox([NaN, 0, 1, 1], 0), null)
})

test('names of downloads are plain', () => {
  assert.equal(fileStem('blocks.5-54-vital-s0'), 'blocks.5-54-vital-s0')
  assert.equal(fileStem('../../etc/passwd'), 'etc-passwd')
  assert.equal(fileStem('<b>'), 'b')
  assert.equal(fileStem('///'), 'neuron')
})

test('a citation names the neuron, the atlas, its build and the method', () => {
  const manifest = {
    build_id: 'abcd',
    provenance: { created: '2026-01-02T03:04:05Z', method_citation: 'VITAL, ICCV 2025' },
  }
  const atlas = /** @type {any} */ ({ title: 'Lite0', modelName: 'timm:lite0', manifest })
  assert.equal(
    citation(atlas, 'castle', 'https://x/#/a'),
    '“castle”, in: Lite0 (timm:lite0, 2026-01-02, build abcd).\nhttps://x/#/a\nMethod: VITAL, ICCV 2025',
  )
})

test('every status has a shape of its own and a meaning; unknown codes pass through', () => {
  assert.equal(new Set(STATUSES.map((status) => statusNote(status).mark)).size, STATUSES.length)
  for (const status of STATUSES) assert.ok(statusNote(status).meaning.length > 20)
  assert.equal(statusNote('new').mark, '?')
  assert.equal(methodTitle('vital'), 'VITAL')
  assert.equal(methodSummary('new'), 'new')
  assert.equal(sourceMeaning('new'), 'new')
})

test('every method has a meaning and a source; an unknown one has none', () => {
  for (const method of ['vital', 'maco', 'fourier', 'deepinversion', 'pixel']) {
    assert.ok(methodMeaning(method).length > 20, method)
    assert.match(methodSource(method), /et al\..* (19|20)\d\d$/)
  }
  assert.equal(methodMeaning('new') + methodSource('new'), '')
})

test('added layers are told by their names', () => {
  assert.equal(layerKind('concepts.textures'), 'concept')
  assert.equal(layerKind('combinations.eye'), 'combination')
  for (const layer of ['blocks.5', 'concepts', 'my.concepts.a', 'combinations_x']) assert.equal(layerKind(layer), '', layer)
})
