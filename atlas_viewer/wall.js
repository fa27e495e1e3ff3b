/**
 * The wall: every neuron of the result list as a tile. Only the tiles near the window are in the page (see `layout.js`);
 * the tile that has the keyboard's focus stays.
 */

import { announce, fill, h, link } from './dom.js'
import { makeFilters, makeResultBar } from './filters.js'
import { joinWords, plural } from './format.js'
import { bandOf, layoutWall, movePosition, tileMetrics, visibleBands } from './layout.js'
import { emptyWall } from './notfound.js'
import { positionOf, resultList } from './results.js'
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

/** The bar that stays at the top of the window, with a little air. */
const HEADER_HEIGHT_PX = 72

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @param {{layer: string, unit: number} | null} options.lastNeuron the neuron the reader comes back from
 * @param {boolean} options.several whether the site has other atlases
 * @returns {Promise<import('./main.js').View>}
 */
export async function wallView({ atlas, route, go, lastNeuron, several }) {
  const filters = makeFilters(atlas, go)
  const bar = makeResultBar(atlas, go)
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

  let current = route
  /** @type {Results} */
  let results = { table: atlas.index, rows: [] }
  /** @type {WallLayout} */
  let layout = layoutWall({ count: 0, width: 1, metrics: tileMetrics('medium', 1), headingOf: null })
  let arrangedWidth = 0
  /** Position that Tab reaches; arrow keys move it. */
  let active = 0
  /** @type {Map<string, HTMLElement>} elements in the page by key: 't' position or 'h' band */
  let drawn = new Map()

  /** @param {Route} next */
  async function update(next) {
    current = next
    const found = await resultList(atlas, next.list)
    if (current !== next) return
    results = found
    active = 0
    filters.update(next)
    const count = plural(results.rows.length, 'neuron')
    const partial = results.rows.length !== results.table.numRows
    bar.update(next, partial ? `${count} of ${results.table.numRows.toLocaleString('en-US')}` : count)
    announce(`${count} found`)
    fill(message, results.rows.length ? null : emptyWall(atlas, next))
    arrange()
    // Other results begin at their beginning, even for a reader who had scrolled down.
    const barTop = bar.element.getBoundingClientRect().top - HEADER_HEIGHT_PX
    if (barTop < 0) scrollBy(0, barTop)
  }

  /** Computes the layout anew: other results, another width, another size of tiles. */
  function arrange() {
    const width = tiles.clientWidth
    if (!width) return
    arrangedWidth = width
    const { table, rows } = results
    const grouped = !current.list.sort && !current.list.layer && atlas.layers.length > 1
    layout = layoutWall({
      count: rows.length,
      width,
      metrics: tileMetrics(current.size, innerWidth),
      headingOf: grouped ? (position) => table.columns.layer[rows[position]] : null,
    })
    tiles.style.height = `${layout.height}px`
    tiles.dataset.size = current.size
    tiles.replaceChildren()
    drawn = new Map()
    draw()
  }

  /** Puts the tiles near the window into the page and takes the others out. */
  function draw() {
    const top = -tiles.getBoundingClientRect().top
    const [first, last] = visibleBands(layout, top, top + innerHeight)
    /** @type {Map<string, HTMLElement>} */
    const wanted = new Map()
    const focused = document.activeElement
    const keep = (/** @type {string} */ key, /** @type {() => HTMLElement} */ make) =>
      wanted.set(key, drawn.get(key) ?? make())
    for (let number = first; number < last; number++) {
      const band = layout.bands[number]
      if (band.heading) keep(`h${number}`, () => headingElement(band))
      for (let position = band.start; position < band.end; position++) {
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
        'aria-setsize': results.rows.length,
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
    focusTile(movePosition(layout, active, key, results.rows.length), 'nearest')
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
      `What excites ${plural(counts.neurons ?? atlas.index.numRows, 'neuron')} in ${plural(atlas.layers.length, 'layer')} of `,
      h('span', { class: 'code' }, model.name ?? ''),
      methods ? `, pictured with ${methods}.` : '.',
      photographs,
      others.length > 0 && ` Marked on the wall: ${joinWords(others)}.`,
      ' ',
      link(`#/about?${new URLSearchParams({ atlas: atlas.slug })}`, {}, 'How to read this'),
    ),
  )
}
