/**
 * The tiles of the gallery, and the keyboard's place among them. Only the tiles near the window are in the page (see
 * `layout.js`); the tile that has the keyboard's focus stays.
 */

import { h } from '../base/dom.js'
import { layerKind } from '../base/glossary.js'
import { GALLERY } from '../base/glossary/site.js'
import { tileLink } from '../ui/tiles.js'
import { bandOf, layoutGallery, movePosition, tileMetrics, visibleBands } from './layout.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./layout.js').Band} Band
 * @typedef {import('../data/results.js').Results} Results
 * @typedef {import('../base/route.js').Route} Route
 */

/** The bar that stays at the top of the window, with a little air. */
export const HEADER_HEIGHT_PX = 72

const MOVING_KEYS = ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown', 'Home', 'End']

/** Draws the tiles of a result list and moves the focus among them. */
export class GalleryTiles {
  /**
   * @param {Atlas} atlas
   * @param {() => {route: Route, results: Results}} shown what the tiles are of, asked for whenever they are drawn
   * @param {() => void} needRows called when the reader comes near tiles whose rows are not there
   */
  constructor(atlas, shown, needRows) {
    this.atlas = atlas
    this.shown = shown
    this.needRows = needRows
    this.element = h('ul', { class: 'gallery', 'aria-label': GALLERY.neurons })
    this.layout = layoutGallery({ count: 0, width: 1, metrics: tileMetrics('medium', 1), headingOf: null })
    this.arrangedWidth = 0
    /** Position that Tab reaches; arrow keys move it. */
    this.active = 0
    /** Whether the tile there gets the focus once its row has come. */
    this.focusComes = false
    /** @type {Map<string, HTMLElement>} elements in the page by key: 't' position or 'h' band */
    this.drawn = new Map()
    /** The frame that a scroll asked for, 0 for none. */
    this.frame = 0
    this.onScroll = () => {
      if (!this.frame) this.frame = requestAnimationFrame(() => this.drawFrame())
    }
    this.resized = new ResizeObserver(() => {
      if (this.element.clientWidth !== this.arrangedWidth) this.arrange()
    })
  }

  /** @returns {boolean} */
  get hasFocus() {
    return this.element.contains(document.activeElement)
  }

  /** Shows other results, from their beginning. */
  begin() {
    this.active = 0
    this.focusComes = false
    this.arrange()
  }

  /** Shows the rows that have come since, of the same results. */
  grow() {
    this.draw()
    if (this.focusComes && this.hasFocus) this.focusTile(this.active, 'nearest')
  }

  /** Makes the tiles of the same results anew; the focus stays. */
  remake() {
    const { hasFocus } = this
    this.arrange()
    if (hasFocus) this.focusTile(this.active, 'nearest')
  }

  /** Computes the layout anew: other results, another width, another size of tiles. */
  arrange() {
    const { element } = this
    const width = element.clientWidth
    if (!width) return
    this.arrangedWidth = width
    const { route, results } = this.shown()
    const metrics = tileMetrics(route.size, innerWidth)
    this.layout = layoutGallery({ count: results.count, width, metrics, headingOf: this.headings() })
    element.style.height = `${this.layout.height}px`
    element.dataset.size = route.size
    element.replaceChildren()
    this.drawn = new Map()
    // What one sees first, so that it is there in the next frame; then the margin around it.
    this.draw(false)
    requestAnimationFrame(() => setTimeout(() => element.isConnected && this.draw()))
  }

  /** @returns {((position: number) => string) | null} the layer of each position, null for tiles without headings */
  headings() {
    const { route, results } = this.shown()
    if (route.list.sort || route.list.layer || this.atlas.layers.length < 2) return null
    const { table, rows, count } = results
    return rows.length === count ? (position) => table.columns.layer[rows[position]] : layersInOrder(this.atlas)
  }

  drawFrame() {
    this.frame = 0
    this.draw()
  }

