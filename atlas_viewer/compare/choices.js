/** What a reader chooses on the compare page: what the neurons are compared with, and further neurons. */

import { button, h } from '../base/dom.js'
import { reasonOf } from '../base/files.js'
import { NAMES } from '../base/glossary.js'
import { COMPARE } from '../base/glossary/compare.js'
import { SITE } from '../base/glossary/site.js'
import { findNeuron } from '../data/search.js'
import { withOther, withSecondAtlas } from './comparison.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').SiteEntry} SiteEntry
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
 */

/**
 * What the neurons are compared with: their other methods, another atlas, or other neurons of the same.
 * @param {Atlas} atlas
 * @param {SiteEntry[]} sites
 * @param {Route} route
 * @param {Go} go
 * @returns {HTMLElement}
 */
export function secondAtlasSelect(atlas, sites, route, go) {
  const others = sites.filter(({ slug }) => slug !== atlas.slug)
  const choices = [
    ['', COMPARE.otherMethods],
    [atlas.slug, COMPARE.anotherNeuron],
    ...others.map(({ slug, title }) => [slug, title || slug]),
  ]
  const options = choices.map(([value, title]) => h('option', { value, selected: value === route.secondAtlas }, title))
  const select = h('select', { id: 'compare-second', dataset: { keep: 'second-atlas' } }, options)
  select.addEventListener('change', () => go(withSecondAtlas(route, select.value)))
  const label = h('label', { class: 'compare-adder-label', for: 'compare-second' }, COMPARE.secondAtlas)
  return h('div', { class: 'compare-second' }, label, select)
}

/**
 * A box that names a neuron; one that the atlas does not have is reported below it.
 * @param {Atlas} atlas
 * @param {{title: string, example: string, attributes: import('../base/dom.js').Attributes}} texts
 * @param {(name: string) => void} found
 * @returns {{input: HTMLInputElement, find: () => void, message: HTMLElement}}
 */
function neuronBox(atlas, { title, example, attributes }, found) {
  const typing = { autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' }
  const input = h('input', { class: 'text-input', placeholder: example, ...typing, ...attributes })
  const message = h('p', { class: 'note', role: 'status' })
  const find = async () => {
    const text = input.value.trim()
    try {
      const neuron = await findNeuron(atlas, text)
      if (neuron) found(NAMES.neuron(neuron.layer, neuron.unit))
      else message.textContent = SITE.noNeuronExpected(title, text, example)
    } catch (error) {
      message.textContent = reasonOf(error)
    }
  }
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') find()
  })
  return { input, find, message }
}

/** A box that adds a neuron to those of the address. @param {Atlas} atlas @param {Route} route @param {Go} go */
export function adder(atlas, route, go) {
  const texts = {
    title: SITE.thisAtlas,
    example: route.neurons[0],
    attributes: { id: 'compare-add', dataset: { keep: 'add' } },
  }
  const { input, find, message } = neuronBox(atlas, texts, (name) => {
    // Of pairs, the same neuron may be the first of several.
    const known = !route.secondAtlas && route.neurons.includes(name)
    go({ ...route, neurons: known ? route.neurons : [...route.neurons, name], from: 1 })
  })
  const title = route.secondAtlas ? COMPARE.addPair : COMPARE.compareWith
  return h('div', { class: 'compare-adder' },
    h('label', { class: 'compare-adder-label', for: 'compare-add' }, title),
    input,
    button(COMPARE.add, find, { 'aria-label': COMPARE.addNeuron }),
    message,
  )
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
export function chooser(other, route, go, { name, example, place }) {
  const attributes = { 'aria-label': COMPARE.secondOf(other.title, name), dataset: { keep: `second-${place}` } }
  const texts = { title: other.title, example, attributes }
  const { input, find, message } = neuronBox(other, texts, (second) => go(withOther(route, place, second)))
  const choose = button(COMPARE.choose, find, { 'aria-label': COMPARE.compareTo(name) })
  return h('div', { class: 'pane-chooser' }, input, choose, message)
}
