/**
 * The map: every neuron on a plane, near those that the same photographs excite. Far away a neuron is a dot, from near
 * a thumbnail. The neuron nearest to the middle is the current one: its name is below the map, and Enter opens it.
 */

import { announce, fill, h, link, problem } from './dom.js'
import { plural } from './format.js'
import { isDark } from './header.js'
import { chosenPoints, loadMap, mapNote, picturedPoints, pointsNear } from './mapdata.js'
import { clampPlace, formatPlace, parsePlace, scaleOf, WHOLE_MAP, zoomAbout } from './mapgrid.js'
import { listenToHands } from './mapinput.js'
import { fillNearList, mapLegend } from './maplegend.js'
import { mapPage, markedWords, noMapView } from './mappage.js'
import { MapSheets } from './mapsheets.js'
import { MapTiles } from './maptiles.js'
import { resultList } from './results.js'
import { formatRoute } from './router.js'

/**
 * @typedef {import('./data.js').Atlas} Atlas
 * @typedef {import('./mapdata.js').NeuronMap} NeuronMap
 * @typedef {import('./mapgrid.js').Place} Place
 * @typedef {import('./router.js').Route} Route
 * @typedef {import('./filters.js').Go} Go
 */

const NEAR_COUNT = 12
/** ms of rest after which the address, the list and the sharp tiles follow. */
const REST_MS = 180
/** A key pans so much of the window and zooms by so much. */
const PAN_STEP = 0.15
const ZOOM_STEP = 1.5
/** While one zooms, finished tiles are stretched up to so much before new ones are drawn. */
const MAXIMUM_STRETCH = 1.9
/** px around a dot in which the pointer finds it. */
const REACH_PX = 14
const MAXIMUM_RATIO = 2

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Route} options.route
 * @param {Go} options.go
 * @returns {Promise<import('./main.js').View>}
 */
