/** What a reader can take along from a neuron page: its address, its visualization, its row, a citation. */

import { announce, button, fill, h } from '../base/dom.js'
import { reasonOf } from '../base/files.js'
import { ACTIONS } from '../base/glossary/neuron.js'
import { SITE } from '../base/glossary/site.js'
import { imageAddress, imageBytes } from './images.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 */

/** A name for a downloaded file: plain characters only. @param {string} neuronId @returns {string} */
export function fileStem(neuronId) {
  return neuronId.replace(/[^A-Za-z0-9_.-]+/g, '-').replace(/^[-.]+|[-.]+$/g, '') || 'neuron'
}

/** @param {Atlas} atlas @param {string} name of the neuron @param {string} address @returns {string} */
export function citation(atlas, name, address) {
  const { provenance = {}, build_id: build } = atlas.manifest
  const created = String(provenance.created ?? '').slice(0, 10)
  const details = [atlas.modelName, created, build && ACTIONS.build(build)].filter(Boolean)
  const parts = [ACTIONS.citation(name, atlas.title, details), address]
  if (typeof provenance.method_citation === 'string') parts.push(ACTIONS.method(provenance.method_citation))
  return parts.join('\n')
}

/**
 * Copy the address, download the visualization, the row or the whole table.
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Record<string, any>} options.row
 * @returns {HTMLElement}
 */
export function actionBar({ atlas, row }) {
  const stem = fileStem(`${row.layer}-${row.unit}-${row.method}-s${row.seed}`)
  const layerFile = atlas.layer(row.layer)?.file ?? ''
  let image = ''
  let table = ''
  try {
    image = row.image_path ? atlas.url(row.image_path) : ''
    table = layerFile ? atlas.url(layerFile) : ''
  } catch {
    // The visualization itself already says why its path was refused; there is nothing to download.
  }
  return h('div', { class: 'action-list', role: 'group', 'aria-label': ACTIONS.title },
    copyButton(SITE.copyLink, () => location.href),
    image && webpButton(atlas, row.image_path, image, `${stem}.webp`),
    image && button('PNG', () => downloadPng(atlas, row.image_path, `${stem}.png`), { 'aria-label': ACTIONS.png }),
    button('JSON', () => download(new Blob([`${rowJson(row)}\n`], { type: 'application/json' }), `${stem}.json`), {
      'aria-label': ACTIONS.json,
    }),
    table &&
      h('a', { class: 'button', href: table, download: layerFile.split('/').pop(), 'aria-label': ACTIONS.parquet },
        'Parquet',
      ),
  )
}

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {Record<string, any>} options.row
 * @param {string} options.name
 * @returns {HTMLElement[]}
 */
export function disclosures({ atlas, row, name }) {
  return [
    disclosure(ACTIONS.cite, () => citation(atlas, name, location.href)),
    disclosure(ACTIONS.row, () => rowJson(row)),
  ]
}

/** @param {Record<string, any>} row @returns {string} */
function rowJson(row) {
  return JSON.stringify(row, null, 2)
}

/**
 * Text that is made when it is opened, with a button that copies it.
 * @param {string} title
 * @param {() => string} text
 * @returns {HTMLElement}
 */
function disclosure(title, text) {
  const details = h('details', { class: 'more' }, h('summary', {}, title))
  details.addEventListener('toggle', () => {
    if (details.childElementCount > 1) return
    details.append(h('pre', { tabindex: '0' }, text()), copyButton(ACTIONS.copyText, text))
  })
  return details
}

/** @param {string} title @param {() => string} text @returns {HTMLElement} */
export function copyButton(title, text) {
  let timer = 0
  const element = button(title, async () => {
    let message = SITE.copied
    try {
      await navigator.clipboard.writeText(text())
    } catch {
      message = SITE.copyRefused
    }
    element.textContent = message
    announce(message)
    clearTimeout(timer)
    timer = setTimeout(() => fill(element, title), 2500)
  })
  return element
}

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const address = URL.createObjectURL(blob)
  h('a', { href: address, download: name }).click()
  // The click has started the download by the next turn; the memory can go a little later.
  setTimeout(() => URL.revokeObjectURL(address), 10_000)
}

/**
 * A link to the visualization's file, or a button that takes it out of its archive.
 * @param {Atlas} atlas
 * @param {string} path
 * @param {string} address
 * @param {string} name
 * @returns {HTMLElement}
 */
function webpButton(atlas, path, address, name) {
  const label = ACTIONS.webp
  if (!atlas.packed) return h('a', { class: 'button', href: address, download: name, 'aria-label': label }, 'WebP')
  const onClick = async () => {
    try {
      download(new Blob([await imageBytes(atlas, path)], { type: 'image/webp' }), name)
    } catch (error) {
      announce(reasonOf(error))
    }
  }
  return button('WebP', onClick, { 'aria-label': label })
}

/**
 * Redraws the published visualization as PNG, for programs that do not read WebP.
 * @param {Atlas} atlas
 * @param {string} path
 * @param {string} name
 */
async function downloadPng(atlas, path, name) {
  const image = new Image()
  try {
    image.src = await imageAddress(atlas, path)
    await image.decode()
  } catch {
    announce(ACTIONS.noImage)
    return
  }
  const canvas = h('canvas', { width: image.naturalWidth, height: image.naturalHeight })
  canvas.getContext('2d')?.drawImage(image, 0, 0)
  canvas.toBlob((blob) => {
    if (blob) download(blob, name)
  }, 'image/png')
}
