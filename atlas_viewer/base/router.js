/**
 * Addresses. The whole state of a view is in the hash, so that every view can be linked, and nothing else is.
 *
 *   #/                                  the atlases of this site
 *   #/about?atlas=SLUG                  how to read an atlas
 *   #/atlas/SLUG?q=…&layer=…            the wall
 *   #/atlas/SLUG/LAYER/UNIT?q=…&…       one neuron, and the result list it belongs to
 *   #/compare/SLUG?q=…&layer=…&from=…   the methods side by side, for the neurons of a result list
 *   #/compare/SLUG?n=LAYER:UNIT,…       the same for the neurons named
 *   #/compare/SLUG?…&with=SLUG&m=…      either beside those of another atlas, or others of the same; m names the second
 *                                       of each pair, or leaves it empty for the one that stands for the first
 *   #/map/SLUG?q=…&n=LAYER:UNIT&at=…    the map at a place (x,y,zoom); the result list and a neuron are marked
 *   #/study/SLUG?q=…&n=…&tasks=…&…      a study of the pictures of a result list, or of the neurons named, to be started
 *   #/study/SLUG/SESSION                the answers of one rater; it says nothing of methods, because raters see it
 */

import { readComparison, readParameters, readStudy, writeParameters } from './routeparameters.js'

/**
 * What the wall shows; a neuron's address carries it too, for previous and next.
 * @typedef {object} ListState
 * @property {string} query text of the search box
 * @property {string} layer '' for all
 * @property {string[]} statuses empty for all
 * @property {string} method '' for the primary method
 * @property {string} sort column, '' for the order of the atlas
 * @property {boolean} descending
 *
 * @typedef {'small' | 'medium' | 'large'} TileSize
 *
 * What a study asks; what is left empty is up to the atlas.
 * @typedef {object} StudyState
 * @property {string[]} tasks empty for all that the atlas allows
 * @property {string[]} methods empty for all
 * @property {number} items questions per task, 0 for the usual number
 * @property {number} seed of the rater, -1 for one drawn at the start
 * @property {string} rater name or pseudonym
 *
 * @typedef {object} Route
 * @property {'home' | 'about' | 'wall' | 'neuron' | 'compare' | 'map' | 'study' | 'unknown'} view
 * @property {string} atlas slug, '' when none
 * @property {string} layer of the neuron
 * @property {number} unit of the neuron
 * @property {ListState} list
 * @property {TileSize} size of the wall's tiles
 * @property {string} variant METHOD:SEED shown large on the neuron page, '' for the first
 * @property {boolean} transparency whether the neuron's picture is masked
 * @property {string} zoom '' (fitted) or 'native'
 * @property {string[]} neurons LAYER:UNIT each, compared or studied instead of the result list when there are any; on the
 *   map, the first is marked
 * @property {string} beside slug of the atlas in the second pane of a comparison, '' for the methods of one side by side
 * @property {string[]} others LAYER:UNIT each, the second of each pair with `neurons`; '' for the one that stands for it
 * @property {string} at x,y,zoom of the map, '' for all of it
 * @property {number} from place in the list of the first neuron compared, from 1 on
 * @property {string} section of the about page to begin at, '' for its beginning
 * @property {StudyState} study
 * @property {string} session whose questions are answered, '' before a study is started
 * @property {string} address as it was given
 */

/** @returns {ListState} */
export function emptyList() {
  return { query: '', layer: '', statuses: [], method: '', sort: '', descending: false }
}

/** @returns {StudyState} */
export function emptyStudy() {
  return { tasks: [], methods: [], items: 0, seed: -1, rater: '' }
}

/**
 * A change of one address made to another: what differs between `before` and `after`, and of `current` all the rest.
 * @template {Record<string, any>} T
 * @param {T} before
 * @param {T} after
 * @param {T} current
 * @returns {T}
 */
export function rebase(before, after, current) {
  const changed = Object.entries(after).map(([name, value]) => {
    const [old, now] = [before[name], current[name]]
    if (value !== null && typeof value === 'object' && !Array.isArray(value)) return [name, rebase(old, value, now)]
    return [name, JSON.stringify(value) === JSON.stringify(old) ? now : value]
  })
  return /** @type {T} */ (Object.fromEntries(changed))
}

/**
 * @param {Partial<Route>} [parts]
 * @returns {Route}
 */
export function makeRoute(parts = {}) {
  return {
    view: 'home',
    atlas: '',
    layer: '',
    unit: -1,
    list: emptyList(),
    size: 'medium',
    variant: '',
    transparency: false,
    zoom: '',
    neurons: [],
    beside: '',
    others: [],
    from: 1,
    at: '',
    section: '',
    study: emptyStudy(),
    session: '',
    address: '',
    ...parts,
  }
}

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
    const pairs = { beside: parameters.get('with') ?? '', others: parameters.get('m')?.split(',') ?? [] }
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
  if (layer === undefined) return { ...route, view: 'wall', atlas }
  if (unit === undefined) {
    // #/atlas/SLUG/LAYER is the wall of one layer.
    return { ...route, view: 'wall', atlas, list: { ...route.list, layer } }
  }
  if (!/^\d{1,9}$/.test(unit)) return { ...route, view: 'unknown', atlas, layer }
  return { ...route, view: 'neuron', atlas, layer, unit: Number(unit) }
}

/**
 * The comparison of a result list, from its beginning.
 * @param {Route} route of the wall
 * @returns {Route}
 */
export function compareResults(route) {
  return { ...route, view: 'compare', neurons: [], from: 1 }
}

/**
 * The comparison of one neuron, with room for more.
 * @param {Route} route of the neuron
 * @returns {Route}
 */
export function compareNeuron(route) {
  return { ...route, view: 'compare', neurons: [`${route.layer}:${route.unit}`], from: 1 }
}

/**
 * The study of what a view shows: of its result list, or of the neurons it names.
 * @param {Route} route
 * @returns {Route}
 */
export function studyOf(route) {
  return { ...route, view: 'study', study: emptyStudy(), session: '' }
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

/**
 * @param {string} text
 * @param {string} separator
 * @returns {string[]}
 */
function splitOnce(text, separator) {
  const at = text.indexOf(separator)
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)]
}

/**
 * Percent-decoding that keeps malformed text as it stands.
 * @param {string} segment
 * @returns {string}
 */
function decode(segment) {
  try {
    return decodeURIComponent(segment)
  } catch {
    return segment
  }
}
