/**
 * The wall: every neuron of the result list as a tile (see `walltiles.js`), beside the filters and below what tells of
 * the atlas. Rows and labels are fetched when they are needed.
 */

import { announce, fill, h, link } from '../base/dom.js'
import { makeFilters, makeResultBar } from '../ui/filters.js'
import { formatBytes, joinWords, plural } from '../base/format.js'
import { emptyWall } from '../ui/notfound.js'
import { addLabels, firstResults, positionOf, resultList } from '../data/results.js'
import { compareResults } from '../base/router.js'
import { HEADER_HEIGHT_PX, makeWallTiles } from './tiles.js'
import { methodTitle } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/results.js').Results} Results
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../ui/filters.js').Go} Go
 */

/** ms after which a wall counts as shown even if pictures of the window are still on their way. */
const PICTURES_FIRST_MS = 1500

/** ms of waiting for results after which the reader is told what for. */
const SILENT_WAIT_MS = 200

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @param {{layer: string, unit: number} | null} options.lastNeuron the neuron the reader comes back from
 * @param {boolean} options.several whether the site has other atlases
 * @param {(error: unknown) => void} options.fail shows what could not be read after the view was
 * @returns {Promise<import('../shell/main.js').View>}
 */
export async function wallView({ atlas, route, go, lastNeuron, several, fail }) {
  const filters = makeFilters(atlas, go)
  const bar = makeResultBar(atlas, go)
  // Whoever is about to filter or sort will want the whole index. What fails is said when it is used.
  for (const part of [filters.element, bar.sort]) {
    for (const event of ['pointerenter', 'focusin']) {
      part.addEventListener(event, () => atlas.loadIndex().catch(() => {}), { once: true })
    }
  }
  const tiles = makeWallTiles(atlas, () => ({ route: current, results }), extend)
  const message = h('div', {})
  const element = h(
    'div',
    { class: 'page wall-page' },
    introduction(atlas, several),
    h(
      'div',
      { class: 'wall-columns' },
      filters.element,
      h('section', { class: 'results', 'aria-label': 'Results' }, bar.element, message, tiles.element),
    ),
  )

  // In the page with all their parts from its first frame on, so that nothing moves.
  filters.update(route)
  bar.update(route, '')

  let current = route
  /** @type {Results} */
  let results = { table: atlas.index, rows: [], total: 0, before: 0, count: 0 }
  let extending = false
  /** @type {Promise<void> | null} the labels that large tiles show */
  let details = null

  /** @param {Route} next */
  async function update(next) {
    current = next
    const found = await whileSaying(next, findResults(next.list))
    if (current !== next) return
    results = found
    filters.update(next)
    const count = plural(results.count, 'neuron')
    const partial = results.count !== results.total
    bar.update(next, partial ? `${count} of ${results.total.toLocaleString('en-US')}` : count)
    announce(`${count} found`)
    fill(message, results.count ? null : emptyWall(atlas, next))
    tiles.begin()
    details = next.size === 'large' ? addDetails(next) : null
    // Other results begin at their beginning, even for a reader who had scrolled down.
    const barTop = bar.element.getBoundingClientRect().top - HEADER_HEIGHT_PX
    if (barTop < 0) scrollBy(0, barTop)
  }

  /**
   * The results of a list: of all neurons at first only the beginning, so that a wall nobody searches costs little.
   * @param {import('../base/router.js').ListState} list
   * @returns {Promise<Results>}
   */
  async function findResults(list) {
    const beginning = await firstResults(atlas, list)
    // The neuron that the reader comes back from must be among them, to get the focus.
    const within = beginning && (!lastNeuron || positionOf(beginning, lastNeuron.layer, lastNeuron.unit) >= 0)
    const found = within ? beginning : await resultList(atlas, list)
    if (!found.count) await atlas.loadIndex() // the nearest neurons are looked for in it
    return found
  }

  /**
   * Tells what is waited for, where the number of results will stand.
   * @param {Route} next
   * @param {Promise<Results>} found
   * @returns {Promise<Results>}
   */
  async function whileSaying(next, found) {
    const silence = setTimeout(() => {
      if (current !== next || !atlas.pendingBytes) return
      const words = `Fetching ${formatBytes(atlas.pendingBytes)} …`
      bar.update(next, words)
      announce(words)
    }, SILENT_WAIT_MS)
    try {
      return await found
    } finally {
      clearTimeout(silence)
    }
  }

  /** Fetches the rows after the beginning, once the reader comes near them. */
  async function extend() {
    if (extending) return
    extending = true
    const shown = current
    try {
      const found = await resultList(atlas, shown.list)
      // The same neurons in the same places: what is in the page stays.
      if (current === shown) results = found
    } catch (error) {
      if (current === shown) fail(error)
      return
    } finally {
      extending = false
    }
    if (element.isConnected) tiles.grow()
  }

  /**
   * Gives large tiles the labels of their exemplars.
   * @param {Route} shown
   */
  async function addDetails(shown) {
    const { table } = results
    if (table.labels) return
    try {
      await addLabels(atlas, shown.list, table)
      if (current !== shown || results.table !== table || !table.labels) return
      tiles.remake()
    } catch (error) {
      if (current === shown) fail(error)
    }
  }

  /** Says once the pictures of the window are there and nothing is on its way: tests and benchmarks wait for it. */
  async function settle() {
    await picturesShown(tiles.element)
    await details
    element.dataset.complete = ''
  }

  /** @param {KeyboardEvent} event @returns {boolean} whether the key was used */
  function onKey(event) {
    if (event.key === 'c' && atlas.methods.length > 1) {
      go(compareResults(current))
      return true
    }
    return tiles.onKey(event)
  }

  return {
    element,
    title: atlas.title,
    async mounted() {
      await update(current)
      tiles.watch(element)
      settle()
    },
    restored() {
      const position = lastNeuron ? positionOf(results, lastNeuron.layer, lastNeuron.unit) : -1
      if (position >= 0) tiles.focusTile(position, 'center')
    },
    async update(next) {
      if (next.view !== 'wall' || next.atlas !== current.atlas) return false
      await update(next)
      return true
    },
    onKey,
    destroy: tiles.destroy,
  }
}

