/** Parquet tables as columns: fetched whole, decoded without holding up the page. */

import { fetchBytes, LoadError, reasonOf, resolvePath } from '../base/files.js'
import { FILES } from '../base/glossary/files.js'

/**
 * A Parquet table as columns; a list column holds arrays, a missing value is null. In the index numbers lie in typed
 * arrays, where a missing one is NaN.
 * @typedef {object} Table
 * @property {number} numRows
 * @property {Record<string, any>} columns
 * @property {Labels} [labels] of the top-activating images, once they are loaded
 *
 * Texts that many neurons share: names by number, and each neuron's numbers in one long list.
 * @typedef {object} Packed
 * @property {string[]} names distinct
 * @property {Uint32Array} starts of each neuron's numbers in `ids`, and the end of the last
 * @property {Uint32Array} ids
 *
 * The top-activating images of each neuron: labels, and captions where there are any.
 * @typedef {Packed & {captions: Packed | null, first: number}} Labels `first`: the neuron that the table's row 0 is
 */

/** ms of decoding after which the page may answer its reader. */
const BUSY_MS = 10

/** @type {Promise<any> | null} */
let reader = null

/**
 * The Parquet reader: a fifth of the code, and not needed before the first table, so nothing earlier waits for it.
 * @returns {Promise<any>}
 */
function openReader() {
  reader ??= import('../vendor/hyparquet.min.js').catch((error) => {
    reader = null
    throw new LoadError('vendor/hyparquet.min.js', FILES.tableReader, FILES.noModule(error.message))
  })
  return reader
}

openReader().catch(() => {}) // on its way at once; a failure is tried again, and shown, where a table is decoded

/**
 * Decodes a whole Parquet file into columns (row objects are about five times slower), and lets the page breathe every
 * BUSY_MS.
 * @param {ArrayBuffer} buffer
 * @param {string} file name for the message
 * @param {{typed?: boolean}} [options] `typed`: numbers in typed arrays, a missing one as NaN
 * @returns {Promise<Table>}
 */
export async function decodeTable(buffer, file, { typed = false } = {}) {
  const magic = String.fromCharCode(...new Uint8Array(buffer.slice(0, 4)))
  if (magic !== 'PAR1') {
    throw new LoadError(file, FILES.table, FILES.notParquet(buffer.byteLength))
  }
  const { parquetMetadata, parquetRead } = await openReader()
  try {
    const metadata = parquetMetadata(buffer)
    const numRows = Number(metadata.num_rows)
    /** @type {Record<string, any>} */
    const columns = {}
    for (const name of topLevelColumns(metadata)) columns[name] = new Array(numRows).fill(null)
    if (typed) {
      for (const { name, type, repetition_type: repetition } of metadata.schema) {
        if (repetition === 'REPEATED' || !Object.hasOwn(columns, name)) continue
        if (type === 'FLOAT') columns[name] = new Float32Array(numRows).fill(NaN)
        if (type === 'INT32') columns[name] = new Int32Array(numRows)
      }
    }
    const onChunk = (/** @type {{columnName: string, columnData: ArrayLike<any>, rowStart: number}} */ chunk) => {
      const { columnName, columnData, rowStart } = chunk
      const column = columns[columnName]
      const missing = column instanceof Float32Array ? NaN : null
      for (let i = 0; i < columnData.length; i++) {
        const value = columnData[i]
        column[rowStart + i] = typeof value === 'bigint' ? Number(value) : (value ?? missing)
      }
    }
    let rowStart = 0
    let busySince = performance.now()
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows)
      for (const name of Object.keys(columns)) {
        await parquetRead({ file: buffer, metadata, columns: [name], rowStart, rowEnd, onChunk })
        if (performance.now() - busySince < BUSY_MS) continue
        await new Promise((resolve) => setTimeout(resolve))
        busySince = performance.now()
      }
      rowStart = rowEnd
    }
    return { numRows, columns }
  } catch (error) {
    throw new LoadError(file, FILES.table, FILES.damaged(reasonOf(error)))
  }
}

/** @param {any} metadata @returns {string[]} */
function topLevelColumns(metadata) {
  const names = new Set()
  for (const group of metadata.row_groups) {
    for (const column of group.columns) names.add(column.meta_data.path_in_schema[0])
  }
  return [...names]
}

/**
 * One row of a table as an object; list columns become ordinary arrays.
 * @param {Table} table
 * @param {number} row
 * @returns {Record<string, any>}
 */
export function rowObject(table, row) {
  return Object.fromEntries(
    Object.entries(table.columns).map(([name, values]) => {
      const value = values[row]
      return [name, ArrayBuffer.isView(value) ? Array.from(/** @type {any} */ (value)) : value]
    }),
  )
}

/** Tables with the same columns, one below the other. @param {Table[]} tables at least one @returns {Table} */
export function joinTables(tables) {
  const numRows = tables.reduce((sum, table) => sum + table.numRows, 0)
  /** @type {Record<string, any>} */
  const columns = {}
  for (const name of Object.keys(tables[0].columns)) {
    columns[name] = new tables[0].columns[name].constructor(numRows)
    let at = 0
    for (const table of tables) {
      for (const value of table.columns[name]) columns[name][at++] = value
    }
  }
  return { numRows, columns }
}

/**
 * A whole table of an atlas, with the size that the atlas says it has.
 * @param {string} base
 * @param {string} path
 * @param {Map<string, number>} expectedBytes
 * @param {{typed?: boolean}} [options] see `decodeTable`
 * @returns {Promise<Table>}
 */
export async function fetchTable(base, path, expectedBytes, options = {}) {
  const url = resolvePath(base, path)
  const buffer = await fetchBytes(url, FILES.table)
  const bytes = expectedBytes.get(path)
  if (bytes !== undefined && bytes !== buffer.byteLength) {
    // A cache that kept the file of an earlier build shows up here and not as a wrong visualization.
    throw new LoadError(url, FILES.size(bytes), FILES.otherSize(buffer.byteLength))
  }
  return decodeTable(buffer, url, options)
}

/**
 * @param {ArrayLike<string[] | null>} labels of each neuron
 * @param {ArrayLike<string[] | null> | null} [captions] of each neuron
 * @returns {Labels}
 */
export function packLabels(labels, captions) {
  const packed = captions ? packTexts(captions) : null
  return { ...packTexts(labels), captions: packed?.ids.length ? packed : null, first: 0 }
}

/**
 * Lists of texts as numbers, which take a tenth of the memory.
 * @param {ArrayLike<string[] | null>} lists of each neuron
 * @returns {Packed}
 */
function packTexts(lists) {
  /** @type {Map<string, number>} */
  const numbers = new Map()
  const starts = new Uint32Array(lists.length + 1)
  for (let row = 0; row < lists.length; row++) starts[row + 1] = starts[row] + (lists[row]?.length ?? 0)
  const ids = new Uint32Array(starts[lists.length])
  let at = 0
  for (let row = 0; row < lists.length; row++) {
    for (const name of lists[row] ?? []) {
      let number = numbers.get(name)
      if (number === undefined) numbers.set(name, (number = numbers.size))
      ids[at++] = number
    }
  }
  return { names: [...numbers.keys()], starts, ids }
}
