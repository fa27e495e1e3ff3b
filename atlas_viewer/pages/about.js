/** How to read an atlas: what the visualizations are, what they are not, what the numbers mean. */

import { definitions, h, link, outsideLink } from '../base/dom.js'
import { exportSection } from './export.js'
import { statusLabel } from '../ui/filters.js'
import { reasonOf } from '../base/files.js'
import { formatBytes } from '../base/format.js'
import { keyTable, searchTable } from '../ui/help.js'
import { makeRoute } from '../base/route.js'
import { formatRoute } from '../base/router.js'
import {
  columnTitle,
  layerKind,
  methodMeaning,
  methodSource,
  methodTitle,
  STATUSES,
  statusNote,
} from '../base/glossary.js'
import { ABOUT } from '../base/glossary/about.js'
import { SITE } from '../base/glossary/site.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 */

/**
 * @param {Atlas | null} atlas the one the reader came from
 * @param {string} section 'methods' to begin there
 * @returns {import('../base/route.js').View}
 */
export function aboutView(atlas, section) {
  const methods = h('h2', { tabindex: '-1' }, ABOUT.methods)
  const element = h('article', { class: 'page prose' },
    atlas &&
      h('p', {}, link(formatRoute(makeRoute({ view: 'gallery', atlas: atlas.slug })), {}, ABOUT.back(atlas.title))),
    h('h1', { tabindex: '-1' }, ABOUT.heading),
    h('p', { class: 'lead' }, ABOUT.lead),
    neuronPart(atlas),
    part(ABOUT.visualization, ABOUT.visualizationIs, ABOUT.mask),
    atlas && methodsPart(atlas, methods),
    part(ABOUT.datasetImages, ABOUT.datasetImagesAre, ABOUT.facets),
    h('h2', {}, ABOUT.status),
    definitions(STATUSES.map((status) => [statusLabel(status), statusNote(status).meaning])),
    atlas && scoresPart(atlas),
    atlas && studyPart(atlas),
    h('h2', {}, ABOUT.search),
    searchTable(atlas?.hasCaptions === true),
    h('h2', {}, ABOUT.keyboard),
    keyTable(),
    atlas && thisAtlas(atlas),
    atlas && exportSection(atlas),
    h('h2', {}, ABOUT.data),
    h('p', {},
      ABOUT.dataIs,
      h('a', { href: 'data.html' }, ABOUT.layout),
      ABOUT.explains,
      h('a', { href: 'atlases.html' }, ABOUT.atlases),
      ABOUT.download,
    ),
  )
  const landing = section === 'methods' && atlas ? methods : null
  return { element, landing, title: ABOUT.title(atlas ? atlas.title : SITE.name) }
}

/** @param {string} heading @param {...string} paragraphs @returns {HTMLElement} */
function part(heading, ...paragraphs) {
  return h('section', {},
    h('h2', {}, heading),
    paragraphs.map((text) => h('p', {}, text)),
  )
}

/** @param {Atlas | null} atlas @returns {HTMLElement} */
function neuronPart(atlas) {
  const code = (/** @type {string} */ text) => h('code', {}, text)
  const { concepts, combinations, end } = ABOUT.derived
  const hasDerived = atlas?.layers.some((layer) => layerKind(layer.name))
  return h('section', {},
    h('h2', {}, ABOUT.neuron),
    h('p', {}, ABOUT.neuronIs, code('blocks.5:54'), ABOUT.unitOf, code('blocks.5'), ABOUT.activation),
    hasDerived && h('p', {}, concepts, code('concepts.'), combinations, code('combinations.'), end),
  )
}

/** @param {Atlas} atlas @param {HTMLElement} heading @returns {HTMLElement} */
function methodsPart(atlas, heading) {
  const compare = formatRoute(makeRoute({ view: 'compare', atlas: atlas.slug }))
  const methods = atlas.methods.map((method) => {
    const [meaning, source] = [methodMeaning(method), methodSource(method)]
    return [methodTitle(method), meaning.charAt(0).toUpperCase() + meaning.slice(1), source && ` (${source})`]
  })
  return h('section', {},
    heading,
    atlas.methods.length > 1 && h('p', {}, ABOUT.severalMethods, link(compare, {}, ABOUT.compare), '.'),
    definitions(methods),
  )
}

