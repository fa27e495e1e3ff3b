/** Neurons that the same photographs excite, on the page of one neuron: found when the atlas was built. */

import { decodeTable, fetchBytes, LoadError } from '../data/data.js'
import { fill, h, link, problem, whenNear } from '../base/dom.js'
import { statusLabel } from '../ui/filters.js'
import { mapNote } from '../map/data.js'
import { picture } from '../ui/images.js'
import { formatRoute } from '../base/router.js'
import { statusWords } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 *
 * @typedef {object} SimilarNeuron
 * @property {string} layer
 * @property {number} unit
 * @property {number} similarity 0–1
 *
 * @typedef {object} NeuronWords
 * @property {string} path of its picture, '' without one
 * @property {string} label
 * @property {string} status
 */

/**
 * The neighbors of one neuron, the most similar first.
 * @param {import('../data/data.js').Table} table of its layer
 * @param {number} unit
 * @returns {SimilarNeuron[]}
 */
export function similarNeurons({ columns }, unit) {
  const row = columns.unit.indexOf(unit)
  if (row < 0) return []
  const [layers, units, values] = [columns.similar_layers, columns.similar_units, columns.similarities]
  return Array.from(layers[row], (layer, i) => ({ layer, unit: units[row][i], similarity: values[row][i] }))
}

/**
 * The section, which fills itself once the reader comes near it: it takes parts of the index of ten layers and more.
 * Null for an atlas that was built without neighbors.
 * @param {Atlas} atlas
 * @param {Route} route of the neuron
 * @returns {HTMLElement | null}
 */
export function similarSection(atlas, route) {
  const note = atlas.manifest.similar
  if (!note) return null
  const body = h('div', { class: 'similar-body' })
  const mapRoute = { ...route, view: /** @type {const} */ ('map'), at: '', neurons: [`${route.layer}:${route.unit}`] }
  const section = h(
    'section',
    { class: 'similar', 'aria-label': 'Similar neurons' },
    h(
      'div',
      { class: 'section-head' },
      h('h2', {}, 'Similar neurons'),
      mapNote(atlas) && link(formatRoute(mapRoute), { class: 'button' }, 'Show on the map'),
    ),
    h(
      'p',
      { class: 'similar-how' },
      'Neurons of any layer that the same photographs excite: the cosine of signatures of ' +
        `${note.num_dimensions} numbers, made of the ${note.num_exemplars} photographs that excite each neuron most.`,
    ),
    body,
  )
  whenNear(section, show)
  return section

  async function show() {
    try {
      const table = await similarTable(atlas, route.layer)
      const found = similarNeurons(table, route.unit)
      const words = await indexWords(atlas, found)
      fill(
        body,
        found.length
          ? h('ul', { class: 'similar-list' }, ...found.map((each, i) => similarItem(atlas, route, each, words[i])))
          : h('p', {}, 'None: no photograph excites this neuron that excites another one too.'),
      )
    } catch (error) {
      const retry = h('button', { type: 'button', class: 'button', onClick: show }, 'Try again')
      const words = error instanceof LoadError ? error.message : String(error)
      fill(body, problem('The similar neurons could not be read', [words], retry))
    }
  }
}

/**
 * @param {Atlas} atlas
 * @param {string} layer
 * @returns {Promise<import('../data/data.js').Table>}
 */
function similarTable(atlas, layer) {
  const url = atlas.url(`similar/${layer}.parquet`)
  return atlas.once(url, async () => decodeTable(await fetchBytes(url, 'the similar neurons of a layer'), url))
}

/**
 * What the index says of some neurons, read from the parts of their layers.
 * @param {Atlas} atlas
 * @param {SimilarNeuron[]} neurons
 * @returns {Promise<NeuronWords[]>} in the same order
 */
async function indexWords(atlas, neurons) {
  const layers = atlas.layers.filter(({ name }) => neurons.some((neuron) => neuron.layer === name))
  const parts = new Map(
    await Promise.all(layers.map(async (layer) => /** @type {const} */ ([layer.name, await atlas.layerIndex(layer)]))),
  )
  return neurons.map(({ layer, unit }) => {
    const columns = parts.get(layer)?.columns
    const row = columns?.unit.indexOf(unit) ?? -1
    const value = (/** @type {string} */ name) => (row < 0 ? '' : (columns?.[name][row] ?? ''))
    return { path: value('image_path'), label: value('label'), status: value('status') }
  })
}

/**
 * @param {Atlas} atlas
 * @param {Route} route
 * @param {SimilarNeuron} neuron
 * @param {NeuronWords} words
 * @returns {HTMLElement}
 */
function similarItem(atlas, route, { layer, unit, similarity }, { path, label, status }) {
  const name = `${layer}:${unit}`
  const percent = `${Math.round(similarity * 100)} %`
  return h(
    'li',
    {},
    link(
      formatRoute({ ...route, layer, unit, variant: '' }),
      { class: 'similar-link', title: [label, name, `similarity ${percent}`].filter(Boolean).join(' · ') },
      path
        ? picture(atlas, path, { alternative: '' })
        : h(
            'span',
            { class: 'picture picture-none' },
            status && statusLabel(status),
            h('span', { class: 'visually-hidden' }, ` ${statusWords(status).meaning}`),
          ),
      h('span', { class: 'similar-name' }, label || `unit ${unit}`),
      h('span', { class: 'similar-note code' }, layer),
      h('span', { class: 'similar-note' }, h('span', { class: 'visually-hidden' }, 'similarity '), percent),
    ),
  )
}
