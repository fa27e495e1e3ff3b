/** The numbers of a neuron page: activation over the data set, scores with their meaning, where the visualization comes from. */

import { activationHistogram } from '../ui/charts.js'
import { definitions, h } from '../base/dom.js'
import { formatScore } from '../base/format.js'
import { variantTitle } from '../data/variants.js'
import { columnTitle, sourceMeaning } from '../base/glossary.js'
import { NEURON } from '../base/glossary/neuron.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').LayerInfo} LayerInfo
 */

/** Shown in another part of the page. */
const SCORES_SHOWN_APART = new Set(['steps', 'seconds'])

/** @param {Record<string, any>} row @param {LayerInfo} layer @returns {HTMLElement | null} */
export function activationSection(row, layer) {
  const chart = activationHistogram(row)
  if (!chart) return null
  return h('section', { class: 'activation' },
    h('h2', {}, NEURON.activation),
    typeof row.activation_percentile === 'number' &&
      h('p', {},
        row.activation_percentile >= 100 ? NEURON.aboveAll : NEURON.abovePercent(row.activation_percentile),
        typeof row.activation_ratio === 'number' && NEURON.ratio(formatScore(row.activation_ratio, '×')),
        layer.is_classes && row.predicted_label ? NEURON.predicted(row.predicted_label) : '.',
      ),
    chart,
  )
}

/**
 * Every score that the atlas explains and the row has, one line each.
 * @param {Atlas} atlas
 * @param {Record<string, any>} row
 * @returns {HTMLElement | null}
 */
export function scoresSection(atlas, row) {
  const columns = /** @type {Record<string, {unit?: string, meaning?: string}>} */ (atlas.manifest.columns ?? {})
  const names = Object.keys(columns).filter((name) => {
    const value = row[name]
    return (
      !SCORES_SHOWN_APART.has(name) && value !== null && value !== undefined && value !== '' && !Number.isNaN(value)
    )
  })
  if (!names.length) return null
  return h('section', { class: 'scores' },
    h('h2', {}, NEURON.scores),
    h('dl', {},
      names.map((name) =>
        h('div', { class: 'score' },
          h('dt', {}, columnTitle(name)),
          h('dd', { class: 'score-value' }, formatScore(row[name], columns[name].unit)),
          h('dd', { class: 'score-meaning' }, columns[name].meaning ?? ''),
        ),
      ),
    ),
  )
}

/** @param {Atlas} atlas @param {Record<string, any>} row @returns {HTMLElement} */
export function provenanceSection(atlas, row) {
  const { provenance, model, build_id: build } = atlas.manifest
  const seconds = typeof row.seconds === 'number' ? NEURON.seconds(row.seconds) : ''
  const steps = row.steps > 0 ? NEURON.steps(row.steps) + seconds : ''
  const terms = NEURON.metadata
  /** @type {[string, any][]} */
  const metadata = [
    [terms.neuron, row.neuron_id],
    [
      terms.method,
      [row.method, row.preset && NEURON.preset(row.preset), row.parameterization].filter(Boolean).join(', '),
    ],
    [
      terms.references,
      row.num_references ? NEURON.references(row.num_references, sourceMeaning(row.reference_source)) : '',
    ],
    [terms.alignment, row.alignment],
    [terms.relevance, row.relevance],
    [terms.precision, row.precision],
    [terms.optimization, steps],
    [terms.variant, row.seed_value ? `${variantTitle(row)} (${row.seed_value})` : variantTitle(row)],
    [terms.image, row.image_path ? NEURON.size(row.width_px, row.height_px) : ''],
    [terms.imageHash, row.image_sha256],
    [terms.weights, model.weights],
    [terms.weightsHash, model.weights_sha256],
    [terms.data, provenance.data_fingerprint],
    [terms.recipe, row.recipe_fingerprint],
    [terms.build, [build, provenance.created].filter(Boolean).join(', ')],
  ]
  const entries = metadata.filter(([, value]) => value !== '' && value !== null && value !== undefined)
  return h('details', { class: 'more' }, h('summary', {}, NEURON.source), definitions(entries, { class: 'code' }))
}
