/** How to read an atlas: what the pictures are, what they are not, what the words and numbers mean. */

import { h, link, outsideLink } from '../base/dom.js'
import { elsewhereSection } from './export.js'
import { statusLabel } from '../ui/filters.js'
import { columnTitle, formatBytes, formatCount, plural } from '../base/format.js'
import { keyTable, searchTable } from '../ui/help.js'
import { makeRoute, formatRoute } from '../base/router.js'
import { layerKind, methodMeaning, methodSource, methodTitle, STATUSES, statusWords } from '../base/glossary.js'

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 */

/**
 * @param {Atlas | null} atlas the one the reader came from
 * @param {string} section 'methods' to begin there
 * @returns {import('../shell/main.js').View}
 */
export function aboutView(atlas, section) {
  const methods = h('h2', { tabindex: '-1' }, 'Methods')
  const element = h(
    'article',
    { class: 'page prose' },
    atlas && h('p', {}, link(formatRoute(makeRoute({ view: 'wall', atlas: atlas.slug })), {}, `← ${atlas.title}`)),
    h('h1', { tabindex: '-1' }, 'How to read this atlas'),
    h(
      'p',
      { class: 'lead' },
      'A vision model is made of many small detectors. This atlas shows, for each of them, ' +
        'a picture made to excite it and the photographs that really do.',
    ),
    h('h2', {}, 'Neuron'),
    h(
      'p',
      {},
      'A neuron is one channel of a layer (in a transformer, one dimension of its tokens), or one class of the output. ' +
        'Its name is the layer and its number there: ',
      h('code', {}, 'blocks.5:54'),
      ' is unit 54 of the layer ',
      h('code', {}, 'blocks.5'),
      '. The model scans an image with it; how strongly it responds at its strongest place is its activation on that image.',
    ),
    atlas &&
      atlas.layers.some((layer) => layerKind(layer.name)) &&
      h(
        'p',
        {},
        'Some layers of this atlas were added to the model: those named ',
        h('code', {}, 'concepts.'),
        '… hold directions in the features of another layer, those named ',
        h('code', {}, 'circuits.'),
        '… several units taken together. They are read like any neuron.',
      ),
    h('h2', {}, 'The picture'),
    h(
      'p',
      {},
      'The picture does not exist in any data set. It is synthesized, from noise, until the model sees in it what it ' +
        'sees in the neuron’s reference photographs. It shows what the neuron responds to; it does not prove that the neuron ' +
        'responds to nothing else, nor that the model uses it the way the picture suggests.',
    ),
    h('p', {}, 'With “Transparency”, the parts that hardly mattered while the picture was made fade out.'),
    atlas && methodsPart(atlas, methods),
    h('h2', {}, 'The photographs'),
    h(
      'p',
      {},
      'Beside each picture are photographs of the data set: those that excite the neuron most or, for a class, those ' +
        'labeled with it. Look at both: in a study with people, natural images explained neurons better than ' +
        'synthesized ones alone (92 % against 82 % right answers; Borowski et al., ICLR 2021). A frame marks the part ' +
        'of a photograph that excites the neuron. They are few, and from one data set: ' +
        'another data set would give others.',
    ),
    h(
      'p',
      {},
      'A neuron may respond to things that look nothing alike. Its photographs can then be sorted into groups, its ' +
        'facets, with a picture for each group; the photographs shown are those of the facet that is shown.',
    ),
    h('h2', {}, 'Status'),
    h(
      'dl',
      { class: 'facts' },
      STATUSES.map((status) =>
        h('div', {}, h('dt', {}, statusLabel(status)), h('dd', {}, statusWords(status).meaning)),
      ),
    ),
    atlas && scoresPart(atlas),
    atlas && studyPart(atlas),
    h('h2', {}, 'Search'),
    searchTable(atlas?.hasCaptions === true),
    h('h2', {}, 'Keyboard'),
    keyTable(),
    atlas && thisAtlas(atlas),
    atlas && elsewhereSection(atlas),
    h('h2', {}, 'Data'),
    h(
      'p',
      {},
      'Everything shown comes from plain files beside this page: Parquet tables, WebP pictures, one JSON manifest. ',
      h('a', { href: 'data.html' }, 'How the data is laid out'),
      ' explains the columns; ',
      h('a', { href: 'atlases.html' }, 'the atlases of this site'),
      ' can be downloaded and cited. Nothing is sent anywhere and no other site is asked for anything.',
    ),
  )
  const landing = section === 'methods' && atlas ? methods : null
  return { element, landing, title: atlas ? `About · ${atlas.title}` : 'About · Neuron Atlas' }
}

