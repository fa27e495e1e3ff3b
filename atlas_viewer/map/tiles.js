/**
 * The map in square tiles, each drawn once and kept: while one pans, a frame is a dozen copies of
 * finished tiles, whatever the number of neurons. A frame makes new tiles for a few milliseconds at most, the nearest
 * to the center first; where one is not ready, those of the zoom before stand in its place, scaled.
 */

import { dotRadius, fillShape, layerColor, layerShape, makeSprite, packColor, paintDots } from './dots.js'
import { thumbnailCell, thumbnailsIn } from './grid.js'

/**
 * @typedef {import('./data.js').NeuronMap} NeuronMap
 * @typedef {import('./sheets.js').MapSheets} MapSheets
 *
 * @typedef {object} MapLook what the tiles look like, besides their scale
 * @property {boolean} dark
 * @property {Uint8Array | null} chosen points of the result list; null: all
 * @property {Uint8Array} visualized points that have a visualization, shown before the others
 * @property {number} selected point that is always shown, −1 for none
 * @property {Record<'paper' | 'sunken' | 'faded' | 'ink' | 'accent', string>} colors
 *
 * @typedef {object} Tile
 * @property {HTMLCanvasElement} canvas
 * @property {Set<number>} awaited sheets whose thumbnails it lacks
 * @property {boolean} stale whether a sheet has come since it was drawn
 *
 * @typedef {object} TileSet the tiles of one scale
 * @property {number} zoom
 * @property {number} scale px of one unit of places, of the device
 * @property {number} cell side of a thumbnail's cell in places, 0 for dots alone
 * @property {import('./dots.js').Sprite[]} sprites by layer
 * @property {Map<string, Tile>} tiles by column and row
 */

export const TILE_PX = 256

/** ms of a frame for drawing new tiles; at 60 frames per second there are 16 for all. */
const BUDGET_MS = 6

/** Tiles of a scale that are kept: 256 KB each. */
const MAXIMUM_TILES = 160

/** Draws the map, keeping what it drew. */
export class MapTiles {
  /** @param {NeuronMap} map @param {MapSheets} sheets @param {MapLook} look */
  constructor(map, sheets, look) {
    this.map = map
    this.sheets = sheets
    this.look = look
    /** @type {TileSet | null} */
    this.current = null
    /** @type {TileSet | null} */
    this.previous = null
    this.pixels = new Uint32Array(TILE_PX * TILE_PX)
    this.image = new ImageData(new Uint8ClampedArray(this.pixels.buffer), TILE_PX, TILE_PX)
  }

  /** @param {MapLook} look */
  setLook(look) {
    this.look = look
    this.current = null
    this.previous = null
  }

  /** Tiles that lack thumbnails of this sheet are drawn again when they are next seen. @param {number} sheet */
  sheetChanged(sheet) {
    for (const tile of this.current?.tiles.values() ?? []) if (tile.awaited.has(sheet)) tile.stale = true
  }

  /**
   * Prepares tiles of a scale. Those of the scale before are kept until the new ones cover the window.
   * @param {number} zoom
   * @param {number} scale px of one unit of places, of the device
   * @param {number} ratio px of the device in one px of the page
   */
  setScale(zoom, scale, ratio) {
    if (this.current?.scale === scale) return
    if (this.current?.tiles.size) this.previous = this.current
    const count = this.map.x.length
    const radius = dotRadius(zoom, count) * ratio
    const sprites = this.map.names.map((_, layer) => makeSprite(layerShape(layer), radius))
    const cell = thumbnailCell(zoom, scale / ratio, count)
    this.current = { zoom, scale, cell, sprites, tiles: new Map() }
  }

