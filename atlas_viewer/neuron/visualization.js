/** The synthesized picture of a neuron: large, at native pixels, or through its transparency mask; its other variants. */

import { announce, h, link } from '../base/dom.js'
import { statusLabel } from '../ui/filters.js'
import { joinWords } from '../base/format.js'
import { showMask } from '../ui/mask.js'
import { picture } from '../ui/images.js'
import { formatRoute } from '../base/router.js'
import { facetOf, variantName, variantWords } from '../data/variants.js'
import { methodTitle, methodWords } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/router.js').Route} Route
 * @typedef {import('../ui/filters.js').Go} Go
 */

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Record<string, any>} options.row
 * @param {string} options.name of the neuron
 * @param {Route} options.route
 * @param {Go} options.go
 * @returns {HTMLElement}
 */
export function visualizationFigure({ atlas, row, name, route, go }) {
  const heading = h('h2', {}, 'Synthesized picture')
  const { facets, seed } = facetOf(row)
  const caption = h('figcaption', {}, methodWords(row.method), facets > 1 || seed > 0 ? `, ${variantWords(row)}` : '')
  if (!row.image_path) {
    return h(
      'figure',
      { class: 'visualization' },
      h('div', { class: 'section-head' }, heading),
      h(
        'div',
        { class: 'visualization-none' },
        statusLabel(row.status),
        h('p', {}, 'There is no picture of this neuron.'),
      ),
      caption,
    )
  }
  const native = route.zoom === 'native'
  const { width_px: width, height_px: height } = row
  const frame = picture(atlas, row.image_path, {
    alternative: `Picture synthesized to excite ${name}`,
    lazy: false,
    attributes: { width, height },
  })
  const stage = h(
    'div',
    { class: native ? 'stage stage-native' : 'stage', style: native ? { '--native': `${width}px` } : {} },
    frame,
  )
  const notice = h('p', { class: 'note', role: 'status' })
  if (route.transparency && row.alpha_path) {
    announce('Transparency on: parts that mattered little to the picture fade out')
    showMask(atlas, row.alpha_path, frame, (message) => {
      notice.textContent = message
    })
  }

  const press = (/** @type {Partial<Route>} */ part) => go({ ...route, ...part }, { replace: true })
  return h(
    'figure',
    { class: 'visualization' },
    h(
      'div',
      { class: 'section-head' },
      heading,
      h(
        'div',
        { class: 'visualization-tools' },
        h(
          'button',
          {
            type: 'button',
            class: 'button',
            'aria-pressed': String(native),
            'aria-label': `1:1, native pixels, ${width} × ${height}`,
            title: `Native pixels, ${width} × ${height}`,
            dataset: { keep: 'native' },
            onClick: () => press({ zoom: native ? '' : 'native' }),
          },
          '1:1',
        ),
        row.alpha_path &&
          h(
            'button',
            {
              type: 'button',
              class: 'button',
              'aria-pressed': String(route.transparency),
              dataset: { keep: 'transparency' },
              onClick: () => press({ transparency: !route.transparency }),
            },
            'Transparency',
          ),
      ),
    ),
    stage,
    notice,
    caption,
  )
}

/**
 * The same neuron by other methods, facets and seeds, the shown one marked.
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Record<string, any>[]} options.rows of the neuron
 * @param {Record<string, any>} options.shown
 * @param {string} options.name
 * @param {Route} options.route
 * @returns {HTMLElement | null} null when there is only one
 */
export function variantsSection({ atlas, rows, shown, name, route }) {
  if (rows.length < 2) return null
  const kinds = [
    new Set(rows.map((row) => row.method)).size > 1 && 'methods',
    new Set(rows.map((row) => facetOf(row).facet)).size > 1 && 'facets',
    new Set(rows.map((row) => facetOf(row).seed)).size > 1 && 'seeds',
  ]
  return h(
    'section',
    { class: 'variants' },
    h('h2', {}, `Other ${joinWords(kinds.filter((kind) => kind !== false))}`),
    h(
      'ul',
      { class: 'variant-list' },
      rows.map((row) => {
        const title = `${methodTitle(row.method)}, ${variantWords(row)}`
        const variant = row === rows[0] ? '' : variantName(row)
        return h(
          'li',
          {},
          link(
            formatRoute({ ...route, variant }),
            {
              class: 'variant',
              'aria-current': row === shown ? 'true' : null,
              dataset: { keep: `variant-${variantName(row)}` },
            },
            variantPicture(atlas, row, `${name} by ${title}`),
            h('span', { class: 'variant-title' }, title),
            row.status !== 'ok' && statusLabel(row.status),
          ),
        )
      }),
    ),
  )
}

/**
 * @param {Atlas} atlas
 * @param {Record<string, any>} row
 * @param {string} alternative
 * @returns {HTMLElement}
 */
function variantPicture(atlas, row, alternative) {
  if (!row.image_path) return h('span', { class: 'picture picture-none' }, statusLabel(row.status))
  return picture(atlas, row.image_path, { alternative })
}
