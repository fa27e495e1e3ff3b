import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'

import { LoadError, resolvePath } from '../../atlas_viewer/base/files.js'
import { decodeTable, rowObject } from '../../atlas_viewer/data/tables.js'

test('plain paths resolve below the base, each segment escaped', () => {
  const base = 'https://host/site/atlases/a/'
  assert.equal(resolvePath(base, 'images/blocks.5/00054-vital-s0.webp'), `${base}images/blocks.5/00054-vital-s0.webp`)
  assert.equal(resolvePath(base, 'a b/ü.webp'), `${base}a%20b/%C3%BC.webp`)
})

test('paths that could leave the folder or the site are refused', () => {
  const bad = [
    '',
    '/',
    '/etc/passwd',
    '../x',
    'a/../../x',
    'a//b',
    './a',
    'a/.',
    'https://evil.example/x',
    '//evil.example/x',
    'a\\b',
    'javascript:alert(1)',
    'data:x',
    'a\0b',
    'a?b',
    'a#b',
    '%2e%2e/x',
    null,
    undefined,
    7,
  ]
  for (const path of bad)
    assert.throws(() => resolvePath('https://host/', /** @type {any} */ (path)), LoadError, String(path))
})

test('what is no Parquet file is named as such', async () => {
  const html = new TextEncoder().encode('<!doctype html>not found').buffer
  await assert.rejects(decodeTable(html, 'index.parquet'), (/** @type {any} */ error) => {
    assert.equal(error.file, 'index.parquet')
    assert.match(error.received, /PAR1/)
    return error instanceof LoadError
  })
  await assert.rejects(decodeTable(new ArrayBuffer(0), 'empty.parquet'), LoadError)
})

// The table is written by the Python side (tests/viewer/test_pure_modules.py): just what an atlas holds.
const table = process.env.VIEWER_TEST_TABLE
const skip = table ? false : 'VIEWER_TEST_TABLE is not set: run through pytest, which writes the table'

test('a Snappy table of the pipeline decodes: text, numbers, nulls, lists', { skip }, async () => {
  const bytes = await readFile(/** @type {string} */ (table))
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
  const decoded = await decodeTable(buffer, 'table')
  assert.equal(decoded.numRows, 300)
  assert.deepEqual(Object.keys(decoded.columns), ['layer', 'unit', 'loss', 'keys', 'values'])
  assert.equal(decoded.columns.layer[299], 'blocks.5')
  assert.equal(decoded.columns.unit[299], 299)
  assert.equal(decoded.columns.loss[0], 0)
  assert.equal(decoded.columns.loss[1], null)
  assert.deepEqual(rowObject(decoded, 2), {
    layer: 'conv_stem',
    unit: 2,
    loss: 1,
    keys: ['k2', '<b>ü🦆'],
    values: [0.5, 2],
  })
  assert.deepEqual(rowObject(decoded, 3).keys, [])
})

test('a damaged table is an error in words, not an empty table', { skip }, async () => {
  const bytes = await readFile(/** @type {string} */ (table))
  for (const size of [8, bytes.byteLength >> 1, bytes.byteLength - 1]) {
    const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + size)
    await assert.rejects(decodeTable(buffer, 'cut.parquet'), LoadError, `${size} bytes`)
  }
})
