/**
 * Addresses. The whole state of a view is in the hash, so that every view can be linked, and nothing else is.
 *
 *   #/                                  the atlases of this site
 *   #/about?atlas=SLUG                  how to read an atlas
 *   #/atlas/SLUG?q=…&layer=…            the gallery
 *   #/atlas/SLUG/LAYER/UNIT?q=…&…       one neuron, and the result list it belongs to
 *   #/compare/SLUG?q=…&layer=…&from=…   the methods side by side, for the neurons of a result list
 *   #/compare/SLUG?n=LAYER:UNIT,…       the same for the neurons named
 *   #/compare/SLUG?…&with=SLUG&m=…      those of another atlas side by side, or others of the same; m names the second
 *                                       of each pair, or leaves it empty for the unit that matches the first
 *   #/map/SLUG?q=…&n=LAYER:UNIT&at=…    the map at a place (x,y,zoom); the result list and a neuron are marked
 *   #/study/SLUG?q=…&n=…&tasks=…&…      a study of the visualizations of a result list, or of the neurons named, before its start
 *   #/study/SLUG/SESSION                the answers of one rater; it names no method, because raters see it
 */

import { makeRoute } from './route.js'
import { readComparison, readParameters, readStudy, writeParameters } from './routeparameters.js'

/** @typedef {import('./route.js').Route} Route */

/**
 * Reads an address; anything that fits no view gives view 'unknown'.
 * @param {string} hash with or without the leading '#'
 * @returns {Route}
 */
export function parseRoute(hash) {
  const address = hash.replace(/^#/, '')
  const [path, search = ''] = splitOnce(address, '?')
  const segments = path.split('/').filter(Boolean).map(decode)
  const parameters = new URLSearchParams(search)
  const route = { ...makeRoute({ address }), ...readParameters(parameters) }

  if (segments.length === 0) return { ...route, view: 'home' }
  if (segments[0] === 'about' && segments.length === 1) {
    const section = parameters.get('section') ?? ''
    return { ...route, view: 'about', atlas: parameters.get('atlas') ?? '', section }
  }
  if (segments[0] === 'compare' && segments.length === 2) {
    const pairs = { secondAtlas: parameters.get('with') ?? '', others: parameters.get('m')?.split(',') ?? [] }
    return { ...route, ...readComparison(parameters), ...pairs, view: 'compare', atlas: segments[1] }
  }
  if (segments[0] === 'map' && segments.length === 2) {
    const { neurons } = readComparison(parameters)
    return { ...route, neurons, at: parameters.get('at') ?? '', view: 'map', atlas: segments[1] }
  }
  if (segments[0] === 'study' && segments.length === 3) {
    return makeRoute({ address, view: 'study', atlas: segments[1], session: segments[2] })
  }
  if (segments[0] === 'study' && segments.length === 2) {
    const { neurons } = readComparison(parameters)
    return { ...route, neurons, study: readStudy(parameters), view: 'study', atlas: segments[1] }
  }
  if (segments[0] !== 'atlas' || segments.length < 2 || segments.length > 4) return { ...route, view: 'unknown' }

  const [, atlas, layer, unit] = segments
  if (layer === undefined) return { ...route, view: 'gallery', atlas }
  if (unit === undefined) {
    // #/atlas/SLUG/LAYER is the gallery of one layer.
    return { ...route, view: 'gallery', atlas, list: { ...route.list, layer } }
  }
  if (!/^\d{1,9}$/.test(unit)) return { ...route, view: 'unknown', atlas, layer }
  return { ...route, view: 'neuron', atlas, layer, unit: Number(unit) }
}

/**
 * Writes an address; parameters at their default are left out.
 * @param {Route} route
 * @returns {string} beginning with '#/'
 */
export function formatRoute(route) {
  if (route.view === 'home' || route.view === 'unknown') return '#/'
  if (route.view === 'about') return formatAbout(route)
  if (route.view === 'study' && route.session)
    return `#/study/${[route.atlas, route.session].map(encodeURIComponent).join('/')}`
  const parameters = writeParameters(route)
  const segments = [['compare', 'map', 'study'].includes(route.view) ? route.view : 'atlas', route.atlas]
  if (route.view === 'neuron') segments.push(route.layer, String(route.unit))
  const search = String(parameters)
  return `#/${segments.map(encodeURIComponent).join('/')}${search ? `?${search}` : ''}`
}

/** @param {Route} route @returns {string} */
function formatAbout(route) {
  const parameters = new URLSearchParams()
  if (route.atlas) parameters.set('atlas', route.atlas)
  if (route.section) parameters.set('section', route.section)
  return parameters.size ? `#/about?${parameters}` : '#/about'
}

/** @param {string} text @param {string} separator @returns {string[]} */
function splitOnce(text, separator) {
  const at = text.indexOf(separator)
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)]
}

/** Percent-decoding that keeps malformed text as it stands. @param {string} segment @returns {string} */
function decode(segment) {
  try {
    return decodeURIComponent(segment)
  } catch {
    return segment
  }
}
