/** What a reader can take along from a neuron page: its address, its picture, its row, a citation. */

import { announce, h } from '../base/dom.js'
import { pictureAddress, pictureBytes } from './images.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 */

/**
 * A name for a downloaded file: plain characters only.
 * @param {string} neuronId
 * @returns {string}
 */
export function fileStem(neuronId) {
  return neuronId.replace(/[^A-Za-z0-9_.-]+/g, '-').replace(/^[-.]+|[-.]+$/g, '') || 'neuron'
}

/**
 * @param {Atlas} atlas
 * @param {string} name of the neuron
 * @param {string} address
 * @returns {string}
 */
export function citation(atlas, name, address) {
  const { provenance = {}, build_id: build } = atlas.manifest
  const created = String(provenance.created ?? '').slice(0, 10)
  const parts = [
    `“${name}”, in: ${atlas.title} (${atlas.modelName}${created ? `, ${created}` : ''}${build ? `, build ${build}` : ''}).`,
    address,
  ]
  if (typeof provenance.method_citation === 'string') parts.push(`Method: ${provenance.method_citation}`)
  return parts.join('\n')
}

/**
 * Copy the address, download the picture, the row or the whole table.
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
    // The picture itself already says why its path was refused; there is nothing to download.
  }
  return h(
    'div',
    { class: 'action-list', role: 'group', 'aria-label': 'Take along' },

    copyButton('Copy link', () => location.href),
    image && webpButton(atlas, row.image_path, image, `${stem}.webp`),
    image &&
      h(
        'button',
        {
          type: 'button',
          class: 'button',
          'aria-label': 'Download the picture as PNG',
          onClick: () => downloadPng(atlas, row.image_path, `${stem}.png`),
        },
        'PNG',
      ),
    h(
      'button',
      {
        type: 'button',
        class: 'button',
        'aria-label': 'Download this row as JSON',
        onClick: () => download(new Blob([`${rowJson(row)}\n`], { type: 'application/json' }), `${stem}.json`),
      },
      'JSON',
    ),
    table &&
      h(
        'a',
        {
          class: 'button',
          href: table,
          download: layerFile.split('/').pop(),
          'aria-label': 'Download the table of this layer as Parquet',
        },
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
    disclosure('Cite', () => citation(atlas, name, location.href)),
    disclosure('All columns of this row', () => rowJson(row)),
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
    details.append(h('pre', { tabindex: '0' }, text()), copyButton('Copy text', text))
  })
  return details
}

/**
 * @param {string} title
 * @param {() => string} text
 * @returns {HTMLElement}
 */
export function copyButton(title, text) {
  const button = h('button', { type: 'button', class: 'button' }, title)
  let timer = 0
  button.addEventListener('click', async () => {
    let message = 'Copied'
    try {
      await navigator.clipboard.writeText(text())
    } catch {
      message = 'The browser refused; copy it from the address bar'
    }
    button.textContent = message
    announce(message)
    clearTimeout(timer)
    timer = setTimeout(() => {
      button.textContent = title
    }, 2500)
  })
  return button
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
export function download(blob, name) {
  const address = URL.createObjectURL(blob)
  h('a', { href: address, download: name }).click()
  // The click has started the download by the next turn; the memory can go a little later.
  setTimeout(() => URL.revokeObjectURL(address), 10_000)
}

/**
 * A link to the picture's file, or a button that takes it out of its archive.
 * @param {Atlas} atlas
 * @param {string} path
 * @param {string} address
 * @param {string} name
 * @returns {HTMLElement}
 */
function webpButton(atlas, path, address, name) {
  const label = 'Download the picture as WebP'
  if (!atlas.packed) return h('a', { class: 'button', href: address, download: name, 'aria-label': label }, 'WebP')
  const onClick = async () => {
    try {
      download(new Blob([await pictureBytes(atlas, path)], { type: 'image/webp' }), name)
    } catch (error) {
      announce(error instanceof Error ? error.message : String(error))
    }
  }
  return h('button', { type: 'button', class: 'button', 'aria-label': label, onClick }, 'WebP')
}

/**
 * Redraws the published picture as PNG, for programs that do not read WebP.
 * @param {Atlas} atlas
 * @param {string} path
 * @param {string} name
 */
async function downloadPng(atlas, path, name) {
  const image = new Image()
  try {
    image.src = await pictureAddress(atlas, path)
    await image.decode()
  } catch {
    announce('The picture could not be loaded, so there is nothing to download')
    return
  }
  const canvas = h('canvas', { width: image.naturalWidth, height: image.naturalHeight })
  canvas.getContext('2d')?.drawImage(image, 0, 0)
  canvas.toBlob((blob) => {
    if (blob) download(blob, name)
  }, 'image/png')
}
