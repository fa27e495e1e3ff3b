/** The atlases of this site, as cards. */

import { openManifest } from '../data/data.js'
import { reasonOf, resolvePath } from '../base/files.js'
import { h, link } from '../base/dom.js'
import { HOME } from '../base/glossary/about.js'
import { SITE } from '../base/glossary/site.js'
import { imageFrame } from '../ui/images.js'
import { makeRoute } from '../base/route.js'
import { formatRoute } from '../base/router.js'

/**
 * @typedef {import('../data/data.js').SiteEntry} SiteEntry
 * @typedef {ReturnType<typeof openManifest>} Opening
 */

/** @param {SiteEntry[]} sites @returns {import('../base/route.js').View} */
export function homeView(sites) {
  const element = h('div', { class: 'page home' },
    h('header', { class: 'introduction' },
      h('h1', { tabindex: '-1' }, SITE.name),
      h('p', { class: 'lead' }, HOME.lead, link('#/about', {}, HOME.howToRead)),
    ),
    h('ul', { class: 'cards' },
      sites.map((site) => {
        const opening = openManifest(site)
        const place = h('li', { class: 'card-place' }, card(site, opening))
        offerComparison(site, opening, place)
        return place
      }),
    ),
  )
  return { element, title: SITE.name }
}

/** @param {SiteEntry} site @param {Opening} opening @returns {HTMLElement} */
function card(site, opening) {
  const preview = h('span', { class: 'card-preview' })
  showPreview(opening, preview)
  const model = typeof site.model === 'string' ? site.model : (site.model?.name ?? '')
  return link(formatRoute(makeRoute({ view: 'gallery', atlas: site.slug })), { class: 'card' },
    preview,
    h('span', { class: 'card-text' },
      h('span', { class: 'card-title' }, site.title || site.slug),
      h('span', { class: 'card-model code' }, model),
      h('span', { class: 'card-count' },
        typeof site.counts?.neurons === 'number' ? HOME.neurons(site.counts.neurons) : '',
      ),
    ),
  )
}

/**
 * A link to the comparison, once it is known that there are several methods. It stands over the card, so that nothing
 * moves when it comes.
 * @param {SiteEntry} site
 * @param {Opening} opening
 * @param {HTMLElement} place
 */
async function offerComparison(site, opening, place) {
  try {
    const { manifest } = await opening
    if (manifest.methods.length < 2) return
    const title = site.title || site.slug
    const address = formatRoute(makeRoute({ view: 'compare', atlas: site.slug }))
    place.append(
      link(address, { class: 'button card-compare', 'aria-label': HOME.compare(title) }, SITE.compareMethods),
    )
  } catch {
    // The card's preview says in words what could not be read.
  }
}

/**
 * The first sheet of the atlas's last layer, where images are richest.
 * @param {Opening} opening
 * @param {HTMLElement} preview
 */
async function showPreview(opening, preview) {
  try {
    const { base, manifest } = await opening
    const last = manifest.layers.at(-1)
    const sheet = `sheets/${last?.name}/0000.webp`
    if (last) preview.append(imageFrame({ url: (path) => resolvePath(base, path) }, sheet, { alternative: '' }))
  } catch (error) {
    preview.append(h('span', { class: 'image-message' }, reasonOf(error)))
  }
}
