/** The camera of the map, pure: at which place it looks, through a window of which size, and where a move leads. */

import { scaleOf, WHOLE_MAP, zoomAbout } from './grid.js'

/** @typedef {import('./grid.js').Place} Place */

/** A key pans so much of the window and zooms by so much; a button zooms by as much. */
const PAN_STEP = 0.15
export const ZOOM_STEP = 1.5

/** Moves give the place that they lead to, on the map or off it; the camera stays where it is. */
export class MapCamera {
  /** @param {Place} place */
  constructor(place) {
    this.place = place
    /** px of the page */
    this.width = 1
    this.height = 1
    /** px of the device in one px of the page */
    this.ratio = 1
  }

  /** @returns {number} px of the page in one unit of places */
  get scale() {
    return scaleOf(this.place.zoom, this.width, this.height)
  }

  /** @returns {number} px of the device in one unit of places */
  get deviceScale() {
    return this.scale * this.ratio
  }

  /**
   * @param {number} x px from the middle of the window
   * @param {number} y
   * @returns {{x: number, y: number}} what is seen there, in places
   */
  pointAt(x, y) {
    return { x: this.place.x + x / this.scale, y: this.place.y + y / this.scale }
  }

  /** @param {number} dx px that the map is dragged @param {number} dy @returns {Place} */
  panned(dx, dy) {
    const { place, scale } = this
    return { ...place, x: place.x - dx / scale, y: place.y - dy / scale }
  }

  /** @param {number} factor @returns {Place} */
  zoomed(factor) {
    return { ...this.place, zoom: this.place.zoom * factor }
  }

  /**
   * @param {number} factor
   * @param {number} x px from the middle of the window, of the point that stays
   * @param {number} y
   * @returns {Place}
   */
  zoomedAbout(factor, x, y) {
    return zoomAbout(this.place, factor, x, y, this.scale)
  }

  /** @param {string} key @returns {Place | undefined} undefined for keys that do not move the map */
  movedByKey(key) {
    const { x, y, zoom } = this.place
    const step = { x: (PAN_STEP * this.width) / this.scale, y: (PAN_STEP * this.height) / this.scale }
    return {
      ArrowLeft: { x: x - step.x, y, zoom },
      ArrowRight: { x: x + step.x, y, zoom },
      ArrowUp: { x, y: y - step.y, zoom },
      ArrowDown: { x, y: y + step.y, zoom },
      '+': { x, y, zoom: zoom * ZOOM_STEP },
      '=': { x, y, zoom: zoom * ZOOM_STEP },
      '-': { x, y, zoom: zoom / ZOOM_STEP },
      0: WHOLE_MAP,
      Home: WHOLE_MAP,
    }[key]
  }
}
