import assert from 'node:assert/strict'
import { test } from 'node:test'

import {
  bandOf,
  HEADING_HEIGHT_PX,
  layoutGallery,
  MAXIMUM_TILES,
  movePosition,
  tileMetrics,
  visibleBands,
} from '../../atlas_viewer/gallery/layout.js'

const metrics = { minimumWidth: 100, gap: 10, captionHeight: 20 }
const plain = (/** @type {number} */ count, width = 430) => layoutGallery({ count, width, metrics, headingOf: null })

test('columns fill the width evenly', () => {
  const layout = plain(10)
  assert.equal(layout.columns, 4)
  assert.equal(layout.tileWidth, 100)
  assert.equal(plain(10, 450).tileWidth, 105)
  assert.equal(plain(10, 50).columns, 1)
})

test('every position is in exactly one band, whatever the counts and headings', () => {
  const headings = [
    null,
    () => 'a',
    (/** @type {number} */ position) => String(Math.floor(position / 7)),
    (/** @type {number} */ position) => String(position),
  ]
  for (const count of [0, 1, 4, 5, 63, 64, 65]) {
    for (const headingOf of headings) {
      const layout = layoutGallery({ count, width: 430, metrics, headingOf })
      const positions = layout.bands.flatMap((band) =>
        Array.from({ length: band.end - band.start }, (_, i) => band.start + i),
      )
      assert.deepEqual(
        positions,
        Array.from({ length: count }, (_, i) => i),
      )
      let top = 0
      for (const band of layout.bands) {
        assert.equal(band.top, top)
        top += band.height
      }
      assert.equal(layout.height, top)
    }
  }
})

test('a heading stands above each run, with its count', () => {
  const layout = layoutGallery({ count: 6, width: 430, metrics, headingOf: (position) => (position < 5 ? 'a' : 'b') })
  const headings = layout.bands.filter((band) => band.heading)
  assert.deepEqual(
    headings.map((band) => [band.heading, band.count]),
    [
      ['a', 5],
      ['b', 1],
    ],
  )
  assert.equal(headings[1].top, HEADING_HEIGHT_PX + 2 * 130)
})

test('what meets the window is drawn, and the rest is bounded', () => {
  const layout = plain(100_000)
  for (const top of [0, 1234, layout.height / 2, layout.height - 900]) {
    const [first, last] = visibleBands(layout, top, top + 900)
    const tiles = layout.bands.slice(first, last).reduce((sum, band) => sum + band.end - band.start, 0)
    assert.ok(tiles <= MAXIMUM_TILES, `${tiles} tiles`)
    assert.ok(layout.bands[first].top <= top)
    const bottomBand = layout.bands[last - 1]
    assert.ok(bottomBand.top + bottomBand.height >= Math.min(top + 900, layout.height))
  }
})

test('above and below the gallery nothing is needed but the margin', () => {
  const layout = plain(1000)
  const [first, last] = visibleBands(layout, -5000, -4000)
  assert.equal(first, 0)
  assert.equal(last, 0)
  const [start, end] = visibleBands(layout, layout.height + 5000, layout.height + 6000)
  assert.equal(start, layout.bands.length)
  assert.equal(end, layout.bands.length)
})

test('arrow keys move by one tile and by one row, and stop at the edges', () => {
  const layout = plain(10) // rows of 4, 4, 2
  const move = (/** @type {number} */ position, /** @type {string} */ key) => movePosition(layout, position, key, 10)
  assert.equal(move(0, 'ArrowLeft'), 0)
  assert.equal(move(0, 'ArrowRight'), 1)
  assert.equal(move(9, 'ArrowRight'), 9)
  assert.equal(move(1, 'ArrowDown'), 5)
  assert.equal(move(7, 'ArrowDown'), 9)
  assert.equal(move(9, 'ArrowDown'), 9)
  assert.equal(move(5, 'ArrowUp'), 1)
  assert.equal(move(2, 'ArrowUp'), 2)
  assert.equal(move(5, 'Home'), 0)
  assert.equal(move(5, 'End'), 9)
})

test('the band of a position', () => {
  assert.equal(bandOf(plain(10), 5)?.start, 4)
  assert.equal(bandOf(plain(10), 10), undefined)
})

test('tiles are smaller on a narrow window, and each size is larger than the one before', () => {
  for (const width of [390, 1440]) {
    const widths = /** @type {const} */ (['small', 'medium', 'large']).map(
      (size) => tileMetrics(size, width).minimumWidth,
    )
    assert.ok(widths[0] < widths[1] && widths[1] < widths[2])
  }
  assert.ok(tileMetrics('medium', 390).minimumWidth < tileMetrics('medium', 1440).minimumWidth)
})
