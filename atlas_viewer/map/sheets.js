/** The thumbnails of the map: sheets are loaded when a window first shows a neuron that stands on one. */

import { reasonOf } from '../base/files.js'
import { imageBytes } from '../ui/images.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').MapNote} MapNote
 *
 * @typedef {object} Sheet
 * @property {ImageBitmap | null} image null while it is on its way
 * @property {string} failure why it cannot be had, '' if it can
 * @property {number} used when it was last needed
 */

/** Decoded sheets of 1024 × 1024 px have 4 MB each. */
const MAXIMUM_SHEETS = 24

/** The sheets of one map. */
export class MapSheets {
  /**
   * @param {Atlas} atlas
   * @param {MapNote} note
   * @param {(sheet: number) => void} onChange a sheet has come, or failed
   */
  constructor(atlas, note, onChange) {
    this.atlas = atlas
    this.note = note
    this.onChange = onChange
    this.perSheet = note.sheet_columns ** 2
    /** @type {Map<number, Sheet>} */
    this.sheets = new Map()
    this.clock = 0
    this.closed = false
  }

  /** @param {number} point @returns {number} */
  sheetOf(point) {
    return Math.floor(point / this.perSheet)
  }

  /**
   * Where the thumbnail of a point is, loading its sheet if need be.
   * @param {number} point
   * @returns {{image: ImageBitmap, left: number, top: number, size: number} | null} null as long as there is none
   */
  thumbnail(point) {
    const number = this.sheetOf(point)
    const sheet = this.sheets.get(number) ?? this.load(number)
    sheet.used = ++this.clock
    if (!sheet.image) return null
    const { sheet_columns: columns, tile_size_px: size } = this.note
    const tile = point % this.perSheet
    return { image: sheet.image, left: (tile % columns) * size, top: Math.floor(tile / columns) * size, size }
  }

  /** @returns {string} why thumbnails are missing, '' if none are */
  get failure() {
    for (const sheet of this.sheets.values()) if (sheet.failure) return sheet.failure
    return ''
  }

  /** Lets all images go. */
  close() {
    this.closed = true
    for (const sheet of this.sheets.values()) sheet.image?.close()
    this.sheets.clear()
  }

  /** @param {number} number @returns {Sheet} */
  load(number) {
    /** @type {Sheet} */
    const sheet = { image: null, failure: '', used: this.clock }
    this.sheets.set(number, sheet)
    const path = `map/${String(number).padStart(4, '0')}.webp`
    imageBytes(this.atlas, path)
      .then((bytes) => createImageBitmap(new Blob([bytes], { type: 'image/webp' })))
      .then((image) => {
        if (this.closed) image.close()
        else sheet.image = image
      })
      .catch((error) => {
        sheet.failure = `${path}: ${reasonOf(error)}`
      })
      .finally(() => {
        if (this.closed) return
        this.forget()
        this.onChange(number)
      })
    return sheet
  }

  /** Lets the images go that were not needed for longest. */
  forget() {
    const loaded = [...this.sheets].filter(([, sheet]) => sheet.image).sort(([, a], [, b]) => a.used - b.used)
    for (const [number, sheet] of loaded.slice(0, Math.max(0, loaded.length - MAXIMUM_SHEETS))) {
      sheet.image?.close()
      this.sheets.delete(number)
    }
  }
}
