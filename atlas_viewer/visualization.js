/** The synthesized picture of a neuron: large, at native pixels, or through its transparency mask; its other variants. */

import { announce, h, link } from './dom.js'
import { statusLabel } from './filters.js'
import { picture } from './pictures.js'
import { formatRoute } from './router.js'
import { methodTitle, methodWords } from './words.js'

/**
 * @typedef {import('./data.js').Atlas} Atlas
 * @typedef {import('./router.js').Route} Route
 * @typedef {import('./filters.js').Go} Go
 */

/** @param {Record<string, any>} row @returns {string} METHOD:SEED, as the address names a variant */
export function variantName(row) {
  return `${row.method}:${row.seed}`
}

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
  const caption = h('figcaption', {}, methodWords(row.method), row.seed ? `, seed ${row.seed}` : '')
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
  if (route.transparency && row.alpha_path) applyMask(atlas, row, stage, notice)

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
            'aria-label': `Native pixels, ${width} × ${height}`,
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
 * Shows the picture through its mask: parts that never mattered to the optimization fade away. The mask is loaded
 * first, because a missing mask image would hide the whole picture without a word.
 * @param {Atlas} atlas
 * @param {Record<string, any>} row
 * @param {HTMLElement} stage
 * @param {HTMLElement} notice
 */
function applyMask(atlas, row, stage, notice) {
  const failed = () => {
    notice.textContent = `The transparency mask could not be loaded: expected an image at ${row.alpha_path}. The whole picture is shown.`
  }
  const mask = new Image()
  mask.addEventListener('error', failed)
  mask.addEventListener('load', () => {
    const image = stage.querySelector('img')
    if (!image) return
    image.style.setProperty('mask-image', `url("${mask.src}")`)
    stage.classList.add('stage-masked')
    announce('Transparency on: parts that mattered little to the picture fade out')
  })
  try {
    mask.src = atlas.url(row.alpha_path)
  } catch {
    failed()
  }
}

/**
 * The same neuron by other methods and seeds, the shown one marked.
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
  const methods = new Set(rows.map((row) => row.method))
  return h(
    'section',
    { class: 'variants' },
    h('h2', {}, methods.size > 1 ? 'Other methods and seeds' : 'Other seeds'),
    h(
      'ul',
      { class: 'variant-list' },
      rows.map((row) => {
        const title = `${methodTitle(row.method)}, seed ${row.seed}`
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
