/** What every page says: the header, the help, problems, filters, tiles, addresses that lead nowhere. */

import { formatBytes, formatCount, plural } from '../format.js'

const SITE_NAME = 'Neuron Atlas'

export const SITE = {
  name: SITE_NAME,
  title: (/** @type {string[]} */ ...parts) => parts.join(' · '),
  unexpected: 'Something went wrong in this page',
  unreadable: 'A file of this site could not be read',
  file: 'File',
  expected: 'Expected',
  received: 'Received',
  retry: 'Try again',
  problem: `Problem · ${SITE_NAME}`,
  place: 'Place in the atlas',
  copyLink: 'Copy link',
  copied: 'Copied',
  copyRefused: 'The browser refused; copy it from the address bar',
  previous: 'Previous',
  next: 'Next',
  compareMethods: 'Compare methods',
  compareMethodsKey: 'Compare methods (c)',
  compareModels: 'Compare models',
  missingImage: 'Image missing',
  refusedImage: 'Image refused, its path is not plain',
  missingImageNote: (/** @type {string} */ path, /** @type {string} */ host) =>
    `Expected an image at ${path} on ${host}, but it could not be loaded.`,
  missingMask: (/** @type {string} */ path) =>
    `The attribution mask could not be loaded: expected an image at ${path}. The whole visualization is shown.`,
  mask: 'Attribution mask',
  noNeuron: (/** @type {string} */ atlas, /** @type {string} */ name) => `${atlas} has no neuron “${name}”.`,
  noNeuronExpected: (/** @type {string} */ atlas, /** @type {string} */ name, /** @type {string} */ example) =>
    `${atlas} has no neuron “${name}”. Expected a layer and a unit, such as ${example}.`,
  thisAtlas: 'This atlas',
  percent: (/** @type {string} */ text) => `${text} %`,
}

export const HEADER = {
  search: (/** @type {boolean} */ hasCaptions) =>
    `Search: a neuron such as blocks.5:54, a layer, a class, a label${hasCaptions ? ', words of a caption' : ''}`,
  placeholder: (/** @type {boolean} */ hasCaptions) =>
    `Search neurons${hasCaptions ? ', labels, captions' : ' and labels'}`,
  map: 'Map',
  about: 'About',
  site: 'Site',
  help: 'Help and keyboard',
  helpKey: 'Help (?)',
  light: 'Switch to light colors',
  dark: 'Switch to dark colors',
}

export const HELP = {
  title: 'Help',
  close: 'Close',
  keyboard: 'Keyboard',
  search: 'Search',
  addresses: 'Every view has an address of its own: copy it from the address bar to share just what you see.',
  /** @type {[string[], string][]} keys and what they do */
  keys: [
    [['/'], 'Search'],
    [['←', '→'], 'Previous and next neuron or page (also k and j)'],
    [['↑', '↓'], 'Move in the gallery, once a tile has the focus'],
    [['Enter'], 'Open the tile'],
    [['Esc'], 'Back to the gallery; clear the search'],
    [['+', '−', '0'], 'Zoom the map, once it has the focus; arrows move it, Enter opens the middle'],
    [['t'], 'Attribution mask of the visualizations'],
    [['c'], 'Compare the methods: of this neuron, or of the gallery’s results'],
    [['1', '…', '5'], 'Answer, in a study'],
    [['?'], 'This help'],
  ],
  /** @type {(hasCaptions: boolean) => [string, string][]} what may be typed in the search box, and what it finds */
  searches: (hasCaptions) => [
    ['blocks.5:54', 'one neuron: layer and unit, also as blocks.5/54'],
    ['castle', `layer names, class names, labels${hasCaptions ? ' and captions' : ''} of the dataset images`],
    ['"great white"', 'a phrase'],
    ['activation_percentile>99', 'a condition on a score: < <= > >= ='],
  ],
}

