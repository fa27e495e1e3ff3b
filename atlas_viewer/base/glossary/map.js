/** The map of the neurons. */

import { formatCount, plural } from '../format.js'

export const MAP = {
  title: (/** @type {string} */ atlas) => `Map · ${atlas}`,
  heading: (/** @type {string} */ atlas) => `Map of ${atlas}`,
  lead: (/** @type {string} */ layout) =>
    'Neurons that the same dataset images activate lie near each other, whatever their layers. ' +
    `Distances between far groups mean little. Made by ${layout}.`,
  missing: (/** @type {number} */ count) => ` Not on it: ${plural(count, 'neuron')} that no dataset image activates.`,
  frame: 'Map',
  canvasRole: 'map',
  canvas: (/** @type {number} */ count) =>
    `Map of ${plural(count, 'neuron')}. Arrow keys move it, plus and minus zoom, Enter opens the neuron in the middle`,
  zoom: 'Zoom',
  zoomIn: 'Zoom in',
  zoomOut: 'Zoom out',
  fit: 'Show the whole map',
  near: 'Nearest to the middle',
  nobody: 'No neuron here.',
  all: (/** @type {number} */ count, /** @type {string} */ model) => `${plural(count, 'neuron')} of ${model}`,
  marked: (/** @type {number} */ count, /** @type {number} */ total) =>
    `${plural(count, 'neuron')} of ${formatCount(total)} marked; the others are gray`,
  layers: 'Layers',
  layersByDepth: 'Layers, by depth',
  markAll: 'Mark all layers',
  missingThumbnails: 'Thumbnails of the map are missing',
  noMap: 'This atlas has no map',
  noMapReason:
    'It was built without one: the map needs the extra “map” of neuron-atlas, or more neurons with dataset images.',
  toGallery: 'Go to the gallery',
}
