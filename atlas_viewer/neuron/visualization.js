/** The feature visualization of a neuron: large, at native pixels, or through its attribution mask; its other variants. */

import { announce, button, h, link } from '../base/dom.js'
import { statusLabel } from '../ui/filters.js'
import { joinWords } from '../base/format.js'
import { showMask } from '../ui/mask.js'
import { imageFrame } from '../ui/images.js'
import { formatRoute } from '../base/router.js'
import { facetOf, variantName, variantTitle } from '../data/variants.js'
import { methodSummary, methodTitle } from '../base/glossary.js'
import { NEURON } from '../base/glossary/neuron.js'
import { SITE } from '../base/glossary/site.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/route.js').Route} Route
 * @typedef {import('../base/route.js').Go} Go
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
  const heading = h('h2', {}, NEURON.visualization)
  const { facets, seed } = facetOf(row)
  const caption = h('figcaption', {}, methodSummary(row.method), facets > 1 || seed > 0 ? `, ${variantTitle(row)}` : '')
  if (!row.image_path) {
    return h('figure', { class: 'visualization' },
      h('div', { class: 'section-head' }, heading),
      h('div', { class: 'visualization-none' }, statusLabel(row.status), h('p', {}, NEURON.noVisualization)),
      caption,
    )
  }
  const native = route.zoom === 'native'
  const { width_px: width, height_px: height } = row
  const frame = imageFrame(atlas, row.image_path, {
    alternative: NEURON.alternative(name),
    lazy: false,
    attributes: { width, height },
  })
  const stage = h(
    'div',
    { class: native ? 'stage stage-native' : 'stage', style: native ? { '--native': `${width}px` } : {} },
    frame,
  )
  const notice = h('p', { class: 'note', role: 'status' })
  if (route.mask && row.alpha_path) {
    announce(NEURON.maskOn)
    showMask(atlas, row.alpha_path, frame, (message) => {
      notice.textContent = message
    })
  }

  const press = (/** @type {Partial<Route>} */ part) => go({ ...route, ...part }, { replace: true })
  return h('figure', { class: 'visualization' },
    h('div', { class: 'section-head' },
      heading,
      h('div', { class: 'visualization-tools' },
        button(NEURON.nativeButton, () => press({ zoom: native ? '' : 'native' }), {
          'aria-pressed': String(native),
          'aria-label': NEURON.nativeLabel(width, height),
          title: NEURON.native(width, height),
          dataset: { keep: 'native' },
        }),
        row.alpha_path &&
          button(SITE.mask, () => press({ mask: !route.mask }), {
            'aria-pressed': String(route.mask),
            dataset: { keep: 'mask' },
          }),
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
    new Set(rows.map((row) => row.method)).size > 1 && NEURON.methods,
    new Set(rows.map((row) => facetOf(row).facet)).size > 1 && NEURON.facets,
    new Set(rows.map((row) => facetOf(row).seed)).size > 1 && NEURON.seeds,
  ]
  return h('section', { class: 'variants' },
    h('h2', {}, NEURON.others(joinWords(kinds.filter((kind) => kind !== false)))),
    h('ul', { class: 'variant-list' },
      rows.map((row) => {
        const title = `${methodTitle(row.method)}, ${variantTitle(row)}`
        const variant = row === rows[0] ? '' : variantName(row)
        return h('li', {},
          link(
            formatRoute({ ...route, variant }),
            {
              class: 'variant',
              'aria-current': row === shown ? 'true' : null,
              dataset: { keep: `variant-${variantName(row)}` },
            },
            variantImage(atlas, row, NEURON.variant(name, title)),
            h('span', { class: 'variant-title' }, title),
            row.status !== 'ok' && statusLabel(row.status),
          ),
        )
      }),
    ),
  )
}

/** @param {Atlas} atlas @param {Record<string, any>} row @param {string} alternative @returns {HTMLElement} */
function variantImage(atlas, row, alternative) {
  if (!row.image_path) return h('span', { class: 'image-frame image-none' }, statusLabel(row.status))
  return imageFrame(atlas, row.image_path, { alternative })
}
