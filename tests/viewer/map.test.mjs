import assert from 'node:assert/strict'
import { test } from 'node:test'

import { MapCamera, ZOOM_STEP } from '../../atlas_viewer/map/camera.js'
import { layerColor, layerShape, makeSprite, packColor, paintDots } from '../../atlas_viewer/map/dots.js'
import {
  clampPlace,
  formatPlace,
  makeGrid,
  MAXIMUM_ZOOM,
  nearestPoints,
  parsePlace,
  scaleOf,
  thumbnailCell,
  thumbnailsIn,
  visitBox,
  WHOLE_MAP,
  zoomAbout,
} from '../../atlas_viewer/map/grid.js'

/** Places of `count` points, the same on every run. */
function drawnPoints(count) {
  let state = 1
  const next = () => (state = (state * 48271) % 2147483647) / 2147483647
  const x = Float32Array.from({ length: count }, next)
  const y = Float32Array.from({ length: count }, next)
  return { x, y, grid: makeGrid(x, y) }
}

test('a place of an address is read as it was written, and what is none is the default', () => {
  const place = { x: 0.123456, y: 1, zoom: 12.5 }
  assert.equal(formatPlace(place), '0.123456,1,12.5')
  assert.deepEqual(parsePlace(formatPlace(place)), place)
  for (const text of ['', '1', '1,2', '0.5,0.5,x', '-1,0,1', '0.5,0.5,1,1', 'NaN,0,1', '1e3,0,1']) {
    assert.equal(parsePlace(text), null, text)
  }
  assert.deepEqual(parsePlace('7,0.5,999'), { x: 1, y: 0.5, zoom: MAXIMUM_ZOOM })
})

test('zooming about a point keeps it where it is', () => {
  const before = { x: 0.5, y: 0.5, zoom: 2 }
  const scale = scaleOf(before.zoom, 800, 600)
  const after = zoomAbout(before, 3, 100, -40, scale)
  const scaleAfter = scaleOf(after.zoom, 800, 600)
  assert.equal(after.zoom, 6)
  assert.ok(Math.abs(before.x + 100 / scale - (after.x + 100 / scaleAfter)) < 1e-9)
  assert.ok(Math.abs(before.y - 40 / scale - (after.y - 40 / scaleAfter)) < 1e-9)
  assert.equal(clampPlace({ x: -1, y: 2, zoom: 1e9 }).x, 0)
})

test('what is below the hand stays below it while one drags or zooms, and the camera moves when it is told', () => {
  const camera = new MapCamera({ x: 0.4, y: 0.3, zoom: 4 })
  Object.assign(camera, { width: 800, height: 600, ratio: 2 })
  assert.equal(camera.deviceScale, 2 * scaleOf(4, 800, 600))
  const seen = camera.pointAt(50, 20)
  const near = (a, b) => assert.ok(Math.abs(a.x - b.x) < 1e-9 && Math.abs(a.y - b.y) < 1e-9, JSON.stringify([a, b]))
  const [dragged, zoomed] = [camera.panned(30, -10), camera.zoomedAbout(1.7, 50, 20)]
  assert.deepEqual(camera.place, { x: 0.4, y: 0.3, zoom: 4 })
  camera.place = dragged
  near(camera.pointAt(80, 10), seen)
  camera.place = zoomed
  near(camera.pointAt(50, 20), seen)
})

test('keys move the map by a share of its window, zoom it and show all of it; others do not', () => {
  const camera = new MapCamera({ x: 0.4, y: 0.3, zoom: 4 })
  Object.assign(camera, { width: 800, height: 600 })
  const { x: right, ...same } = camera.movedByKey('ArrowRight')
  assert.deepEqual(same, { y: 0.3, zoom: 4 })
  assert.ok(Math.abs((right - 0.4) * camera.scale - 0.15 * 800) < 1e-9)
  assert.ok(Math.abs((0.3 - camera.movedByKey('ArrowUp').y) * camera.scale - 0.15 * 600) < 1e-9)
  assert.deepEqual(camera.movedByKey('+'), camera.zoomed(ZOOM_STEP))
  assert.equal(camera.movedByKey('-').zoom, 4 / ZOOM_STEP)
  for (const key of ['0', 'Home']) assert.deepEqual(camera.movedByKey(key), WHOLE_MAP)
  for (const key of ['Enter', 'Escape', 'a', ' ']) assert.equal(camera.movedByKey(key), undefined, key)
})

