/** What a reader chooses on the compare page: what stands beside the neurons, and further neurons. */

import { withBeside } from './comparison.js'
import { h } from '../base/dom.js'
import { findNeuron } from '../base/query.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').SiteEntry} SiteEntry
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../ui/filters.js').Go} Go
 */

/**
 * What is put beside the neurons: nothing but their other methods, another atlas, or other neurons of the same.
 * @param {Atlas} atlas
 * @param {SiteEntry[]} sites
 * @param {Route} route
 * @param {Go} go
 * @returns {HTMLElement}
 */
export function besideSelect(atlas, sites, route, go) {
  const others = sites.filter(({ slug }) => slug !== atlas.slug)
  const choices = [
    ['', 'the other methods'],
    [atlas.slug, 'another neuron of this atlas'],
    ...others.map(({ slug, title }) => [slug, title || slug]),
  ]
  const select = h(
    'select',
    {
      id: 'compare-beside',
      dataset: { keep: 'beside' },
      onChange: (/** @type {Event} */ event) =>
        go(withBeside(route, /** @type {HTMLSelectElement} */ (event.target).value)),
    },
    choices.map(([value, words]) => h('option', { value, selected: value === route.beside }, words)),
  )
  const label = h('label', { class: 'compare-adder-label', for: 'compare-beside' }, 'Side by side with')
  return h('div', { class: 'compare-beside' }, label, select)
}

/**
 * A box that adds a neuron to those of the address.
 * @param {Atlas} atlas
 * @param {Route} route
 * @param {Go} go
 * @returns {HTMLElement}
 */
export function adder(atlas, route, go) {
  const example = route.neurons[0]
  const input = h('input', {
    id: 'compare-add',
    class: 'text-input',
    placeholder: example,
    autocomplete: 'off',
    autocapitalize: 'none',
    spellcheck: 'false',
    dataset: { keep: 'add' },
  })
  const message = h('p', { class: 'note', role: 'status' })
  const add = async () => {
    const text = input.value.trim()
    try {
      const neuron = await findNeuron(atlas, text)
      if (neuron) {
        const name = `${neuron.layer}:${neuron.unit}`
        // Of pairs, the same neuron may stand beside several.
        const known = !route.beside && route.neurons.includes(name)
        go({ ...route, neurons: known ? route.neurons : [...route.neurons, name], from: 1 })
      } else {
        message.textContent = `This atlas has no neuron “${text}”. Expected a layer and a unit, such as ${example}.`
      }
    } catch (error) {
      message.textContent = error instanceof Error ? error.message : String(error)
    }
  }
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') add()
  })
  return h(
    'div',
    { class: 'compare-adder' },
    h('label', { class: 'compare-adder-label', for: 'compare-add' }, route.beside ? 'Add a pair with' : 'Compare with'),
    input,
    h('button', { type: 'button', class: 'button', 'aria-label': 'Add this neuron', onClick: add }, 'Add'),
    message,
  )
}
