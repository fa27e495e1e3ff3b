/**
 * The arithmetic of the map, pure: where a window lies, which neurons are in it, which of them are shown as thumbnails.
 *
 * Places are in 0–1, y downwards; the window shows a part of them. At zoom 1 the whole map fills the shorter side.
 *
 * @typedef {object} Place what a window shows; in the address as x,y,zoom
 * @property {number} x of its center
 * @property {number} y of its center
 * @property {number} zoom
 *
 * @typedef {object} Box half-open, in places
 * @property {number} left
 * @property {number} top
 * @property {number} right
 * @property {number} bottom
 *
 * @typedef {object} Grid an index of points by cell
 * @property {number} cells per axis
 * @property {Uint32Array} starts of each cell in `points`, row by row, and the end
 * @property {Uint32Array} points by cell, ascending within it
 *
 * @typedef {object} Thumbnail
 * @property {number} point which stands for its cell
 * @property {number} column of the cell
 * @property {number} row
 * @property {number} count points in the cell
 */

export const MINIMUM_ZOOM = 0.8
export const MAXIMUM_ZOOM = 400

/** @type {Place} */
export const WHOLE_MAP = { x: 0.5, y: 0.5, zoom: 1 }

/** Thumbnails appear where about so many neurons share a window: more are dots. */
const NEURONS_WITH_THUMBNAILS = 1200

/** The thumbnails have 64 px: they are shown at 32 to 68. */
const MINIMUM_CELL_PX = 36

/** @param {Place} place @returns {Place} the nearest one that is on the map */
export function clampPlace({ x, y, zoom }) {
  const clamp = (/** @type {number} */ value, /** @type {number} */ low, /** @type {number} */ high) =>
    Math.min(high, Math.max(low, value))
  return { x: clamp(x, 0, 1), y: clamp(y, 0, 1), zoom: clamp(zoom, MINIMUM_ZOOM, MAXIMUM_ZOOM) }
}

/**
 * Reads a place of an address.
 * @param {string} text such as 0.5,0.25,8
 * @returns {Place | null} null for the default and for what is none
 */
export function parsePlace(text) {
  const parts = text.split(',')
  if (parts.length !== 3 || !parts.every((part) => /^\d{1,3}(\.\d{1,6})?$/.test(part))) return null
  const [x, y, zoom] = parts.map(Number)
  return clampPlace({ x, y, zoom })
}

/** @param {Place} place @returns {string} as `parsePlace` reads it: places to a tenth of a pixel at the highest zoom */
export function formatPlace({ x, y, zoom }) {
  return [x.toFixed(6), y.toFixed(6), zoom.toFixed(2)].map((part) => String(Number(part))).join(',')
}

/**
 * Pixels of one unit of places.
 * @param {number} zoom
 * @param {number} width px of the window
 * @param {number} height px of the window
 * @returns {number}
 */
export function scaleOf(zoom, width, height) {
  return zoom * Math.max(1, Math.min(width, height) * 0.94)
}

/**
 * The place after zooming about a point of the window, which stays where it is.
 * @param {Place} place
 * @param {number} factor
 * @param {number} offsetX px from the window's center
 * @param {number} offsetY px from the window's center
 * @param {number} scale px of one unit now
 * @returns {Place}
 */
export function zoomAbout(place, factor, offsetX, offsetY, scale) {
  const zoom = clampPlace({ ...place, zoom: place.zoom * factor }).zoom
  const moved = (1 - place.zoom / zoom) / scale
  return clampPlace({ x: place.x + offsetX * moved, y: place.y + offsetY * moved, zoom })
}

/**
 * Indexes points by the cells of a square grid, by counting: 100,000 points take a few milliseconds.
 * @param {Float32Array} x
 * @param {Float32Array} y
 * @returns {Grid}
 */
export function makeGrid(x, y) {
  const cells = Math.max(1, Math.min(512, Math.ceil(Math.sqrt(x.length / 4))))
  const starts = new Uint32Array(cells * cells + 1)
  const cellOf = (/** @type {number} */ i) =>
    Math.min(cells - 1, Math.floor(y[i] * cells)) * cells + Math.min(cells - 1, Math.floor(x[i] * cells))
  for (let i = 0; i < x.length; i++) starts[cellOf(i) + 1]++
  for (let cell = 0; cell < cells * cells; cell++) starts[cell + 1] += starts[cell]
  const next = starts.slice()
  const points = new Uint32Array(x.length)
  for (let i = 0; i < x.length; i++) points[next[cellOf(i)]++] = i
  return { cells, starts, points }
}

