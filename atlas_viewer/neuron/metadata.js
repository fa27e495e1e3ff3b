/** The numbers of a neuron page: activation over the data set, scores with their meaning, where the picture comes from. */

import { activationHistogram } from '../ui/charts.js'
import { h } from '../base/dom.js'
import { columnTitle, formatCount, formatNumber, formatPercent, formatScore } from '../base/format.js'
import { variantWords } from '../data/variants.js'
import { sourceWords } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../data/data.js').LayerInfo} LayerInfo
 */

/** Shown in words elsewhere on the page, or of no interest beside the picture. */
const SCORES_ELSEWHERE = new Set(['steps', 'seconds'])

/**
 * @param {Record<string, any>} row
 * @param {LayerInfo} layer
 * @returns {HTMLElement | null}
 */
export function activationSection(row, layer) {
  const chart = activationHistogram(row)
  if (!chart) return null
  return h(
    'section',
    { class: 'activation' },
    h('h2', {}, 'Activation over the data set'),
    typeof row.activation_percentile === 'number' &&
      h(
        'p',
        {},
        row.activation_percentile >= 100
          ? 'The picture excites the neuron more than any of the photographs does'
          : `The picture excites the neuron more than ${formatPercent(row.activation_percentile)} % of the photographs do`,
        typeof row.activation_ratio === 'number' ? `, ${formatScore(row.activation_ratio, '×')} the strongest one` : '',
        layer.is_classes && row.predicted_label ? `. The model calls the picture “${row.predicted_label}”.` : '.',
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
    return !SCORES_ELSEWHERE.has(name) && value !== null && value !== undefined && value !== '' && !Number.isNaN(value)
  })
  if (!names.length) return null
  return h(
    'section',
    { class: 'scores' },
    h('h2', {}, 'Scores'),
    h(
      'dl',
      {},
      names.map((name) =>
        h(
          'div',
          { class: 'score' },
          h('dt', {}, columnTitle(name)),
          h('dd', { class: 'score-value' }, formatScore(row[name], columns[name].unit)),
          h('dd', { class: 'score-meaning' }, columns[name].meaning ?? ''),
        ),
      ),
    ),
  )
}

/**
 * @param {Atlas} atlas
 * @param {Record<string, any>} row
 * @returns {HTMLElement}
 */
export function provenanceSection(atlas, row) {
  const { provenance = {}, model = {}, build_id: build } = atlas.manifest
  const steps =
    typeof row.steps === 'number' && row.steps > 0
      ? `${formatCount(row.steps)} steps${typeof row.seconds === 'number' ? `, ${formatNumber(Number(row.seconds.toPrecision(3)))} s` : ''}`
      : ''
  /** @type {[string, any][]} */
  const facts = [
    ['Neuron', row.neuron_id],
    ['Made with', [row.method, row.preset && `preset ${row.preset}`, row.parameterization].filter(Boolean).join(', ')],
    [
      'Aligned to',
      row.num_references ? `${formatCount(row.num_references)} references: ${sourceWords(row.reference_source)}` : '',
    ],
    ['Alignment', row.alignment],
    ['Relevance', row.relevance],
    ['Precision', row.precision],
    ['Optimization', steps],
    ['Variant', row.seed_value ? `${variantWords(row)} (${row.seed_value})` : variantWords(row)],
    ['Picture', row.image_path ? `${row.width_px} × ${row.height_px} px` : ''],
    ['Picture’s SHA-256', row.image_sha256],
    ['Model weights', model.weights ? `${model.weights}` : ''],
    ['Weights’ SHA-256', model.weights_sha256 ?? provenance.weights_sha256],
    ['Data set', provenance.data_fingerprint],
    ['Recipe', row.recipe_fingerprint],
    ['Build', [build, provenance.created].filter(Boolean).join(', ')],
  ]
  return h(
    'details',
    { class: 'more' },
    h('summary', {}, 'Where this picture comes from'),
    h(
      'dl',
      { class: 'facts' },
      facts
        .filter(([, value]) => value !== '' && value !== null && value !== undefined)
        .map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', { class: 'code' }, value))),
    ),
  )
}
