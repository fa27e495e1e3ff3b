/** Using an atlas in other programs: text to paste into Python, with the addresses of this atlas in it. */

import { copyButton } from '../ui/actions.js'
import { h } from '../base/dom.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 */

/**
 * Python that reads the atlas with pandas, from here or from a copy on disk.
 * @param {string} base URL of the atlas folder, without "/" at its end
 * @param {string} layerFile path of a layer's table
 * @returns {string}
 */
export function pandasSnippet(base, layerFile) {
  return `import pandas as pd

atlas = ${JSON.stringify(base)}  # or a copy of this folder
index = pd.read_parquet(f"{atlas}/index.parquet")  # one row per neuron
best = index[index["status"] == "ok"].nlargest(20, "activation_percentile")
print(best[["layer", "unit", "label", "activation_percentile"]])

# One layer in full: every method and seed, references, histograms.
layer = pd.read_parquet(f"{atlas}/${layerFile}")
print(layer[["unit", "method", "seed", "image_path", "reference_keys"]])
`
}

/**
 * Python that queries the atlas where it lies; DuckDB fetches only the columns it needs.
 * @param {string} base
 * @returns {string}
 */
export function duckdbSnippet(base) {
  return `import duckdb

atlas = ${JSON.stringify(base)}
print(duckdb.sql(f"""
    SELECT layer, count(*) AS neurons, avg(activation_percentile) AS percentile
    FROM '{atlas}/index.parquet' WHERE status = 'ok' GROUP BY layer
"""))
`
}

/** @param {Atlas} atlas @returns {HTMLElement} */
export function elsewhereSection(atlas) {
  const base = atlas.base.replace(/\/$/, '')
  const layer = atlas.layers[atlas.layers.length - 1]
  return h(
    'section',
    { class: 'elsewhere' },
    h('h2', {}, 'Use this atlas in Python'),
    h('p', {}, 'With pandas (', h('code', {}, 'pip install pandas pyarrow'), '):'),
    snippet(pandasSnippet(base, layer?.file ?? 'layers/LAYER.parquet')),
    h('p', {}, 'With DuckDB (', h('code', {}, 'pip install duckdb'), '), over HTTP and without a copy:'),
    snippet(duckdbSnippet(base)),
    h(
      'p',
      {},
      h('code', {}, 'image_path'),
      atlas.packed
        ? ' names a member of the archives below packs/ (ordinary ZIP files); packs/images/LAYER.parquet says of which.'
        : ' names the picture’s file, relative to the same folder.',
    ),
  )
}

/** @param {string} text @returns {HTMLElement} */
function snippet(text) {
  return h(
    'div',
    { class: 'snippet' },
    h('pre', { tabindex: '0' }, text),
    h(
      'p',
      {},
      copyButton('Copy', () => text),
    ),
  )
}
