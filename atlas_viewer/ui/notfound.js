/** Addresses, searches and filters that lead nowhere: what is wrong in words, and the nearest that leads somewhere. */

import { h, link, problem } from '../base/dom.js'
import { nearestNames, nearestUnits, parseSearch } from '../base/query.js'
import { emptyList, formatRoute, makeRoute } from '../base/router.js'
import { methodTitle } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').SiteEntry} SiteEntry
 * @typedef {import('../base/router.js').Route} Route
 */

/** @returns {import('../shell/main.js').View} */
export function emptySiteView() {
  return {
    element: h(
      'div',
      { class: 'page' },
      problem('No atlas here yet', ['sites.json lists no atlas. Publish one with “neuron-atlas site OUT ATLAS”.']),
    ),
    title: 'Neuron Atlas',
  }
}

/**
 * An address that leads nowhere, with the nearest ones that lead somewhere.
 * @param {Route} route
 * @param {Atlas | null} atlas
 * @param {SiteEntry[]} sites
 * @returns {import('../shell/main.js').View}
 */
export function unknownView(route, atlas, sites) {
  /** @type {[string, string][]} */
  const nearest = []
  let reason = `“#${route.address}” is no address of this site.`
  if (!atlas) {
    if (route.atlas) reason = `This site has no atlas “${route.atlas}”.`
    for (const slug of nearestNames(
      route.atlas,
      sites.map((entry) => entry.slug),
    )) {
      const title = sites.find((entry) => entry.slug === slug)?.title ?? slug
      nearest.push([formatRoute(makeRoute({ view: 'wall', atlas: slug })), title])
    }
  } else {
    const wall = (/** @type {string} */ layer) =>
      formatRoute(makeRoute({ view: 'wall', atlas: atlas.slug, list: { ...emptyList(), layer } }))
    const layer = atlas.layer(route.layer)
    if (layer && route.unit >= 0) {
      const { layer: layers, unit: units } = atlas.index.columns
      const known = units.filter((_, row) => layers[row] === layer.name)
      reason = `This atlas has no unit ${route.unit} in the layer “${layer.name}”; it has ${known.length} of the layer’s ${layer.num_units} units.`
      for (const unit of nearestUnits(route.unit, known)) {
        nearest.push([
          formatRoute(makeRoute({ view: 'neuron', atlas: atlas.slug, layer: layer.name, unit })),
          `${layer.name}:${unit}`,
        ])
      }
    } else if (route.layer) {
      if (!layer) reason = `This atlas has no layer “${route.layer}”.`
      for (const name of nearestNames(
        route.layer,
        atlas.layers.map((candidate) => candidate.name),
      ))
        nearest.push([wall(name), name])
    }
    nearest.push([wall(''), `All of ${atlas.title}`])
  }
  const list = h(
    'ul',
    { class: 'nearest' },
    nearest.map(([hash, name]) => h('li', {}, link(hash, {}, name))),
  )
  return {
    element: h(
      'div',
      { class: 'page' },
      h('h1', { class: 'visually-hidden', tabindex: '-1' }, 'Not found'),
      problem('Nothing at this address', [reason, nearest.length ? 'Nearest:' : ''], list),
    ),
    title: 'Not found · Neuron Atlas',
  }
}

/**
 * An empty wall in words, with ways out.
 * @param {Atlas} atlas
 * @param {Route} route
 * @returns {HTMLElement}
 */
export function emptyWall(atlas, route) {
  const { list } = route
  const { layer: layers, unit: units } = atlas.index.columns
  const names = atlas.layers.map((layer) => layer.name)
  const hints = []
  if (list.layer && !names.includes(list.layer)) {
    hints.push(
      h(
        'p',
        {},
        `This atlas has no layer “${list.layer}”. Nearest: `,
        nearestLinks(
          nearestNames(list.layer, names).map((name) => [
            formatRoute({ ...route, list: { ...list, layer: name } }),
            name,
          ]),
        ),
      ),
    )
  }
  const wanted = parseSearch(list.query).neurons
  for (const neuron of wanted) {
    const exact = names.find((name) => name.toLowerCase() === neuron.layer.toLowerCase())
    const layer = exact ?? nearestNames(neuron.layer, names, 1)[0]
    const known = units.filter((_, row) => layers[row] === layer)
    if (exact && known.includes(neuron.unit)) continue // it exists, and another filter hides it
    hints.push(
      h(
        'p',
        {},
        `There is no ${neuron.layer}:${neuron.unit} in this atlas. Nearest: `,
        nearestLinks(
          nearestUnits(neuron.unit, known).map((unit) => [
            formatRoute({ ...route, view: 'neuron', layer, unit }),
            `${layer}:${unit}`,
          ]),
        ),
      ),
    )
  }
  const clear = { ...route, list: { ...list, query: '', layer: '', statuses: [], method: '' } }
  return problem(
    'No neuron matches',
    [
      list.query ? `Nothing fits the search “${list.query}” together with the filters.` : 'Nothing fits these filters.',
      list.method && `Only neurons that ${methodTitle(list.method)} was run for are looked at.`,
      !wanted.length &&
        list.query &&
        'Words are looked for in layer names, class names and the labels of the photographs.',
    ],
    h('div', {}, hints, h('p', {}, link(formatRoute(clear), {}, 'Clear search and filters'))),
  )
}

/**
 * @param {string[][]} nearest pairs of address and name
 * @returns {import('../base/dom.js').Child[]}
 */
function nearestLinks(nearest) {
  return nearest.flatMap(([hash, name], order) => [order > 0 && ', ', link(hash, { class: 'code' }, name)])
}
