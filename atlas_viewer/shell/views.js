/**
 * Which view shows an address, and what it is made from: the atlases of the site, each opened once. The modules of the
 * gallery come with the page, those of the other views, and their stylesheets, when they are first asked for.
 */

import { openAtlas, openSite } from '../data/data.js'
import { h } from '../base/dom.js'
import { emptySiteView, unknownView } from '../ui/notfound.js'
import { GalleryView } from '../gallery/gallery.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').SiteEntry} SiteEntry
 * @typedef {import('../base/route.js').Go} Go
 * @typedef {import('../base/route.js').View} View
 * @typedef {import('../base/route.js').Route} Route
 */

/** What neuron.js imports that is not there yet: asked for with it, as each import found later is a round trip more. */
const NEURON_IMPORTS = [
  ...['base/glossary/neuron.js', 'data/variants.js', 'neuron/metadata.js', 'neuron/neighbors.js'],
  ...['neuron/visualization.js', 'ui/actions.js', 'ui/charts.js', 'ui/mask.js', 'ui/topimages.js'],
]

/** The modules of the views, fetched when they are first asked for. */
const MODULES = {
  home: () => import('../pages/home.js'),
  about: () => import('../pages/about.js'),
  neuron: () => import('../neuron/neuron.js'),
  map: () => withStyle('map/map.css', import('../map/map.js')),
  compare: () => withStyle('compare/compare.css', import('../compare/compare.js')),
  study: () => withStyle('study/study.css', import('../study/study.js')),
}

/** @type {Map<string, Promise<unknown>>} loaded, or found missing, by name */
const styles = new Map()

/**
 * A view's module once its stylesheet is there. A view without its stylesheet is better than none: the console
 * names a sheet that is missing.
 * @template T
 * @param {string} name of the stylesheet
 * @param {Promise<T>} module
 * @returns {Promise<T>}
 */
async function withStyle(name, module) {
  if (!styles.has(name)) {
    styles.set(
      name,
      new Promise((resolve) => {
        document.head.append(h('link', { rel: 'stylesheet', href: name, onLoad: resolve, onError: resolve }))
      }),
    )
  }
  await Promise.all([module, styles.get(name)])
  return module
}

/**
 * Asks for the module of a view, to be on its way while the atlas is opened; whether it came is asked where it is used.
 * @param {Route} route
 * @param {boolean} first whether no view was shown before
 */
export function preloadView(route, first) {
  if (Object.hasOwn(MODULES, route.view)) MODULES[/** @type {keyof MODULES} */ (route.view)]().catch(() => {})
  if (route.view === 'neuron' && first) {
    for (const href of NEURON_IMPORTS) document.head.append(h('link', { rel: 'modulepreload', href }))
  }
}

/** Opens atlases and makes views of them. */
export class Views {
  /**
   * @param {Go} go follows where a view leads
   * @param {(error: unknown) => void} fail shows what could not be read after a view was
   */
  constructor(go, fail) {
    this.go = go
    this.fail = fail
    /** @type {Promise<SiteEntry[]> | null} */
    this.site = null
    /** @type {Map<string, Promise<Atlas>>} by slug */
    this.atlases = new Map()
    /** @type {{layer: string, unit: number} | null} whose page was made last; null once the gallery has led back to it */
    this.lastNeuron = null
  }

  /** @returns {Promise<SiteEntry[]>} */
  openSite() {
    this.site ??= openSite().catch((error) => {
      this.site = null
      throw error
    })
    return this.site
  }

  /** @param {SiteEntry} entry @returns {Promise<Atlas>} */
  openAtlas(entry) {
    let atlas = this.atlases.get(entry.slug)
    if (!atlas) {
      atlas = openAtlas(entry)
      atlas.catch(() => this.atlases.delete(entry.slug))
      this.atlases.set(entry.slug, atlas)
    }
    return atlas
  }

  /** @param {Route} route @param {Atlas | null} atlas @param {SiteEntry[]} sites @returns {Promise<View>} */
  async make(route, atlas, sites) {
    const { go, fail } = this
    if (route.view === 'home') return sites.length ? (await MODULES.home()).homeView(sites) : emptySiteView()
    if (route.view === 'about') return (await MODULES.about()).aboutView(atlas, route.section)
    if (route.view === 'gallery' && atlas) {
      return new GalleryView({ atlas, route, go, lastNeuron: this.lastNeuron, several: sites.length > 1, fail })
    }
    if (route.view === 'neuron' && atlas) {
      const { neuronView } = await MODULES.neuron()
      const neuron = await neuronView({ atlas, route, go, sites })
      if (neuron) {
        this.lastNeuron = { layer: route.layer, unit: route.unit }
        return neuron
      }
    }
    if (route.view === 'map' && atlas) return (await MODULES.map()).mapView({ atlas, route, go })
    if (route.view === 'compare' && atlas) {
      const open = (/** @type {SiteEntry} */ entry) => this.openAtlas(entry)
      return (await MODULES.compare()).compareView({ atlas, route, go, sites, open })
    }
    await atlas?.loadIndex() // what follows looks through it
    if (route.view === 'study' && atlas) return (await MODULES.study()).studyView({ atlas, route, go })
    return unknownView(route, atlas, sites)
  }
}
