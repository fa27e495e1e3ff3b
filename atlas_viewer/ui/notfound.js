/** Addresses, searches and filters that lead nowhere: what is wrong in words, and the nearest that leads somewhere. */

import { h, link, problem } from '../base/dom.js'
import { nearestNames, nearestUnits, parseSearch } from '../base/query.js'
import { emptyList, makeRoute } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import { methodTitle, NAMES } from '../base/glossary.js'
import { NOT_FOUND, SITE } from '../base/glossary/site.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').SiteEntry} SiteEntry
 * @typedef {import('../base/route.js').Route} Route
 */

/** @returns {import('../base/route.js').View} */
export function emptySiteView() {
  return { element: h('div', { class: 'page' }, problem(NOT_FOUND.noAtlases, [NOT_FOUND.publish])), title: SITE.name }
}

/**
 * An address that leads nowhere, with the nearest ones that lead somewhere.
 * @param {Route} route
 * @param {Atlas | null} atlas
 * @param {SiteEntry[]} sites
 * @returns {import('../base/route.js').View}
 */
export function unknownView(route, atlas, sites) {
  /** @type {[string, string][]} */
  const nearest = []
  let reason = NOT_FOUND.address(route.address)
  if (!atlas) {
    if (route.atlas) reason = NOT_FOUND.atlas(route.atlas)
    for (const slug of nearestNames(route.atlas, sites.map((entry) => entry.slug))) {
      const title = sites.find((entry) => entry.slug === slug)?.title ?? slug
      nearest.push([formatRoute(makeRoute({ view: 'gallery', atlas: slug })), title])
    }
  } else {
    const gallery = (/** @type {string} */ layer) =>
      formatRoute(makeRoute({ view: 'gallery', atlas: atlas.slug, list: { ...emptyList(), layer } }))
    const layer = atlas.layer(route.layer)
    if (layer && route.unit >= 0) {
      const { layer: layers, unit: units } = atlas.index.columns
      const known = units.filter((_, row) => layers[row] === layer.name)
      reason = NOT_FOUND.unit(route.unit, layer.name, known.length, layer.num_units)
      for (const unit of nearestUnits(route.unit, known)) {
        nearest.push([
          formatRoute(makeRoute({ view: 'neuron', atlas: atlas.slug, layer: layer.name, unit })),
          NAMES.neuron(layer.name, unit),
        ])
      }
    } else if (route.layer) {
      if (!layer) reason = NOT_FOUND.layer(route.layer)
      for (const name of nearestNames(route.layer, atlas.layers.map((candidate) => candidate.name)))
        nearest.push([gallery(name), name])
    }
    nearest.push([gallery(''), NOT_FOUND.all(atlas.title)])
  }
  const list = h('ul', { class: 'nearest' }, nearest.map(([hash, name]) => h('li', {}, link(hash, {}, name))))
  return {
    element: h('div', { class: 'page' },
      h('h1', { class: 'visually-hidden', tabindex: '-1' }, NOT_FOUND.heading),
      problem(NOT_FOUND.nothing, [reason, nearest.length ? NOT_FOUND.nearest : ''], list),
    ),
    title: NOT_FOUND.title,
  }
}

/** An empty gallery in words, with ways out. @param {Atlas} atlas @param {Route} route @returns {HTMLElement} */
export function emptyGallery(atlas, route) {
  const { list } = route
  const { layer: layers, unit: units } = atlas.index.columns
  const names = atlas.layers.map((layer) => layer.name)
  const hints = []
  if (list.layer && !names.includes(list.layer)) {
    hints.push(
      h('p', {},
        NOT_FOUND.nearestLayers(list.layer),
        nearestLinks(
          nearestNames(list.layer, names).map((name) => [
            formatRoute({ ...route, list: { ...list, layer: name } }),
            name,
          ]),
        ),
      ),
    )
  }
  const named = parseSearch(list.query).neurons
  for (const neuron of named) {
    const exact = names.find((name) => name.toLowerCase() === neuron.layer.toLowerCase())
    const layer = exact ?? nearestNames(neuron.layer, names, 1)[0]
    const known = units.filter((_, row) => layers[row] === layer)
    if (exact && known.includes(neuron.unit)) continue // it exists, and another filter hides it
    hints.push(
      h('p', {},
        NOT_FOUND.nearestUnits(NAMES.neuron(neuron.layer, neuron.unit)),
        nearestLinks(
          nearestUnits(neuron.unit, known).map((unit) => [
            formatRoute({ ...route, view: 'neuron', layer, unit }),
            NAMES.neuron(layer, unit),
          ]),
        ),
      ),
    )
  }
  const clear = { ...route, list: { ...list, query: '', layer: '', statuses: [], method: '' } }
  return problem(
    NOT_FOUND.noMatch,
    [
      list.query ? NOT_FOUND.search(list.query) : NOT_FOUND.filters,
      list.method && NOT_FOUND.method(methodTitle(list.method)),
      !named.length && list.query && NOT_FOUND.searched,
    ],
    h('div', {}, hints, h('p', {}, link(formatRoute(clear), {}, NOT_FOUND.clear))),
  )
}

/** @param {string[][]} nearest pairs of address and name @returns {import('../base/dom.js').Child[]} */
function nearestLinks(nearest) {
  return nearest.flatMap(([hash, name], order) => [order > 0 && ', ', link(hash, { class: 'code' }, name)])
}
