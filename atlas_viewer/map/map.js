/**
 * The map: every neuron on a plane, near those that the same dataset images activate. Far away a neuron is a dot, from
 * near a thumbnail. The neuron nearest to the middle is the current one: its name is below the map, and Enter opens it.
 */

import { fill, h, problem } from '../base/dom.js'
import { MAP } from '../base/glossary/map.js'
import { MapCamera, ZOOM_STEP } from './camera.js'
import { MapCanvas, themeLook } from './canvas.js'
import { chosenPoints, loadMap, pointsNear, visualizedPoints } from './data.js'
import { clampPlace, formatPlace, parsePlace, WHOLE_MAP } from './grid.js'
import { listenToHands } from './input.js'
import { mapLegend } from './legend.js'
import { MapNear, neuronRoute, pointName } from './near.js'
import { mapPage, markedText, noMapView } from './page.js'
import { MapSheets } from './sheets.js'
import { MapTiles } from './tiles.js'
import { resultList } from '../data/results.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./data.js').NeuronMap} NeuronMap
 * @typedef {import('./grid.js').Place} Place
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
 */

const NEAR_COUNT = 12
/** ms of rest after which the address, the list and the sharp tiles follow. */
const REST_MS = 180

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @returns {Promise<import('../base/route.js').View>}
 */
export async function mapView({ atlas, route, go }) {
  const title = MAP.title(atlas.title)
  if (!atlas.mapNote) return noMapView(atlas, route, title)
  const [map] = await Promise.all([loadMap(atlas), atlas.loadIndex()])
  return new MapView({ atlas, map, route, go, title })
}

/** The view of a map that is loaded: moves the camera by hand and key, and has the rest follow. */
class MapView {
  /**
   * @param {object} options
   * @param {Atlas} options.atlas with its index
   * @param {NeuronMap} options.map
   * @param {Route} options.route
   * @param {Go} options.go
   * @param {string} options.title
   */
  constructor({ atlas, map, route, go, title }) {
    this.atlas = atlas
    this.map = map
    this.route = route
    this.go = go
    this.title = title
    this.rest = 0
    this.camera = new MapCamera(placeOf(map, route))
    this.sheets = new MapSheets(atlas, map.note, (sheet) => this.sheetCame(sheet))
    const visualized = visualizedPoints(map, atlas.index)
    this.tiles = new MapTiles(map, this.sheets, { ...themeLook(), visualized, chosen: null, selected: -1 })
    this.canvas = new MapCanvas(map, this.camera, this.tiles)
    this.near = new MapNear(atlas, map)
    this.notice = h('div', {})
    this.legend = h('div', {})
    this.marked = h('p', { class: 'map-marked' })
    this.element = mapPage({
      ...{ atlas, map, notice: this.notice, legend: this.legend, marked: this.marked },
      ...{ canvas: this.canvas.element, caption: this.near.caption, near: this.near.list },
      zoomIn: () => this.move(this.camera.zoomed(ZOOM_STEP)),
      zoomOut: () => this.move(this.camera.zoomed(1 / ZOOM_STEP)),
      fit: () => this.move(WHOLE_MAP),
    })
    this.resized = new ResizeObserver(() => this.measure())
    this.themed = () => this.followTheme()
    this.themeChanged = new MutationObserver(this.themed)
    this.preference = matchMedia('(prefers-color-scheme: dark)')
    this.listen()
  }

  listen() {
    const canvas = this.canvas.element
    listenToHands(canvas, {
      pan: (dx, dy) => this.move(this.camera.panned(dx, dy)),
      zoom: (factor, x, y) => this.move(this.camera.zoomedAbout(factor, x, y)),
      tap: (x, y) => this.tap(this.canvas.pick(x, y)),
      hover: (x, y) => this.hover(this.canvas.pick(x, y)),
      leave: () => this.leave(),
    })
    canvas.addEventListener('focus', () => this.canvas.request())
    canvas.addEventListener('blur', () => this.canvas.request())
    canvas.addEventListener('keydown', (event) => this.onCanvasKey(event))
  }

  /** @param {number} sheet whose thumbnails are there now, or missing */
  sheetCame(sheet) {
    this.tiles.sheetChanged(sheet)
    fill(this.notice, this.sheets.failure && problem(MAP.missingThumbnails, [this.sheets.failure]))
    this.canvas.request()
  }

  /** @param {Place} next */
  move(next) {
    this.camera.place = clampPlace(next)
    this.canvas.hovered = -1
    this.canvas.request()
    clearTimeout(this.rest)
    this.rest = setTimeout(() => this.settle(), REST_MS)
  }

  /** Once the hand rests: sharp tiles, the list, the address. */
  settle() {
    this.canvas.sharpen()
    this.canvas.request()
    this.describe()
    const at = formatPlace(this.camera.place)
    this.go({ ...this.route, at: at === formatPlace(WHOLE_MAP) ? '' : at }, { replace: true })
  }