test('the grid has every point once, and a box finds those in it', () => {
  const { x, y, grid } = drawnPoints(5000)
  assert.deepEqual([...grid.points].sort((a, b) => a - b), [...x.keys()])
  const box = { left: 0.2, top: 0.3, right: 0.25, bottom: 0.7 }
  const found = new Set()
  visitBox(grid, box, (point) => found.add(point))
  for (let i = 0; i < x.length; i++) {
    if (x[i] >= box.left && x[i] < box.right && y[i] >= box.top && y[i] < box.bottom) assert.ok(found.has(i))
  }
  assert.ok(found.size < 1000)
  visitBox(grid, { left: 1.5, top: 0, right: 2, bottom: 1 }, () => assert.fail('nothing lies there'))
})

test('the nearest points are those that a look at all of them finds', () => {
  const { x, y, grid } = drawnPoints(3000)
  for (const center of [
    { x: 0.5, y: 0.5 },
    { x: 0, y: 1 },
    { x: 0.9, y: 0.01 },
  ]) {
    const all = [...x.keys()].sort(
      (a, b) => (x[a] - center.x) ** 2 + (y[a] - center.y) ** 2 - (x[b] - center.x) ** 2 - (y[b] - center.y) ** 2,
    )
    assert.deepEqual(nearestPoints(grid, x, y, center, 12), all.slice(0, 12))
    const odd = nearestPoints(grid, x, y, center, 5, (point) => point % 2 === 1)
    assert.deepEqual(odd, all.filter((point) => point % 2 === 1).slice(0, 5))
  }
  assert.equal(nearestPoints(grid, x, y, { x: 0.5, y: 0.5 }, 12, () => false).length, 0)
})

test('dots give way to thumbnails of 32 to 70 px when few enough share a window', () => {
  assert.equal(thumbnailCell(1, 600, 100_000), 0)
  for (let zoom = 10; zoom < 200; zoom *= 1.13) {
    const cell = thumbnailCell(zoom, 600 * zoom, 100_000)
    assert.ok(cell * 600 * zoom >= 36 && cell * 600 * zoom < 72, `zoom ${zoom}`)
    assert.ok(Number.isInteger(Math.log2(cell)))
  }
  assert.ok(thumbnailCell(1, 600, 100) > 0)
})

test('every cell has one thumbnail, that of the neuron preferred, and no neuron is forgotten', () => {
  const { x, y, grid } = drawnPoints(2000)
  const box = { left: 0.1, top: 0.1, right: 0.6, bottom: 0.5 }
  const cell = 1 / 32
  const preferred = thumbnailsIn(grid, x, y, box, cell, (point) => (point === 77 ? 4 : point % 7 === 0 ? 1 : 0))
  const cells = preferred.map(({ column, row }) => `${column},${row}`)
  assert.equal(new Set(cells).size, cells.length)
  for (const { point, column, row, count } of preferred) {
    const inside = [...x.keys()].filter((i) => Math.floor(x[i] / cell) === column && Math.floor(y[i] / cell) === row)
    assert.equal(count, inside.length)
    assert.ok(inside.includes(point))
    if (inside.includes(77)) assert.equal(point, 77)
    else if (inside.some((i) => i % 7 === 0)) assert.equal(point % 7, 0)
  }
})

test('a dot is painted in the color of its layer; those that are not chosen are gray, and beneath', () => {
  const [x, y] = [Float32Array.of(0.5, 0.51, 2), Float32Array.of(0.5, 0.5, 2)]
  const options = {
    width: 100,
    height: 100,
    left: 0,
    top: 0,
    scale: 100,
    grid: makeGrid(x, y),
    x,
    y,
    layers: Uint16Array.of(0, 1, 1),
    sprites: [makeSprite('circle', 3), makeSprite('square', 3)],
    colors: Uint32Array.of(packColor([255, 0, 0]), packColor([0, 0, 255])),
    fadedColor: 0x808080,
  }
  const all = new Uint32Array(100 * 100)
  paintDots(all, { ...options, chosen: null })
  assert.equal(all[50 * 100 + 48], 0xff0000ff)
  assert.equal(all[50 * 100 + 53], 0xffff0000)
  assert.equal(all[10 * 100 + 10], 0)
  const some = new Uint32Array(100 * 100)
  paintDots(some, { ...options, chosen: Uint8Array.of(1, 0, 0) })
  assert.equal(some[50 * 100 + 51], 0xff0000ff)
  assert.equal(some[50 * 100 + 53], 0xff808080)
})

test('neighbors in depth differ in shape, and every color stands out from the paper', () => {
  assert.notEqual(layerShape(0), layerShape(1))
  const luminance = (color) => {
    const [r, g, b] = color.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
  for (let layer = 0; layer < 49; layer++) {
    assert.ok(contrast(luminance(layerColor(layer, 49, false)), 1) >= 3, `light ${layer}`)
    assert.ok(contrast(luminance(layerColor(layer, 49, true)), luminance([0x1b, 0x1c, 0x1e])) >= 3, `dark ${layer}`)
  }
  assert.deepEqual(layerColor(0, 1, false).length, 3)
})
