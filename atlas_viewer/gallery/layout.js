/**
 * Where the tiles of the gallery lie. Pure arithmetic: only the tiles near the window are put into the page, so the place
 * of every row of tiles must be known without drawing it.
 */

/**
 * @typedef {import('../base/route.js').TileSize} TileSize
 *
 * @typedef {object} TileMetrics
 * @property {number} minimumWidth px of a tile, before the row is filled evenly
 * @property {number} gap px
 * @property {number} captionHeight px below the visualization
 *
 * @typedef {object} Band one full-width strip: a heading, or a row of tiles
 * @property {number} top px
 * @property {number} height px
 * @property {string} heading '' for a row of tiles
 * @property {number} start first position of the result list in the band
 * @property {number} end one past the last position
 * @property {number} count results under a heading, 0 for a row of tiles
 *
 * @typedef {object} GalleryLayout
 * @property {Band[]} bands from top to bottom
 * @property {number} columns
 * @property {number} tileWidth px
 * @property {number} height px
 * @property {TileMetrics} metrics
 */

/** At most about this many tiles are in the page at once; beyond the window itself they are only a margin. */
export const MAXIMUM_TILES = 300

export const HEADING_HEIGHT_PX = 56

/** @param {TileSize} size @param {number} windowWidth px @returns {TileMetrics} */
export function tileMetrics(size, windowWidth) {
  const narrow = windowWidth < 600
  if (size === 'small') return { minimumWidth: narrow ? 60 : 76, gap: 4, captionHeight: 0 }
  if (size === 'large') return { minimumWidth: narrow ? 150 : 216, gap: 16, captionHeight: 48 }
  return { minimumWidth: narrow ? 100 : 132, gap: 12, captionHeight: 28 }
}

/**
 * Lays out a result list, with a heading above each run of one layer when `headings` is set.
 * @param {object} options
 * @param {number} options.count number of results
 * @param {number} options.width px of the gallery
 * @param {TileMetrics} options.metrics
 * @param {((position: number) => string) | null} options.headingOf heading each position belongs under, null for none
 * @returns {GalleryLayout}
 */
export function layoutGallery({ count, width, metrics, headingOf }) {
  const { minimumWidth, gap, captionHeight } = metrics
  const columns = Math.max(1, Math.floor((width + gap) / (minimumWidth + gap)))
  const tileWidth = (width - gap * (columns - 1)) / columns
  const bandHeight = tileWidth + captionHeight + gap
  /** @type {Band[]} */
  const bands = []
  let top = 0
  let position = 0
  while (position < count) {
    let end = count
    if (headingOf) {
      const heading = headingOf(position)
      end = position
      while (end < count && headingOf(end) === heading) end++
      bands.push({ top, height: HEADING_HEIGHT_PX, heading, start: position, end: position, count: end - position })
      top += HEADING_HEIGHT_PX
    }
    for (; position < end; position += columns) {
      bands.push({
        top,
        height: bandHeight,
        heading: '',
        start: position,
        end: Math.min(end, position + columns),
        count: 0,
      })
      top += bandHeight
    }
    position = end
  }
  return { bands, columns, tileWidth, height: top, metrics }
}

/**
 * The bands that meet [top, bottom], and a margin around them as long as the tiles stay few.
 * @param {GalleryLayout} layout
 * @param {number} top px
 * @param {number} bottom px
 * @param {boolean} [wide] with the margin
 * @returns {[number, number]} first band, one past the last
 */
export function visibleBands(layout, top, bottom, wide = true) {
  const { bands } = layout
  let first = firstBandBelow(bands, top)
  let last = first
  let tiles = 0
  while (last < bands.length && bands[last].top <= bottom) {
    tiles += bands[last].end - bands[last].start
    last++
  }
  if (!wide) return [first, last]
  // The margin grows downwards first: that is where people scroll.
  const margin = bottom - top
  for (let step = 0; step < 2; step++) {
    while (last < bands.length && bands[last].top <= bottom + (margin * (step + 1)) / 2) {
      const more = bands[last].end - bands[last].start
      if (tiles + more > MAXIMUM_TILES) break
      tiles += more
      last++
    }
    while (first > 0 && bands[first - 1].top + bands[first - 1].height >= top - (margin * (step + 1)) / 2) {
      const more = bands[first - 1].end - bands[first - 1].start
      if (tiles + more > MAXIMUM_TILES) break
      tiles += more
      first--
    }
  }
  return [first, last]
}

/**
 * The first band whose bottom lies below a line, by bisection.
 * @param {Band[]} bands
 * @param {number} line px
 * @returns {number}
 */
function firstBandBelow(bands, line) {
  let low = 0
  let high = bands.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (bands[middle].top + bands[middle].height <= line) low = middle + 1
    else high = middle
  }
  return low
}

/**
 * The band of tiles that holds a position of the result list.
 * @param {GalleryLayout} layout
 * @param {number} position
 * @returns {Band | undefined}
 */
export function bandOf(layout, position) {
  return layout.bands.find((band) => band.start <= position && position < band.end)
}

/**
 * Where an arrow key leads from a position; the same position at the edge of the list.
 * @param {GalleryLayout} layout
 * @param {number} position
 * @param {string} key 'ArrowLeft' | 'ArrowRight' | 'ArrowUp' | 'ArrowDown' | 'Home' | 'End'
 * @param {number} count
 * @returns {number}
 */
export function movePosition(layout, position, key, count) {
  const last = count - 1
  if (key === 'ArrowLeft') return Math.max(0, position - 1)
  if (key === 'ArrowRight') return Math.min(last, position + 1)
  if (key === 'Home') return 0
  if (key === 'End') return last
  const tiles = layout.bands.filter((band) => band.end > band.start)
  const at = tiles.findIndex((band) => band.start <= position && position < band.end)
  const target = tiles[at + (key === 'ArrowDown' ? 1 : -1)]
  if (!target) return position
  return Math.min(target.end - 1, target.start + position - tiles[at].start)
}
