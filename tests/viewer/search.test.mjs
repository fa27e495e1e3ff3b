import assert from 'node:assert/strict'
import { test } from 'node:test'

import { scoreColumns, sortRows } from '../../atlas_viewer/data/columns.js'
import {
  editDistance,
  nearestNames,
  nearestUnits,
  parseNeuron,
  parseSearch,
} from '../../atlas_viewer/base/query.js'
import { layerFileName, layerOfFileName } from '../../atlas_viewer/base/layername.js'
import { emptyList } from '../../atlas_viewer/base/route.js'
import { findNeuron, labelsOf, selectRows } from '../../atlas_viewer/data/search.js'
import { packLabels } from '../../atlas_viewer/data/tables.js'

const index = {
  numRows: 6,
  columns: {
    layer: ['conv_stem', 'blocks.5', 'blocks.5', 'blocks.5', 'fc', 'fc'],
    unit: [0, 53, 54, 55, 0, 1],
    status: ['ok', 'ok', 'weak', 'dead', 'ok', 'failed'],
    label: ['', '', '', '', 'great white shark', 'castle'],
    method: ['vital', 'vital', 'vital', 'vital', 'vital', 'vital'],
    loss: [0.5, 0.1, null, NaN, 0.3, 0.3],
    accuracy_top1: [null, null, null, null, null, null],
    tile: [0, 0, 1, 2, 0, 1],
    top_labels: ['', 'Castle; palace', 'zebra', '', 'shark', 'castle'],
  },
}
const select = (/** @type {object} */ list) => selectRows(index, { ...emptyList(), ...list })

test('an empty list state selects everything in the order of the table', () => {
  assert.deepEqual(select({}), [0, 1, 2, 3, 4, 5])
})

test('words are looked for in layer, label and labels of top-activating images, whatever their case; all must occur', () => {
  assert.deepEqual(select({ query: 'CASTLE' }), [1, 5])
  assert.deepEqual(select({ query: 'castle blocks' }), [1])
  assert.deepEqual(select({ query: 'castle zebra' }), [])
  assert.deepEqual(select({ query: '"great white"' }), [4])
  assert.deepEqual(select({ query: '"white great"' }), [])
})

test('a phrase does not reach from one column into the next', () => {
  assert.deepEqual(select({ query: '"fc great"' }), [])
})

test('neuron ids in all their spellings', () => {
  for (const query of ['blocks.5:54', 'blocks.5/54', 'BLOCKS.5:54', 'timm:resnet/blocks.5/54', 'blocks.5:054']) {
    assert.deepEqual(select({ query }), [2], query)
  }
  assert.deepEqual(select({ query: 'blocks.5:54 fc:0' }), [2, 4])
  assert.deepEqual(select({ query: 'blocks.5:99' }), [])
  assert.deepEqual(parseNeuron('blocks.5'), null)
  assert.deepEqual(parseNeuron('timm:net'), null)
})

test('layers of any name: in file names, and as neurons', () => {
  for (const [layer, name] of [
    ['blocks.5', 'blocks.5'],
    ['/features/0/Conv', '_--2Ffeatures-2F0-2FConv'],
    ['relu@2', 'relu-402'],
    ['ü-1', '_--C3-BC-2D1'],
  ]) {
    assert.equal(layerFileName(layer), name)
    assert.equal(layerOfFileName(name), layer)
    assert.deepEqual(parseNeuron(`${layer}:7`), { layer, unit: 7 })
    assert.deepEqual(parseNeuron(`python:a:b/${name}/7`), { layer, unit: 7 })
  }
  assert.equal(layerOfFileName('a-41'), 'a-41')
})

test('conditions on scores; a missing value never holds', () => {
  assert.deepEqual(select({ query: 'loss<0.4' }), [1, 4, 5])
  assert.deepEqual(select({ query: 'loss>=0.3' }), [0, 4, 5])
  assert.deepEqual(select({ query: 'loss=0.1' }), [1])
  assert.deepEqual(select({ query: 'loss>-1 shark' }), [4])
})

test('only score columns make a condition; anything else is a word', () => {
  assert.deepEqual(parseSearch('unit>3', scoreColumns(index)).terms, ['unit>3'])
  assert.deepEqual(parseSearch('a<b', ['a']).terms, ['a<b'])
})

test('filters combine', () => {
  assert.deepEqual(select({ layer: 'blocks.5' }), [1, 2, 3])
  assert.deepEqual(select({ statuses: ['weak', 'failed'] }), [2, 5])
  assert.deepEqual(select({ layer: 'fc', statuses: ['ok'], query: 'shark' }), [4])
  assert.deepEqual(select({ layer: 'absent' }), [])
})

test('search text is data: patterns have no meaning', () => {
  for (const query of ['.*', '(', '[a', '\\', '"', '<img src=x>']) assert.deepEqual(select({ query }).length <= 6, true)
  assert.deepEqual(select({ query: '.*' }), [])
})

test('sorting is stable and puts missing values last in both directions', () => {
  assert.deepEqual(select({ sort: 'loss' }), [1, 4, 5, 0, 2, 3])
  assert.deepEqual(select({ sort: 'loss', descending: true }), [0, 4, 5, 1, 2, 3])
  assert.deepEqual(select({ sort: 'label' }), [5, 4, 0, 1, 2, 3])
  assert.deepEqual(select({ sort: 'no_such_column' }), [0, 1, 2, 3, 4, 5])
})

