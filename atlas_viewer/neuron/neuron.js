/** The page of one neuron: its visualization and its top-activating images side by side, scores, neighbors, metadata. */

import { actionBar, disclosures } from '../ui/actions.js'
import { h, link } from '../base/dom.js'
import { topImagesSection } from '../ui/topimages.js'
import { activationSection, provenanceSection, scoresSection } from './metadata.js'
import { statusLabel } from '../ui/filters.js'
import { commonLabels } from '../base/format.js'
import { prefetchImage } from '../ui/images.js'
import { neighborList, positionOf, resultList } from '../data/results.js'
import { compareNeuron } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import { neighborsSection } from './neighbors.js'
import { neuronRows, variantName } from '../data/variants.js'
import { variantsSection, visualizationFigure } from './visualization.js'
import { layerKind, NAMES, statusNote } from '../base/glossary.js'
import { NEURON } from '../base/glossary/neuron.js'
import { SITE } from '../base/glossary/site.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').LayerInfo} LayerInfo
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
 */

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @param {import('../data/data.js').SiteEntry[]} options.sites the atlases of the site
 * @returns {Promise<import('../base/route.js').View | null>} null when the atlas has no such neuron
 */
export async function neuronView({ atlas, route, go, sites }) {
  const layer = atlas.layer(route.layer)
  if (!layer) return null
  const finding = findNeighbors(atlas, route)
  finding.catch(() => {}) // its failure shows where it is awaited, unless the table fails first
  const rows = neuronRows(await atlas.neuronTable(layer, route.unit), route.unit)
  if (!rows.length) return null
  // The list's method chooses the visualization unless the address names a variant.
  const row =
    rows.find((candidate) => variantName(candidate) === route.variant) ??
    rows.find((candidate) => candidate.method === route.list.method) ??
    rows[0]
  const prefetched = row.image_path && prefetchImage(atlas, row.image_path) // on its way while neighbors are looked up
  const neighbors = await finding
  const name = NAMES.neuron(layer.name, route.unit)
  const title = row.label || name
  const secondAtlas = sites.find(({ slug }) => slug !== atlas.slug)?.slug

  const element = h('article', { class: 'page neuron-page' },
    navigation(atlas, route, neighbors),
    h('header', { class: 'neuron-head' },
      h('div', {},
        h('h1', { tabindex: '-1', class: row.label ? '' : 'code' }, title),
        h('p', { class: 'neuron-kind' }, kindParts(layer, row, name)),
        statusNotice(row),
      ),
      h('div', { class: 'neuron-compare' },
        atlas.methods.length > 1 && compareLink(route),
        secondAtlas &&
          link(formatRoute({ ...compareNeuron(route), secondAtlas }), { class: 'button' }, SITE.compareModels),
      ),
    ),
    h('div', { class: 'neuron-main' },
      h('div', {}, visualizationFigure({ atlas, row, name: title, route, go }), actionBar({ atlas, row })),
      h('div', { class: 'neuron-side' }, topImagesSection(atlas, row, title)),
    ),
    variantsSection({ atlas, rows, shown: row, name: title, route }),
    neighborsSection(atlas, route),
    h('div', { class: 'neuron-metadata' }, activationSection(row, layer), scoresSection(atlas, row)),
    h('div', { class: 'neuron-more' }, provenanceSection(atlas, row), disclosures({ atlas, row, name: title })),
  )

  // The next neuron's visualization comes after this one's.
  if (prefetched) prefetched.then(() => prefetch(atlas, neighbors.next))
  else prefetch(atlas, neighbors.next)
  return {
    element,
    title: SITE.title(title, ...(row.label ? [name] : []), atlas.title),
    onKey(event) {
      const target = {
        ArrowLeft: neighbors.previous,
        k: neighbors.previous,
        ArrowRight: neighbors.next,
        j: neighbors.next,
      }[event.key]
      if (target) go(target.route)
      else if (event.key === 'Escape') go({ ...route, view: 'gallery' })
      else if (event.key === 'c' && atlas.methods.length > 1) go(compareNeuron(route))
      else if (event.key === 't' && row.alpha_path) go({ ...route, mask: !route.mask }, { replace: true })
      else return false
      return true
    },
  }
}

/**
 * @typedef {object} Neighbor
 * @property {Route} route
 * @property {string} name
 * @property {string} imagePath
 *
 * @typedef {object} Neighbors
 * @property {Neighbor | null} previous
 * @property {Neighbor | null} next
 * @property {string} place in words
 */

/**
 * Previous and next in the reader's result list; in the layer, when the neuron is not in that list.
 * @param {Atlas} atlas
 * @param {Route} route
 * @returns {Promise<Neighbors>}
 */