/** @param {Atlas} atlas @param {HTMLElement} heading @returns {HTMLElement} */
function methodsPart(atlas, heading) {
  const several = atlas.methods.length > 1
  return h(
    'section',
    {},
    heading,
    several &&
      h(
        'p',
        {},
        'The pictures of this atlas are made in several ways, not all of them for every neuron. ',
        link(formatRoute(makeRoute({ view: 'compare', atlas: atlas.slug })), {}, 'Compare them side by side'),
        '.',
      ),
    h(
      'dl',
      { class: 'facts' },
      atlas.methods.map((method) => {
        const [meaning, source] = [methodMeaning(method), methodSource(method)]
        return h(
          'div',
          {},
          h('dt', {}, methodTitle(method)),
          h('dd', {}, meaning.charAt(0).toUpperCase() + meaning.slice(1), source && ` (${source})`),
        )
      }),
    ),
  )
}

/** @param {Atlas} atlas @returns {HTMLElement | null} */
function scoresPart(atlas) {
  const columns = Object.entries(/** @type {Record<string, any>} */ (atlas.manifest.columns ?? {}))
  if (!columns.length) return null
  return h(
    'section',
    {},
    h('h2', {}, 'Scores'),
    h(
      'dl',
      { class: 'facts' },
      columns.map(([name, { unit, meaning }]) =>
        h(
          'div',
          {},
          h('dt', {}, columnTitle(name), ' ', h('code', { class: 'column-name' }, name)),
          h('dd', {}, meaning, unit && unit !== 'activation' ? ` (${unit})` : ''),
        ),
      ),
    ),
  )
}

/** @param {Atlas} atlas @returns {HTMLElement} */
function studyPart(atlas) {
  return h(
    'section',
    {},
    h('h2', {}, 'Judge the pictures yourself'),
    h(
      'p',
      {},
      'Scores are machines’ opinions of pictures for people. ',
      link(formatRoute(makeRoute({ view: 'study', atlas: atlas.slug })), {}, 'A study'),
      ' asks people instead: they rate the pictures, say what they see, and choose photographs that go with them, ' +
        'without knowing the method.',
    ),
  )
}

/** @param {Atlas} atlas @returns {HTMLElement} */
function thisAtlas(atlas) {
  const { manifest } = atlas
  const { provenance = {}, model = {}, files = [] } = manifest
  // Of an atlas from before there was head.json, the list of files is here.
  const bytes = files.reduce((/** @type {number} */ sum, /** @type {any} */ file) => sum + (file.bytes ?? 0), 0)
  const total = manifest.total ?? { files: files.length, bytes }
  const tables = ['atlas.json', 'index.parquet', 'recipe.toml', ...atlas.layers.map((layer) => layer.file)]
  const versions = Object.entries(provenance.versions ?? {})
    .map(([name, version]) => `${name} ${version}`)
    .join(', ')
  /** @type {[string, import('../base/dom.js').Child][]} */
  const facts = [
    ['Model', `${model.name ?? ''}${model.weights ? `, weights ${model.weights}` : ''}`],
    ['Input', model.input_size_px ? `${model.input_size_px} × ${model.input_size_px} px` : ''],
    [
      'Data set',
      typeof provenance.num_samples === 'number'
        ? `${plural(provenance.num_samples, 'photograph')}${provenance.num_skipped ? `, ${formatCount(provenance.num_skipped)} more could not be read` : ''}`
        : '',
    ],
    [
      'Made',
      [provenance.created, provenance.git_commit && `commit ${String(provenance.git_commit).slice(0, 12)}`]
        .filter(Boolean)
        .join(', '),
    ],
    ['Build', manifest.build_id],
    ['Software', versions],
    ['License', manifest.license],
    ['Home page', manifest.homepage ? outsideLink(String(manifest.homepage)) : ''],
    ['Size', total.files ? `${plural(total.files, 'file')}, ${formatBytes(total.bytes)}` : ''],
    ['Method', provenance.method_citation],
  ]
  return h(
    'section',
    {},
    h('h2', {}, `${atlas.title}: facts`),
    h(
      'dl',
      { class: 'facts' },
      facts.filter(([, value]) => value).map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, value))),
    ),
    h(
      'p',
      {},
      h('a', { href: `cards/${encodeURIComponent(atlas.slug)}.html` }, 'Data card and citation'),
      ' (BibTeX, CFF)',
    ),
    h(
      'details',
      { class: 'more' },
      h('summary', {}, 'Tables and recipe to download'),
      h(
        'ul',
        {},
        tables.map((path) => h('li', {}, fileLink(atlas, path))),
      ),
    ),
    manifest.recipe &&
      h(
        'details',
        { class: 'more' },
        h('summary', {}, 'Recipe of this atlas'),
        h('pre', { tabindex: '0' }, manifest.recipe),
      ),
  )
}

/** @param {Atlas} atlas @param {string} path @returns {HTMLElement} */
function fileLink(atlas, path) {
  const bytes = atlas.expectedBytes.get(path)
  try {
    return h(
      'span',
      {},
      h('a', { class: 'code', href: atlas.url(path), download: path.split('/').pop() }, path),
      bytes === undefined ? '' : ` ${formatBytes(bytes)}`,
    )
  } catch (error) {
    return h('span', { class: 'code' }, error instanceof Error ? error.message : path)
  }
}