/**
 * Waits for the pictures in the window, or for PICTURES_FIRST_MS.
 * @param {HTMLElement} tiles
 * @returns {Promise<unknown>}
 */
function picturesShown(tiles) {
  const images = [...tiles.querySelectorAll('img')].filter((image) => image.getBoundingClientRect().top < innerHeight)
  const loaded = images.map(
    (image) =>
      image.complete ||
      new Promise((resolve) => {
        image.addEventListener('load', resolve, { once: true })
        image.addEventListener('error', resolve, { once: true })
      }),
  )
  return Promise.race([Promise.all(loaded), new Promise((resolve) => setTimeout(resolve, PICTURES_FIRST_MS))])
}

/**
 * @param {Atlas} atlas
 * @param {boolean} several whether the site has other atlases
 * @returns {HTMLElement}
 */
function introduction(atlas, several) {
  const { counts = {}, model = {}, provenance = {} } = atlas.manifest
  const methods = joinWords(atlas.methods.map(methodTitle))
  const photographs =
    typeof provenance.num_samples === 'number'
      ? ` Activations were measured on ${plural(provenance.num_samples, 'photograph')}.`
      : ''
  const others = ['weak', 'dead', 'failed', 'skipped']
    .filter((status) => counts[status])
    .map((status) => `${counts[status]} ${status}`)
  return h(
    'header',
    { class: 'introduction' },
    several && link('#/', { class: 'back' }, '← All atlases'),
    h('h1', { tabindex: '-1' }, atlas.title),
    h(
      'p',
      { class: 'lead' },
      `What excites ${plural(atlas.numNeurons, 'neuron')} in ${plural(atlas.layers.length, 'layer')} of `,
      h('span', { class: 'code' }, model.name ?? ''),
      methods ? `, pictured with ${methods}.` : '.',
      photographs,
      others.length > 0 && ` Marked on the wall: ${joinWords(others)}.`,
      ' ',
      link(`#/about?${new URLSearchParams({ atlas: atlas.slug })}`, {}, 'How to read this'),
    ),
  )
}
