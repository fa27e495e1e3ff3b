/** The list of atlases, the about page, and the use of an atlas in other programs. */

import { formatCount, plural } from '../format.js'

export const HOME = {
  lead:
    'What single neurons of vision models respond to: a feature visualization of each one, side by side with its ' +
    'top-activating images. ',
  howToRead: 'How to read this',
  neurons: (/** @type {number} */ count) => plural(count, 'neuron'),
  compare: (/** @type {string} */ atlas) => `Compare methods: ${atlas}`,
}

export const ABOUT = {
  title: (/** @type {string} */ name) => `About · ${name}`,
  back: (/** @type {string} */ atlas) => `← ${atlas}`,
  heading: 'How to read this atlas',
  lead:
    'A vision model is made of many small detectors. This atlas shows, for each of them, ' +
    'a feature visualization and the dataset images that activate it most.',
  neuron: 'Neuron',
  neuronIs:
    'A neuron is one channel of a layer (in a transformer, one dimension of its tokens), or one class of the output. ' +
    'Its name is the layer and its number there: ',
  unitOf: ' is unit 54 of the layer ',
  activation:
    '. The model scans an image with it; how strongly it responds at its strongest place is its activation on that ' +
    'image. (In some papers, a neuron is one place of a channel; here it is the channel.)',
  derived: {
    concepts: 'Some layers of this atlas were derived from the model’s: those named ',
    combinations: '… hold directions in the features of another layer, those named ',
    end: '… several units as one. They are read like any neuron.',
  },
  visualization: 'The visualization',
  visualizationIs:
    'A feature visualization exists in no data set. It is optimized, from noise, until the model sees in it what it ' +
    'sees in the neuron’s reference images. It shows what the neuron responds to; it does not prove that the neuron ' +
    'responds to nothing else, nor that the model uses it the way the visualization suggests.',
  mask:
    'With “Attribution mask” (MACO calls it transparency), the parts that hardly mattered while the visualization was ' +
    'made fade out.',
  methods: 'Methods',
  severalMethods: 'The visualizations of this atlas come from several methods, not all of them run for every neuron. ',
  compare: 'Compare them side by side',
  datasetImages: 'The dataset images',
  datasetImagesAre:
    'Each visualization stands side by side with images of the data set: the top-activating ones or, for a class, those ' +
    'labeled with it. Look at both: in a study with people, natural images explained neurons better than ' +
    'synthesized ones alone (92 % against 82 % right answers; Borowski et al., ICLR 2021). A frame marks the part ' +
    'of an image that activates the neuron. They are few, and from one data set: ' +
    'another data set would give others.',
  facets:
    'A neuron may respond to items that look nothing alike. Its dataset images can then be sorted into groups, its ' +
    'facets, with a visualization for each group; the images shown are those of the facet that is shown.',
  status: 'Status',
  scores: 'Scores',
  unit: (/** @type {string} */ unit) => ` (${unit})`,
  study: 'Rate the visualizations yourself',
  studyLead: 'Scores are machines’ opinions of images for people. ',
  studyLink: 'A study',
  studyIs:
    ' asks people instead: they rate the visualizations, say what they see, and choose dataset images that go with ' +
    'them, without knowing the method.',
  search: 'Search',
  keyboard: 'Keyboard',
  data: 'Data',
  dataIs: 'Everything shown comes from plain files of this site: Parquet tables, WebP images, one JSON manifest. ',
  layout: 'How the data is laid out',
  explains: ' explains the columns; ',
  atlases: 'the atlases of this site',
  download: ' can be downloaded and cited. Nothing is sent anywhere and no other site is asked for anything.',

  metadata: (/** @type {string} */ atlas) => `${atlas}: metadata`,
  terms: {
    model: 'Model',
    input: 'Input',
    data: 'Data set',
    labels: 'Labels',
    made: 'Made',
    build: 'Build',
    software: 'Software',
    license: 'License',
    homepage: 'Home page',
    size: 'Size',
    method: 'Method',
  },
  weights: (/** @type {string} */ weights) => `, weights ${weights}`,
  input: (/** @type {number} */ size) => `${size} × ${size} px`,
  images: (/** @type {number} */ count, /** @type {number} */ skipped) =>
    plural(count, 'image') + (skipped ? `, ${formatCount(skipped)} more could not be read` : ''),
  labelWarning: (/** @type {string} */ warning) => `Warning: ${warning}.`,
  commit: (/** @type {string} */ commit) => `commit ${commit}`,
  size: (/** @type {number} */ files, /** @type {string} */ bytes) => `${plural(files, 'file')}, ${bytes}`,
  card: 'Data card and citation',
  cardFormats: ' (BibTeX, CFF)',
  tables: 'Tables and recipe to download',
  recipe: 'Recipe of this atlas',
}

export const EXPORT = {
  heading: 'Use this atlas in Python',
  pandas: ['With pandas (', 'pip install pandas pyarrow', '):'],
  duckdb: ['With DuckDB (', 'pip install duckdb', '), over HTTP and without a copy:'],
  packed:
    ' names a member of the archives below packs/ (ordinary ZIP files); packs/images/LAYER.parquet names the archive.',
  plain: ' names the visualization’s file, relative to the same folder.',
  copy: 'Copy',
  /** Python that reads the atlas with pandas, from here or from a copy on disk; `base` is its folder's URL without "/" at the end. */
  pandasSnippet: (/** @type {string} */ base, /** @type {string} */ layerFile) => `import pandas as pd

atlas = ${JSON.stringify(base)}  # or a copy of this folder
index = pd.read_parquet(f"{atlas}/index.parquet")  # one row per neuron
best = index[index["status"] == "ok"].nlargest(20, "activation_percentile")
print(best[["layer", "unit", "label", "activation_percentile"]])

# One layer in full: every method and seed, references, histograms.
layer = pd.read_parquet(f"{atlas}/${layerFile}")
print(layer[["unit", "method", "seed", "image_path", "reference_keys"]])
`,
  /** Python that queries the atlas where it lies; DuckDB fetches only the columns it needs. */
  duckdbSnippet: (/** @type {string} */ base) => `import duckdb

atlas = ${JSON.stringify(base)}
print(duckdb.sql(f"""
    SELECT layer, count(*) AS neurons, avg(activation_percentile) AS percentile
    FROM '{atlas}/index.parquet' WHERE status = 'ok' GROUP BY layer
"""))
`,
}