async function findNeighbors(atlas, route) {
  let list = route.list
  const layer = /** @type {LayerInfo} */ (atlas.layer(route.layer))
  let results = await neighborList(atlas, list, layer, route.unit)
  let position = positionOf(results, route.layer, route.unit)
  let place = list.query || list.layer || list.statuses.length ? NEURON.results : NEURON.neurons
  if (position < 0) {
    list = { ...list, query: '', layer: route.layer, statuses: [], method: '', sort: '' }
    results = await resultList(atlas, list)
    position = positionOf(results, route.layer, route.unit)
    place = NEURON.outsideResults(route.layer)
  }
  const { table, rows, before, count } = results
  /** @param {number} at @returns {Neighbor | null} */
  const neighbor = (at) => {
    if (position < 0 || at < 0 || at >= rows.length) return null
    const [layer, unit] = [table.columns.layer[rows[at]], table.columns.unit[rows[at]]]
    return {
      route: { ...route, layer, unit, list, variant: '' },
      name: table.columns.label[rows[at]] || NAMES.neuron(layer, unit),
      imagePath: table.columns.image_path[rows[at]] || '',
    }
  }
  return {
    previous: neighbor(position - 1),
    next: neighbor(position + 1),
    place: position < 0 ? '' : NEURON.place(before + position + 1, count, place),
  }
}

/** @param {Atlas} atlas @param {Neighbor | null} neighbor */
function prefetch(atlas, neighbor) {
  if (neighbor?.imagePath) prefetchImage(atlas, neighbor.imagePath)
}

/** @param {Atlas} atlas @param {Route} route @param {Neighbors} neighbors @returns {HTMLElement} */
function navigation(atlas, route, { previous, next, place }) {
  const step = (/** @type {Neighbor | null} */ neighbor, /** @type {string} */ word, /** @type {string} */ text) => {
    if (!neighbor) return h('span', { class: 'button button-off', 'aria-disabled': 'true' }, text)
    const labels = { title: neighbor.name, 'aria-label': NEURON.step(word, neighbor.name) }
    return link(formatRoute(neighbor.route), { class: 'button', rel: word, dataset: { keep: word }, ...labels }, text)
  }
  const kind = layerKind(route.layer)
  return h('nav', { class: 'neuron-navigation', 'aria-label': SITE.place },
    h('ol', { class: 'breadcrumbs' },
      h('li', {}, link(formatRoute({ ...route, view: 'gallery' }), { dataset: { keep: 'gallery' } }, atlas.title)),
      h('li', {},
        link(
          formatRoute({
            ...route,
            view: 'gallery',
            list: { ...route.list, query: '', statuses: [], layer: route.layer },
          }),
          { class: 'code' },
          route.layer,
        ),
        kind && h('span', { class: 'kind' }, kind),
      ),
      h('li', { 'aria-current': 'page' }, NAMES.unit(route.unit)),
    ),
    h('div', { class: 'neuron-steps' },
      step(previous, SITE.previous, NEURON.previousArrow),
      h('span', { class: 'place' }, place),
      step(next, SITE.next, NEURON.nextArrow),
    ),
  )
}

/** @param {Route} route @returns {HTMLElement} */
function compareLink(route) {
  const attributes = {
    class: 'button',
    title: SITE.compareMethodsKey,
    'aria-keyshortcuts': 'c',
    dataset: { keep: 'compare' },
  }
  return link(formatRoute(compareNeuron(route)), attributes, SITE.compareMethods)
}

/**
 * @param {LayerInfo} layer
 * @param {Record<string, any>} row
 * @param {string} name
 * @returns {import('../base/dom.js').Child[]}
 */
function kindParts(layer, row, name) {
  const code = h('span', { class: 'code' }, name)
  if (layer.is_classes) return [code, NEURON.isClass(layer.num_units)]
  if (layerKind(layer.name) === 'combination') return [code, NEURON.isCombination]
  const labels = commonLabels(row.reference_labels, 3)
  const isConcept = layerKind(layer.name) === 'concept'
  const kind = isConcept ? NEURON.isConcept(layer.num_units) : NEURON.isUnit(layer.num_units)
  return [kind, labels.length > 0 && NEURON.activatedBy(labels)]
}

/** @param {Record<string, any>} row @returns {HTMLElement | null} */
function statusNotice(row) {
  if (row.status === 'ok' && !row.status_reason) return null
  return h('p', { class: `notice notice-${row.status}` },
    statusLabel(row.status),
    ' ',
    h('span', {}, row.status_reason || statusNote(row.status).meaning),
  )
}
