/**
 * The gallery: every neuron of the result list as a tile (see `tiles.js`), next to the filters and below an introduction to
 * the atlas. Rows and labels are fetched when they are needed.
 */

import { announce, fill, h, link } from '../base/dom.js'
import { joinWords } from '../base/format.js'
import { methodTitle } from '../base/glossary.js'
import { GALLERY } from '../base/glossary/site.js'
import { compareResults } from '../base/route.js'
import { addLabels, firstResults, positionOf, resultList } from '../data/results.js'
import { makeFilters, makeResultBar } from '../ui/filters.js'
import { emptyGallery } from '../ui/notfound.js'
import { GalleryTiles, HEADER_HEIGHT_PX } from './tiles.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/results.js').Results} Results
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').ListState} ListState
 * @typedef {import('../base/route.js').Go} Go
 *
 * @typedef {object} GalleryOptions
 * @property {Atlas} atlas
 * @property {Route} route
 * @property {Go} go
 * @property {{layer: string, unit: number} | null} lastNeuron the neuron the reader comes back from
 * @property {boolean} several whether the site has other atlases
 * @property {(error: unknown) => void} fail shows what could not be read after the view was
 */

/** ms after which a gallery counts as shown even if images of the window are still on their way. */
const IMAGES_FIRST_MS = 1500

/** ms of waiting for results after which the bar names what is fetched. */
const SILENT_WAIT_MS = 200

/** The view of a result list: keeps filters, bar and tiles at its route. */
export class GalleryView {
  /** @param {GalleryOptions} options */
  constructor({ atlas, route, go, lastNeuron, several, fail }) {
    this.atlas = atlas
    this.route = route
    this.go = go
    this.lastNeuron = lastNeuron
    this.fail = fail
    this.title = atlas.title
    /** @type {Results} */
    this.results = { table: atlas.index, rows: [], total: 0, before: 0, count: 0 }
    this.extending = false
    /** @type {Promise<void> | null} the labels that large tiles show */
    this.details = null
    this.filters = makeFilters(atlas, go)
    this.bar = makeResultBar(atlas, go)
    this.message = h('div', {})
    this.tiles = new GalleryTiles(
      atlas,
      () => this,
      () => this.extend(),
    )
    const label = GALLERY.results
    const parts = [this.bar.element, this.message, this.tiles.element]
    this.element = h('div', { class: 'page gallery-page' },
      introduction(atlas, several),
      h('div', { class: 'gallery-columns' },
        this.filters.element,
        h('section', { class: 'results', 'aria-label': label }, parts),
      ),
    )
    // In the page with all their parts from its first frame on, so that nothing moves.
    this.filters.update(route)
    this.bar.update(route, '')
    this.fetchIndexEarly()
  }

  /** Whoever is about to filter or sort will need the whole index. A failure shows when it is used. */
  fetchIndexEarly() {
    for (const part of [this.filters.element, this.bar.sort]) {
      for (const event of ['pointerenter', 'focusin']) {
        part.addEventListener(event, () => this.atlas.loadIndex().catch(() => {}), { once: true })
      }
    }
  }

  /** @param {Route} next */
  async show(next) {
    this.route = next
    const found = await this.whileWaiting(next, this.findResults(next.list))
    if (this.route !== next) return
    this.results = found
    const { count, total } = found
    this.filters.update(next)
    this.bar.update(next, count === total ? GALLERY.count(count) : GALLERY.countOf(count, total))
    announce(GALLERY.found(count))
    fill(this.message, count ? null : emptyGallery(this.atlas, next))
    this.tiles.begin()
    this.details = next.size === 'large' ? this.addDetails(next) : null
    // Other results begin at their beginning, even for a reader who had scrolled down.
    const barTop = this.bar.element.getBoundingClientRect().top - HEADER_HEIGHT_PX
    if (barTop < 0) scrollBy(0, barTop)
  }

  /**
   * The results of a list: of all neurons at first only the beginning, so that a gallery nobody searches costs little.
   * @param {ListState} list
   * @returns {Promise<Results>}
   */
  async findResults(list) {
    const { atlas, lastNeuron } = this
    const beginning = await firstResults(atlas, list)
    // The neuron that the reader comes back from must be among them, to get the focus.
    const within = beginning && (!lastNeuron || positionOf(beginning, lastNeuron.layer, lastNeuron.unit) >= 0)
    const found = within ? beginning : await resultList(atlas, list)
    if (!found.count) await atlas.loadIndex() // the nearest neurons are looked for in it
    return found
  }

