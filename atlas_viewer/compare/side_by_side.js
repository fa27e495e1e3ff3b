/** Two panes side by side, of two models or of two neurons of one: each pair of neurons at the same height. */

import { comparisonLines, presentMethods, withOther, withoutPair } from './comparison.js'
import { methodParts, neuronName, photographParts } from './table.js'
import { h, link } from '../base/dom.js'
import { linkScrolling } from '../base/linkedscroll.js'
import { findNeuron } from '../base/query.js'
import { formatRoute, makeRoute } from '../base/router.js'
import { facetWords } from '../data/variants.js'
import { methodTitle } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../ui/filters.js').Go} Go
 * @typedef {import('./comparison.js').Compared} Compared
 *
 * @typedef {object} Pair
 * @property {Compared} first
 * @property {Compared | null} second null when nothing stands beside the first
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
export function besidePanes({ atlas, other, route, go, pairs, from }) {
  const chosen = route.neurons.length > 0
  // One that exists, wherever the panes know of one.
  const example = pairs.find(({ second }) => second?.rows.length)?.second?.name ?? `${other.layers[0].name}:0`
  const otherRoute = makeRoute({ atlas: other.slug, transparency: route.transparency })
  const left = pane(atlas, atlas === other ? `${atlas.title}: first neuron` : atlas.title, [
    pairs.map(({ first }, order) => {
      const remove = chosen ? () => go(withoutPair(route, from + order)) : null
      return neuronCard({ atlas, route, remove }, first, null)
    }),
  ])
  const right = pane(other, atlas === other ? `${atlas.title}: second neuron` : other.title, [
    pairs.map(({ first, second, reason }, order) => {
      const choose = chosen ? chooser(other, route, go, { name: first.name, example, place: from + order }) : chooseLink(route, first)
      const note = h('p', { class: 'compare-detail' }, second && reason ? `Chosen as ${reason}.` : reason)
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
  return h(
    'section',
    { class: 'compare-pane', role: 'region', 'aria-label': title, tabindex: '0' },
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
  return h(
    'div',
    { class: 'pane-neuron', dataset: { neuron: name } },
    h('div', { class: 'pane-name' }, neuronName({ route, remove }, neuron), more),
    rows.length === 0 && h('p', { class: 'compare-detail' }, `${atlas.title} has no neuron “${name}”.`),
    lines.map(({ reference, cells }) => [
      h('div', { class: 'pane-photographs' }, photographParts(atlas, reference, title)),
      h(
        'div',
        { class: 'pane-pictures' },
        methods.map((method) => {
          const facet = cells[method].row ? facetWords(cells[method].row) : ''
          return h(
            'figure',
            { class: 'compare-cell' },
            h('figcaption', { class: 'pane-method' }, methodTitle(method), facet && `, ${facet}`),
            methodParts({ atlas, route }, method, cells[method], title),
          )
        }),
      ),
    ]).flat(),
  )
}

/** @param {Route} route @param {Compared} first @returns {HTMLElement} */
function chooseLink(route, { name }) {
  const address = formatRoute({ ...route, neurons: [name], others: [], from: 1 })
  return link(address, { class: 'button', 'aria-label': `Choose a neuron to put beside ${name}` }, 'Choose another')
}

/**
 * A box that names the second neuron of a pair.
 * @param {Atlas} other
 * @param {Route} route
 * @param {Go} go
 * @param {{name: string, example: string, place: number}} pair the first neuron, one that the box may suggest, and the
 *   place of the pair in the address
 * @returns {HTMLElement}
 */
function chooser(other, route, go, { name, example, place }) {
  const input = h('input', {
    class: 'text-input',
    placeholder: example,
    'aria-label': `Neuron of ${other.title} beside ${name}`,
    autocomplete: 'off',
    autocapitalize: 'none',
    spellcheck: 'false',
    dataset: { keep: `beside-${place}` },
  })
  const message = h('p', { class: 'note', role: 'status' })
  const choose = async () => {
    const text = input.value.trim()
    try {
      const found = await findNeuron(other, text)
      if (found) go(withOther(route, place, `${found.layer}:${found.unit}`))
      else message.textContent = `${other.title} has no neuron “${text}”. Expected a layer and a unit, such as ${example}.`
    } catch (error) {
      message.textContent = error instanceof Error ? error.message : String(error)
    }
  }
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') choose()
  })
  const button = h(
    'button',
    { type: 'button', class: 'button', 'aria-label': `Put it beside ${name}`, onClick: choose },
    'Choose',
  )
  return h('div', { class: 'pane-chooser' }, input, button, message)
}
