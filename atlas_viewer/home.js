/** The atlases of this site, as cards. */

import { openManifest, resolvePath } from './data.js'
import { h, link } from './dom.js'
import { plural } from './format.js'
import { picture } from './pictures.js'
import { formatRoute, makeRoute } from './router.js'

/**
 * @typedef {import('./data.js').SiteEntry} SiteEntry
 */

/**
 * @param {SiteEntry[]} sites
 * @returns {import('./main.js').View}
 */
export function homeView(sites) {
  const element = h(
    'div',
    { class: 'page home' },
    h(
      'header',
      { class: 'introduction' },
      h('h1', { tabindex: '-1' }, 'Neuron Atlas'),
      h(
        'p',
        { class: 'lead' },
        'What single neurons of vision models respond to: a picture made for each one, beside the photographs ' +
          'that excite it most. ',
        link('#/about', {}, 'How to read this'),
      ),
    ),
    h(
      'ul',
      { class: 'cards' },
      sites.map((site) => h('li', {}, card(site))),
    ),
  )
  return { element, title: 'Neuron Atlas' }
}

/** @param {SiteEntry} site @returns {HTMLElement} */
function card(site) {
  const preview = h('span', { class: 'card-preview' })
  showPreview(site, preview)
  const model = typeof site.model === 'string' ? site.model : (site.model?.name ?? '')
  return link(
    formatRoute(makeRoute({ view: 'wall', atlas: site.slug })),
    { class: 'card' },
    preview,
    h(
      'span',
      { class: 'card-text' },
      h('span', { class: 'card-title' }, site.title || site.slug),
      h('span', { class: 'card-model code' }, model),
      h(
        'span',
        { class: 'card-count' },
        typeof site.counts?.neurons === 'number' ? plural(site.counts.neurons, 'neuron') : '',
      ),
    ),
  )
}

/**
 * The first sheet of the atlas's last layer, where pictures are richest.
 * @param {SiteEntry} site
 * @param {HTMLElement} preview
 */
async function showPreview(site, preview) {
  try {
    const { base, manifest } = await openManifest(site)
    const sheets = manifest.files
      .map((/** @type {{path: string}} */ file) => file.path)
      .filter((/** @type {string} */ path) => path.startsWith('sheets/'))
    const names = manifest.layers.map((/** @type {{name: string}} */ layer) => layer.name)
    const last =
      sheets.find((/** @type {string} */ path) => path.startsWith(`sheets/${names[names.length - 1]}/`)) ?? sheets[0]
    if (last) preview.append(picture({ url: (path) => resolvePath(base, path) }, last, { alternative: '' }))
  } catch (error) {
    preview.append(h('span', { class: 'picture-message' }, error instanceof Error ? error.message : String(error)))
  }
}