export async function mapView({ atlas, route, go }) {
  const title = `Map · ${atlas.title}`
  if (!mapNote(atlas)) return noMapView(atlas, route, title)
  const [map] = await Promise.all([loadMap(atlas), atlas.loadIndex()])

  const canvas = h('canvas', {
    class: 'map-canvas',
    tabindex: '0',
    role: 'application',
    'aria-roledescription': 'map',
    'aria-label':
      `Map of ${plural(map.x.length, 'neuron')}. Arrow keys move it, plus and minus zoom, ` +
      'Enter opens the neuron in the middle',
    dataset: { keep: 'map' },
  })
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d', { alpha: false }))
  const caption = h('p', { class: 'map-caption' })
  const notice = h('div', {})
  const legend = h('div', {})
  const near = h('ul', { class: 'similar-list' })
  const marked = h('p', { class: 'map-marked' })
  const element = mapPage({
    ...{ atlas, map, canvas, caption, notice, legend, near, marked },
    zoomIn: () => zoomBy(ZOOM_STEP),
    zoomOut: () => zoomBy(1 / ZOOM_STEP),
    fit,
  })

  const pictured = picturedPoints(map, atlas.index)
  let current = route
  /** @type {Place} */
  let place = placeOf(route)
  /** @type {Uint8Array | null} */
  let chosen = null
  let selected = -1
  let hovered = -1
  let currentPoint = -1
  let [width, height, ratio] = [1, 1, 1]
  let frame = 0
  let rest = 0

  const sheets = new MapSheets(atlas, map.note, (sheet) => {
    tiles.sheetChanged(sheet)
    fill(notice, sheets.failure && problem('Thumbnails of the map are missing', [sheets.failure]))
    request()
  })
  const tiles = new MapTiles(map, sheets, look())

  /** @returns {import('./maptiles.js').MapLook} */
  function look() {
    const style = getComputedStyle(document.documentElement)
    const color = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim()
    const colors = { paper: color('surface'), sunken: color('sunken'), faded: color('line'), ink: color('ink') }
    return { dark: isDark(), chosen, pictured, selected, colors: { ...colors, accent: color('mark') } }
  }

  /** @returns {number} px of the page in one unit of places */
  function scale() {
    return scaleOf(place.zoom, width, height)
  }

  function request() {
    if (!frame) frame = requestAnimationFrame(draw)
  }

  function draw() {
    frame = 0
    const stretched = (tiles.current?.scale ?? 0) / (scale() * ratio)
    if (!(stretched < MAXIMUM_STRETCH && stretched > 1 / MAXIMUM_STRETCH)) sharpen()
    const whole = tiles.draw(context, place.x, place.y, scale() * ratio)
    if (selected >= 0) mark(selected, 4)
    if (hovered >= 0 && hovered !== selected) mark(hovered, 2)
    if (currentPoint >= 0 && document.activeElement === canvas) mark(currentPoint, 2)
    if (!whole) request()
  }

  function sharpen() {
    tiles.setScale(place.zoom, scale() * ratio, ratio)
  }

  /**
   * Frames a thumbnail, or rings a dot.
   * @param {number} point
   * @param {number} weight px of the line
   */
  function mark(point, weight) {
    const px = scale() * ratio
    const [left, top] = [canvas.width / 2 - place.x * px, canvas.height / 2 - place.y * px]
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
    // A line of the paper's color around it, so that it stands out from any picture.
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
  function pick(x, y, reach = REACH_PX) {
    const at = { x: place.x + x / scale(), y: place.y + y / scale() }
    const [thumbnail] = tiles.thumbnailsIn({ left: at.x, top: at.y, right: at.x, bottom: at.y })
    if (thumbnail) return thumbnail.point
    const [point] = pointsNear(map, at, 1, chosen)
    if (point === undefined) return -1
    return Math.hypot(map.x[point] - at.x, map.y[point] - at.y) * scale() <= reach ? point : -1
  }

  /** @param {Place} next */
  function move(next) {
    place = clampPlace(next)
    hovered = -1
    request()
    clearTimeout(rest)
    rest = setTimeout(settle, REST_MS)
  }

  /** Once the hand rests: sharp tiles, the list, the address. */
  function settle() {
    sharpen()
    request()
    tell()
    const at = formatPlace(place)
    go({ ...current, at: at === formatPlace(WHOLE_MAP) ? '' : at }, { replace: true })
  }

  /** Writes down what is in the middle. */
  function tell() {
    const points = pointsNear(map, place, NEAR_COUNT, chosen)
    const middle = pick(0, 0, Infinity)
    currentPoint = middle >= 0 && chosen?.[middle] !== 0 ? middle : (points[0] ?? -1)
    fillNearList(near, { atlas, map, points, route: current, labelOf })
    say(currentPoint)
  }

  /** @param {number} point */
  function labelOf(point) {
    return labelInIndex(atlas, map.names[map.layers[point]], map.units[point])
  }

  /** @param {number} point */
  function neuronRoute(point) {
    const neuron = { layer: map.names[map.layers[point]], unit: map.units[point] }
    return { ...current, view: /** @type {const} */ ('neuron'), ...neuron, variant: '', transparency: false, zoom: '' }
  }

  /** @param {number} point */
  function say(point) {
    if (point < 0) {
      fill(caption, 'No neuron here.')
      return
    }
    const name = `${map.names[map.layers[point]]}:${map.units[point]}`
    const label = labelOf(point)
    const open = link(formatRoute(neuronRoute(point)), { class: 'map-open' }, h('span', { class: 'code' }, name))
    fill(caption, open, label ? ` ${label}` : '')
    if (document.activeElement === canvas) announce(label ? `${name}, ${label}` : name)
  }

  /** @param {number} factor */
  function zoomBy(factor) {
    move({ ...place, zoom: place.zoom * factor })
  }

  function fit() {
    move(WHOLE_MAP)
  }

  listenToHands(canvas, {
    pan: (dx, dy) => move({ ...place, x: place.x - dx / scale(), y: place.y - dy / scale() }),
    zoom: (factor, x, y) => move(zoomAbout(place, factor, x, y, scale())),
    tap(x, y) {
      const point = pick(x, y)
      if (point < 0) return
      // A dot may be hit by chance: the first tap names it, and the second, or one on a thumbnail, opens it.
      if (tiles.current?.cell || point === selected) go(neuronRoute(point))
      else go({ ...current, neurons: [`${map.names[map.layers[point]]}:${map.units[point]}`] }, { replace: true })
    },
    hover(x, y) {
      const point = pick(x, y)
      canvas.classList.toggle('map-canvas-hit', point >= 0)
      if (point === hovered) return
      hovered = point
      say(point >= 0 ? point : currentPoint)
      request()
    },
    leave() {
      hovered = -1
      say(currentPoint)
      request()
    },
  })
  canvas.addEventListener('focus', request)
  canvas.addEventListener('blur', request)
  canvas.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    const step = { x: (PAN_STEP * width) / scale(), y: (PAN_STEP * height) / scale() }
    const { x, y, zoom } = place
    const next = {
      ArrowLeft: { x: x - step.x, y, zoom },
      ArrowRight: { x: x + step.x, y, zoom },
      ArrowUp: { x, y: y - step.y, zoom },
      ArrowDown: { x, y: y + step.y, zoom },
      '+': { x, y, zoom: zoom * ZOOM_STEP },
      '=': { x, y, zoom: zoom * ZOOM_STEP },
      '-': { x, y, zoom: zoom / ZOOM_STEP },
      0: WHOLE_MAP,
      Home: WHOLE_MAP,
    }[event.key]
    if (next) move(next)
    else if (event.key === 'Enter' && currentPoint >= 0) go(neuronRoute(currentPoint))
    else return
    event.preventDefault()
  })

  /** Takes the size of the canvas from the page. */
  function measure() {
    width = Math.max(1, canvas.clientWidth)
    height = Math.max(1, canvas.clientHeight)
    ratio = Math.min(MAXIMUM_RATIO, devicePixelRatio || 1)
    canvas.width = Math.round(width * ratio)
    canvas.height = Math.round(height * ratio)
    sharpen()
    draw()
    tell()
  }

  /** @param {Route} next */
  async function update(next) {
    const results = await resultList(atlas, next.list)
    current = next
    place = placeOf(next)
    chosen = chosenPoints(map, results)
    selected = selectedPoint(next)
    tiles.setLook(look())
    fill(legend, mapLegend(map, next, isDark()))
    fill(marked, markedWords(atlas, map, chosen))
    sharpen()
    tell()
    request()
  }

  /** @param {Route} of @returns {number} */
  function selectedPoint(of) {
    const [name = ''] = of.neurons
    const colon = name.lastIndexOf(':')
    return map.find(name.slice(0, colon), Number(name.slice(colon + 1)))
  }

  /** @param {Route} of @returns {Place} where its address leads: to a place, to a neuron, or to the whole map */
  function placeOf(of) {
    const place = parsePlace(of.at)
    const point = place ? -1 : selectedPoint(of)
    if (point < 0) return place ?? WHOLE_MAP
    // Near enough for thumbnails, and for some company.
    return clampPlace({ x: map.x[point], y: map.y[point], zoom: Math.max(2, Math.sqrt(map.x.length / 300)) })
  }

  const resized = new ResizeObserver(measure)
  const themed = () => {
    tiles.setLook(look())
    fill(legend, mapLegend(map, current, isDark()))
    sharpen()
    request()
  }
  const themeChanged = new MutationObserver(themed)
  const preference = matchMedia('(prefers-color-scheme: dark)')

  return {
    element,
    title,
    async mounted() {
      measure()
      await update(current)
      resized.observe(canvas)
      themeChanged.observe(document.documentElement, { attributeFilter: ['data-theme'] })
      preference.addEventListener('change', themed)
    },
    async update(next) {
      if (next.view !== 'map' || next.atlas !== current.atlas) return false
      const listed = JSON.stringify([next.list, next.neurons]) === JSON.stringify([current.list, current.neurons])
      // The address that this view wrote itself.
      if (listed && next.at && next.at === formatPlace(place)) current = next
      else await update(next)
      return true
    },
    onKey(event) {
      if (event.key !== 'Escape') return false
      go({ ...current, view: 'wall', neurons: [] })
      return true
    },
    destroy() {
      cancelAnimationFrame(frame)
      clearTimeout(rest)
      resized.disconnect()
      themeChanged.disconnect()
      preference.removeEventListener('change', themed)
      sheets.close()
    },
  }
}

/**
 * @param {Atlas} atlas
 * @param {string} layer
 * @param {number} unit
 * @returns {string} '' without a label
 */
function labelInIndex(atlas, layer, unit) {
  const { columns } = atlas.index
  const start = atlas.offsetOf(layer)
  const end = start + (atlas.layer(layer)?.num_neurons ?? 0)
  for (let row = start; row < end; row++) if (columns.unit[row] === unit) return columns.label[row] ?? ''
  return ''
}
