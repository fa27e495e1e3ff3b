/** The search box of the header: in the gallery the results follow the typing; Enter opens the neuron that a text names. */

import { fill, h } from '../base/dom.js'
import { HEADER } from '../base/glossary/site.js'
import { emptyList } from '../base/route.js'
import { findNeuron } from '../data/search.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
 */

/** ms after the last keystroke before the gallery follows the search box. */
const TYPING_PAUSE_MS = 20

/** The box, hidden as long as no atlas is open. */
export class SearchBox {
  /** @param {Go} go */
  constructor(go) {
    this.go = go
    /** @type {Route | null} */
    this.route = null
    /** @type {Atlas | null} */
    this.atlas = null
    this.timer = 0
    this.typed = false
    this.input = h('input', {
      ...{ type: 'search', id: 'search', class: 'search-input', 'aria-keyshortcuts': '/' },
      ...{ autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' },
      onFocus: () => this.atlas?.prepareSearch(),
      onInput: () => this.onInput(),
      onKeydown: (/** @type {KeyboardEvent} */ event) => this.onKey(event),
    })
    this.label = h('label', { class: 'visually-hidden', for: 'search' })
    const key = h('kbd', { 'aria-hidden': 'true' }, '/')
    // Comes with the other parts that an atlas has, so that none of them moves.
    this.element = h('div', { class: 'search', role: 'search', hidden: true }, this.label, this.input, key)
  }

  /** @param {Route} route @param {Atlas | null} atlas */
  update(route, atlas) {
    this.route = route
    this.atlas = atlas
    const { input, element } = this
    const hasCaptions = atlas?.hasCaptions === true
    input.placeholder = HEADER.placeholder(hasCaptions)
    fill(this.label, HEADER.search(hasCaptions))
    element.hidden = !atlas
    // What is being typed is not overwritten by the address that an earlier keystroke made.
    if (!this.typed && (document.activeElement !== input || input.value.trim() !== route.list.query)) {
      input.value = route.list.query
    }
  }

  /** @returns {boolean} whether there is a box to type in */
  focus() {
    if (this.element.hidden) return false
    this.input.focus()
    this.input.select()
    return true
  }

  onInput() {
    this.typed = true
    clearTimeout(this.timer)
    if (this.route?.view === 'gallery') this.timer = setTimeout(() => this.openResults(true), TYPING_PAUSE_MS)
  }

  /** Shows the results: on the map where they lie, else in the gallery. @param {boolean} replace */
  openResults(replace) {
    const { route, atlas, input } = this
    clearTimeout(this.timer)
    this.typed = false
    if (!route || !atlas) return
    const keepsList = ['gallery', 'neuron', 'compare', 'map'].includes(route.view)
    const list = { ...(keepsList ? route.list : emptyList()), query: input.value.trim() }
    this.go({ ...route, view: route.view === 'map' ? 'map' : 'gallery', atlas: atlas.slug, list }, { replace })
  }

  /** Opens the neuron that the text names, else the results. */
  async openNeuron() {
    clearTimeout(this.timer)
    const text = this.input.value
    // Where the table cannot be read, the gallery shows why.
    const neuron = this.atlas && (await findNeuron(this.atlas, text).catch(() => null))
    if (this.input.value !== text) return
    const { route, atlas } = this
    if (neuron && route && atlas) {
      // Whether or not the gallery has followed the typing meanwhile, a neuron's name is no search to walk through.
      const list = { ...route.list, query: '' }
      this.go({ ...route, view: 'neuron', atlas: atlas.slug, ...neuron, variant: '', list })
    } else this.openResults(route?.view === 'gallery')
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.key === 'Enter') this.openNeuron()
    if (event.key !== 'Escape') return
    if (this.input.value) {
      this.input.value = ''
      this.openResults(true)
    } else {
      this.input.blur()
    }
    event.preventDefault()
    event.stopPropagation()
  }
}