  /**
   * Puts the tiles near the window into the page and takes the others out.
   * @param {boolean} [wide] those of the margin too
   */
  draw(wide = true) {
    const { element, layout, drawn } = this
    const available = this.shown().results.rows.length
    const top = -element.getBoundingClientRect().top
    const [first, last] = visibleBands(layout, top, top + innerHeight, wide)
    /** @type {Map<string, HTMLElement>} */
    const needed = new Map()
    for (let number = first; number < last; number++) {
      const band = layout.bands[number]
      const key = `h${number}`
      if (band.heading) needed.set(key, drawn.get(key) ?? this.headingElement(band))
      // Tiles of rows that are still on their way have their room, and come with them.
      for (let position = band.start; position < Math.min(band.end, available); position++) {
        needed.set(`t${position}`, drawn.get(`t${position}`) ?? this.tileElement(position, band))
      }
    }
    this.replaceDrawn(needed)
    if (last > first && layout.bands[last - 1].end > available) this.needRows()
  }

  /** Exchanges the elements in the page; one that has the focus stays. @param {Map<string, HTMLElement>} needed */
  replaceDrawn(needed) {
    for (const [key, node] of this.drawn) {
      if (needed.has(key)) continue
      if (node.contains(document.activeElement)) needed.set(key, node)
      else node.remove()
    }
    for (const [key, node] of needed) if (!this.drawn.has(key)) this.element.append(node)
    this.drawn = needed
  }

  /** @param {Band} band @returns {HTMLElement} */
  headingElement({ heading, top, count }) {
    const isClasses = !layerKind(heading) && this.atlas.layer(heading)?.is_classes
    const units = isClasses ? GALLERY.classes(count) : GALLERY.units(count, layerKind(heading))
    return h('li', { class: 'gallery-heading', style: { top: `${top}px` } },
      h('h2', {}, h('span', { class: 'code' }, heading), ' ', h('small', {}, units)),
    )
  }

  /** @param {number} position @param {Band} band @returns {HTMLElement} */
  tileElement(position, { start, top }) {
    const { route, results } = this.shown()
    const { tileWidth, metrics } = this.layout
    const left = (position - start) * (tileWidth + metrics.gap)
    const anchor = tileLink(this.atlas, results, position, route)
    anchor.dataset.position = String(position)
    anchor.tabIndex = position === this.active ? 0 : -1
    const style = { top: `${top}px`, left: `${left}px`, width: `${tileWidth}px` }
    return h('li', { class: 'tile', 'aria-setsize': results.count, 'aria-posinset': position + 1, style }, anchor)
  }

  /**
   * Moves the keyboard's place in the gallery, scrolling as far as needed.
   * @param {number} position
   * @param {'nearest' | 'center'} block
   */
  focusTile(position, block) {
    const band = bandOf(this.layout, position)
    if (!band) return
    this.scrollToBand(band, block)
    this.element.querySelector('[tabindex="0"]')?.setAttribute('tabindex', '-1')
    this.active = position
    this.draw()
    const anchor = /** @type {HTMLElement | null} */ (this.element.querySelector(`[data-position="${position}"]`))
    this.focusComes = !anchor
    if (anchor) anchor.tabIndex = 0
    anchor?.focus({ preventScroll: true })
  }

  /** @param {Band} band @param {'nearest' | 'center'} block */
  scrollToBand(band, block) {
    const galleryTop = this.element.getBoundingClientRect().top + scrollY
    const [from, to] = [galleryTop + band.top - HEADER_HEIGHT_PX, galleryTop + band.top + band.height]
    const [above, below] = [from < scrollY, to > scrollY + innerHeight]
    if (block === 'center' && (above || below)) scrollTo(0, (from + to - innerHeight) / 2)
    else if (above) scrollTo(0, from)
    else if (below) scrollTo(0, to - innerHeight)
  }

  /** @param {KeyboardEvent} event @returns {boolean} whether the key was used */
  onKey(event) {
    const { results } = this.shown()
    const key = { j: 'ArrowRight', k: 'ArrowLeft' }[event.key] ?? event.key
    if (!MOVING_KEYS.includes(key) || !results.rows.length) return false
    // Up, down, Home and End scroll the page as always; sideways enters the gallery.
    if (!this.hasFocus && key !== 'ArrowLeft' && key !== 'ArrowRight') return false
    this.focusTile(this.hasFocus ? movePosition(this.layout, this.active, key, results.count) : this.active, 'nearest')
    return true
  }

  /** Draws from now on what scrolling and other sizes of the page bring. @param {HTMLElement} page */
  watch(page) {
    addEventListener('scroll', this.onScroll, { passive: true })
    this.resized.observe(page)
  }

  destroy() {
    removeEventListener('scroll', this.onScroll)
    this.resized.disconnect()
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
