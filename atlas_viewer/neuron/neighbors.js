/** The nearest neighbors of a neuron: those that the same dataset images activate, found when the atlas was built. */

import { fetchBytes, reasonOf } from '../base/files.js'
import { layerFileName } from '../base/layername.js'
import { decodeTable } from '../data/tables.js'
import { button, fill, h, link, problem, whenNear } from '../base/dom.js'
import { statusLabel } from '../ui/filters.js'
import { imageFrame } from '../ui/images.js'
import { formatRoute } from '../base/router.js'
import { NAMES, statusNote } from '../base/glossary.js'
import { FILES } from '../base/glossary/files.js'
import { NEIGHBORS } from '../base/glossary/neuron.js'
import { SITE } from '../base/glossary/site.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 *
 * @typedef {object} NearestNeighbor
 * @property {string} layer
 * @property {number} unit
 * @property {number} similarity 0–1
 *
 * @typedef {object} NeuronSummary
 * @property {string} path of its visualization, '' without one
 * @property {string} label
 * @property {string} status
 */

/**
 * The neighbors of one neuron, the most similar first.
 * @param {import('../data/data.js').Table} table of its layer
 * @param {number} unit
 * @returns {NearestNeighbor[]}
 */
export function nearestNeighbors({ columns }, unit) {
  const row = columns.unit.indexOf(unit)
  if (row < 0) return []
  const [layers, units, values] = [columns.neighbor_layers, columns.neighbor_units, columns.cosine_similarities]
  return Array.from(layers[row], (layer, i) => ({ layer, unit: units[row][i], similarity: values[row][i] }))
}

/**
 * The section, which fills itself once the reader comes near it: it takes parts of the index of ten layers and more.
 * Null for an atlas that was built without neighbors.
 * @param {Atlas} atlas
 * @param {Route} route of the neuron
 * @returns {HTMLElement | null}
 */
export function neighborsSection(atlas, route) {
  const note = atlas.manifest.neighbors
  if (!note) return null
  const body = h('div', { class: 'neighbor-body' })
  const mapRoute = { ...route, view: /** @type {const} */ ('map'), at: '', neurons: [`${route.layer}:${route.unit}`] }
  const section = h('section', { class: 'neighbors', 'aria-label': NEIGHBORS.title },
    h('div', { class: 'section-head' },
      h('h2', {}, NEIGHBORS.title),
      note.map && link(formatRoute(mapRoute), { class: 'button' }, NEIGHBORS.onMap),
    ),
    h('p', { class: 'neighbor-how' }, NEIGHBORS.how(note.num_dimensions, note.num_top_images)),
    body,
  )
  whenNear(section, show)
  return section

  async function show() {
    try {
      const table = await neighborsTable(atlas, route.layer)
      const found = nearestNeighbors(table, route.unit)
      const summaries = await indexSummaries(atlas, found)
      fill(
        body,
        found.length
          ? h('ul', { class: 'neighbor-list' },
              ...found.map((each, i) => neighborItem(atlas, route, each, summaries[i])),
            )
          : h('p', {}, NEIGHBORS.none),
      )
    } catch (error) {
      const retry = button(SITE.retry, show)
      fill(body, problem(NEIGHBORS.unreadable, [reasonOf(error)], retry))
    }
  }
}

/** @param {Atlas} atlas @param {string} layer @returns {Promise<import('../data/data.js').Table>} */
function neighborsTable(atlas, layer) {
  const url = atlas.url(`neighbors/${layerFileName(layer)}.parquet`)
  return atlas.once(url, async () => decodeTable(await fetchBytes(url, FILES.neighbors), url))
}

/**
 * The summaries of some neurons in the index, read from the parts of their layers.
 * @param {Atlas} atlas
 * @param {NearestNeighbor[]} neurons
 * @returns {Promise<NeuronSummary[]>} in the same order
 */
async function indexSummaries(atlas, neurons) {
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
 * @param {NearestNeighbor} neuron
 * @param {NeuronSummary} summary
 * @returns {HTMLElement}
 */
function neighborItem(atlas, route, { layer, unit, similarity }, { path, label, status }) {
  const name = NAMES.neuron(layer, unit)
  const percent = SITE.percent(String(Math.round(similarity * 100)))
  return h('li', {},
    link(
      formatRoute({ ...route, layer, unit, variant: '' }),
      { class: 'neighbor-link', title: [label, name, NEIGHBORS.summary(percent)].filter(Boolean).join(' · ') },
      path
        ? imageFrame(atlas, path, { alternative: '' })
        : h('span', { class: 'image-frame image-none' },
            status && statusLabel(status),
            h('span', { class: 'visually-hidden' }, ` ${statusNote(status).meaning}`),
          ),
      h('span', { class: 'neighbor-name' }, label || NAMES.unit(unit)),
      h('span', { class: 'neighbor-note code' }, layer),
      h('span', { class: 'neighbor-note' }, h('span', { class: 'visually-hidden' }, NEIGHBORS.similarity), percent),
    ),
  )
}
