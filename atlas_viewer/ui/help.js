/** The help overlay: a modal dialog of the browser itself, so that focus stays in it and Escape closes it. */

import { fill, h } from '../base/dom.js'

/** Keys and what they do; the about page lists them too. */
export const KEYS = [
  [['/'], 'Search'],
  [['←', '→'], 'Previous and next neuron or page (also k and j)'],
  [['↑', '↓'], 'Move on the wall, once a tile has the focus'],
  [['Enter'], 'Open the tile'],
  [['Esc'], 'Back to the wall; clear the search'],
  [['+', '−', '0'], 'Zoom the map, once it has the focus; arrows move it, Enter opens the middle'],
  [['t'], 'Transparency of the pictures'],
  [['c'], 'Compare the methods: of this neuron, or of the wall’s results'],
  [['1', '…', '5'], 'Answer, in a study'],
  [['?'], 'This help'],
]

/**
 * What may be typed in the search box, and what it finds.
 * @param {boolean} hasCaptions whether the photographs have captions
 */
const searches = (hasCaptions) => [
  ['blocks.5:54', 'one neuron: layer and unit, also as blocks.5/54'],
  ['castle', `layer names, class names, labels${hasCaptions ? ' and captions' : ''} of the photographs`],
  ['"great white"', 'a phrase'],
  ['activation_percentile>99', 'a condition on a score: < <= > >= ='],
]

/** @returns {HTMLElement} */
export function keyTable() {
  return h(
    'dl',
    { class: 'keys' },
    KEYS.map(([keys, meaning]) =>
      h(
        'div',
        {},
        h(
          'dt',
          {},
          /** @type {string[]} */ (keys).map((key) => h('kbd', {}, key)),
        ),
        h('dd', {}, String(meaning)),
      ),
    ),
  )
}

/**
 * @param {boolean} hasCaptions
 * @returns {HTMLElement}
 */
export function searchTable(hasCaptions) {
  return h(
    'dl',
    { class: 'keys keys-wide' },
    searches(hasCaptions).map(([example, meaning]) => h('div', {}, h('dt', {}, h('code', {}, example)), h('dd', {}, meaning))),
  )
}

/** @type {HTMLDialogElement | null} */
let dialog = null

const searchHelp = h('div', {})

/**
 * Opens the help, or closes it when it is open.
 * @param {boolean} hasCaptions whether photographs of the atlas that is shown have captions
 */
export function toggleHelp(hasCaptions) {
  fill(searchHelp, searchTable(hasCaptions))
  if (!dialog) {
    dialog = h(
      'dialog',
      { class: 'help', 'aria-labelledby': 'help-title' },
      h(
        'div',
        { class: 'section-head' },
        h('h2', { id: 'help-title' }, 'Help'),
        h(
          'button',
          { type: 'button', class: 'icon-button', 'aria-label': 'Close', onClick: () => dialog?.close() },
          '✕',
        ),
      ),
      h('h3', {}, 'Keyboard'),
      keyTable(),
      h('h3', {}, 'Search'),
      searchHelp,
      h(
        'p',
        { class: 'note' },
        'Every view has an address of its own: copy it from the address bar to share just what you see.',
      ),
    )
    dialog.addEventListener('click', (event) => {
      if (event.target === dialog) dialog?.close()
    })
    document.body.append(dialog)
  }
  if (dialog.open) dialog.close()
  else dialog.showModal()
}

/** @returns {boolean} */
export function helpIsOpen() {
  return Boolean(dialog?.open)
}
