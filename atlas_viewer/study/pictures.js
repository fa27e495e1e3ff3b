/**
 * The pictures of one question, blind. Their addresses name the method (`00054-maco-s0.webp`), so they are fetched here
 * and shown from memory: nothing in the page, nor what “copy image address” or “save image” gives, tells the method.
 * The browser's developer tools still list the requests.
 */

import { croppedPicture, picture, pictureBytes } from '../ui/images.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./plan.js').Question} Question
 *
 * @typedef {object} Shown
 * @property {HTMLElement[]} pictures
 * @property {HTMLElement[]} photographs
 * @property {() => void} release gives the memory back
 */

/**
 * Fetches and decodes what a question shows.
 * @param {Atlas} atlas
 * @param {Question} question
 * @returns {Promise<Shown>} rejected when any of it is missing or no image
 */
export async function loadPictures(atlas, question) {
  const paths = [...new Set([...question.pictures, ...question.photographs].map(({ path }) => path))]
  /** @type {Map<string, string>} */
  const addresses = new Map()
  const release = () => addresses.forEach((address) => URL.revokeObjectURL(address))
  try {
    await Promise.all(
      paths.map(async (path) => {
        const bytes = await pictureBytes(atlas, path)
        addresses.set(path, URL.createObjectURL(new Blob([bytes], { type: 'image/webp' })))
      }),
    )
    const blind = (/** @type {string} */ path) => ({ url: () => addresses.get(path) ?? '' })
    const several = question.pictures.length > 1
    const shown = {
      pictures: question.pictures.map(({ path }, number) =>
        picture(blind(path), 'the picture', {
          alternative: several ? `Synthesized picture ${number + 1}` : 'Synthesized picture',
          lazy: false,
        }),
      ),
      photographs: question.photographs.map(({ path, rank, count }, number) =>
        croppedPicture(blind(path), 'the photograph', {
          alternative: `Photograph ${number + 1}`,
          column: rank,
          row: 0,
          columns: count,
          rows: 1,
          lazy: false,
        }),
      ),
      release,
    }
    const images = [...shown.pictures, ...shown.photographs].map((frame) => frame.querySelector('img'))
    await Promise.all(images.map((image) => image?.decode()))
    return shown
  } catch (error) {
    release()
    throw error
  }
}
