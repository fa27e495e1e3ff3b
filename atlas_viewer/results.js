/** The result list of a wall, remembered, so that previous and next on a neuron page walk the same list. */

import { selectRows } from './search.js'

/**
 * @typedef {import('./data.js').Atlas} Atlas
 * @typedef {import('./data.js').Table} Table
 * @typedef {import('./router.js').ListState} ListState
 *
 * @typedef {object} Results
 * @property {Table} table the slim index, or its like for another method
 * @property {number[]} rows of the table, in order
 */

/** @type {{atlas: Atlas, key: string, results: Promise<Results>} | null} */
let latest = null

/**
 * @param {Atlas} atlas
 * @param {ListState} list
 * @returns {Promise<Results>}
 */
export function resultList(atlas, list) {
  const key = JSON.stringify(list)
  if (latest?.atlas !== atlas || latest.key !== key) {
    const results = findResults(atlas, list)
    latest = { atlas, key, results }
    results.catch(() => {
      latest = null
    })
  }
  return latest.results
}

/**
 * @param {Atlas} atlas
 * @param {ListState} list
 * @returns {Promise<Results>}
 */
async function findResults(atlas, list) {
  const table = await listTable(atlas, list)
  return { table, rows: selectRows(table, list) }
}

/** @type {WeakMap<Atlas, Map<string, Promise<Table>>>} */
const methodTables = new WeakMap()

/**
 * @param {Atlas} atlas
 * @param {ListState} list
 * @returns {Promise<Table>}
 */
function listTable(atlas, list) {
  if (!list.method || atlas.index.columns.method.every((method) => method === list.method)) {
    return Promise.resolve(atlas.index)
  }
  const layers = list.layer ? atlas.layers.filter((layer) => layer.name === list.layer) : atlas.layers
  const tables = methodTables.get(atlas) ?? new Map()
  methodTables.set(atlas, tables)
  const key = `${list.method} ${list.layer}`
  if (!tables.has(key)) {
    const table = atlas.indexOfMethod(list.method, layers)
    table.catch(() => tables.delete(key))
    tables.set(key, table)
  }
  return tables.get(key)
}

/**
 * Position of a neuron in a result list, -1 when it is not in it.
 * @param {Results} results
 * @param {string} layer
 * @param {number} unit
 * @returns {number}
 */
export function positionOf({ table, rows }, layer, unit) {
  return rows.findIndex((row) => table.columns.unit[row] === unit && table.columns.layer[row] === layer)
}