/**
 * Calls `visit` for every point of the cells that meet a box: some may lie just outside it.
 * @param {Grid} grid
 * @param {Box} box
 * @param {(point: number) => void} visit
 */
export function visitBox({ cells, starts, points }, { left, top, right, bottom }, visit) {
  const cell = (/** @type {number} */ value) => Math.min(cells - 1, Math.max(0, Math.floor(value * cells)))
  if (right < 0 || bottom < 0 || left > 1 || top > 1) return
  const [firstColumn, lastColumn] = [cell(left), cell(right)]
  for (let row = cell(top), last = cell(bottom); row <= last; row++) {
    const end = starts[row * cells + lastColumn + 1]
    for (let at = starts[row * cells + firstColumn]; at < end; at++) visit(points[at])
  }
}

/**
 * The points nearest to a place, nearest first.
 * @param {Grid} grid
 * @param {Float32Array} x
 * @param {Float32Array} y
 * @param {{x: number, y: number}} center
 * @param {number} count
 * @param {(point: number) => boolean} [accepts]
 * @returns {number[]}
 */
export function nearestPoints(grid, x, y, center, count, accepts = () => true) {
  const distance = (/** @type {number} */ i) => (x[i] - center.x) ** 2 + (y[i] - center.y) ** 2
  for (let radius = 1 / grid.cells; ; radius *= 2) {
    /** @type {number[]} */
    const found = []
    const box = { left: center.x - radius, top: center.y - radius, right: center.x + radius, bottom: center.y + radius }
    visitBox(grid, box, (i) => {
      if (accepts(i) && distance(i) <= radius * radius) found.push(i)
    })
    if (found.length >= count || radius > 2) return found.sort((a, b) => distance(a) - distance(b)).slice(0, count)
  }
}

/**
 * Side of a thumbnail's cell in places; 0 where the map shows dots. Cells are halved as a whole, so that thumbnails
 * keep their places while one zooms, and are from MINIMUM_CELL_PX to twice that on the screen.
 * @param {number} zoom
 * @param {number} scale px of one unit
 * @param {number} numNeurons on the map
 * @returns {number}
 */
export function thumbnailCell(zoom, scale, numNeurons) {
  if (numNeurons / zoom ** 2 > NEURONS_WITH_THUMBNAILS) return 0
  return 2 ** -Math.floor(Math.log2(scale / MINIMUM_CELL_PX))
}

/**
 * One neuron for every cell that has any and meets a box: the one that is preferred most, then the one nearest to the
 * middle of its cell. Thumbnails stand in the middle of their cells, so they never overlap; cells get smaller as one
 * zooms in, until each neuron has one of its own.
 * @param {Grid} grid
 * @param {Float32Array} x
 * @param {Float32Array} y
 * @param {Box} box
 * @param {number} cell side in places
 * @param {(point: number) => number} preference whole numbers
 * @returns {Thumbnail[]}
 */
export function thumbnailsIn(grid, x, y, box, cell, preference) {
  const [firstColumn, firstRow] = [Math.floor(box.left / cell), Math.floor(box.top / cell)]
  const columns = Math.floor(box.right / cell) - firstColumn + 1
  const rows = Math.floor(box.bottom / cell) - firstRow + 1
  /** @type {(Thumbnail & {rank: number})[]} */
  const found = []
  const at = new Int32Array(columns * rows).fill(-1)
  const whole = {
    left: firstColumn * cell,
    top: firstRow * cell,
    right: (firstColumn + columns) * cell,
    bottom: (firstRow + rows) * cell,
  }
  visitBox(grid, whole, (point) => {
    const column = Math.floor(x[point] / cell)
    const row = Math.floor(y[point] / cell)
    const [inColumn, inRow] = [column - firstColumn, row - firstRow]
    if (inColumn < 0 || inRow < 0 || inColumn >= columns || inRow >= rows) return
    const away = (x[point] / cell - column - 0.5) ** 2 + (y[point] / cell - row - 0.5) ** 2
    const rank = away - preference(point)
    const known = at[inRow * columns + inColumn]
    if (known < 0) {
      at[inRow * columns + inColumn] = found.length
      found.push({ point, column, row, count: 1, rank })
      return
    }
    const thumbnail = found[known]
    thumbnail.count++
    if (rank < thumbnail.rank) Object.assign(thumbnail, { point, rank })
  })
  return found
}
