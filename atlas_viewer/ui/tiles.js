/**
 * One tile of the gallery. A dense gallery shows hundreds of tiles at once: a sheet brings 64 of them in one file. Larger tiles
 * are shown from the neuron's own visualization, which is sharper.
 */

import { h, link } from '../base/dom.js'
import { statusLabel } from './filters.js'
import { formatScore } from '../base/format.js'
import { croppedImage, imageFrame } from './images.js'
import { formatRoute } from '../base/router.js'
import { labelsOf } from '../data/search.js'
import { methodTitle, NAMES, statusNote } from '../base/glossary.js'
import { GALLERY } from '../base/glossary/site.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/results.js').Results} Results
 * @typedef {import('../base/route.js').Route} Route
 */

/**
 * The link of one tile: the visualization, or in its place the status in words.
 * @param {Atlas} atlas
 * @param {Results} results
 * @param {number} position
 * @param {Route} route
 * @returns {HTMLAnchorElement}
 */
export function tileLink(atlas, { table, rows }, position, route) {
  const row = rows[position]
  const value = (/** @type {string} */ name) => table.columns[name]?.[row]
  const [layer, unit, status, label] = [value('layer'), value('unit'), value('status'), value('label') || '']
  const name = NAMES.neuron(layer, unit)
  const score = scoreText(atlas, route.list.sort, value(route.list.sort))
  // A neuron that the method shown was not made for stands here with another method's visualization.
  const method =
    value('method') === (route.list.method || atlas.methods[0]) ? '' : GALLERY.by(methodTitle(value('method')))
  const notes = [method, status === 'ok' ? '' : status].filter(Boolean)
  const alternative = GALLERY.alternative(name, label, notes)
  const href = formatRoute({ ...route, view: 'neuron', layer, unit, variant: '', mask: false, zoom: '' })
  return link(href, { class: 'tile-link', title: [label, name, method, score].filter(Boolean).join(' · ') },
    tileImage(atlas, value, route.size, alternative),
    status !== 'ok' && value('image_path') && h('span', { class: 'tile-status' }, statusLabel(status)),
    route.size !== 'small' &&
      h('span', { class: 'tile-caption' },
        h('span', { class: 'tile-name' }, label || (route.list.layer || !route.list.sort ? NAMES.unit(unit) : name)),
        score && h('span', { class: 'tile-score' }, score),
        route.size === 'large' && h('span', { class: 'tile-detail' }, label ? name : labelsOf(table, row) || name),
      ),
  )
}

/**
 * @param {Atlas} atlas
 * @param {(name: string) => any} value of a column
 * @param {import('../base/route.js').TileSize} size
 * @param {string} alternative
 * @returns {HTMLElement}
 */
function tileImage(atlas, value, size, alternative) {
  const [path, sheet, tile, status] = [value('image_path'), value('sheet_path'), value('tile'), value('status')]
  if (!path) {
    return h('span', { class: 'image-frame image-none' },
      statusLabel(status),
      h('span', { class: 'visually-hidden' }, GALLERY.noImage(alternative, statusNote(status).meaning)),
    )
  }
  if (size === 'small' && sheet && Number.isInteger(tile)) {
    const { sheet_columns: columns = 8, sheet_rows: rows = 8 } = atlas.manifest
    return croppedImage(atlas, sheet, {
      alternative,
      column: tile % columns,
      row: Math.floor(tile / columns),
      columns,
      rows,
    })
  }
  return imageFrame(atlas, path, { alternative })
}

/** @param {Atlas} atlas @param {string} column @param {any} score @returns {string} */
function scoreText(atlas, column, score) {
  if (!column || !Number.isFinite(score)) return ''
  return formatScore(score, atlas.manifest.columns?.[column]?.unit ?? '')
}