/** @param {Atlas} atlas @returns {HTMLElement | null} */
function scoresPart(atlas) {
  const columns = Object.entries(/** @type {Record<string, any>} */ (atlas.manifest.columns))
  if (!columns.length) return null
  const entries = columns.map(([name, { unit, meaning }]) => {
    const term = h('span', {}, columnTitle(name), ' ', h('code', { class: 'column-name' }, name))
    return [term, meaning, unit && unit !== 'activation' ? ABOUT.unit(unit) : '']
  })
  return h('section', {}, h('h2', {}, ABOUT.scores), definitions(entries))
}

/** @param {Atlas} atlas @returns {HTMLElement} */
function studyPart(atlas) {
  const address = formatRoute(makeRoute({ view: 'study', atlas: atlas.slug }))
  return h('section', {},
    h('h2', {}, ABOUT.study),
    h('p', {}, ABOUT.studyLead, link(address, {}, ABOUT.studyLink), ABOUT.studyIs),
  )
}

/** @param {Atlas} atlas @returns {HTMLElement} */
function thisAtlas(atlas) {
  const { manifest } = atlas
  const tables = ['atlas.json', 'index.parquet', 'recipe.toml', ...atlas.layers.map((layer) => layer.file)]
  return h('section', {},
    h('h2', {}, ABOUT.metadata(atlas.title)),
    definitions(metadataOf(manifest).filter(([, value]) => value)),
    h('p', {}, h('a', { href: `cards/${encodeURIComponent(atlas.slug)}.html` }, ABOUT.card), ABOUT.cardFormats),
    h('details', { class: 'more' },
      h('summary', {}, ABOUT.tables),
      h('ul', {}, tables.map((path) => h('li', {}, fileLink(atlas, path)))),
    ),
    manifest.recipe &&
      h('details', { class: 'more' }, h('summary', {}, ABOUT.recipe), h('pre', { tabindex: '0' }, manifest.recipe)),
  )
}

/** @param {any} manifest @returns {import('../base/dom.js').Child[][]} terms and values, some empty */
function metadataOf({ provenance, model, total, build_id: build, license, homepage }) {
  const { terms } = ABOUT
  const versions = Object.entries(provenance.versions ?? {}).map((version) => version.join(' '))
  const commit = provenance.git_commit && ABOUT.commit(String(provenance.git_commit).slice(0, 12))
  return [
    [terms.model, `${model.name}${model.weights ? ABOUT.weights(model.weights) : ''}`],
    [terms.input, model.input_size_px ? ABOUT.input(model.input_size_px) : ''],
    [
      terms.data,
      typeof provenance.num_samples === 'number'
        ? ABOUT.images(provenance.num_samples, provenance.num_skipped ?? 0)
        : '',
    ],
    [terms.labels, provenance.label_warning ? ABOUT.labelWarning(provenance.label_warning) : ''],
    [terms.made, [provenance.created, commit].filter(Boolean).join(', ')],
    [terms.build, build],
    [terms.software, versions.join(', ')],
    [terms.license, license],
    [terms.homepage, homepage ? outsideLink(String(homepage)) : ''],
    [terms.size, ABOUT.size(total.files, formatBytes(total.bytes))],
    [terms.method, provenance.method_citation],
  ]
}

/** @param {Atlas} atlas @param {string} path @returns {HTMLElement} */
function fileLink(atlas, path) {
  const bytes = atlas.expectedBytes.get(path)
  try {
    return h('span', {},
      h('a', { class: 'code', href: atlas.url(path), download: path.split('/').pop() }, path),
      bytes === undefined ? '' : ` ${formatBytes(bytes)}`,
    )
  } catch (error) {
    return h('span', { class: 'code' }, reasonOf(error))
  }
}
