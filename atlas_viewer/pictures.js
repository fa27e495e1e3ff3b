/** Pictures of an atlas. One that is missing, broken or refused says so in words, in its own place. */

import { fill, h } from './dom.js'

/**
 * What turns a path of a table into an address; an atlas does.
 * @typedef {object} Resolver
 * @property {(path: string) => string} url throws for a path that is not plain
 */

/**
 * A picture, or words in its place.
 * @param {Resolver} atlas
 * @param {string} path as the table names it
 * @param {object} options
 * @param {string} options.alternative text alternative
 * @param {import('./dom.js').Attributes} [options.attributes] further attributes of the image
 * @param {boolean} [options.lazy] load when it comes near the window
 * @returns {HTMLElement} a frame around the image
 */
export function picture(atlas, path, { alternative, attributes = {}, lazy = true }) {
  const image = h('img', { alt: alternative, decoding: 'async', loading: lazy ? 'lazy' : 'eager', ...attributes })
  const frame = h('span', { class: 'picture' }, image)
  image.addEventListener('error', () => {
    showMissing(frame, 'Picture missing', path)
    frame.title = `Expected an image at ${path} on ${location.host}, but it could not be loaded.`
  })
  try {
    image.src = atlas.url(path)
  } catch {
    showMissing(frame, 'Picture refused, its path is not plain', path)
  }
  return frame
}

/**
 * @param {HTMLElement} frame
 * @param {string} problem
 * @param {string} path
 */
function showMissing(frame, problem, path) {
  frame.classList.add('picture-missing')
  fill(frame, h('span', { class: 'picture-message' }, h('b', {}, problem), ' ', h('span', {}, path)))
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
export function croppedPicture(atlas, path, { alternative, column, row, columns, rows, lazy = true }) {
  const style = {
    width: `${columns * 100}%`,
    height: `${rows * 100}%`,
    left: `${-column * 100}%`,
    top: `${-row * 100}%`,
  }
  const frame = picture(atlas, path, { alternative, attributes: { style }, lazy })
  frame.classList.add('picture-cropped')
  return frame
}