test('words are looked for in labels that lie beside the table', () => {
  const { top_labels: lists, ...columns } = index.columns
  const labels = packLabels(lists.map((text) => (text ? text.split('; ') : [])))
  const table = { numRows: 6, columns, labels }
  const find = (/** @type {string} */ query) => selectRows(table, { ...emptyList(), query })
  assert.deepEqual(find('palace'), [1])
  assert.deepEqual(find('CASTLE'), [1, 5])
  assert.equal(labelsOf(table, 1), 'Castle; palace')
  assert.equal(labelsOf(table, 3), '')
  // Of a part of the index, whose first row is the neuron 4.
  const part = { numRows: 2, columns: { ...columns, layer: ['fc', 'fc'] }, labels: { ...labels, first: 4 } }
  assert.deepEqual(selectRows(part, { ...emptyList(), query: 'castle' }), [1])
})

test('words are looked for in captions that lie beside the table', () => {
  const { top_labels: _, ...columns } = index.columns
  const none = index.columns.layer.map(() => [])
  const captions = [['A heron waits', 'İstanbul at night'], [], ['two\nlines'], ['lines', 'A heron waits'], [], ['']]
  const table = { numRows: 6, columns, labels: packLabels(none, captions) }
  const find = (/** @type {string} */ query) => selectRows(table, { ...emptyList(), query })
  assert.deepEqual(find('heron'), [0, 3])
  assert.deepEqual(find('HERON lines'), [3])
  assert.deepEqual(find('night'), [0])
  assert.deepEqual(find('"two\nlines"'), [2])
  assert.deepEqual(find('"waits\ni"'), []) // not from one caption into the next
  assert.deepEqual(find('"lines\na"'), [])
  assert.deepEqual(find('castle'), [5]) // its name
  assert.equal(labelsOf(table, 0), '')
  const part = { numRows: 2, columns: { ...columns, layer: ['fc', 'fc'] }, labels: { ...table.labels, first: 3 } }
  assert.deepEqual(selectRows(part, { ...emptyList(), query: 'heron' }), [0])
})

test('numbers in typed arrays are sorted like others, NaN last', () => {
  const loss = Float32Array.of(0.5, -3, NaN, Infinity, -0, 0, 1e-20, -1e20)
  const table = { numRows: 8, columns: { ...index.columns, loss } }
  const rows = [0, 1, 2, 3, 4, 5, 6, 7]
  assert.deepEqual(sortRows(table, rows, 'loss', false), [7, 1, 4, 5, 6, 0, 3, 2])
  assert.deepEqual(sortRows(table, rows, 'loss', true), [3, 0, 6, 4, 5, 1, 7, 2])
})

test('sorting loses nothing and does not change its input', () => {
  const rows = [5, 3, 1, 0]
  const sorted = sortRows(index, rows, 'loss', false)
  assert.deepEqual(rows, [5, 3, 1, 0])
  assert.deepEqual([...sorted].sort(), [0, 1, 3, 5])
})

test('score columns are the numeric ones that have a value', () => {
  assert.deepEqual(scoreColumns(index), ['loss'])
})

test('nearest names and units', () => {
  assert.deepEqual(nearestNames('block.5', ['conv_stem', 'blocks.5', 'blocks.6'], 2), ['blocks.5', 'blocks.6'])
  assert.deepEqual(nearestNames('x', [], 2), [])
  assert.deepEqual(nearestUnits(54, [0, 50, 53, 57, 90]), [50, 53, 57])
  assert.deepEqual(nearestUnits(1234, [0, 1]), [0, 1])
})

test('edit distance', () => {
  assert.equal(editDistance('kitten', 'sitting'), 3)
  assert.equal(editDistance('', 'abc'), 3)
  assert.equal(editDistance('abc', ''), 3)
  assert.equal(editDistance('abc', 'abc'), 0)
})

test('100,000 rows are searched and sorted while one types', () => {
  const numRows = 100_000
  const fill = (/** @type {(row: number) => any} */ value) => Array.from({ length: numRows }, (_, row) => value(row))
  const large = {
    numRows,
    columns: {
      layer: fill((row) => `blocks.${row % 7}`),
      unit: fill((row) => row),
      status: fill(() => 'ok'),
      label: fill(() => ''),
      top_labels: fill((row) => `label ${row % 1000}; castle`),
      loss: fill((row) => (row * 7919) % 1000),
    },
  }
  const list = { ...emptyList(), query: 'castle 99', sort: 'loss' }
  selectRows(large, list) // the searchable text is made once
  const start = performance.now()
  assert.ok(selectRows(large, list).length > 0)
  const seconds = (performance.now() - start) / 1000
  assert.ok(seconds < 2, `took ${seconds} s`) // measured: 0.05 s; the bound is for a busy machine
})

test('a text that names one neuron of the atlas finds it, whatever the case', async () => {
  const layerIndex = async (/** @type {{name: string}} */ layer) => {
    const rows = index.columns.layer.flatMap((name, row) => (name === layer.name ? [row] : []))
    return { numRows: rows.length, columns: { unit: rows.map((row) => index.columns.unit[row]) } }
  }
  const atlas = { layers: [{ name: 'conv_stem' }, { name: 'blocks.5' }], layerIndex }
  assert.deepEqual(await findNeuron(atlas, ' Blocks.5:54 '), { layer: 'blocks.5', unit: 54 })
  for (const text of ['', 'blocks.5', 'blocks.5:99', 'fc:0', 'blocks.5:54 blocks.5:55', 'blocks.5:54 castle']) {
    assert.equal(await findNeuron(atlas, text), null, text)
  }
})
