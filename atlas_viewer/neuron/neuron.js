/** The page of one neuron: its picture beside the photographs that excite it, how well the two agree, where it comes from. */

import { actionBar, disclosures } from '../ui/actions.js'
import { h, link } from '../base/dom.js'
import { examplesSection } from '../ui/examples.js'
import { activationSection, provenanceSection, scoresSection } from './metadata.js'
import { statusLabel } from '../ui/filters.js'
import { commonLabels, formatCount, plural } from '../base/format.js'
import { prefetchPicture } from '../ui/images.js'
import { neighborList, positionOf, resultList } from '../data/results.js'
import { compareNeuron, formatRoute } from '../base/router.js'
import { similarSection } from './neighbors.js'
import { neuronRows, variantName } from '../data/variants.js'
import { variantsSection, visualizationFigure } from './visualization.js'
import { layerKind, statusWords } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').LayerInfo} LayerInfo
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../ui/filters.js').Go} Go
 */

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @param {import('../data/data.js').SiteEntry[]} options.sites the atlases of the site
 * @returns {Promise<import('../shell/main.js').View | null>} null when the atlas has no such neuron
 */
export async function neuronView({ atlas, route, go, sites }) {
  const layer = atlas.layer(route.layer)
  if (!layer) return null
  const finding = findNeighbors(atlas, route)
  finding.catch(() => {}) // said where it is awaited, unless the table fails first
  const rows = neuronRows(await atlas.neuronTable(layer, route.unit), route.unit)
  if (!rows.length) return null
  // The list's method chooses the picture unless the address names a variant.
  const row =
    rows.find((candidate) => variantName(candidate) === route.variant) ??
    rows.find((candidate) => candidate.method === route.list.method) ??
    rows[0]
  const picture = row.image_path && prefetchPicture(atlas, row.image_path) // on its way while neighbors are looked up
  const neighbors = await finding
  const name = `${layer.name}:${route.unit}`
  const title = row.label || name
  const beside = sites.find(({ slug }) => slug !== atlas.slug)?.slug

  const element = h(
    'article',
    { class: 'page neuron-page' },
    navigation(atlas, route, neighbors),
    h(
      'header',
      { class: 'neuron-head' },
      h(
        'div',
        {},
        h('h1', { tabindex: '-1', class: row.label ? '' : 'code' }, title),
        h('p', { class: 'neuron-kind' }, kindWords(layer, row, name)),
        statusNotice(row),
      ),
      h(
        'div',
        { class: 'neuron-compare' },
        atlas.methods.length > 1 && compareLink(route),
        beside && link(formatRoute({ ...compareNeuron(route), beside }), { class: 'button' }, 'Compare models'),
      ),
    ),
    h(
      'div',
      { class: 'neuron-main' },
      h('div', {}, visualizationFigure({ atlas, row, name: title, route, go }), actionBar({ atlas, row })),
      h('div', { class: 'neuron-beside' }, examplesSection(atlas, row, title)),
    ),
    variantsSection({ atlas, rows, shown: row, name: title, route }),
    similarSection(atlas, route),
    h('div', { class: 'neuron-facts' }, activationSection(row, layer), scoresSection(atlas, row)),
    h('div', { class: 'neuron-more' }, provenanceSection(atlas, row), disclosures({ atlas, row, name: title })),
  )

  // The next neuron's picture comes after this one's.
  if (picture) picture.then(() => prefetch(atlas, neighbors.next))
  else prefetch(atlas, neighbors.next)
  return {
    element,
    title: `${title}${row.label ? ` · ${name}` : ''} · ${atlas.title}`,
    onKey(event) {
      const target = {
        ArrowLeft: neighbors.previous,
        k: neighbors.previous,
        ArrowRight: neighbors.next,
        j: neighbors.next,
      }[event.key]
      if (target) go(target.route)
      else if (event.key === 'Escape') go({ ...route, view: 'wall' })
      else if (event.key === 'c' && atlas.methods.length > 1) go(compareNeuron(route))
      else if (event.key === 't' && row.alpha_path)
        go({ ...route, transparency: !route.transparency }, { replace: true })
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
  let place = list.query || list.layer || list.statuses.length ? 'results' : 'neurons'
  if (position < 0) {
    list = { ...list, query: '', layer: route.layer, statuses: [], method: '', sort: '' }
    results = await resultList(atlas, list)
    position = positionOf(results, route.layer, route.unit)
    place = `in ${route.layer} (not among your results)`
  }
  const { table, rows, before, count } = results
  /** @param {number} at @returns {Neighbor | null} */
  const neighbor = (at) => {
    if (position < 0 || at < 0 || at >= rows.length) return null
    const [layer, unit] = [table.columns.layer[rows[at]], table.columns.unit[rows[at]]]
    return {
      route: { ...route, layer, unit, list, variant: '' },
      name: table.columns.label[rows[at]] || `${layer}:${unit}`,
      imagePath: table.columns.image_path[rows[at]] || '',
    }
  }
  return {
    previous: neighbor(position - 1),
    next: neighbor(position + 1),
    place: position < 0 ? '' : `${formatCount(before + position + 1)} of ${formatCount(count)} ${place}`,
  }
}

/** @param {Atlas} atlas @param {Neighbor | null} neighbor */
function prefetch(atlas, neighbor) {
  if (neighbor?.imagePath) prefetchPicture(atlas, neighbor.imagePath)
}

/**
 * @param {Atlas} atlas
 * @param {Route} route
 * @param {Neighbors} neighbors
 * @returns {HTMLElement}
 */
function navigation(atlas, route, { previous, next, place }) {
  const step = (/** @type {Neighbor | null} */ neighbor, /** @type {string} */ word, /** @type {string} */ arrow) =>
    neighbor
      ? link(
          formatRoute(neighbor.route),
          {
            class: 'button',
            rel: word,
            title: neighbor.name,
            dataset: { keep: word },
            'aria-label': `${word}: ${neighbor.name}`,
          },
          word === 'Previous' ? `${arrow} ${word}` : `${word} ${arrow}`,
        )
      : h(
          'span',
          { class: 'button button-off', 'aria-disabled': 'true' },
          word === 'Previous' ? `${arrow} ${word}` : `${word} ${arrow}`,
        )
  const kind = layerKind(route.layer)
  return h(
    'nav',
    { class: 'neuron-navigation', 'aria-label': 'Place in the atlas' },
    h(
      'ol',
      { class: 'breadcrumbs' },
      h('li', {}, link(formatRoute({ ...route, view: 'wall' }), { dataset: { keep: 'wall' } }, atlas.title)),
      h(
        'li',
        {},
        link(
          formatRoute({ ...route, view: 'wall', list: { ...route.list, query: '', statuses: [], layer: route.layer } }),
          { class: 'code' },
          route.layer,
        ),
        kind && h('span', { class: 'kind' }, kind),
      ),
      h('li', { 'aria-current': 'page' }, `unit ${route.unit}`),
    ),
    h(
      'div',
      { class: 'neuron-steps' },
      step(previous, 'Previous', '←'),
      h('span', { class: 'place' }, place),
      step(next, 'Next', '→'),
    ),
  )
}

/** @param {Route} route @returns {HTMLElement} */
function compareLink(route) {
  const attributes = {
    class: 'button',
    title: 'Compare methods (c)',
    'aria-keyshortcuts': 'c',
    dataset: { keep: 'compare' },
  }
  return link(formatRoute(compareNeuron(route)), attributes, 'Compare methods')
}

/**
 * @param {LayerInfo} layer
 * @param {Record<string, any>} row
 * @param {string} name
 * @returns {import('../base/dom.js').Child[]}
 */
function kindWords(layer, row, name) {
  const code = h('span', { class: 'code' }, name)
  if (layer.is_classes) return [code, `, the output for one class of ${formatCount(layer.num_units)}`]
  if (layerKind(layer.name) === 'circuit') return [code, ', a circuit: several units of the model taken together']
  const labels = commonLabels(row.reference_labels, 3)
  const kind =
    layerKind(layer.name) === 'concept'
      ? `A concept: one of ${plural(layer.num_units, 'direction')} in the features of a layer`
      : `One of the ${formatCount(layer.num_units)} units of this layer`
  return [kind, labels.length ? `, excited by photographs of ${labels.join(', ')}` : '']
}

/** @param {Record<string, any>} row @returns {HTMLElement | null} */
function statusNotice(row) {
  if (row.status === 'ok' && !row.status_reason) return null
  return h(
    'p',
    { class: `notice notice-${row.status}` },
    statusLabel(row.status),
    ' ',
    h('span', {}, row.status_reason || statusWords(row.status).meaning),
  )
}