export const FILTERS = {
  title: 'Filters',
  chosen: (/** @type {string[]} */ parts) => `Filters: ${parts.join(', ')}`,
  layer: 'Layer',
  allLayers: 'All layers',
  status: 'Status',
  method: 'Method shown',
  sort: 'Sort by',
  order: 'Layer and unit',
  label: 'Label',
  falling: '↓ High to low',
  rising: '↑ Low to high',
  lastLetters: '↓ Z to A',
  firstLetters: '↑ A to Z',
  tileSize: 'Tile size',
  tiles: (/** @type {string} */ size) => `${size} tiles`,
}

export const GALLERY = {
  results: 'Results',
  neurons: 'Neurons',
  count: (/** @type {number} */ count) => plural(count, 'neuron'),
  countOf: (/** @type {number} */ count, /** @type {number} */ total) =>
    `${plural(count, 'neuron')} of ${formatCount(total)}`,
  found: (/** @type {number} */ count) => `${plural(count, 'neuron')} found`,
  fetching: (/** @type {number} */ bytes) => `Fetching ${formatBytes(bytes)} …`,
  allAtlases: '← All atlases',
  howToRead: 'How to read this',
  lead: (/** @type {number} */ neurons, /** @type {number} */ layers) =>
    `What activates ${plural(neurons, 'neuron')} in ${plural(layers, 'layer')} of `,
  methods: (/** @type {string} */ methods) => (methods ? `, visualized with ${methods}.` : '.'),
  measured: (/** @type {number} */ images) => ` Activations were measured on ${plural(images, 'dataset image')}.`,
  marked: (/** @type {string} */ statuses) => ` Marked in the gallery: ${statuses}.`,
  statusCount: (/** @type {number} */ count, /** @type {string} */ status) => `${count} ${status}`,
  units: (/** @type {number} */ count, /** @type {string} */ kind) => plural(count, kind || 'neuron'),
  classes: (/** @type {number} */ count) => plural(count, 'class', 'classes'),
  by: (/** @type {string} */ method) => `by ${method}`,
  alternative: (/** @type {string} */ name, /** @type {string} */ label, /** @type {string[]} */ notes) =>
    `${[`Visualization of ${label ? `“${label}”, ` : ''}neuron ${name}`, ...notes].join(', ')}`,
  noImage: (/** @type {string} */ alternative, /** @type {string} */ meaning) => ` ${alternative}. ${meaning}`,
}

export const NOT_FOUND = {
  noAtlases: 'No atlas here yet',
  publish: 'sites.json lists no atlas. Publish one with “neuron-atlas site OUT ATLAS”.',
  heading: 'Not found',
  title: `Not found · ${SITE_NAME}`,
  nothing: 'Nothing at this address',
  nearest: 'Nearest:',
  address: (/** @type {string} */ address) => `“#${address}” is no address of this site.`,
  atlas: (/** @type {string} */ slug) => `This site has no atlas “${slug}”.`,
  layer: (/** @type {string} */ layer) => `This atlas has no layer “${layer}”.`,
  nearestLayers: (/** @type {string} */ layer) => `This atlas has no layer “${layer}”. Nearest: `,
  unit: (
    /** @type {number} */ unit,
    /** @type {string} */ layer,
    /** @type {number} */ known,
    /** @type {number} */ all,
  ) => `This atlas has no unit ${unit} in the layer “${layer}”; it has ${known} of the layer’s ${all} units.`,
  nearestUnits: (/** @type {string} */ name) => `There is no ${name} in this atlas. Nearest: `,
  all: (/** @type {string} */ atlas) => `All of ${atlas}`,
  noMatch: 'No neuron matches',
  search: (/** @type {string} */ query) => `Nothing fits the search “${query}” together with the filters.`,
  filters: 'Nothing fits these filters.',
  method: (/** @type {string} */ method) => `Only neurons that ${method} was run for are searched.`,
  searched: 'The search covers layer names, class names and the labels of the dataset images.',
  clear: 'Clear search and filters',
}
