/**
 * The wall: every neuron of the result list as a tile. Only the tiles near the window are in the page (see `layout.js`);
 * the tile that has the keyboard's focus stays.
 */

import { announce, fill, h, link } from './dom.js'
import { makeFilters, makeResultBar } from './filters.js'
import { formatBytes, joinWords, plural } from './format.js'
import { bandOf, layoutWall, movePosition, tileMetrics, visibleBands } from './layout.js'
import { emptyWall } from './notfound.js'
import { addLabels, firstResults, positionOf, resultList } from './results.js'
import { compareResults } from './router.js'
import { tileLink } from './tiles.js'
import { layerKind, methodTitle } from './words.js'

/**
 * @typedef {import('./data.js').Atlas} Atlas
 * @typedef {import('./layout.js').WallLayout} WallLayout
 * @typedef {import('./layout.js').Band} Band
 * @typedef {import('./results.js').Results} Results
 * @typedef {import('./router.js').Route} Route
 * @typedef {import('./filters.js').Go} Go
 */

/** ms after which a wall counts as shown even if pictures of the window are still on their way. */
const PICTURES_FIRST_MS = 1500

/** ms of waiting for results after which the reader is told what for. */
const SILENT_WAIT_MS = 200

/** The bar that stays at the top of the window, with a little air. */
const HEADER_HEIGHT_PX = 72

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @param {{layer: string, unit: number} | null} options.lastNeuron the neuron the reader comes back from
 * @param {boolean} options.several whether the site has other atlases
 * @param {(error: unknown) => void} options.fail shows what could not be read after the view was
 * @returns {Promise<import('./main.js').View>}
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
  const tiles = h('ul', { class: 'wall', 'aria-label': 'Neurons' })
  const message = h('div', {})
  const element = h(
    'div',
    { class: 'page wall-page' },
    introduction(atlas, several),
    h(
      'div',
      { class: 'wall-columns' },
      filters.element,
      h('section', { class: 'results', 'aria-label': 'Results' }, bar.element, message, tiles),
    ),
  )

  // In the page with all their parts from its first frame on, so that nothing moves.
  filters.update(route)
  bar.update(route, '')

  let current = route
  /** @type {Results} */
  let results = { table: atlas.index, rows: [], total: 0, before: 0, count: 0 }
  /** @type {WallLayout} */
  let layout = layoutWall({ count: 0, width: 1, metrics: tileMetrics('medium', 1), headingOf: null })
  let arrangedWidth = 0
  /** Position that Tab reaches; arrow keys move it. */
  let active = 0
  /** Whether the tile there gets the focus once its row has come. */
  let focusComes = false
  let extending = false
  /** @type {Promise<void> | null} the labels that large tiles show */
  let details = null
  /** @type {Map<string, HTMLElement>} elements in the page by key: 't' position or 'h' band */
  let drawn = new Map()

  /** @param {Route} next */
  async function update(next) {
    current = next
    const found = await whileSaying(next, findResults(next.list))
    if (current !== next) return
    results = found
    active = 0
    focusComes = false
    filters.update(next)
    const count = plural(results.count, 'neuron')
    const partial = results.count !== results.total
    bar.update(next, partial ? `${count} of ${results.total.toLocaleString('en-US')}` : count)
    announce(`${count} found`)
    fill(message, results.count ? null : emptyWall(atlas, next))
    arrange()
    details = next.size === 'large' ? addDetails(next) : null
    // Other results begin at their beginning, even for a reader who had scrolled down.
    const barTop = bar.element.getBoundingClientRect().top - HEADER_HEIGHT_PX
    if (barTop < 0) scrollBy(0, barTop)
  }

  /**
   * The results of a list: of all neurons at first only the beginning, so that a wall nobody searches costs little.
   * @param {import('./router.js').ListState} list
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
    if (!element.isConnected) return
    draw()
    if (focusComes && tiles.contains(document.activeElement)) focusTile(active, 'nearest')
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
      const hadFocus = tiles.contains(document.activeElement)
      arrange()
      if (hadFocus) focusTile(active, 'nearest')
    } catch (error) {
      if (current === shown) fail(error)
    }
  }

  /** Says once the pictures of the window are there and nothing is on its way: tests and benchmarks wait for it. */
  async function settle() {
    await picturesShown(tiles)
    await details
    element.dataset.complete = ''
  }

  /** Computes the layout anew: other results, another width, another size of tiles. */
  function arrange() {
    const width = tiles.clientWidth
    if (!width) return
    arrangedWidth = width
    const { table, rows, count } = results
    const grouped = !current.list.sort && !current.list.layer && atlas.layers.length > 1
    const layerOf =
      rows.length === count
        ? (/** @type {number} */ position) => table.columns.layer[rows[position]]
        : layersInOrder(atlas)
    layout = layoutWall({
      count,
      width,
      metrics: tileMetrics(current.size, innerWidth),
      headingOf: grouped ? layerOf : null,
    })
    tiles.style.height = `${layout.height}px`
    tiles.dataset.size = current.size
    tiles.replaceChildren()
    drawn = new Map()
    // What one sees first, so that it is there in the next frame; then the margin around it.
    draw(false)
    requestAnimationFrame(() => setTimeout(() => tiles.isConnected && draw()))
  }

  /**
   * Puts the tiles near the window into the page and takes the others out.
   * @param {boolean} [wide] those of the margin too
   */
  function draw(wide = true) {
    const top = -tiles.getBoundingClientRect().top
    const [first, last] = visibleBands(layout, top, top + innerHeight, wide)
    /** @type {Map<string, HTMLElement>} */
    const wanted = new Map()
    const focused = document.activeElement
    const keep = (/** @type {string} */ key, /** @type {() => HTMLElement} */ make) =>
      wanted.set(key, drawn.get(key) ?? make())
    for (let number = first; number < last; number++) {
      const band = layout.bands[number]
      if (band.heading) keep(`h${number}`, () => headingElement(band))
      // Tiles of rows that are still on their way have their room, and come with them.
      for (let position = band.start; position < Math.min(band.end, results.rows.length); position++) {
        keep(`t${position}`, () => tileElement(position, band))
      }
    }
    for (const [key, node] of drawn) {
      if (wanted.has(key)) continue
      if (node.contains(focused)) wanted.set(key, node)
      else node.remove()
    }
    for (const [key, node] of wanted) if (!drawn.has(key)) tiles.append(node)
    drawn = wanted
    if (last > first && layout.bands[last - 1].end > results.rows.length) extend()
  }

  /** @param {Band} band */
  function headingElement({ heading, top, count }) {
    return h(
      'li',
      { class: 'wall-heading', style: { top: `${top}px` } },
      h('h2', {}, h('span', { class: 'code' }, heading), ' ', h('small', {}, headingWords(atlas, heading, count))),
    )
  }

  /** @param {number} position @param {Band} band */
  function tileElement(position, { start, top }) {
    const { tileWidth, metrics } = layout
    const column = position - start
    const node = h(
      'li',
      {
        class: 'tile',
        'aria-setsize': results.count,
        'aria-posinset': position + 1,
        style: { top: `${top}px`, left: `${column * (tileWidth + metrics.gap)}px`, width: `${tileWidth}px` },
      },
      tileLink(atlas, results, position, current),
    )
    const anchor = /** @type {HTMLElement} */ (node.firstElementChild)
    anchor.dataset.position = String(position)
    anchor.tabIndex = position === active ? 0 : -1
    return node
  }

  /**
   * Moves the keyboard's place on the wall, scrolling as far as needed.
   * @param {number} position
   * @param {'nearest' | 'center'} block
   */
  function focusTile(position, block) {
    const band = bandOf(layout, position)
    if (!band) return
    const wallTop = tiles.getBoundingClientRect().top + scrollY
    const [from, to] = [wallTop + band.top - HEADER_HEIGHT_PX, wallTop + band.top + band.height]
    if (block === 'center' && (from < scrollY || to > scrollY + innerHeight)) {
      scrollTo(0, (from + to - innerHeight) / 2)
    } else if (from < scrollY) {
      scrollTo(0, from)
    } else if (to > scrollY + innerHeight) {
      scrollTo(0, to - innerHeight)
    }
    tiles.querySelector('[tabindex="0"]')?.setAttribute('tabindex', '-1')
    active = position
    draw()
    const anchor = /** @type {HTMLElement | null} */ (tiles.querySelector(`[data-position="${position}"]`))
    focusComes = !anchor
    if (anchor) anchor.tabIndex = 0
    anchor?.focus({ preventScroll: true })
  }

  /** @param {KeyboardEvent} event @returns {boolean} whether the key was used */
  function onKey(event) {
    if (event.key === 'c' && atlas.methods.length > 1) {
      go(compareResults(current))
      return true
    }
    const onTile = tiles.contains(document.activeElement)
    const arrows = ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown', 'Home', 'End']
    const key = { j: 'ArrowRight', k: 'ArrowLeft' }[event.key] ?? event.key
    if (!arrows.includes(key) || !results.rows.length) return false
    if (!onTile) {
      // Up, down, Home and End scroll the page as always; sideways enters the wall.
      if (key !== 'ArrowLeft' && key !== 'ArrowRight') return false
      focusTile(active, 'nearest')
      return true
    }
    focusTile(movePosition(layout, active, key, results.count), 'nearest')
    return true
  }

  let waiting = false
  const onScroll = () => {
    if (waiting) return
    waiting = true
    requestAnimationFrame(() => {
      waiting = false
      draw()
    })
  }
  const observer = new ResizeObserver(() => {
    if (tiles.clientWidth !== arrangedWidth) arrange()
  })

  return {
    element,
    title: atlas.title,
    async mounted() {
      await update(current)
      addEventListener('scroll', onScroll, { passive: true })
      observer.observe(element)
      settle()
    },
    restored() {
      const position = lastNeuron ? positionOf(results, lastNeuron.layer, lastNeuron.unit) : -1
      if (position >= 0) focusTile(position, 'center')
    },
    async update(next) {
      if (next.view !== 'wall' || next.atlas !== current.atlas) return false
      await update(next)
      return true
    },
    onKey,
    destroy() {
      removeEventListener('scroll', onScroll)
      observer.disconnect()
    },
  }
}

/**
 * The layer at a position of all neurons in the order of the atlas, known without the index.
 * @param {Atlas} atlas
 * @returns {(position: number) => string}
 */
function layersInOrder(atlas) {
  let number = 0
  let [start, end] = [0, atlas.layers[0]?.num_neurons ?? 0]
  return (position) => {
    if (position < start) [number, start, end] = [0, 0, atlas.layers[0].num_neurons]
    while (position >= end) {
      number++
      ;[start, end] = [end, end + atlas.layers[number].num_neurons]
    }
    return atlas.layers[number].name
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

/** @param {Atlas} atlas @param {string} layer @param {number} count @returns {string} */
function headingWords(atlas, layer, count) {
  if (layerKind(layer)) return plural(count, layerKind(layer))
  return atlas.layer(layer)?.is_classes ? plural(count, 'class', 'classes') : plural(count, 'neuron')
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
