/** The page of one neuron: its visualization, dataset images, scores, neighbors, and what can be downloaded. */

import { formatCount, formatNumber, formatPercent, plural } from '../format.js'

export const NEURON = {
  place: (/** @type {number} */ position, /** @type {number} */ count, /** @type {string} */ noun) =>
    `${formatCount(position)} of ${formatCount(count)} ${noun}`,
  results: 'results',
  neurons: 'neurons',
  outsideResults: (/** @type {string} */ layer) => `in ${layer} (not among your results)`,
  step: (/** @type {string} */ word, /** @type {string} */ name) => `${word}: ${name}`,
  previousArrow: '← Previous',
  nextArrow: 'Next →',
  isClass: (/** @type {number} */ units) => `, the output for one class of ${formatCount(units)}`,
  isCombination: ', a combination: several units of the model as one',
  isConcept: (/** @type {number} */ units) =>
    `A concept: one of ${plural(units, 'direction')} in the features of a layer`,
  isUnit: (/** @type {number} */ units) => `One of the ${formatCount(units)} units of this layer`,
  activatedBy: (/** @type {string[]} */ labels) => `, activated by images of ${labels.join(', ')}`,

  visualization: 'Feature visualization',
  noVisualization: 'There is no visualization of this neuron.',
  alternative: (/** @type {string} */ name) => `Feature visualization of ${name}`,
  maskOn: 'Attribution mask on: parts that mattered little to the visualization fade out',
  native: (/** @type {number} */ width, /** @type {number} */ height) => `Native pixels, ${width} × ${height}`,
  nativeLabel: (/** @type {number} */ width, /** @type {number} */ height) =>
    `1:1, native pixels, ${width} × ${height}`,
  nativeButton: '1:1',
  others: (/** @type {string} */ kinds) => `Other ${kinds}`,
  methods: 'methods',
  facets: 'facets',
  seeds: 'seeds',
  variant: (/** @type {string} */ name, /** @type {string} */ title) => `${name} by ${title}`,

  activation: 'Activation over the data set',
  aboveAll: 'The visualization activates the neuron more than any dataset image does',
  abovePercent: (/** @type {number} */ percent) =>
    `The visualization activates the neuron more than ${formatPercent(percent)} % of the dataset images do`,
  ratio: (/** @type {string} */ ratio) => `, ${ratio} the strongest one`,
  predicted: (/** @type {string} */ label) => `. The model calls the visualization “${label}”.`,
  scores: 'Scores',
  source: 'Where this visualization comes from',
  steps: (/** @type {number} */ steps) => `${formatCount(steps)} steps`,
  seconds: (/** @type {number} */ seconds) => `, ${formatNumber(Number(seconds.toPrecision(3)))} s`,
  preset: (/** @type {string} */ preset) => `preset ${preset}`,
  references: (/** @type {number} */ count, /** @type {string} */ source) =>
    `${plural(count, 'reference image')}: ${source}`,
  size: (/** @type {number} */ width, /** @type {number} */ height) => `${width} × ${height} px`,
  metadata: {
    neuron: 'Neuron',
    method: 'Made with',
    references: 'Aligned to',
    alignment: 'Alignment',
    relevance: 'Relevance',
    precision: 'Precision',
    optimization: 'Optimization',
    variant: 'Variant',
    image: 'Visualization',
    imageHash: 'Visualization’s SHA-256',
    weights: 'Model weights',
    weightsHash: 'Weights’ SHA-256',
    data: 'Data set',
    recipe: 'Recipe',
    build: 'Build',
  },
}

export const HISTOGRAM = {
  own: 'this visualization',
  top: 'strongest dataset image',
  mean: 'mean of the dataset images',
  axis: 'activation →',
  summary: (
    /** @type {number} */ total,
    /** @type {number} */ low,
    /** @type {number} */ high,
    /** @type {string[]} */ marks,
  ) =>
    `Histogram of the neuron’s activation on ${formatCount(total)} dataset images, from ${formatNumber(low)} to ` +
    `${formatNumber(high)}. ${marks.join('; ')}.`,
  mark: (/** @type {string} */ name, /** @type {number} */ value) => `${name}: ${formatNumber(value)}`,
  caption: (/** @type {number} */ total, /** @type {number} */ largest) =>
    `${formatCount(total)} dataset images by how strongly they activate the neuron. Bar heights are ` +
    `logarithmic; the tallest bar holds ${formatCount(largest)}.`,
}

export const TOP_IMAGES = {
  ofClass: 'Dataset images of this class',
  topActivating: 'Top-activating images',
  alternative: (
    /** @type {number} */ rank,
    /** @type {number} */ count,
    /** @type {string} */ name,
    /** @type {string} */ label,
  ) => `Dataset image ${rank} of ${count} that activates ${name}${label ? `: ${label}` : ''}`,
  explanation: (/** @type {string} */ source) =>
    `From the data set: ${source}; the number is the neuron’s activation on each.`,
  frame: ' The frame marks the part that activates it.',
  facets:
    ' They were sorted into groups that look alike; a facet is one group, and the visualization was made from it.',
  strip: (
    /** @type {number} */ first,
    /** @type {number} */ last,
    /** @type {string} */ name,
    /** @type {string[]} */ labels,
  ) =>
    `${last > first ? `Dataset images ${first} to ${last}` : `Dataset image ${last}`} of ${name}` +
    (labels.length ? `: ${labels.join(', ')}` : ''),
  mark: 'Mark the activating part',
  none: 'No dataset images are recorded for this neuron.',
  unpublished:
    'This atlas does not publish the dataset images themselves (their licenses may not allow it). ' +
    'Their names in the data set and the neuron’s activation on each are below.',
  names: (/** @type {number} */ count, /** @type {boolean} */ hasCaptions) =>
    `${hasCaptions ? 'Names and captions' : 'Names'} of ${plural(count, 'dataset image')}`,
  table: 'Dataset images',
  rank: 'Rank',
  columns: ['', 'Activation', 'Label', 'Name'],
  caption: 'Caption',
}

export const ACTIONS = {
  title: 'Take along',
  png: 'Download the visualization as PNG',
  webp: 'Download the visualization as WebP',
  json: 'Download this row as JSON',
  parquet: 'Download the table of this layer as Parquet',
  cite: 'Cite',
  row: 'All columns of this row',
  copyText: 'Copy text',
  noImage: 'The visualization could not be loaded, so there is nothing to download',
  citation: (/** @type {string} */ name, /** @type {string} */ atlas, /** @type {string[]} */ details) =>
    `“${name}”, in: ${atlas} (${details.join(', ')}).`,
  build: (/** @type {string} */ build) => `build ${build}`,
  method: (/** @type {string} */ citation) => `Method: ${citation}`,
}

export const NEIGHBORS = {
  title: 'Similar neurons',
  onMap: 'Show on the map',
  how: (/** @type {number} */ dimensions, /** @type {number} */ images) =>
    'The nearest neighbors among the neurons of all layers: the same dataset images activate them. Similarity is the ' +
    `cosine of unit embeddings of ${dimensions} numbers, made of the ${images} top-activating images of each neuron.`,
  none: 'None: no dataset image activates this neuron that activates another one too.',
  unreadable: 'The similar neurons could not be read',
  summary: (/** @type {string} */ percent) => `similarity ${percent}`,
  similarity: 'similarity ',
}
