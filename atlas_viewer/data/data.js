/** Reading an atlas: its manifest first, its tables when they are needed. */

import { fetchJson, LoadError, resolvePath } from '../base/files.js'
import { FILES } from '../base/glossary/files.js'
import { layerFileName } from '../base/layername.js'
import { prepareTexts } from './search.js'
import { fetchTable, joinTables, packLabels } from './tables.js'

export const ATLAS_SCHEMA = 'atlas/2'

/** How many captions of a row are searched; as in labels.parquet. */
const TOP_CAPTIONS = 4

/**
 * @typedef {import('./tables.js').Table} Table
 * @typedef {import('./tables.js').Labels} Labels
 *
 * @typedef {object} LayerInfo
 * @property {string} name
 * @property {number} num_units units in the model
 * @property {number} num_neurons neurons in this atlas
 * @property {boolean} is_classes
 * @property {string} file path of the layer's table
 * @property {number} [num_parts] in how many parts it lies there too, of `part_neurons` neurons each; 0 for none
 *
 * @typedef {object} MapNote
 * @property {string} file
 * @property {string} layout what made it
 * @property {number} num_neurons
 * @property {number} side places go from 0 to side − 1
 * @property {number} tile_size_px of a thumbnail
 * @property {number} sheet_columns thumbnails across a sheet, and down
 *
 * @typedef {object} SiteEntry
 * @property {string} slug
 * @property {string} title
 * @property {string} path folder of the atlas, relative to this page
 * @property {Record<string, number>} [counts]
 * @property {string | {name: string}} [model]
 * @property {boolean} [packed] whether its visualizations lie in archives
 */

/** One atlas: its manifest and, on demand, its tables (each fetched once). */
export class Atlas {
  /**
   * @param {SiteEntry} site
   * @param {string} base URL of the atlas folder, ending in "/"
   * @param {any} manifest head.json
   */
  constructor(site, base, manifest) {
    this.slug = site.slug
    this.base = base
    /** Whether its visualizations lie in archives; `visualizations.js` fetches them. */
    this.packed = site.packed === true
    this.manifest = manifest
    /** @type {Table} empty until `loadIndex` */
    this.index = { numRows: 0, columns: {} }
    /** @type {LayerInfo[]} */
    this.layers = manifest.layers
    /** @type {string} */
    this.title = manifest.title || manifest.name || site.slug
    /** @type {string} */
    this.modelName = manifest.model?.name ?? ''
    /** @type {string[]} */
    this.methods = manifest.methods ?? []
    /** @type {Map<string, Promise<any>>} */
    this.tables = new Map()
    /** @type {Set<string>} what of it is on its way */
    this.pending = new Set()
    /** @type {Map<string, number>} */
    this.expectedBytes = new Map(Object.entries(manifest.sizes))
    /** @type {number} */
    this.numNeurons = manifest.counts.neurons
    /** @type {MapNote | null} of an atlas with a map */
    this.mapNote = manifest.neighbors?.map ?? null
    /** Whether dataset images have captions. */
    this.hasCaptions = manifest.has_captions === true
    this.indexLoaded = false
  }

  /** The slim index. Its columns are in `index` from then on. @returns {Promise<Table>} */
  loadIndex() {
    return this.once('index.parquet', async () => {
      const index = await fetchTable(this.base, 'index.parquet', this.expectedBytes, { typed: true })
      if (index.numRows !== this.numNeurons) {
        const url = `${this.base}index.parquet`
        throw new LoadError(url, FILES.neurons(this.numNeurons), FILES.rows(index.numRows))
      }
      this.index = index
      this.indexLoaded = true
      return index
    })
  }

  /**
   * The rows of the index of one layer, from the smaller of its files where the whole one is not there yet.
   * @param {LayerInfo} layer
   * @returns {Promise<Table>}
   */
  async layerIndex(layer) {
    const path = `index/${layerFileName(layer.name)}.parquet`
    if (!this.indexLoaded) {
      return this.once(path, () => fetchTable(this.base, path, this.expectedBytes, { typed: true }))
    }
    const { columns } = await this.loadIndex()
    const first = columns.layer.indexOf(layer.name)
    const last = columns.layer.lastIndexOf(layer.name) + 1
    const rows = Object.entries(columns).map(([name, values]) => [name, values.slice(Math.max(0, first), last)])
    return { numRows: first < 0 ? 0 : last - first, columns: Object.fromEntries(rows) }
  }

  /**
   * The first rows of the index, whole layers, without the rest.
   * @param {number} count at least so many, if there are
   * @returns {Promise<Table>}
   */
  async beginning(count) {
    /** @type {LayerInfo[]} */
    const layers = []
    let neurons = 0
    for (const layer of this.layers) {
      if (neurons >= count) break
      layers.push(layer)
      neurons += layer.num_neurons
    }
    return joinTables(await Promise.all(layers.map((layer) => this.layerIndex(layer))))
  }

  /** How many neurons come before a layer's first in the order of the atlas. @param {string} name @returns {number} */
  offsetOf(name) {
    let offset = 0
    for (const layer of this.layers) {
      if (layer.name === name) break
      offset += layer.num_neurons
    }
    return offset
  }

