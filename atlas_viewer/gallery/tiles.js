/**
 * The tiles of the wall, and the keyboard's place among them. Only the tiles near the window are in the page (see
 * `layout.js`); the tile that has the keyboard's focus stays.
 */

import { h } from '../base/dom.js'
import { plural } from '../base/format.js'
import { bandOf, layoutWall, movePosition, tileMetrics, visibleBands } from './layout.js'
import { tileLink } from '../ui/tiles.js'
import { layerKind } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./layout.js').WallLayout} WallLayout
 * @typedef {import('./layout.js').Band} Band
 * @typedef {import('../data/results.js').Results} Results
 * @typedef {import('../base/router.js').Route} Route
 *
 * @typedef {object} WallTiles
 * @property {HTMLElement} element
 * @property {() => void} begin shows other results, from their beginning
 * @property {() => void} grow shows the rows that have come since, of the same results
 * @property {() => void} remake makes the tiles of the same results anew; the focus stays
 * @property {(position: number, block: 'nearest' | 'center') => void} focusTile
 * @property {(event: KeyboardEvent) => boolean} onKey whether the key was used
 * @property {(page: HTMLElement) => void} watch draws from now on what scrolling and other sizes of the page bring
 * @property {() => void} destroy
 */

/** The bar that stays at the top of the window, with a little air. */
export const HEADER_HEIGHT_PX = 72

/**
 * @param {Atlas} atlas
 * @param {() => {route: Route, results: Results}} shown what the tiles are of, asked for whenever they are drawn
 * @param {() => void} needRows called when the reader comes near tiles whose rows are not there
 * @returns {WallTiles}
 */
export function makeWallTiles(atlas, shown, needRows) {
  const tiles = h('ul', { class: 'wall', 'aria-label': 'Neurons' })
  /** @type {WallLayout} */
  let layout = layoutWall({ count: 0, width: 1, metrics: tileMetrics('medium', 1), headingOf: null })
  let arrangedWidth = 0
  /** Position that Tab reaches; arrow keys move it. */
  let active = 0
  /** Whether the tile there gets the focus once its row has come. */
  let focusComes = false
  /** @type {Map<string, HTMLElement>} elements in the page by key: 't' position or 'h' band */
  let drawn = new Map()

  function begin() {
    active = 0
    focusComes = false
    arrange()
  }

  function grow() {
    draw()
    if (focusComes && tiles.contains(document.activeElement)) focusTile(active, 'nearest')
  }

  function remake() {
    const hadFocus = tiles.contains(document.activeElement)
    arrange()
    if (hadFocus) focusTile(active, 'nearest')
  }

  /** Computes the layout anew: other results, another width, another size of tiles. */
  function arrange() {
    const width = tiles.clientWidth
    if (!width) return
    arrangedWidth = width
    const { route, results } = shown()
    const { table, rows, count } = results
    const grouped = !route.list.sort && !route.list.layer && atlas.layers.length > 1
    const layerOf =
      rows.length === count
        ? (/** @type {number} */ position) => table.columns.layer[rows[position]]
        : layersInOrder(atlas)
    layout = layoutWall({
      count,
      width,
      metrics: tileMetrics(route.size, innerWidth),
      headingOf: grouped ? layerOf : null,
    })
    tiles.style.height = `${layout.height}px`
    tiles.dataset.size = route.size
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
    const { results } = shown()
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
    if (last > first && layout.bands[last - 1].end > results.rows.length) needRows()
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
    const { route, results } = shown()
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
      tileLink(atlas, results, position, route),
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
    const { results } = shown()
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
    element: tiles,
    begin,
    grow,
    remake,
    focusTile,
    onKey,
    watch(page) {
      addEventListener('scroll', onScroll, { passive: true })
      observer.observe(page)
    },
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

/** @param {Atlas} atlas @param {string} layer @param {number} count @returns {string} */
function headingWords(atlas, layer, count) {
  if (layerKind(layer)) return plural(count, layerKind(layer))
  return atlas.layer(layer)?.is_classes ? plural(count, 'class', 'classes') : plural(count, 'neuron')
}
