/**
 * The dots of the map, painted pixel by pixel: a canvas path for each of 100,000 dots would take a second, this takes a
 * few milliseconds. A layer has a color by its depth and one of five shapes, so that it is not told by color alone.
 */

import { visitBox } from './grid.js'

/**
 * @typedef {import('./grid.js').Grid} Grid
 * @typedef {import('./grid.js').Box} Box
 *
 * @typedef {object} Sprite the pixels of one dot
 * @property {Int16Array} dx px from the dot's center
 * @property {Int16Array} dy
 * @property {Uint8Array} alpha
 */

/** @typedef {'circle' | 'square' | 'triangle' | 'diamond' | 'cross'} Shape */

/** @type {readonly Shape[]} */
export const SHAPES = ['circle', 'square', 'triangle', 'diamond', 'cross']

/** Corners of the shapes that have some, in a circle of radius 1; for the legend. */
export const SHAPE_POINTS = {
  square: '-.8,-.8 .8,-.8 .8,.8 -.8,.8',
  triangle: '0,-1.1 1,.75 -1,.75',
  diamond: '0,-1.15 1.15,0 0,1.15 -1.15,0',
  cross: '-.3,-1 .3,-1 .3,-.3 1,-.3 1,.3 .3,.3 .3,1 -.3,1 -.3,.3 -1,.3 -1,-.3 -.3,-.3',
}

/** @type {Record<Shape, (x: number, y: number) => boolean>} whether a point lies in the shape of radius 1 */
const INSIDE = {
  circle: (x, y) => x * x + y * y <= 1,
  square: (x, y) => Math.abs(x) <= 0.8 && Math.abs(y) <= 0.8,
  triangle: (x, y) => y <= 0.75 && y >= -1.1 + Math.abs(x) * 1.85,
  diamond: (x, y) => Math.abs(x) + Math.abs(y) <= 1.15,
  cross: (x, y) => Math.max(Math.abs(x), Math.abs(y)) <= 1 && Math.min(Math.abs(x), Math.abs(y)) <= 0.3,
}

/** @param {number} layer its number @returns {Shape} */
export function layerShape(layer) {
  return SHAPES[layer % SHAPES.length]
}

/**
 * Color of a layer by its depth, from teal over blue, violet and red to amber; against the paper of either theme the
 * contrast is 3:1 or more.
 * @param {number} layer its number
 * @param {number} numLayers
 * @param {boolean} dark
 * @returns {[number, number, number]} 0–255
 */
export function layerColor(layer, numLayers, dark) {
  const hue = 185 + (numLayers > 1 ? (layer / (numLayers - 1)) * 205 : 0)
  return hslColor(hue % 360, dark ? 0.62 : 0.65, dark ? 0.66 : 0.4)
}

/**
 * @param {number} hue degrees
 * @param {number} saturation 0–1
 * @param {number} lightness 0–1
 * @returns {[number, number, number]}
 */
function hslColor(hue, saturation, lightness) {
  const chroma = saturation * Math.min(lightness, 1 - lightness)
  const channel = (/** @type {number} */ n) => {
    const k = (n + hue / 30) % 12
    return Math.round(255 * (lightness - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1))))
  }
  return [channel(0), channel(8), channel(4)]
}

/**
 * Radius of the dots, px: larger for small maps and at near zoom.
 * @param {number} zoom
 * @param {number} numNeurons
 * @returns {number}
 */
export function dotRadius(zoom, numNeurons) {
  const room = Math.max(0, Math.log2(20_000 / Math.max(1, numNeurons)))
  return Math.min(4.5, 1.3 + room * 0.35 + Math.log2(zoom + 1) * 0.3)
}

/** @param {Shape} shape @param {number} radius px @returns {Sprite} */
export function makeSprite(shape, radius) {
  const reach = Math.ceil(radius * 1.2)
  const dx = []
  const dy = []
  const alpha = []
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      let covered = 0
      for (let sub = 0; sub < 16; sub++) {
        const inX = (x + (sub % 4) / 4 - 0.375) / radius
        const inY = (y + Math.floor(sub / 4) / 4 - 0.375) / radius
        if (INSIDE[shape](inX, inY)) covered++
      }
      if (!covered) continue
      dx.push(x)
      dy.push(y)
      alpha.push(Math.round((covered / 16) * 255))
    }
  }
  return { dx: Int16Array.from(dx), dy: Int16Array.from(dy), alpha: Uint8Array.from(alpha) }
}

/**
 * Paints the dots of one tile.
 * @param {Uint32Array} pixels width × height, transparent; bytes are red, green, blue, alpha
 * @param {object} options
 * @param {number} options.width px
 * @param {number} options.height px
 * @param {number} options.left px of the whole map where the tile begins
 * @param {number} options.top
 * @param {number} options.scale px of one unit of places
 * @param {Grid} options.grid
 * @param {Float32Array} options.x
 * @param {Float32Array} options.y
 * @param {Uint16Array} options.layers of each point
 * @param {Sprite[]} options.sprites by layer
 * @param {Uint32Array} options.colors by layer, without alpha
 * @param {Uint8Array | null} options.chosen of each point, 1 or 0; null: all are
 * @param {number} options.fadedColor of the others, without alpha
 */
export function paintDots(pixels, options) {
  const { width, height, left, top, scale, grid, x, y, layers, sprites, colors, chosen, fadedColor } = options
  const margin = 8
  const box = {
    left: (left - margin) / scale,
    top: (top - margin) / scale,
    right: (left + width + margin) / scale,
    bottom: (top + height + margin) / scale,
  }
  const stamp = (/** @type {number} */ point, /** @type {number} */ color) => {
    const { dx, dy, alpha } = sprites[layers[point]]
    const centerX = Math.round(x[point] * scale - left)
    const centerY = Math.round(y[point] * scale - top)
    if (centerX < -margin || centerY < -margin || centerX >= width + margin || centerY >= height + margin) return
    for (let i = 0; i < alpha.length; i++) {
      const atX = centerX + dx[i]
      const atY = centerY + dy[i]
      if (atX < 0 || atY < 0 || atX >= width || atY >= height) continue
      const at = atY * width + atX
      // An edge of one dot does not wear away the middle of another.
      if (alpha[i] >= pixels[at] >>> 24) pixels[at] = ((alpha[i] << 24) | color) >>> 0
    }
  }
  if (!chosen) {
    visitBox(grid, box, (point) => stamp(point, colors[layers[point]]))
    return
  }
  visitBox(grid, box, (point) => chosen[point] || stamp(point, fadedColor))
  visitBox(grid, box, (point) => chosen[point] && stamp(point, colors[layers[point]]))
}

/**
 * Fills the shape of a layer.
 * @param {CanvasRenderingContext2D} context
 * @param {Shape} shape
 * @param {number} x px of its center
 * @param {number} y
 * @param {number} radius px
 */
export function fillShape(context, shape, x, y, radius) {
  context.beginPath()
  if (shape === 'circle') context.arc(x, y, radius, 0, 2 * Math.PI)
  else {
    for (const corner of SHAPE_POINTS[shape].split(' ')) {
      const [dx, dy] = corner.split(',').map(Number)
      context.lineTo(x + dx * radius, y + dy * radius)
    }
  }
  context.fill()
}

/** @param {[number, number, number]} color @returns {number} as `paintDots` takes it */
export function packColor([red, green, blue]) {
  return (blue << 16) | (green << 8) | red
}
