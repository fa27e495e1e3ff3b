/** Which neuron of one atlas stands for a neuron of another. */

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./comparison.js').Entry} Entry
 *
 * @typedef {object} Counterpart
 * @property {Entry | null} entry null when none is known to stand for it
 * @property {string} reason why this one, or why none
 */

/**
 * The class of the same name; else, of the same model, the same layer and unit. Units of another model that merely have
 * the same number have nothing in common.
 * @param {Atlas} atlas
 * @param {Entry} entry a neuron of it
 * @param {Atlas} other
 * @returns {Promise<Counterpart>}
 */
export async function findCounterpart(atlas, entry, other) {
  if (atlas === other) return { entry: null, reason: 'No second neuron is chosen.' }
  const layer = atlas.layer(entry.layer)
  if (!layer) return { entry: null, reason: 'There is nothing to put beside it.' }
  const own = (await atlas.layerIndex(layer)).columns
  const label = own.label[own.unit.indexOf(entry.unit)]
  if (layer.is_classes && label) {
    for (const candidate of other.layers.filter(({ is_classes: isClasses }) => isClasses)) {
      const { unit, label: labels } = (await other.layerIndex(candidate)).columns
      const row = sameClass(labels, label)
      if (row >= 0) return { entry: entryOf(candidate.name, unit[row]), reason: 'the class of the same name' }
    }
  }
  const same = other.layer(entry.layer)
  if (same && atlas.modelName === other.modelName) {
    const { columns } = await other.layerIndex(same)
    if (columns.unit.includes(entry.unit)) {
      return { entry: entryOf(entry.layer, entry.unit), reason: 'the same layer and unit' }
    }
  }
  const wanted = layer.is_classes && label ? `no class “${label}”` : `none known to stand for ${entry.name}`
  return { entry: null, reason: `Of the neurons of ${other.title}, ${wanted}.` }
}

/** @param {string} layer @param {number} unit @returns {Entry} */
function entryOf(layer, unit) {
  return { name: `${layer}:${unit}`, layer, unit }
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
    const wanted = key(label)
    const rows = wanted ? [...labels.keys()].filter((row) => key(labels[row]) === wanted) : []
    if (rows.length === 1) return rows[0]
    if (rows.length > 1) return -1
  }
  return -1
}
