/**
 * The parameters of an address, what follows its '?'. Missing and malformed ones are read as their default; those at
 * their default are not written.
 */

/**
 * @typedef {import('./route.js').Route} Route
 * @typedef {import('./route.js').StudyState} StudyState
 * @typedef {import('./route.js').TileSize} TileSize
 */

/** @type {readonly TileSize[]} */
export const TILE_SIZES = ['small', 'medium', 'large']

/**
 * What the addresses of several views carry.
 * @param {URLSearchParams} parameters
 * @returns {Pick<Route, 'list' | 'size' | 'variant' | 'mask' | 'zoom'>}
 */
export function readParameters(parameters) {
  const sort = parameters.get('sort') ?? ''
  const size = /** @type {TileSize} */ (parameters.get('size') ?? 'medium')
  return {
    list: {
      query: parameters.get('q') ?? '',
      layer: parameters.get('layer') ?? '',
      statuses: (parameters.get('status') ?? '').split(',').filter(Boolean),
      method: parameters.get('method') ?? '',
      sort: sort.replace(/^-/, ''),
      descending: sort.startsWith('-'),
    },
    size: TILE_SIZES.includes(size) ? size : 'medium',
    variant: parameters.get('show') ?? '',
    mask: parameters.get('mask') === '1',
    zoom: parameters.get('zoom') === 'native' ? 'native' : '',
  }
}

/**
 * Which neurons a comparison, a map or a study names, and where a comparison of a list begins.
 * @param {URLSearchParams} parameters
 * @returns {Pick<Route, 'neurons' | 'from'>}
 */
export function readComparison(parameters) {
  const from = parameters.get('from') ?? ''
  return {
    neurons: (parameters.get('n') ?? '').split(',').filter(Boolean),
    from: /^[1-9]\d{0,8}$/.test(from) ? Number(from) : 1,
  }
}

/** @param {URLSearchParams} parameters @returns {StudyState} */
export function readStudy(parameters) {
  const names = (/** @type {string} */ key) => (parameters.get(key) ?? '').split(',').filter(Boolean)
  const items = parameters.get('items') ?? ''
  const seed = parameters.get('seed') ?? ''
  return {
    tasks: names('tasks'),
    methods: names('methods'),
    items: /^[1-9]\d{0,3}$/.test(items) ? Number(items) : 0,
    seed: /^\d{1,10}$/.test(seed) && Number(seed) < 2 ** 32 ? Number(seed) : -1,
    rater: parameters.get('rater') ?? '',
  }
}

/**
 * The parameters of any view but the about page, in the order of its address.
 * @param {Route} route
 * @returns {URLSearchParams}
 */
export function writeParameters(route) {
  const { list } = route
  const parameters = new URLSearchParams()
  if (list.query) parameters.set('q', list.query)
  if (list.layer) parameters.set('layer', list.layer)
  if (list.statuses.length) parameters.set('status', list.statuses.join(','))
  if (list.method) parameters.set('method', list.method)
  if (list.sort) parameters.set('sort', (list.descending ? '-' : '') + list.sort)
  if (route.size !== 'medium') parameters.set('size', route.size)
  if (route.view === 'neuron') {
    if (route.variant) parameters.set('show', route.variant)
    if (route.zoom) parameters.set('zoom', route.zoom)
  }
  if (['compare', 'map', 'study'].includes(route.view) && route.neurons.length) {
    parameters.set('n', route.neurons.join(','))
  }
  if (route.view === 'study') {
    const { tasks, methods, items, seed, rater } = route.study
    if (tasks.length) parameters.set('tasks', tasks.join(','))
    if (methods.length) parameters.set('methods', methods.join(','))
    if (items) parameters.set('items', String(items))
    if (seed >= 0) parameters.set('seed', String(seed))
    if (rater) parameters.set('rater', rater)
  }
  if (route.view === 'map' && route.at) parameters.set('at', route.at)
  if (route.view === 'compare' && route.secondAtlas) {
    parameters.set('with', route.secondAtlas)
    if (route.others.some(Boolean)) parameters.set('m', route.others.join(','))
  }
  if (route.view === 'compare' && route.from > 1) parameters.set('from', String(route.from))
  if ((route.view === 'neuron' || route.view === 'compare') && route.mask) parameters.set('mask', '1')
  return parameters
}
