/** The attribution mask of a visualization (MACO calls it transparency): parts that never mattered to the optimization fade away. */

import { SITE } from '../base/glossary/site.js'
import { imageAddress } from './images.js'

/**
 * Shows a visualization through its mask. The mask is loaded before it is applied, because a missing mask image would hide
 * the whole visualization without a word.
 * @param {import('./images.js').Resolver} atlas
 * @param {string} path of the mask
 * @param {HTMLElement} frame of the visualization, from `imageFrame`
 * @param {(message: string) => void} failed told why the whole visualization is shown
 */
export function showMask(atlas, path, frame, failed) {
  const fail = () => failed(SITE.missingMask(path))
  const mask = new Image()
  mask.addEventListener('error', fail)
  mask.addEventListener('load', () => {
    frame.querySelector('img')?.style.setProperty('mask-image', `url("${mask.src}")`)
    frame.classList.add('image-masked')
  })
  imageAddress(atlas, path).then((address) => {
    mask.src = address
  }, fail)
}
