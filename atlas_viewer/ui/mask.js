/** The transparency of a picture: parts that never mattered to the optimization fade away. */

import { pictureAddress } from './images.js'

/**
 * Shows a picture through its mask. The mask is loaded before it is applied, because a missing mask image would hide
 * the whole picture without a word.
 * @param {import('./images.js').Resolver} atlas
 * @param {string} path of the mask
 * @param {HTMLElement} frame of the picture, from `picture`
 * @param {(message: string) => void} failed told why the whole picture is shown
 */
export function showMask(atlas, path, frame, failed) {
  const fail = () =>
    failed(`The transparency mask could not be loaded: expected an image at ${path}. The whole picture is shown.`)
  const mask = new Image()
  mask.addEventListener('error', fail)
  mask.addEventListener('load', () => {
    frame.querySelector('img')?.style.setProperty('mask-image', `url("${mask.src}")`)
    frame.classList.add('picture-masked')
  })
  pictureAddress(atlas, path).then((address) => {
    mask.src = address
  }, fail)
}