  /** Updates the caption and the list of neurons near the middle. */
  describe() {
    const { chosen } = this.tiles.look
    const points = pointsNear(this.map, this.camera.place, NEAR_COUNT, chosen)
    const middle = this.canvas.pick(0, 0, Infinity)
    this.canvas.middle = middle >= 0 && chosen?.[middle] !== 0 ? middle : (points[0] ?? -1)
    this.near.fillList(points, this.route)
    this.name(this.canvas.middle)
  }

  /** @param {number} point */
  name(point) {
    this.near.name(point, this.route, this.canvas.hasFocus)
  }

  /** @param {number} point */
  open(point) {
    this.go(neuronRoute(this.map, point, this.route))
  }

  /** @param {number} point −1 for none */
  tap(point) {
    if (point < 0) return
    // A dot may be hit by chance: the first tap names it, and the second, or one on a thumbnail, opens it.
    if (this.tiles.current?.cell || point === this.tiles.look.selected) this.open(point)
    else this.go({ ...this.route, neurons: [pointName(this.map, point)] }, { replace: true })
  }

  /** @param {number} point −1 for none */
  hover(point) {
    const { canvas } = this
    canvas.element.classList.toggle('map-canvas-hit', point >= 0)
    if (point === canvas.hovered) return
    canvas.hovered = point
    this.name(point >= 0 ? point : canvas.middle)
    canvas.request()
  }

  leave() {
    this.canvas.hovered = -1
    this.name(this.canvas.middle)
    this.canvas.request()
  }

  /** @param {KeyboardEvent} event */
  onCanvasKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    const next = this.camera.movedByKey(event.key)
    if (next) this.move(next)
    else if (event.key === 'Enter' && this.canvas.middle >= 0) this.open(this.canvas.middle)
    else return
    event.preventDefault()
  }

  /** Takes the size of the canvas from the page. */
  measure() {
    this.canvas.measure()
    this.describe()
  }

  followTheme() {
    this.tiles.setLook({ ...this.tiles.look, ...themeLook() })
    this.fillLegend()
    this.canvas.sharpen()
    this.canvas.request()
  }

  fillLegend() {
    fill(this.legend, mapLegend(this.map, this.route, this.tiles.look.dark))
  }

  /** @param {Route} next */
  async show(next) {
    const results = await resultList(this.atlas, next.list)
    this.route = next
    this.camera.place = placeOf(this.map, next)
    const [chosen, selected] = [chosenPoints(this.map, results), selectedPoint(this.map, next)]
    this.tiles.setLook({ ...this.tiles.look, ...themeLook(), chosen, selected })
    this.fillLegend()
    fill(this.marked, markedText(this.atlas, this.map, chosen))
    this.canvas.sharpen()
    this.describe()
    this.canvas.request()
  }

  async mounted() {
    this.measure()
    await this.show(this.route)
    this.resized.observe(this.canvas.element)
    this.themeChanged.observe(document.documentElement, { attributeFilter: ['data-theme'] })
    this.preference.addEventListener('change', this.themed)
  }

  /** @param {Route} next @returns {Promise<boolean>} */
  async update(next) {
    const { route } = this
    if (next.view !== 'map' || next.atlas !== route.atlas) return false
    const listed = JSON.stringify([next.list, next.neurons]) === JSON.stringify([route.list, route.neurons])
    // The address that this view wrote itself.
    if (listed && next.at && next.at === formatPlace(this.camera.place)) this.route = next
    else await this.show(next)
    return true
  }

  /** @param {KeyboardEvent} event @returns {boolean} */
  onKey(event) {
    if (event.key !== 'Escape') return false
    this.go({ ...this.route, view: 'gallery', neurons: [] })
    return true
  }

  destroy() {
    this.canvas.close()
    clearTimeout(this.rest)
    this.resized.disconnect()
    this.themeChanged.disconnect()
    this.preference.removeEventListener('change', this.themed)
    this.sheets.close()
  }
}

/** @param {NeuronMap} map @param {Route} route @returns {number} the point that is marked, −1 for none */
function selectedPoint(map, route) {
  const [name = ''] = route.neurons
  const colon = name.lastIndexOf(':')
  return map.find(name.slice(0, colon), Number(name.slice(colon + 1)))
}

/**
 * Where an address leads: to a place, to a neuron, or to the whole map.
 * @param {NeuronMap} map
 * @param {Route} route
 * @returns {Place}
 */
function placeOf(map, route) {
  const place = parsePlace(route.at)
  const point = place ? -1 : selectedPoint(map, route)
  if (point < 0) return place ?? WHOLE_MAP
  // Near enough for thumbnails, and for some company.
  return clampPlace({ x: map.x[point], y: map.y[point], zoom: Math.max(2, Math.sqrt(map.x.length / 300)) })
}
