/** What the codes of an atlas mean in words. An unknown code is shown as it stands. */

/**
 * @typedef {object} StatusWords
 * @property {string} mark a shape, so that a status is never told by color alone
 * @property {string} meaning
 */

/** @type {Record<string, StatusWords>} */
export const STATUS_WORDS = {
  ok: { mark: '●', meaning: 'The picture excites the neuron more than nearly all photographs do.' },
  weak: { mark: '◐', meaning: 'The picture excites the neuron less than it should: read it with doubt.' },
  dead: { mark: '○', meaning: 'No photograph excites the neuron, so there is nothing to show.' },
  failed: { mark: '✕', meaning: 'Making the picture failed; the reason is given.' },
  skipped: { mark: '–', meaning: 'No picture was made; the reason is given.' },
}

export const STATUSES = Object.keys(STATUS_WORDS)

/** @param {string} status @returns {StatusWords} */
export function statusWords(status) {
  return STATUS_WORDS[status] ?? { mark: '?', meaning: '' }
}

/** @type {Record<string, {title: string, meaning: string}>} */
const METHOD_WORDS = {
  vital: {
    title: 'VITAL',
    meaning: 'the picture’s features are aligned with those of real photographs, layer by layer',
  },
  maco: { title: 'MACO', meaning: 'only the phase is optimized, under the mean frequency spectrum of the photographs' },
  fourier: { title: 'Fourier', meaning: 'the activation is maximized in frequency space' },
  deepinversion: { title: 'DeepInversion', meaning: 'the batch statistics stored in the model are matched' },
  pixel: { title: 'Pixel', meaning: 'the activation is maximized pixel by pixel' },
}

/** @param {string} method @returns {string} */
export function methodTitle(method) {
  return METHOD_WORDS[method]?.title ?? method
}

/** @param {string} method @returns {string} */
export function methodWords(method) {
  const words = METHOD_WORDS[method]
  return words ? `${words.title}: ${words.meaning}` : method
}

/** @type {Record<string, string>} */
const SOURCE_WORDS = {
  label: 'photographs labeled with this class',
  'label+top_logit': 'photographs labeled with this class, and those with the highest score for it',
  top_logit: 'the photographs with the highest score for this class',
  top_activation: 'the photographs that excite the neuron most',
}

/** @param {string} source @returns {string} */
export function sourceWords(source) {
  return SOURCE_WORDS[source] ?? source
}
