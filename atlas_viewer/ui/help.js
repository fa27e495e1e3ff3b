/** The help overlay: a modal dialog of the browser itself, so that focus stays in it and Escape closes it. */

import { fill, h } from '../base/dom.js'
import { HELP } from '../base/glossary/site.js'

/** Keys and what they do. @returns {HTMLElement} */
export function keyTable() {
  return h('dl', { class: 'keys' },
    HELP.keys.map(([keys, meaning]) => {
      const marks = keys.map((key) => h('kbd', {}, key))
      return h('div', {}, h('dt', {}, marks), h('dd', {}, meaning))
    }),
  )
}

/** What may be typed in the search box. @param {boolean} hasCaptions @returns {HTMLElement} */
export function searchTable(hasCaptions) {
  return h('dl', { class: 'keys keys-wide' },
    HELP.searches(hasCaptions).map(([example, meaning]) =>
      h('div', {}, h('dt', {}, h('code', {}, example)), h('dd', {}, meaning)),
    ),
  )
}

/** @type {HTMLDialogElement | null} */
let dialog = null

const searchHelp = h('div', {})

/**
 * Opens the help, or closes it when it is open.
 * @param {boolean} hasCaptions whether dataset images of the atlas that is shown have captions
 */
export function toggleHelp(hasCaptions) {
  fill(searchHelp, searchTable(hasCaptions))
  if (!dialog) {
    dialog = h('dialog', { class: 'help', 'aria-labelledby': 'help-title' },
      h('div', { class: 'section-head' },
        h('h2', { id: 'help-title' }, HELP.title),
        h('button', { type: 'button', class: 'icon-button', 'aria-label': HELP.close, onClick: () => dialog?.close() },
          '✕',
        ),
      ),
      h('h3', {}, HELP.keyboard),
      keyTable(),
      h('h3', {}, HELP.search),
      searchHelp,
      h('p', { class: 'note' }, HELP.addresses),
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
