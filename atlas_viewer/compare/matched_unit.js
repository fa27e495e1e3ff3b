/** Which unit of one atlas matches a unit of another. */

import { NAMES } from '../base/glossary.js'
import { COMPARE } from '../base/glossary/compare.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('../base/query.js').Entry} Entry
 *
 * @typedef {object} MatchedUnit
 * @property {Entry | null} entry null when none is known to match
 * @property {string} reason why this one, or why none
 */

/**
 * The class of the same name; else, of the same model, the same layer and unit. Units of another model that merely have
 * the same number have nothing in common.
 * @param {Atlas} atlas
 * @param {Entry} entry a neuron of it
 * @param {Atlas} other
 * @returns {Promise<MatchedUnit>}
 */
export async function findMatchedUnit(atlas, entry, other) {
  if (atlas === other) return { entry: null, reason: COMPARE.notChosen }
  const layer = atlas.layer(entry.layer)
  if (!layer) return { entry: null, reason: COMPARE.nothing }
  const own = (await atlas.layerIndex(layer)).columns
  const label = own.label[own.unit.indexOf(entry.unit)]
  if (layer.is_classes && label) {
    for (const candidate of other.layers.filter(({ is_classes: isClasses }) => isClasses)) {
      const { unit, label: labels } = (await other.layerIndex(candidate)).columns
      const row = sameClass(labels, label)
      if (row >= 0) return { entry: entryOf(candidate.name, unit[row]), reason: COMPARE.sameClass }
    }
  }
  const same = other.layer(entry.layer)
  if (same && atlas.modelName === other.modelName) {
    const { columns } = await other.layerIndex(same)
    if (columns.unit.includes(entry.unit)) {
      return { entry: entryOf(entry.layer, entry.unit), reason: COMPARE.sameUnit }
    }
  }
  const isClass = layer.is_classes && label
  const reason = isClass ? COMPARE.noClass(other.title, label) : COMPARE.noMatch(other.title, entry.name)
  return { entry: null, reason }
}

/** @param {string} layer @param {number} unit @returns {Entry} */
function entryOf(layer, unit) {
  return { name: NAMES.neuron(layer, unit), layer, unit }
}

/**
 * The row of the class of a name: of the whole name, else of its first synonym (“tench, Tinca tinca” and “tench” are
 * the same class of ImageNet). A synonym that two classes share decides nothing (ImageNet has two cranes).
 * @param {string[]} labels of the other atlas
 * @param {string} label
 * @returns {number} -1 for none
 */
export function sameClass(labels, label) {
  const whole = (/** @type {string} */ text) => (text ?? '').trim().toLowerCase()
  const first = (/** @type {string} */ text) => whole(text).split(',')[0].trim()
  for (const key of [whole, first]) {
    const name = key(label)
    const rows = name ? [...labels.keys()].filter((row) => key(labels[row]) === name) : []
    if (rows.length === 1) return rows[0]
    if (rows.length > 1) return -1
  }
  return -1
}