  /**
   * The labels and captions of the top-activating images of all neurons, in the order of the index.
   * @returns {Promise<Labels>}
   */
  loadLabels() {
    return this.once('labels.parquet', async () => {
      const { columns } = await fetchTable(this.base, 'labels.parquet', this.expectedBytes)
      const labels = packLabels(columns.top_labels, columns.top_captions)
      prepareTexts(labels)
      return labels
    })
  }

  /**
   * What is fetched once; a failure is forgotten, so that trying again is possible.
   * @template T
   * @param {string} key
   * @param {() => Promise<T>} make
   * @returns {Promise<T>}
   */
  once(key, make) {
    let promise = /** @type {Promise<any> | undefined} */ (this.tables.get(key))
    if (!promise) {
      promise = make()
      this.pending.add(key)
      promise.catch(() => this.tables.delete(key)).finally(() => this.pending.delete(key))
      this.tables.set(key, promise)
    }
    return promise
  }

  /** Bytes of the tables that are on their way. */
  get pendingBytes() {
    let bytes = 0
    for (const path of this.pending) bytes += this.expectedBytes.get(path) ?? 0
    return bytes
  }

  /** Sets off what a search looks through. A failure shows when it is used. */
  prepareSearch() {
    this.loadIndex().catch(() => {})
    this.loadLabels().catch(() => {})
  }

  /** @param {string} path @returns {string} */
  url(path) {
    return resolvePath(this.base, path)
  }

  /** @param {string} name @returns {LayerInfo | undefined} */
  layer(name) {
    return this.layers.find((layer) => layer.name === name)
  }

  /** The full table of a layer. @param {LayerInfo} layer @returns {Promise<Table>} */
  layerTable(layer) {
    return this.once(layer.file, () => fetchTable(this.base, layer.file, this.expectedBytes))
  }

  /**
   * A table with the full rows of a neuron, the smallest there is.
   * @param {LayerInfo} layer
   * @param {number} unit
   * @returns {Promise<Table>}
   */
  async neuronTable(layer, unit) {
    if (!layer.num_parts || this.tables.has(layer.file)) return this.layerTable(layer)
    // Rows go by unit: where all units have one, the place of a neuron is known without the index.
    const whole = layer.num_units === layer.num_neurons && unit < layer.num_units
    const row = whole ? unit : (await this.layerIndex(layer)).columns.unit.indexOf(unit)
    if (row < 0) return { numRows: 0, columns: { unit: [] } }
    const number = Math.floor(row / this.manifest.part_neurons)
    const path = `parts/${layerFileName(layer.name)}/${String(number).padStart(4, '0')}.parquet`
    return this.once(path, () => fetchTable(this.base, path, this.expectedBytes))
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
    const columns = this.indexLoaded ? this.index.columns : (await this.layerIndex(layers[0])).columns
    const names = Object.keys(columns).filter((name) => name !== 'sheet_path' && name !== 'tile')
    names.push('top_labels')
    if (this.hasCaptions) names.push('top_captions')
    for (const name of names) result.columns[name] = []
    for (const table of tables) {
      const { unit, method: methods, reference_labels: labels, reference_captions: captions } = table.columns
      let previousUnit = -1
      for (let row = 0; row < table.numRows; row++) {
        if (methods[row] !== method || unit[row] === previousUnit) continue
        previousUnit = unit[row]
        for (const name of names) {
          let value = table.columns[name]?.[row]
          if (name === 'top_labels') value = joinLabels(labels?.[row])
          if (name === 'top_captions') value = joinLabels(captions?.[row]?.slice(0, TOP_CAPTIONS))
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
 * The list of atlases of this site, always revalidated so that a republished site is noticed.
 * @returns {Promise<SiteEntry[]>}
 */
export async function openSite() {
  const url = new URL('sites.json', document.baseURI).href
  const site = await fetchJson(url, FILES.siteList, { cache: 'no-cache' })
  if (!Array.isArray(site?.atlases)) throw new LoadError(url, FILES.atlasList, FILES.withoutList)
  return site.atlases
}

/**
 * The manifest of an atlas: head.json, which does not grow with the number of visualizations.
 * @param {SiteEntry} entry
 * @returns {Promise<{base: string, manifest: any}>}
 */
export async function openManifest(entry) {
  const root = new URL('.', document.baseURI).href
  const path = entry.path === '' || entry.path === '.' ? '' : `${entry.path.replace(/\/$/, '')}/`
  const base = path ? `${resolvePath(root, path.slice(0, -1))}/` : root
  const url = `${base}head.json`
  const manifest = await fetchJson(url, FILES.manifest)
  if (manifest?.schema !== ATLAS_SCHEMA) {
    throw new LoadError(url, FILES.schema(ATLAS_SCHEMA), FILES.otherSchema(manifest?.schema))
  }
  return { base, manifest }
}

/** Opens an atlas; its tables are read when they are needed. @param {SiteEntry} entry @returns {Promise<Atlas>} */
export async function openAtlas(entry) {
  const { base, manifest } = await openManifest(entry)
  return new Atlas(entry, base, manifest)
}