  /**
   * Names what is fetched, where the number of results will stand.
   * @param {Route} next
   * @param {Promise<Results>} found
   * @returns {Promise<Results>}
   */
  async whileWaiting(next, found) {
    const silence = setTimeout(() => {
      if (this.route !== next || !this.atlas.pendingBytes) return
      const message = GALLERY.fetching(this.atlas.pendingBytes)
      this.bar.update(next, message)
      announce(message)
    }, SILENT_WAIT_MS)
    try {
      return await found
    } finally {
      clearTimeout(silence)
    }
  }

  /** Fetches the rows after the beginning, once the reader comes near them. */
  async extend() {
    if (this.extending) return
    this.extending = true
    const shown = this.route
    try {
      const found = await resultList(this.atlas, shown.list)
      // The same neurons in the same places: what is in the page stays.
      if (this.route === shown) this.results = found
    } catch (error) {
      if (this.route === shown) this.fail(error)
      return
    } finally {
      this.extending = false
    }
    if (this.element.isConnected) this.tiles.grow()
  }

  /** Gives large tiles the labels of their top-activating images. @param {Route} shown */
  async addDetails(shown) {
    const { table } = this.results
    if (table.labels) return
    try {
      await addLabels(this.atlas, shown.list, table)
      if (this.route !== shown || this.results.table !== table || !table.labels) return
      this.tiles.remake()
    } catch (error) {
      if (this.route === shown) this.fail(error)
    }
  }

  async mounted() {
    await this.show(this.route)
    this.tiles.watch(this.element)
    this.settle()
  }

  /** Marks the page once the images of the window are there: tests and benchmarks wait for it. */
  async settle() {
    await imagesShown(this.tiles.element)
    await this.details
    this.element.dataset.complete = ''
  }

  restored() {
    const { lastNeuron, results } = this
    const position = lastNeuron ? positionOf(results, lastNeuron.layer, lastNeuron.unit) : -1
    if (position >= 0) this.tiles.focusTile(position, 'center')
  }

  /** @param {Route} next @returns {Promise<boolean>} */
  async update(next) {
    if (next.view !== 'gallery' || next.atlas !== this.route.atlas) return false
    await this.show(next)
    return true
  }

  /** @param {KeyboardEvent} event @returns {boolean} whether the key was used */
  onKey(event) {
    if (event.key !== 'c' || this.atlas.methods.length < 2) return this.tiles.onKey(event)
    this.go(compareResults(this.route))
    return true
  }

  destroy() {
    this.tiles.destroy()
  }
}

/**
 * Waits for the images in the window, or for IMAGES_FIRST_MS.
 * @param {HTMLElement} tiles
 * @returns {Promise<unknown>}
 */
function imagesShown(tiles) {
  const images = [...tiles.querySelectorAll('img')].filter((image) => image.getBoundingClientRect().top < innerHeight)
  const loaded = images.map(
    (image) =>
      image.complete ||
      new Promise((resolve) => {
        image.addEventListener('load', resolve, { once: true })
        image.addEventListener('error', resolve, { once: true })
      }),
  )
  return Promise.race([Promise.all(loaded), new Promise((resolve) => setTimeout(resolve, IMAGES_FIRST_MS))])
}

/** @param {Atlas} atlas @param {boolean} several whether the site has other atlases @returns {HTMLElement} */
function introduction(atlas, several) {
  const { counts, model, provenance } = atlas.manifest
  const others = ['weak', 'dead', 'failed', 'skipped']
    .filter((status) => counts[status])
    .map((status) => GALLERY.statusCount(counts[status], status))
  return h('header', { class: 'introduction' },
    several && link('#/', { class: 'back' }, GALLERY.allAtlases),
    h('h1', { tabindex: '-1' }, atlas.title),
    h('p', { class: 'lead' },
      GALLERY.lead(atlas.numNeurons, atlas.layers.length),
      h('span', { class: 'code' }, model.name),
      GALLERY.methods(joinWords(atlas.methods.map(methodTitle))),
      typeof provenance.num_samples === 'number' && GALLERY.measured(provenance.num_samples),
      others.length > 0 && GALLERY.marked(joinWords(others)),
      ' ',
      link(`#/about?${new URLSearchParams({ atlas: atlas.slug })}`, {}, GALLERY.howToRead),
    ),
  )
}
