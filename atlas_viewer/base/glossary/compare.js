/** The compare page: methods, models or neurons side by side. */

import { formatCount, plural } from '../format.js'

export const COMPARE = {
  methods: 'Compare methods',
  models: 'Compare models',
  neurons: 'Compare neurons',
  lead: (/** @type {string} */ neurons) => `${neurons}, visualized by several methods. `,
  leadPanes: (/** @type {string} */ neurons, /** @type {string} */ others) =>
    `Two panes that scroll together: ${neurons}, side by side with ${others}. `,
  otherNeurons: 'others of this atlas',
  matchedUnits: (/** @type {string} */ atlas) => `the matched units of ${atlas}`,
  percentage:
    'The percentage is the share of dataset images that activate the neuron no more than the visualization does.',
  about: 'About the methods',
  chosen: (/** @type {number} */ count) => plural(count, 'chosen neuron'),
  /** @type {(count: number, statuses: string[], layer: string, query: string) => string} */
  listed: (count, statuses, layer, query) =>
    [
      plural(count, 'neuron'),
      statuses.length > 0 && `marked ${statuses.join(' or ')}`,
      layer && `of ${layer}`,
      query && `found by “${query}”`,
    ]
      .filter(Boolean)
      .join(' '),
  noAtlas: (/** @type {string} */ slug) => `This site has no atlas “${slug}”.`,
  actions: 'Comparison',
  study: 'Rate them blind',
  allResults: 'All results',
  allNeurons: 'All neurons',
  absent: (/** @type {string} */ methods) => `No column for ${methods}: made for none of the neurons on this page.`,
  pages: (/** @type {string} */ where) => `Pages of the comparison, ${where} the table`,
  place: (/** @type {number} */ first, /** @type {number} */ last, /** @type {number} */ count) =>
    `${formatCount(first)}–${formatCount(last)} of ${plural(count, 'neuron')}`,

  secondAtlas: 'Side by side with',
  otherMethods: 'the other methods',
  anotherNeuron: 'another neuron of this atlas',
  addPair: 'Add a pair with',
  compareWith: 'Compare with',
  add: 'Add',
  addNeuron: 'Add this neuron',

  region: 'Visualizations by neuron and method',
  caption: 'Visualizations by neuron (rows) and method (columns)',
  neuron: 'Neuron',
  layerAndUnit: 'layer and unit',
  datasetImages: 'Dataset images',
  forReference: 'for reference',
  more: 'More',
  moreAbout: (/** @type {string} */ method) => `More about the method ${method}`,
  remove: 'Remove',
  removeNeuron: (/** @type {string} */ name) => `Remove ${name}`,
  unpublishedLabels: (/** @type {string[]} */ labels) => `not published; labeled ${labels.join(', ')}`,
  unpublished: 'not published',
  unrecorded: 'none recorded',
  notMade: 'not made for this neuron',
  noVisualization: 'no visualization was made',
  alternative: (/** @type {string} */ method, /** @type {string} */ title, /** @type {string} */ facet) =>
    `${method} visualization of ${title}${facet && `, ${facet}`}`,
  no: (/** @type {string} */ alternative) => `No ${alternative}: `,
  percentile: 'activation percentile ',
  firstSeed: (/** @type {number} */ seeds) => `first of ${plural(seeds, 'seed')}`,

  firstNeuron: (/** @type {string} */ atlas) => `${atlas}: first neuron`,
  secondNeuron: (/** @type {string} */ atlas) => `${atlas}: second neuron`,
  chosenAs: (/** @type {string} */ reason) => `Chosen as ${reason}.`,
  choose: 'Choose',
  chooseAnother: 'Choose another',
  chooseFor: (/** @type {string} */ name) => `Choose a neuron to compare with ${name}`,
  secondOf: (/** @type {string} */ atlas, /** @type {string} */ name) => `Neuron of ${atlas} to compare with ${name}`,
  compareTo: (/** @type {string} */ name) => `Compare it with ${name}`,
  notChosen: 'No second neuron is chosen.',
  nothing: 'There is nothing to compare it with.',
  sameClass: 'the class of the same name',
  sameUnit: 'the same layer and unit',
  noClass: (/** @type {string} */ atlas, /** @type {string} */ label) => `${atlas} has no class “${label}”.`,
  noMatch: (/** @type {string} */ atlas, /** @type {string} */ name) => `${atlas} has no unit that matches ${name}.`,
}
