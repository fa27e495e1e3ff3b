/** Two panes side by side, of two models or of two neurons of one: each pair of neurons at the same height. */

import { chooser } from './choices.js'
import { comparisonLines, presentMethods, withoutPair } from './comparison.js'
import { methodParts, neuronName, datasetParts } from './table.js'
import { h, link } from '../base/dom.js'
import { linkScrolling } from '../base/linkedscroll.js'
import { makeRoute } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import { facetTitle } from '../data/variants.js'
import { methodTitle, NAMES } from '../base/glossary.js'
import { COMPARE } from '../base/glossary/compare.js'
import { SITE } from '../base/glossary/site.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
 * @typedef {import('./comparison.js').Compared} Compared
 *
 * @typedef {object} Pair
 * @property {Compared} first
 * @property {Compared | null} second null when nothing matches the first
 * @property {string} reason why this one, or why none; '' for one that was chosen
 */

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Atlas} options.other the same one for two neurons of one atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @param {Pair[]} options.pairs
 * @param {number} options.from place in the address of the first pair shown, from 0 on
 * @returns {HTMLElement}
 */
export function sideBySidePanes({ atlas, other, route, go, pairs, from }) {
  const chosen = route.neurons.length > 0
  // One that exists, wherever the panes know of one.
  const example = pairs.find(({ second }) => second?.rows.length)?.second?.name ?? NAMES.neuron(other.layers[0].name, 0)
  const otherRoute = makeRoute({ atlas: other.slug, mask: route.mask })
  const left = pane(atlas, atlas === other ? COMPARE.firstNeuron(atlas.title) : atlas.title, [
    pairs.map(({ first }, order) => {
      const remove = chosen ? () => go(withoutPair(route, from + order)) : null
      return neuronCard({ atlas, route, remove }, first, null)
    }),
  ])
  const right = pane(other, atlas === other ? COMPARE.secondNeuron(atlas.title) : other.title, [
    pairs.map(({ first, second, reason }, order) => {
      const choose = chosen
        ? chooser(other, route, go, { name: first.name, example, place: from + order })
        : chooseLink(route, first)
      const note = h('p', { class: 'compare-detail' }, second && reason ? COMPARE.chosenAs(reason) : reason)
      return second
        ? neuronCard({ atlas: other, route: otherRoute, remove: null }, second, [reason && note, choose])
        : h('div', { class: 'pane-neuron', dataset: { neuron: '' } }, note, choose)
    }),
  ])
  linkScrolling(left, right, '.pane-neuron')
  return h('div', { class: 'compare-panes' }, left, right)
}

/** @param {Atlas} atlas @param {string} title @param {HTMLElement[][]} neurons @returns {HTMLElement} */
function pane(atlas, title, neurons) {
  return h('section', { class: 'compare-pane', role: 'region', 'aria-label': title, tabindex: '0' },
    h('h2', { class: 'pane-title' }, title, ' ', h('span', { class: 'pane-model code' }, atlas.modelName)),
    neurons.flat(),
  )
}

/**
 * @param {{atlas: Atlas, route: Route, remove: ((name: string) => void) | null}} context
 * @param {Compared} neuron
 * @param {import('../base/dom.js').Child[] | null} more
 * @returns {HTMLElement}
 */
function neuronCard({ atlas, route, remove }, neuron, more) {
  const { name, rows, title } = neuron
  const methods = presentMethods(atlas.methods, rows)
  const lines = comparisonLines(rows, methods)
  return h('div', { class: 'pane-neuron', dataset: { neuron: name } },
    h('div', { class: 'pane-name' }, neuronName({ route, remove }, neuron), more),
    rows.length === 0 && h('p', { class: 'compare-detail' }, SITE.noNeuron(atlas.title, name)),
    lines
      .map(({ reference, cells }) => [
        h('div', { class: 'pane-dataset' }, datasetParts(atlas, reference, title)),
        h('div', { class: 'pane-visualizations' },
          methods.map((method) => {
            const facet = cells[method].row ? facetTitle(cells[method].row) : ''
            return h('figure', { class: 'compare-cell' },
              h('figcaption', { class: 'pane-method' }, methodTitle(method), facet && `, ${facet}`),
              methodParts({ atlas, route }, method, cells[method], title),
            )
          }),
        ),
      ])
      .flat(),
  )
}

/** @param {Route} route @param {Compared} first @returns {HTMLElement} */
function chooseLink(route, { name }) {
  const address = formatRoute({ ...route, neurons: [name], others: [], from: 1 })
  return link(address, { class: 'button', 'aria-label': COMPARE.chooseFor(name) }, COMPARE.chooseAnother)
}
