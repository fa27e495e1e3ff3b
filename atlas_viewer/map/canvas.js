/**
 * The canvas of the map: draws a frame for the camera when one is asked for, marks neurons in it, and finds the neuron
 * below a hand. What is drawn comes from the tiles.
 */

import { h } from '../base/dom.js'
import { MAP } from '../base/glossary/map.js'
import { isDark } from '../base/darkmode.js'
import { pointsNear } from './data.js'

/**
 * @typedef {import('./camera.js').MapCamera} MapCamera
 * @typedef {import('./data.js').NeuronMap} NeuronMap
 * @typedef {import('./tiles.js').MapLook} MapLook
 * @typedef {import('./tiles.js').MapTiles} MapTiles
 */

/** While one zooms, finished tiles are stretched up to so much before new ones are drawn. */
const MAXIMUM_STRETCH = 1.9
/** px around a dot in which the pointer finds it. */
const REACH_PX = 14
const MAXIMUM_RATIO = 2

/** The canvas; `hovered` and `middle` are points that it marks besides the selected one of the tiles, −1 for none. */
export class MapCanvas {
  /** @param {NeuronMap} map @param {MapCamera} camera @param {MapTiles} tiles */
  constructor(map, camera, tiles) {
    this.map = map
    this.camera = camera
    this.tiles = tiles
    this.element = h('canvas', {
      class: 'map-canvas',
      tabindex: '0',
      role: 'application',
      'aria-roledescription': MAP.canvasRole,
      'aria-label': MAP.canvas(map.x.length),
      dataset: { keep: 'map' },
    })
    this.context = /** @type {CanvasRenderingContext2D} */ (this.element.getContext('2d', { alpha: false }))
    this.hovered = -1
    this.middle = -1
    /** The frame that is asked for, 0 for none. */
    this.frame = 0
  }

  /** @returns {boolean} */
  get hasFocus() {
    return document.activeElement === this.element
  }

  /** Takes the size of the window from the page, and draws at once. */
  measure() {
    const { element, camera } = this
    camera.width = Math.max(1, element.clientWidth)
    camera.height = Math.max(1, element.clientHeight)
    camera.ratio = Math.min(MAXIMUM_RATIO, devicePixelRatio || 1)
    element.width = Math.round(camera.width * camera.ratio)
    element.height = Math.round(camera.height * camera.ratio)
    this.sharpen()
    this.draw()
  }

  /** Asks for a frame. */
  request() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw())
  }

  /** Has the tiles drawn at the scale of the camera. */
  sharpen() {
    this.tiles.setScale(this.camera.place.zoom, this.camera.deviceScale, this.camera.ratio)
  }

  draw() {
    this.frame = 0
    const { place, deviceScale } = this.camera
    const stretched = (this.tiles.current?.scale ?? 0) / deviceScale
    if (!(stretched < MAXIMUM_STRETCH && stretched > 1 / MAXIMUM_STRETCH)) this.sharpen()
    const whole = this.tiles.draw(this.context, place.x, place.y, deviceScale)
    const { selected } = this.tiles.look
    if (selected >= 0) this.mark(selected, 4)
    if (this.hovered >= 0 && this.hovered !== selected) this.mark(this.hovered, 2)
    if (this.middle >= 0 && this.hasFocus) this.mark(this.middle, 2)
    if (!whole) this.request()
  }

  /** Frames a thumbnail, or rings a dot. @param {number} point @param {number} weight px of the line */
  mark(point, weight) {
    const { map, tiles, context } = this
    const { place, deviceScale: px, ratio } = this.camera
    const [left, top] = [this.element.width / 2 - place.x * px, this.element.height / 2 - place.y * px]
    const [x, y] = [map.x[point], map.y[point]]
    const thumbnail = tiles.thumbnailsIn({ left: x, top: y, right: x, bottom: y }).find((each) => each.point === point)
    const side = (tiles.current?.cell ?? 0) * px
    const trace = (/** @type {number} */ line, /** @type {string} */ color) => {
      context.lineWidth = line * ratio
      context.strokeStyle = color
      context.beginPath()
      if (thumbnail) context.rect(left + thumbnail.column * side, top + thumbnail.row * side, side, side)
      else context.arc(left + x * px, top + y * px, 9 * ratio, 0, 2 * Math.PI)
      context.stroke()
    }
    // A line of the paper's color around it, so that it stands out from any visualization.
    trace(weight + 3, tiles.look.colors.paper)
    trace(weight, tiles.look.colors.accent)
  }

  /**
   * The neuron at a point of the canvas: the thumbnail there, or the nearest dot.
   * @param {number} x px from the middle
   * @param {number} y
   * @param {number} [reach] px
   * @returns {number} −1 if there is none
   */
  pick(x, y, reach = REACH_PX) {
    const { map, camera, tiles } = this
    const at = camera.pointAt(x, y)
    const [thumbnail] = tiles.thumbnailsIn({ left: at.x, top: at.y, right: at.x, bottom: at.y })
    if (thumbnail) return thumbnail.point
    const [point] = pointsNear(map, at, 1, tiles.look.chosen)
    if (point === undefined) return -1
    return Math.hypot(map.x[point] - at.x, map.y[point] - at.y) * camera.scale <= reach ? point : -1
  }

  close() {
    cancelAnimationFrame(this.frame)
  }
}

/** @returns {Pick<MapLook, 'dark' | 'colors'>} what the theme of the page makes of the tiles */
export function themeLook() {
  const style = getComputedStyle(document.documentElement)
  const color = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim()
  const colors = { paper: color('surface'), sunken: color('sunken'), faded: color('line'), ink: color('ink') }
  return { dark: isDark(), colors: { ...colors, accent: color('mark') } }
}