  /**
   * Draws one frame.
   * @param {CanvasRenderingContext2D} context
   * @param {number} centerX place in the middle of the window
   * @param {number} centerY
   * @param {number} scale px of one unit in this frame; while one zooms, not that of the tiles
   * @returns {boolean} whether everything that the window shows is drawn
   */
  draw(context, centerX, centerY, scale) {
    const { width, height } = context.canvas
    context.fillStyle = this.look.colors.paper
    context.fillRect(0, 0, width, height)
    const set = this.current
    if (!set) return false
    const wanted = tilesInWindow(set, centerX, centerY, scale, width, height)
    const until = performance.now() + BUDGET_MS
    let whole = true
    for (const [column, row] of wanted) {
      const key = `${column},${row}`
      const tile = set.tiles.get(key)
      if (tile && !tile.stale) continue
      if (performance.now() > until) {
        whole = false
        break
      }
      set.tiles.set(key, this.makeTile(set, column, row))
    }
    if (whole) this.previous = null
    else if (this.previous) drawTiles(context, this.previous, centerX, centerY, scale, null)
    drawTiles(context, set, centerX, centerY, scale, wanted)
    forgetTiles(set, wanted)
    return whole
  }

  /** @param {TileSet} set @param {number} column @param {number} row @returns {Tile} */
  makeTile(set, column, row) {
    const canvas = document.createElement('canvas')
    canvas.width = canvas.height = TILE_PX
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'))
    const [left, top] = [column * TILE_PX, row * TILE_PX]
    /** @type {Set<number>} */
    const awaited = new Set()
    if (set.cell) this.drawThumbnails(context, set, left, top, awaited)
    else this.drawDots(context, set, left, top)
    return { canvas, awaited, stale: false }
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {TileSet} set
   * @param {number} left px of the whole map where the tile begins
   * @param {number} top
   */
  drawDots(context, set, left, top) {
    const { map, look } = this
    this.pixels.fill(0)
    paintDots(this.pixels, {
      width: TILE_PX,
      height: TILE_PX,
      left,
      top,
      scale: set.scale,
      grid: map.grid,
      x: map.x,
      y: map.y,
      layers: map.layers,
      sprites: set.sprites,
      colors: Uint32Array.from(map.names, (_, layer) => packColor(layerColor(layer, map.names.length, look.dark))),
      chosen: look.chosen,
      fadedColor: look.dark ? 0x4a4a4a : 0xc8c8c8,
    })
    context.putImageData(this.image, 0, 0)
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {TileSet} set
   * @param {number} left px of the whole map where the tile begins
   * @param {number} top
   * @param {Set<number>} awaited gathers the sheets that are not here yet
   */
  drawThumbnails(context, set, left, top, awaited) {
    const { scale, cell } = set
    const box = {
      left: left / scale,
      top: top / scale,
      right: (left + TILE_PX) / scale,
      bottom: (top + TILE_PX) / scale,
    }
    const side = cell * scale
    const gap = Math.max(2, side / 24)
    context.imageSmoothingQuality = 'medium'
    for (const { point, column, row, count } of this.thumbnailsIn(box)) {
      const [x, y, size] = [column * side - left + gap / 2, row * side - top + gap / 2, side - gap]
      const faded = this.look.chosen?.[point] === 0
      context.globalAlpha = 1
      context.fillStyle = this.look.colors.sunken
      context.fillRect(x, y, size, size)
      const found = this.sheets.thumbnail(point)
      if (found) {
        context.globalAlpha = faded ? 0.25 : 1
        context.drawImage(found.image, found.left, found.top, found.size, found.size, x, y, size, size)
      } else awaited.add(this.sheets.sheetOf(point))
      context.globalAlpha = 1
      this.drawLayer(context, point, x, y, faded)
      if (count > 1) this.drawCount(context, count - 1, x + size, y + size)
    }
  }

  /**
   * The color and shape of its layer, in the corner of a thumbnail.
   * @param {CanvasRenderingContext2D} context
   * @param {number} point
   * @param {number} left
   * @param {number} top
   * @param {boolean} faded
   */
  drawLayer(context, point, left, top, faded) {
    const { names, layers } = this.map
    context.fillStyle = this.look.colors.paper
    context.fillRect(left, top, 12, 12)
    const color = layerColor(layers[point], names.length, this.look.dark)
    context.fillStyle = faded ? this.look.colors.faded : `rgb(${color.join(' ')})`
    fillShape(context, layerShape(layers[point]), left + 5.5, top + 5.5, 4)
  }

  /**
   * How many more neurons a thumbnail stands for.
   * @param {CanvasRenderingContext2D} context
   * @param {number} more
   * @param {number} right
   * @param {number} bottom
   */
  drawCount(context, more, right, bottom) {
    const text = `+${more}`
    context.font = '600 11px system-ui, sans-serif'
    const width = context.measureText(text).width + 6
    context.fillStyle = this.look.colors.paper
    context.fillRect(right - width, bottom - 15, width, 15)
    context.fillStyle = this.look.colors.ink
    context.fillText(text, right - width + 3, bottom - 3.5)
  }

  /**
   * The thumbnails that meet a box, as the tiles show them; none where the map shows dots.
   * @param {import('./grid.js').Box} box
   * @returns {import('./grid.js').Thumbnail[]}
   */
  thumbnailsIn(box) {
    const cell = this.current?.cell
    if (!cell) return []
    const { chosen, visualized, selected } = this.look
    const preference = (/** @type {number} */ point) =>
      point === selected ? 4 : 2 * (chosen?.[point] ?? 0) + visualized[point]
    return thumbnailsIn(this.map.grid, this.map.x, this.map.y, box, cell, preference)
  }
}

/**
 * Columns and rows of the tiles that a window shows, from its middle outwards.
 * @param {TileSet} set
 * @param {number} centerX
 * @param {number} centerY
 * @param {number} scale
 * @param {number} width
 * @param {number} height
 * @returns {[number, number][]}
 */
function tilesInWindow(set, centerX, centerY, scale, width, height) {
  const zoomed = scale / set.scale
  const [middleX, middleY] = [centerX * set.scale, centerY * set.scale]
  const [halfWidth, halfHeight] = [width / 2 / zoomed, height / 2 / zoomed]
  const end = Math.ceil(set.scale / TILE_PX)
  const index = (/** @type {number} */ px) => Math.min(end, Math.max(-1, Math.floor(px / TILE_PX)))
  /** @type {[number, number][]} */
  const wanted = []
  for (let row = index(middleY - halfHeight); row <= index(middleY + halfHeight); row++) {
    for (let column = index(middleX - halfWidth); column <= index(middleX + halfWidth); column++) {
      wanted.push([column, row])
    }
  }
  const away = (/** @type {[number, number]} */ [column, row]) =>
    Math.abs((column + 0.5) * TILE_PX - middleX) + Math.abs((row + 0.5) * TILE_PX - middleY)
  return wanted.sort((a, b) => away(a) - away(b))
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {TileSet} set
 * @param {number} centerX
 * @param {number} centerY
 * @param {number} scale
 * @param {[number, number][] | null} wanted null: all there are
 */
function drawTiles(context, set, centerX, centerY, scale, wanted) {
  const { width, height } = context.canvas
  const zoomed = scale / set.scale
  const side = TILE_PX * zoomed
  const left = Math.round(width / 2 - centerX * scale)
  const top = Math.round(height / 2 - centerY * scale)
  const keys = wanted ? wanted.map(([column, row]) => `${column},${row}`) : [...set.tiles.keys()]
  context.imageSmoothingEnabled = zoomed !== 1
  for (const key of keys) {
    const tile = set.tiles.get(key)
    if (!tile) continue
    const [column, row] = key.split(',').map(Number)
    if (zoomed === 1) context.drawImage(tile.canvas, left + column * TILE_PX, top + row * TILE_PX)
    else context.drawImage(tile.canvas, left + column * side, top + row * side, side, side)
  }
}

/** Lets the oldest tiles go that the window does not show. @param {TileSet} set @param {[number, number][]} wanted */
function forgetTiles(set, wanted) {
  if (set.tiles.size <= MAXIMUM_TILES) return
  const kept = new Set(wanted.map(([column, row]) => `${column},${row}`))
  for (const key of set.tiles.keys()) {
    if (set.tiles.size <= MAXIMUM_TILES / 2) return
    if (!kept.has(key)) set.tiles.delete(key)
  }
}
