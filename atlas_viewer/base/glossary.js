/**
 * What the codes of an atlas mean: statuses, methods, columns, kinds of layers. An unknown code is shown as it stands. All
 * other text that a reader sees stands in `glossary/`, a module per page.
 */

/** @type {Record<string, {mark: string, meaning: string}>} `mark` is a shape: a status is never told by color alone */
const STATUS_NOTES = {
  ok: { mark: '●', meaning: 'The visualization activates the unit more than nearly all dataset images do.' },
  weak: { mark: '◐', meaning: 'The visualization activates the unit less than it should: read it with doubt.' },
  dead: { mark: '○', meaning: 'No dataset image activates the unit, so there is nothing to show.' },
  failed: { mark: '✕', meaning: 'Making the visualization failed; the reason is given.' },
  skipped: { mark: '–', meaning: 'No visualization was made; the reason is given.' },
}

export const STATUSES = Object.keys(STATUS_NOTES)

/** @param {string} status @returns {{mark: string, meaning: string}} */
export function statusNote(status) {
  return STATUS_NOTES[status] ?? { mark: '?', meaning: '' }
}

/** @type {Record<string, {title: string, meaning: string, source: string}>} */
const METHOD_WORDS = {
  vital: {
    title: 'VITAL',
    meaning: 'the visualization’s features are aligned with those of reference images, layer by layer',
    source: 'Görgün et al., ICCV 2025',
  },
  maco: {
    title: 'MACO',
    meaning: 'the activation is maximized through the phases alone, under the dataset images’ mean frequency spectrum',
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

/** @param {string} method @returns {string} title and meaning in one line */
export function methodSummary(method) {
  return METHOD_WORDS[method] ? `${methodTitle(method)}: ${methodMeaning(method)}` : method
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
 * What a derived layer is: concepts.NAME holds directions in the features of another layer, combinations.NAME several
 * units as one.
 * @param {string} layer
 * @returns {'concept' | 'combination' | ''} '' for a layer of the model itself
 */
export function layerKind(layer) {
  if (layer.startsWith('concepts.')) return 'concept'
  return layer.startsWith('combinations.') ? 'combination' : ''
}

/** @type {Record<string, string>} */
const SOURCE_MEANINGS = {
  label: 'images labeled with this class',
  'label+top_logit': 'images labeled with this class, and those with the highest score for it',
  top_logit: 'the images with the highest score for this class',
  top_activation: 'the top-activating images',
}

/** @param {string} source @returns {string} which dataset images the references are */
export function sourceMeaning(source) {
  return SOURCE_MEANINGS[source] ?? source
}

/**
 * @param {string} name of a column, such as 'activation_percentile'
 * @returns {string} such as 'Activation percentile'
 */
export function columnTitle(name) {
  // The rest of such a name is the slug of an evaluator, underscores and all.
  const [, score, depth, evaluator] = /^(accuracy_top(\d)|two_afc)(?:_(.+))?$/.exec(name) ?? []
  if (score)
    return `${depth ? `Recognized (top ${depth})` : 'Two-alternative score'}${evaluator ? ` by ${evaluator}` : ''}`
  const words = name.replaceAll('_', ' ')
  return words.charAt(0).toUpperCase() + words.slice(1)
}

/** Names of what every page shows. */
export const NAMES = {
  neuron: (/** @type {string} */ layer, /** @type {number} */ unit) => `${layer}:${unit}`,
  unit: (/** @type {number} */ unit) => `unit ${unit}`,
  facet: (/** @type {number} */ number, /** @type {number} */ facets) => `facet ${number} of ${facets}`,
  seed: (/** @type {number} */ seed) => `seed ${seed}`,
}
