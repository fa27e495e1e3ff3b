/** Images of an atlas. For one that is missing, broken or refused, a message stands in its place. */

import { fill, h, whenNear } from '../base/dom.js'
import { fetchBytes, LoadError, reasonOf } from '../base/files.js'
import { FILES } from '../base/glossary/files.js'
import { SITE } from '../base/glossary/site.js'
import { Packs } from '../data/packs.js'

/**
 * What turns a path of a table into an address; an atlas does.
 * @typedef {object} Resolver
 * @property {(path: string) => string} url throws for a path that is not plain
 * @property {string} [base] URL of the folder that paths are relative to, if it is packed
 * @property {boolean} [packed] whether images lie in archives
 */

/** @type {WeakMap<Resolver, Packs>} */
const packsOfAtlas = new WeakMap()

/**
 * The archives of an atlas, if this image lies in one.
 * @param {Resolver} atlas
 * @param {string} path
 * @returns {Packs | null}
 */
function packsFor(atlas, path) {
  if (!atlas.packed) return null
  let packs = packsOfAtlas.get(atlas)
  if (!packs) {
    packs = new Packs(atlas.base ?? '')
    packsOfAtlas.set(atlas, packs)
  }
  return packs.holds(path) ? packs : null
}

/**
 * An address for an <img> or a mask: of the file, or of an image in memory if it lies in an archive.
 * @param {Resolver} atlas
 * @param {string} path
 * @returns {Promise<string>} rejected for a path that is not plain, or with what came instead of the image
 */
export async function imageAddress(atlas, path) {
  const plain = atlas.url(path)
  return packsFor(atlas, path)?.address(path) ?? plain
}

/** The bytes of an image. @param {Resolver} atlas @param {string} path @returns {Promise<ArrayBuffer>} */
export async function imageBytes(atlas, path) {
  const plain = atlas.url(path)
  return packsFor(atlas, path)?.read(path) ?? fetchBytes(plain, FILES.image)
}

/**
 * Loads an image that will be needed soon. A failure shows where the image would stand.
 * @param {Resolver} atlas
 * @param {string} path
 * @returns {Promise<void>} once it is there, or cannot be had
 */
export async function prefetchImage(atlas, path) {
  try {
    const image = new Image()
    image.src = await imageAddress(atlas, path)
    await image.decode()
  } catch {
    // The failure shows where the image would stand.
  }
}

/**
 * An image, or words in its place.
 * @param {Resolver} atlas
 * @param {string} path as the table names it
 * @param {object} options
 * @param {string} options.alternative text alternative
 * @param {import('../base/dom.js').Attributes} [options.attributes] further attributes of the image
 * @param {boolean} [options.lazy] load when it comes near the window
 * @returns {HTMLElement} a frame around the image
 */
export function imageFrame(atlas, path, { alternative, attributes = {}, lazy = true }) {
  const image = h('img', { alt: alternative, decoding: 'async', loading: lazy ? 'lazy' : 'eager', ...attributes })
  const frame = h('span', { class: 'image-frame' }, image)
  const packs = packsFor(atlas, path)
  image.addEventListener('error', () => {
    showMissing(frame, SITE.missingImage, path)
    frame.title = SITE.missingImageNote(path, location.host)
  })
  try {
    const address = atlas.url(path)
    if (!packs) image.src = address
    else if (lazy) whenNear(frame, () => showPacked(packs, path, frame, image))
    else showPacked(packs, path, frame, image)
  } catch {
    showMissing(frame, SITE.refusedImage, path)
  }
  return frame
}

/** @param {Packs} packs @param {string} path @param {HTMLElement} frame @param {HTMLImageElement} image */
async function showPacked(packs, path, frame, image) {
  try {
    image.src = await packs.address(path)
  } catch (error) {
    showMissing(frame, SITE.missingImage, error instanceof LoadError ? error.message : path)
    frame.title = reasonOf(error)
  }
}

/** @param {HTMLElement} frame @param {string} problem @param {string} path */
function showMissing(frame, problem, path) {
  frame.classList.add('image-missing')
  fill(frame, h('span', { class: 'image-message' }, h('b', {}, problem), ' ', h('span', {}, path)))
}

/**
 * One tile cut out of an image that holds a grid of equal tiles. An element around an <img>, not a CSS background, so
 * that a missing file is noticed and a text alternative exists.
 * @param {Resolver} atlas
 * @param {string} path
 * @param {object} options
 * @param {string} options.alternative
 * @param {number} options.column
 * @param {number} options.row
 * @param {number} options.columns
 * @param {number} options.rows
 * @param {boolean} [options.lazy] load when it comes near the window
 * @returns {HTMLElement}
 */
export function croppedImage(atlas, path, { alternative, column, row, columns, rows, lazy = true }) {
  const style = {
    width: `${columns * 100}%`,
    height: `${rows * 100}%`,
    left: `${-column * 100}%`,
    top: `${-row * 100}%`,
  }
  const frame = imageFrame(atlas, path, { alternative, attributes: { style }, lazy })
  frame.classList.add('image-cropped')
  return frame
}
