/** Files that cannot be read: what was expected, and what came. */

import { formatBytes } from '../format.js'

export const FILES = {
  summary: (/** @type {string} */ file, /** @type {string} */ expected, /** @type {string} */ received) =>
    `${file}: expected ${expected}; received ${received}`,
  plainPath: 'a plain relative path inside the atlas',
  refusedPath: 'a path that was refused',
  noAnswer: (/** @type {string} */ reason) => `no answer (${reason})`,
  cutOff: (/** @type {string} */ reason) => `an answer cut off (${reason})`,
  notJson: (/** @type {string} */ start) => `text that is not JSON (“${start}…”)`,

  siteList: 'the list of atlases of this site',
  atlasList: 'JSON with a list “atlases”',
  withoutList: 'JSON without it',
  manifest: 'the manifest of an atlas',
  schema: (/** @type {string} */ name) => `schema “${name}”`,
  otherSchema: (/** @type {string} */ name) => `schema “${name}” (this viewer is older or newer)`,
  neurons: (/** @type {number} */ count) => `${count} neurons, as the atlas says`,
  rows: (/** @type {number} */ count) => `${count} rows`,

  tableReader: 'the reader of Parquet tables',
  noModule: (/** @type {string} */ reason) => `no module (${reason})`,
  table: 'a Parquet table',
  notParquet: (/** @type {number} */ bytes) => `${bytes} bytes that do not begin with “PAR1”`,
  damaged: (/** @type {string} */ reason) => `a damaged file (${reason})`,
  size: (/** @type {number} */ bytes) => `${bytes} bytes, as the atlas says`,
  otherSize: (/** @type {number} */ bytes) => `${bytes} bytes (an older or cut-off copy)`,

  image: 'an image',
  packIndex: 'an index of packed images',
  packColumns: (/** @type {string[]} */ names) => `the columns ${names.join(', ')}`,
  missingColumns: (/** @type {string[]} */ names) => `none named ${names.join(', ')}`,
  packRow: (/** @type {string} */ index) => `a row of it in ${index}`,
  noRow: 'none',
  archive: 'an archive of images',
  member: (/** @type {string} */ path, /** @type {string} */ archive) => `${path} in ${archive}`,
  webp: (/** @type {number} */ bytes, /** @type {number} */ offset) => `a WebP image of ${bytes} bytes at ${offset}`,
  otherBytes: 'other bytes (the archive is not the one its index was made for, or was changed on the way)',
  range: (/** @type {number} */ first, /** @type {number} */ last) => `bytes ${first}–${last} of an archive of images`,
  rangeOf: (/** @type {number} */ first, /** @type {number} */ last, /** @type {number} */ total) =>
    `bytes ${first}–${last} of ${total} (HTTP 206)`,
  wholeFile: (/** @type {number} */ status) => `HTTP ${status}: the whole file and no part of it`,
  otherRange: (/** @type {string} */ range) => `HTTP 206 with the range “${range}” (an older copy of the archive?)`,
  cutOffBytes: (/** @type {number} */ bytes) => `${bytes} bytes, cut off`,
  part: (/** @type {number} */ bytes, /** @type {number} */ total) =>
    `a part of it (HTTP 206), ${formatBytes(bytes)} of ${formatBytes(total)}`,
  noParts:
    'the whole file only: this host does not serve parts of files (HTTP Range), and the archive is too large to ' +
    'fetch for one image. Publish the site without --pack, or on another host',
  archiveSize: (/** @type {number} */ bytes) => `${bytes} bytes, as its index says`,
  bytes: (/** @type {number} */ bytes) => `${bytes} bytes`,

  places: 'the places of the neurons',
  numPlaces: (/** @type {number} */ count) => `${count} places, as the atlas says`,
  knownLayers: 'layers of this atlas',
  unknownLayer: (/** @type {string} */ name) => `layer “${name}”`,
  neighbors: 'the nearest neighbors of the units of a layer',
}
