/**
 * Reading an atlas: whole small files over plain HTTP, from this site only. Every failure becomes a `LoadError` that
 * says which file, what was expected and what came.
 */

import { parquetMetadata, parquetRead } from './vendor/hyparquet.min.js'

export const ATLAS_SCHEMA = 'atlas/1'

/** A file that could not be read; the three parts are shown to the reader. */
export class LoadError extends Error {
  /**
   * @param {string} file address of the file
   * @param {string} expected
   * @param {string} received
   */
  constructor(file, expected, received) {
    super(`${file}: expected ${expected}; received ${received}`)
    this.name = 'LoadError'
    this.file = file
    this.expected = expected
    this.received = received
  }
}

/**
 * A Parquet table as columns; a list column holds arrays, a missing value is null.
 * @typedef {object} Table
 * @property {number} numRows
 * @property {Record<string, any[]>} columns
 *
 * @typedef {object} LayerInfo
 * @property {string} name
 * @property {number} num_units units in the model
 * @property {number} num_neurons neurons in this atlas
 * @property {boolean} is_classes
 * @property {string} file path of the layer's table
 *
 * @typedef {object} SiteEntry
 * @property {string} slug
 * @property {string} title
 * @property {string} path folder of the atlas, relative to this page
 * @property {Record<string, number>} [counts]
 * @property {string | {name: string}} [model]
 */

/**
 * Checks a path that comes from an atlas and writes it as a URL below `base`: plain segments only, so that a table can
 * never point off the atlas's own folder.
 * @param {string} base URL of a folder, ending in "/"
 * @param {string} path relative, with forward slashes
 * @returns {string}
 */
