/**
 * The images of one question, blind. Their addresses name the method (`00054-maco-s0.webp`), so they are fetched here
 * and shown from memory: nothing in the page, nor what “copy image address” or “save image” gives, tells the method.
 * The browser's developer tools still list the requests.
 */

import { STUDY } from '../base/glossary/study.js'
import { croppedImage, imageBytes, imageFrame } from '../ui/images.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./plan.js').Question} Question
 *
 * @typedef {object} Shown
 * @property {HTMLElement[]} visualizations
 * @property {HTMLElement[]} datasetImages
 * @property {() => void} release gives the memory back
 */

/**
 * Fetches and decodes what a question shows.
 * @param {Atlas} atlas
 * @param {Question} question
 * @returns {Promise<Shown>} rejected when any of it is missing or no image
 */
export async function loadImages(atlas, question) {
  const paths = [...new Set([...question.visualizations, ...question.datasetImages].map(({ path }) => path))]
  /** @type {Map<string, string>} */
  const addresses = new Map()
  const release = () => addresses.forEach((address) => URL.revokeObjectURL(address))
  try {
    await Promise.all(
      paths.map(async (path) => {
        const bytes = await imageBytes(atlas, path)
        addresses.set(path, URL.createObjectURL(new Blob([bytes], { type: 'image/webp' })))
      }),
    )
    const blind = (/** @type {string} */ path) => ({ url: () => addresses.get(path) ?? '' })
    const several = question.visualizations.length > 1
    const shown = {
      visualizations: question.visualizations.map(({ path }, number) =>
        imageFrame(blind(path), STUDY.frames.visualization, {
          alternative: STUDY.visualization(several ? number + 1 : 0),
          lazy: false,
        }),
      ),
      datasetImages: question.datasetImages.map(({ path, rank, count }, number) =>
        croppedImage(blind(path), STUDY.frames.datasetImage, {
          alternative: STUDY.datasetImage(number + 1),
          column: rank,
          row: 0,
          columns: count,
          rows: 1,
          lazy: false,
        }),
      ),
      release,
    }
    const images = [...shown.visualizations, ...shown.datasetImages].map((frame) => frame.querySelector('img'))
    await Promise.all(images.map((image) => image?.decode()))
    return shown
  } catch (error) {
    release()
    throw error
  }
}
