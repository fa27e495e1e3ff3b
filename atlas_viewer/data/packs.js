/**
 * Images out of archives, for sites that `neuron-atlas site --pack` wrote. An index says where in which archive a
 * image lies, and that part alone is fetched by HTTP Range. The answer is checked: status 206, the range asked for,
 * its length, and that it is one WebP file. A host that does not serve parts of files is asked for whole archives as
 * long as they are small; otherwise the failure says so.
 */

import { fetchBytes, LoadError, reasonOf, resolvePath } from '../base/files.js'
import { FILES } from '../base/glossary/files.js'
import { decodeTable } from './tables.js'

/** Larger archives are not fetched whole for one image. */
export const SMALL_ARCHIVE_BYTES = 4_000_000
const KEPT_ARCHIVES = 8
/** Addresses of images in memory; above the number of tiles that are in the page at once. */
const KEPT_ADDRESSES = 600
const PACKED_FOLDERS = ['images', 'examples']

/**
 * @typedef {object} Place
 * @property {string} archive path in the atlas
 * @property {number} offset of the image's first byte
 * @property {number} length of the image in bytes
 * @property {number} archiveBytes
 */

/** The packed images of one atlas. */
export class Packs {
  /** @param {string} base URL of the atlas folder, ending in "/" */
  constructor(base) {
    this.base = base
    /** @type {Map<string, Promise<Map<string, Place>>>} by path of the index */
    this.indexes = new Map()
    /** @type {Map<string, Promise<ArrayBuffer>>} whole archives, the latest last */
    this.archives = new Map()
    /** @type {Map<string, Promise<string>>} object URLs, the latest last */
    this.addresses = new Map()
    /** @type {Promise<boolean> | null} */
    this.parts = null
  }

  /**
   * Whether a file of the atlas lies in an archive; contact sheets and tables do not.
   * @param {string} path
   * @returns {boolean}
   */
  holds(path) {
    return PACKED_FOLDERS.includes(String(path).split('/')[0])
  }

  /** An address for an <img>, of an image in memory. @param {string} path @returns {Promise<string>} */
  address(path) {
    return keep(
      this.addresses,
      path,
      KEPT_ADDRESSES,
      async () => {
        const bytes = await this.read(path)
        return URL.createObjectURL(new Blob([bytes], { type: 'image/webp' }))
      },
      (address) => URL.revokeObjectURL(address),
    )
  }

  /**
   * The bytes of an image.
   * @param {string} path
   * @returns {Promise<ArrayBuffer>} rejected with a LoadError that says what came instead
   */
  async read(path) {
    const place = await this.place(path)
    const bytes = (await this.servesParts(place)) ? await this.readPart(place) : await this.readFromWhole(place)
    if (!isWebp(bytes)) {
      const file = FILES.member(path, `${this.base}${place.archive}`)
      throw new LoadError(file, FILES.webp(place.length, place.offset), FILES.otherBytes)
    }
    return bytes
  }

  /** @param {string} path @returns {Promise<Place>} */
  async place(path) {
    const [folder, layer] = path.split('/')
    const indexPath = `packs/${folder}/${layer}.parquet`
    let index = this.indexes.get(indexPath)
    if (!index) {
      index = readIndex(resolvePath(this.base, indexPath))
      index.catch(() => this.indexes.delete(indexPath)) // so that trying again is possible
      this.indexes.set(indexPath, index)
    }
    const place = (await index).get(path)
    if (!place) throw new LoadError(path, FILES.packRow(indexPath), FILES.noRow)
    return place
  }

  /**
   * Whether this host answers a request for a part of a file with that part; asked once.
   * @param {Place} place
   * @returns {Promise<boolean>}
   */
  servesParts({ archive }) {
    if (!this.parts) {
      this.parts = this.request(archive, 0, 4).then(async (response) => {
        if (response.status === 206) return true
        await response.body?.cancel()
        return false
      })
      this.parts.catch(() => {
        this.parts = null
      })
    }
    return this.parts
  }