export function resolvePath(base, path) {
  const segments = typeof path === 'string' ? path.split('/') : []
  const plain =
    segments.length > 0 &&
    segments.every((segment) => segment !== '' && segment !== '.' && segment !== '..' && !/[\\\0:?#%]/.test(segment))
  if (!plain) {
    throw new LoadError(String(path), 'a plain relative path inside the atlas', 'a path that was refused')
  }
  return base + segments.map(encodeURIComponent).join('/')
}

/**
 * Fetches a whole file.
 * @param {string} url
 * @param {string} expected in words, for the message
 * @param {RequestInit} [options]
 * @returns {Promise<ArrayBuffer>}
 */
export async function fetchBytes(url, expected, options = {}) {
  let response
  try {
    response = await fetch(url, { credentials: 'same-origin', ...options })
  } catch (error) {
    throw new LoadError(url, expected, `no answer (${error instanceof Error ? error.message : error})`)
  }
  if (!response.ok) throw new LoadError(url, expected, `HTTP ${response.status} ${response.statusText}`.trim())
  try {
    return await response.arrayBuffer()
  } catch (error) {
    throw new LoadError(url, expected, `an answer cut off (${error instanceof Error ? error.message : error})`)
  }
}

/**
 * Fetches and parses a JSON file.
 * @param {string} url
 * @param {string} expected
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export async function fetchJson(url, expected, options = {}) {
  const text = new TextDecoder().decode(await fetchBytes(url, expected, options))
  try {
    return JSON.parse(text)
  } catch {
    throw new LoadError(url, expected, `text that is not JSON (“${text.slice(0, 60).trim()}…”)`)
  }
}

/**
 * Decodes a whole Parquet file into columns (row objects are about five times slower).
 * @param {ArrayBuffer} buffer
 * @param {string} file name for the message
 * @returns {Promise<Table>}
 */
export async function decodeTable(buffer, file) {
  const expected = 'a Parquet table'
  const magic = String.fromCharCode(...new Uint8Array(buffer.slice(0, 4)))
  if (magic !== 'PAR1') {
    throw new LoadError(file, expected, `${buffer.byteLength} bytes that do not begin with “PAR1”`)
  }
  try {
    const metadata = parquetMetadata(buffer)
    const numRows = Number(metadata.num_rows)
    /** @type {Record<string, any[]>} */
    const columns = {}
    for (const name of topLevelColumns(metadata)) columns[name] = new Array(numRows).fill(null)
    await parquetRead({
      file: buffer,
      metadata,
      onChunk: (/** @type {{columnName: string, columnData: ArrayLike<any>, rowStart: number}} */ chunk) => {
        const { columnName, columnData, rowStart } = chunk
        const column = columns[columnName]
        for (let i = 0; i < columnData.length; i++) {
          const value = columnData[i]
          column[rowStart + i] = typeof value === 'bigint' ? Number(value) : (value ?? null)
        }
      },
    })
    return { numRows, columns }
  } catch (error) {
    throw new LoadError(file, expected, `a damaged file (${error instanceof Error ? error.message : error})`)
  }
}

/**
 * @param {any} metadata
 * @returns {string[]}
 */
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

/** One atlas: its manifest and, on demand, its tables (each fetched once). */
export class Atlas {
  /**
   * @param {SiteEntry} site
   * @param {string} base URL of the atlas folder, ending in "/"
   * @param {any} manifest atlas.json
   * @param {Table} index
   */
  constructor(site, base, manifest, index) {
    this.slug = site.slug
    this.base = base
    this.manifest = manifest
    this.index = index
    /** @type {LayerInfo[]} */
    this.layers = manifest.layers
    /** @type {string} */
    this.title = manifest.title || manifest.name || site.slug
    /** @type {string} */
    this.modelName = manifest.model?.name ?? ''
    /** @type {string[]} */
    this.methods = manifest.methods ?? []
    /** @type {Map<string, Promise<Table>>} */
    this.tables = new Map()
    /** @type {Map<string, number>} */
    this.expectedBytes = new Map((manifest.files ?? []).map((/** @type {any} */ file) => [file.path, file.bytes]))
  }

  /** @param {string} path @returns {string} */
  url(path) {
    return resolvePath(this.base, path)
  }

  /** @param {string} name @returns {LayerInfo | undefined} */
  layer(name) {
    return this.layers.find((layer) => layer.name === name)
  }

  /**
   * The full table of a layer. A failed fetch is forgotten, so that trying again is possible.
   * @param {LayerInfo} layer
   * @returns {Promise<Table>}
   */
  layerTable(layer) {
    let table = this.tables.get(layer.name)
    if (!table) {
      table = fetchTable(this.base, layer.file, this.expectedBytes)
      table.catch(() => this.tables.delete(layer.name))
      this.tables.set(layer.name, table)
    }
    return table
  }

  /**
   * Index rows for another method than the primary one, read from the layers' full tables (first seed of each neuron).
   * @param {string} method
   * @param {LayerInfo[]} layers
   * @returns {Promise<Table>}
   */
  async indexOfMethod(method, layers) {
    const tables = await Promise.all(layers.map((layer) => this.layerTable(layer)))
    /** @type {Table} */
    const result = { numRows: 0, columns: {} }
    const names = Object.keys(this.index.columns).filter((name) => name !== 'sheet_path' && name !== 'tile')
    for (const name of names) result.columns[name] = []
    for (const table of tables) {
      const { unit, method: methods, reference_labels: labels } = table.columns
      let previousUnit = -1
      for (let row = 0; row < table.numRows; row++) {
        if (methods[row] !== method || unit[row] === previousUnit) continue
        previousUnit = unit[row]
        for (const name of names) {
          const value = name === 'top_labels' ? joinLabels(labels?.[row]) : table.columns[name]?.[row]
          result.columns[name].push(value ?? null)
        }
        result.numRows++
      }
    }
    return result
  }
}

/** @param {ArrayLike<string> | null | undefined} labels @returns {string} */
function joinLabels(labels) {
  return [...new Set(Array.from(labels ?? []).filter(Boolean))].join('; ')
}

/**
 * @param {string} base
 * @param {string} path
 * @param {Map<string, number>} expectedBytes
 * @returns {Promise<Table>}
 */
async function fetchTable(base, path, expectedBytes) {
  const url = resolvePath(base, path)
  const buffer = await fetchBytes(url, 'a Parquet table')
  const bytes = expectedBytes.get(path)
  if (bytes !== undefined && bytes !== buffer.byteLength) {
    // A cache that kept the file of an earlier build shows up here and not as a wrong picture.
    throw new LoadError(
      url,
      `${bytes} bytes, as atlas.json says`,
      `${buffer.byteLength} bytes (an older or cut-off copy)`,
    )
  }
  return decodeTable(buffer, url)
}

/**
 * The list of atlases of this site, always revalidated so that a republished site is noticed.
 * @returns {Promise<SiteEntry[]>}
 */
export async function openSite() {
  const expected = 'the list of atlases of this site'
  const url = new URL('sites.json', document.baseURI).href
  const site = await fetchJson(url, expected, { cache: 'no-cache' })
  if (!Array.isArray(site?.atlases)) throw new LoadError(url, 'JSON with a list “atlases”', 'JSON without it')
  return site.atlases
}

/**
 * The manifest of an atlas, without its tables.
 * @param {SiteEntry} entry
 * @returns {Promise<{base: string, manifest: any}>}
 */
export async function openManifest(entry) {
  const root = new URL('.', document.baseURI).href
  const path = entry.path === '' || entry.path === '.' ? '' : `${entry.path.replace(/\/$/, '')}/`
  const base = path ? `${resolvePath(root, path.slice(0, -1))}/` : root
  const url = `${base}atlas.json`
  const manifest = await fetchJson(url, 'the manifest of an atlas')
  if (manifest?.schema !== ATLAS_SCHEMA) {
    throw new LoadError(url, `schema “${ATLAS_SCHEMA}”`, `schema “${manifest?.schema}” (this viewer is older or newer)`)
  }
  return { base, manifest }
}

/**
 * Opens an atlas: manifest and slim index.
 * @param {SiteEntry} entry
 * @returns {Promise<Atlas>}
 */
export async function openAtlas(entry) {
  const { base, manifest } = await openManifest(entry)
  const atlas = new Atlas(entry, base, manifest, { numRows: 0, columns: {} })
  atlas.index = await fetchTable(base, 'index.parquet', atlas.expectedBytes)
  const counted = manifest.counts?.neurons
  if (counted !== undefined && counted !== atlas.index.numRows) {
    throw new LoadError(`${base}index.parquet`, `${counted} neurons, as atlas.json says`, `${atlas.index.numRows} rows`)
  }
  return atlas
}
