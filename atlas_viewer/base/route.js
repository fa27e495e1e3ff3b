/** What an address stands for: a view and its whole state, and how one state leads to another. */

/**
 * What the gallery shows; a neuron's address carries it too, for previous and next.
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
 * @property {'home' | 'about' | 'gallery' | 'neuron' | 'compare' | 'map' | 'study' | 'unknown'} view
 * @property {string} atlas slug, '' when none
 * @property {string} layer of the neuron
 * @property {number} unit of the neuron
 * @property {ListState} list
 * @property {TileSize} size of the gallery's tiles
 * @property {string} variant METHOD:SEED shown large on the neuron page, '' for the first
 * @property {boolean} mask whether the neuron's visualization is masked
 * @property {string} zoom '' (fitted) or 'native'
 * @property {string[]} neurons LAYER:UNIT each, compared or studied instead of the result list when there are any; on the
 *   map, the first is marked
 * @property {string} secondAtlas slug of the atlas in the second pane of a comparison, '' for the methods of one side by side
 * @property {string[]} others LAYER:UNIT each, the second of each pair with `neurons`; '' for the unit that matches it
 * @property {string} at x,y,zoom of the map, '' for all of it
 * @property {number} from place in the list of the first neuron compared, from 1 on
 * @property {string} section of the about page to begin at, '' for its beginning
 * @property {StudyState} study
 * @property {string} session whose questions are answered, '' before a study is started
 * @property {string} address as it was given
 *
 * @typedef {(route: Route, options?: {replace?: boolean}) => void} Go
 *
 * @typedef {object} View
 * @property {HTMLElement} element
 * @property {string} title of the window
 * @property {HTMLElement | null} [landing] the heading that a reader is led to; the first one if not given
 * @property {() => Promise<void>} [mounted] once the element is in the page
 * @property {() => void} [restored] after the scroll place is restored
 * @property {(route: Route) => Promise<boolean>} [update] takes a new address itself, or answers false
 * @property {(event: KeyboardEvent) => boolean} [onKey] whether the key was used
 * @property {() => void} [destroy]
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

/** @param {Partial<Route>} [parts] @returns {Route} */
export function makeRoute(parts = {}) {
  return {
    view: 'home',
    atlas: '',
    layer: '',
    unit: -1,
    list: emptyList(),
    size: 'medium',
    variant: '',
    mask: false,
    zoom: '',
    neurons: [],
    secondAtlas: '',
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

/** The comparison of a result list, from its beginning. @param {Route} route of the gallery @returns {Route} */
export function compareResults(route) {
  return { ...route, view: 'compare', neurons: [], from: 1 }
}

/** The comparison of one neuron, with room for more. @param {Route} route of the neuron @returns {Route} */
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