  /** @param {Place} place @returns {Promise<ArrayBuffer>} */
  async readPart({ archive, offset, length, archiveBytes }) {
    const expected = FILES.rangeOf(offset, offset + length - 1, archiveBytes)
    const url = resolvePath(this.base, archive)
    const response = await this.request(archive, offset, length)
    const range = response.headers.get('Content-Range') ?? ''
    if (response.status !== 206) {
      await response.body?.cancel()
      throw new LoadError(url, expected, FILES.wholeFile(response.status))
    }
    // A host may leave the header out for other origins only; this is its own, so a wrong one is a wrong part.
    const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(range) ?? []
    const right = Number(first) === offset && Number(last) === offset + length - 1
    if (!right || (total !== '*' && Number(total) !== archiveBytes)) {
      await response.body?.cancel()
      throw new LoadError(url, expected, FILES.otherRange(range))
    }
    const bytes = await bodyOf(response, url, expected)
    if (bytes.byteLength !== length) throw new LoadError(url, expected, FILES.cutOffBytes(bytes.byteLength))
    return bytes
  }

  /** @param {Place} place @returns {Promise<ArrayBuffer>} */
  async readFromWhole({ archive, offset, length, archiveBytes }) {
    const url = resolvePath(this.base, archive)
    if (archiveBytes > SMALL_ARCHIVE_BYTES) {
      throw new LoadError(url, FILES.part(length, archiveBytes), FILES.noParts)
    }
    const whole = await keep(this.archives, archive, KEPT_ARCHIVES, async () => {
      const bytes = await fetchBytes(url, FILES.archive)
      if (bytes.byteLength !== archiveBytes) {
        throw new LoadError(url, FILES.archiveSize(archiveBytes), FILES.bytes(bytes.byteLength))
      }
      return bytes
    })
    return whole.slice(offset, offset + length)
  }

  /** @param {string} archive @param {number} offset @param {number} length @returns {Promise<Response>} */
  async request(archive, offset, length) {
    const url = resolvePath(this.base, archive)
    const expected = FILES.range(offset, offset + length - 1)
    let response
    try {
      response = await fetch(url, {
        credentials: 'same-origin',
        headers: { Range: `bytes=${offset}-${offset + length - 1}` },
      })
    } catch (error) {
      throw new LoadError(url, expected, FILES.noAnswer(reasonOf(error)))
    }
    if (!response.ok) throw new LoadError(url, expected, `HTTP ${response.status} ${response.statusText}`.trim())
    return response
  }
}

/** @param {string} url @returns {Promise<Map<string, Place>>} */
async function readIndex(url) {
  const { numRows, columns } = await decodeTable(await fetchBytes(url, FILES.packIndex), url)
  const names = ['path', 'archive', 'offset', 'bytes', 'archive_bytes']
  const missing = names.filter((name) => !columns[name])
  if (missing.length) throw new LoadError(url, FILES.packColumns(names), FILES.missingColumns(missing))
  /** @type {Map<string, Place>} */
  const places = new Map()
  for (let row = 0; row < numRows; row++) {
    places.set(columns.path[row], {
      archive: columns.archive[row],
      offset: columns.offset[row],
      length: columns.bytes[row],
      archiveBytes: columns.archive_bytes[row],
    })
  }
  return places
}

/** @param {Response} response @param {string} url @param {string} expected @returns {Promise<ArrayBuffer>} */
async function bodyOf(response, url, expected) {
  try {
    return await response.arrayBuffer()
  } catch (error) {
    throw new LoadError(url, expected, FILES.cutOff(reasonOf(error)))
  }
}

/**
 * A value by key, made if it is not there; the least recently used ones are let go. A failure is forgotten.
 * @template T
 * @param {Map<string, Promise<T>>} kept
 * @param {string} key
 * @param {number} most
 * @param {() => Promise<T>} make
 * @param {(value: T) => void} [release]
 * @returns {Promise<T>}
 */
function keep(kept, key, most, make, release = () => {}) {
  let value = kept.get(key)
  kept.delete(key)
  if (!value) {
    value = make()
    value.catch(() => kept.delete(key))
  }
  kept.set(key, value)
  for (const [oldest, old] of kept) {
    if (kept.size <= most) break
    kept.delete(oldest)
    old.then(release, () => {})
  }
  return value
}

/**
 * Whether bytes are one whole WebP file (RIFF container: its length stands behind the first four letters).
 * @param {ArrayBuffer} bytes
 * @returns {boolean}
 */
function isWebp(bytes) {
  if (bytes.byteLength < 12) return false
  const view = new DataView(bytes)
  return (
    view.getUint32(0) === 0x52494646 && // "RIFF"
    view.getUint32(8) === 0x57454250 && // "WEBP"
    Math.abs(view.getUint32(4, true) + 8 - bytes.byteLength) <= 1 // a padding byte may be left out
  )
}
