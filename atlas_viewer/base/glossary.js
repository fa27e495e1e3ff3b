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

/**
 * @typedef {object} MethodWords
 * @property {string} title
 * @property {string} meaning
 * @property {string} source
 */

/** @type {Record<string, MethodWords>} */
const METHOD_WORDS = {
  vital: {
    title: 'VITAL',
    meaning: 'the picture’s features are aligned with those of real photographs, layer by layer',
    source: 'Görgün et al., ICCV 2025',
  },
  maco: {
    title: 'MACO',
    meaning: 'the activation is maximized through the phases alone, under the photographs’ mean frequency spectrum',
    source: 'Fel et al., NeurIPS 2023',
  },
  fourier: {
    title: 'Fourier',
    meaning: 'the activation is maximized in frequency space',
    source: 'Olah et al., Distill 2017',
  },
  deepinversion: {
    title: 'DeepInversion',
    meaning: 'the activation is maximized while the statistics in the model’s BatchNorm layers are matched',
    source: 'Yin et al., CVPR 2020',
  },
  pixel: { title: 'Pixel', meaning: 'the activation is maximized pixel by pixel', source: 'Erhan et al., 2009' },
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

/** @param {string} method @returns {string} what it does, in one line; '' for an unknown one */
export function methodMeaning(method) {
  return METHOD_WORDS[method]?.meaning ?? ''
}

/** @param {string} method @returns {string} the paper it comes from, '' for an unknown one */
export function methodSource(method) {
  return METHOD_WORDS[method]?.source ?? ''
}

/**
 * What an added layer is: concepts.NAME holds directions in the features of another layer, circuits.NAME several units
 * taken together.
 * @param {string} layer
 * @returns {'concept' | 'circuit' | ''} '' for a layer of the model itself
 */
export function layerKind(layer) {
  if (layer.startsWith('concepts.')) return 'concept'
  return layer.startsWith('circuits.') ? 'circuit' : ''
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
