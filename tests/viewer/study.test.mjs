import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'

import {
  areDissimilar,
  drawStudy,
  eligible,
  layerCandidates,
  methodTurn,
  randomFrom,
  shuffled,
  TASKS,
} from '../../atlas_viewer/study/plan.js'
import {
  ANSWERS_SCHEMA,
  answersFile,
  drawSeed,
  loadSession,
  newSession,
  removeSession,
  savedSessions,
  saveSession,
} from '../../atlas_viewer/study/session.js'

const METHODS = ['vital', 'maco', 'fourier']

/** A neuron that every method visualized, with datasetImages and a label of its own. */
function neuron(
  unit,
  { isClass = false, methods = METHODS, seeds = 1, strip = true, label = '', layer = 'blocks.5' } = {},
) {
  const visualization = (method, seed) => ({
    path: `images/${unit}-${method}-s${seed}.webp`,
    seed,
    sha256: `${unit}${method}${seed}`,
  })
  return {
    id: `net/${layer}/${unit}`,
    layer,
    unit,
    label: isClass ? label || `class ${unit}` : label,
    isClass,
    visualizations: Object.fromEntries(
      methods.map((method) => [method, Array.from({ length: seeds }, (_, seed) => visualization(method, seed))]),
    ),
    strip: strip
      ? {
          path: `examples/${unit}.webp`,
          count: 4,
          keys: [`p${unit}`],
          labels: [`thing ${unit}`],
          positions: [0, 0, 1, 1],
        }
      : null,
  }
}

const intermediate = Array.from({ length: 7 }, (_, unit) => neuron(unit))
const classes = Array.from({ length: 5 }, (_, unit) => neuron(unit, { isClass: true, layer: 'classifier' }))
const everyone = [...intermediate, ...classes]
const settings = (parts = {}) => ({ tasks: [...TASKS], methods: METHODS, items: 100, ...parts })
const draw = (parts = {}, seed = 1, candidates = everyone, others = candidates) =>
  drawStudy({ candidates, others, settings: settings(parts), seed })

function countBy(values, key) {
  const counts = new Map()
  for (const value of values) counts.set(key(value), (counts.get(key(value)) ?? 0) + 1)
  return counts
}

test('the generator gives the sequence of Mulberry32 as its author wrote it, and numbers in [0, 1)', () => {
  const reference = (a) => () => {
    a |= 0
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  for (const seed of [0, 1, 2 ** 32 - 1]) {
    const [mine, theirs] = [randomFrom(seed), reference(seed)]
    for (let i = 0; i < 1000; i++) {
      const value = mine()
      assert.equal(value, theirs())
      assert.ok(value >= 0 && value < 1)
    }
  }
})

test('a shuffle keeps every value and reaches every order about equally often', () => {
  const random = randomFrom(3)
  const orders = countBy(
    Array.from({ length: 6000 }, () => shuffled('abc', random).join('')),
    (order) => order,
  )
  assert.equal(orders.size, 6)
  for (const count of orders.values()) assert.ok(count > 850 && count < 1150, String(count))
})

test('methods take turns: counts differ by one at most, and no neuron meets a method twice before all', () => {
  for (let neurons = 1; neurons <= 9; neurons++) {
    for (let methods = 1; methods <= 6; methods++) {
      const counts = new Array(methods).fill(0)
      const met = new Set()
      for (let number = 0; number < neurons * methods; number++) {
        const method = methodTurn(number, neurons, methods)
        counts[method]++
        met.add(`${number % neurons} ${method}`)
        assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, `${neurons} × ${methods} at ${number}`)
      }
      assert.equal(met.size, neurons * methods)
    }
  }
})

test('the same seed draws the same questions, another seed other ones about the same neurons', () => {
  assert.deepEqual(draw({ items: 4 }, 7), draw({ items: 4 }, 7))
  const [one, other] = [draw({ items: 4 }, 7), draw({ items: 4 }, 8)]
  assert.notDeepEqual(one, other)
  const about = (questions, task) => [...new Set(questions.filter((q) => q.task === task).map((q) => q.neuron))].sort()
  for (const task of TASKS) assert.deepEqual(about(one, task), about(other, task))
})

test('over raters every neuron is visualized by every method', () => {
  const pairs = new Set()
  for (let seed = 0; seed < 60; seed++) {
    for (const { task, neuron: id, method } of draw({ items: 5 }, seed))
      if (task === 'words') pairs.add(`${id} ${method}`)
  }
  assert.equal(pairs.size, 5 * METHODS.length)
})

test('tasks come in the order that gives nothing away, and each is shuffled', () => {
  const questions = draw()
  const order = questions.map(({ task }) => TASKS.indexOf(task))
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  )
  const units = questions.filter(({ task }) => task === 'intermediate').map(({ neuron: id }) => id)
  assert.notDeepEqual(units, [...units].sort())
})

test('each task asks what it should, of whom it should', () => {
  const questions = draw()
  const count = (task) => questions.filter((question) => question.task === task).length
  assert.deepEqual(TASKS.map(count), [12, 12, 7 * 3, 5 * 3]) // once per neuron, or once per neuron and method
  for (const { task, label, visualizations, datasetImages, neuron: id } of questions) {
    assert.equal(label !== '', task === 'class')
    assert.equal(visualizations.length, 1)
    assert.equal(datasetImages.length, { words: 0, choice: 2, intermediate: 4, class: 0 }[task])
    if (task === 'class') assert.match(id, /classifier/)
    if (task === 'intermediate') assert.match(id, /blocks/)
  }
  for (const task of TASKS) {
    const some = questions.filter((question) => question.task === task)
    const counts = [...countBy(some, ({ method }) => method).values()]
    assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, task)
    assert.equal(counts.length, METHODS.length)
  }
})

test('of two dataset images one is the neuron’s own, left as often as right, the other of the same layer', () => {
  const layerOf = (id) => id.split('/')[1]
  const questions = draw({ tasks: ['choice'] }, 5)
  const lefts = questions.filter(({ neuron: id, datasetImages }) => datasetImages[0].neuron === id).length
  assert.equal(lefts, questions.length / 2)
  for (const { neuron: id, datasetImages } of questions) {
    assert.equal(datasetImages.filter((datasetImage) => datasetImage.neuron === id).length, 1)
    for (const { neuron: of, rank, count } of datasetImages) {
      assert.equal(layerOf(of), layerOf(id))
      assert.ok(rank >= 0 && rank < count)
    }
  }
})

test('a neuron with a dataset image or a label in common is no foil; without a foil nothing is asked', () => {
  const [one, other] = [neuron(0), neuron(1)]
  assert.ok(areDissimilar(one.strip, other.strip))
  assert.ok(!areDissimilar(one.strip, { ...other.strip, labels: ['x', 'thing 0'] }))
  assert.ok(!areDissimilar(one.strip, { ...other.strip, keys: ['p0'] }))
  assert.ok(areDissimilar({ ...one.strip, labels: ['', ''] }, { ...other.strip, labels: [''] }))
  const alike = [one, { ...other, strip: { ...other.strip, labels: ['thing 0'] } }]
  assert.deepEqual(draw({ tasks: ['choice'] }, 1, alike), [])
  assert.equal(draw({ tasks: ['choice'] }, 1, [one], [one, other]).length, 1)
})

test('several seeds explain a neuron in a choice, one is shown elsewhere', () => {
  const many = Array.from({ length: 3 }, (_, unit) => neuron(unit, { seeds: 6 }))
  for (const { task, visualizations } of draw({}, 1, many)) assert.equal(visualizations.length, task === 'choice' ? 4 : 1)
})

test('only neurons that every chosen method visualized are asked about', () => {
  const lacking = neuron(9, { methods: ['vital'] })
  assert.deepEqual(eligible('words', [intermediate[0], lacking], METHODS), [intermediate[0]])
  assert.deepEqual(eligible('words', [intermediate[0], lacking], ['vital']), [intermediate[0], lacking])
  assert.deepEqual(eligible('words', intermediate, []), [])
  assert.deepEqual(eligible('intermediate', [neuron(1, { strip: false })], METHODS), [])
  assert.deepEqual(eligible('class', [...intermediate, { ...classes[0], label: '' }], METHODS), [])
})

test('candidates are read from a layer’s table: first facets, visualizations by method and seed, dataset images', () => {
  const columns = {
    neuron_id: ['n/l/3', 'n/l/3', 'n/l/3', 'n/l/3', 'n/l/4'],
    unit: [3, 3, 3, 3, 4],
    label: ['', '', '', '', ''],
    method: ['vital', 'vital', 'vital', 'maco', 'vital'],
    seed: [0, 1, 2, 0, 0],
    num_facets: [2, 2, 2, 2, 1],
    image_path: ['a', 'facet 1', 'b', 'c', ''],
    image_sha256: ['sa', '', 'sb', 'sc', ''],
    examples_path: ['strip', 'other', 'strip', 'strip', ''],
    num_examples: [2, 2, 2, 2, 0],
    reference_keys: [['k'], ['k1'], ['k'], ['k'], []],
    reference_labels: [['x'], ['y'], ['x'], ['x'], []],
    reference_positions: [[0, 0, 1, 1], [], [], [], []],
  }
  const layer = { name: 'l', num_units: 9, num_neurons: 2, is_classes: false, file: '' }
  const [three, four] = layerCandidates({ numRows: 5, columns }, layer)
  assert.deepEqual(three.visualizations.vital, [
    { path: 'a', seed: 0, sha256: 'sa' },
    { path: 'b', seed: 2, sha256: 'sb' },
  ])
  assert.deepEqual(three.visualizations.maco, [{ path: 'c', seed: 0, sha256: 'sc' }])
  assert.deepEqual(three.strip, { path: 'strip', count: 2, keys: ['k'], labels: ['x'], positions: [0, 0, 1, 1] })
  assert.deepEqual(four, { id: 'n/l/4', layer: 'l', unit: 4, label: '', isClass: false, visualizations: {}, strip: null })
})

/** A storage with the parts that the page uses: keys are its own properties, as in a browser. */
class FakeStorage {
  getItem(key) {
    return this[key] ?? null
  }
  setItem(key, value) {
    this[key] = value
  }
  removeItem(key) {
    delete this[key]
  }
}

beforeEach(() => {
  globalThis.localStorage = new FakeStorage()
})

function begin(rater = 'ada') {
  const manifest = { name: 'lite0', build_id: 'b1', provenance: { recipe_fingerprint: 'r1' } }
  const questions = draw({ items: 2 })
  const options = {
    atlas: { manifest, modelName: 'net' },
    seed: 1,
    address: '#/study/lite0',
    settings: settings(),
    questions,
  }
  return newSession({ ...options, rater })
}

test('a session is kept, found again, and removed', () => {
  const session = begin()
  assert.equal(saveSession(session), true)
  assert.deepEqual(loadSession(session.session), session)
  assert.deepEqual(savedSessions('lite0'), [session])
  assert.deepEqual(savedSessions('another atlas'), [])
  removeSession(session.session)
  assert.equal(loadSession(session.session), null)
})

test('a browser that refuses storage keeps the session in memory and says so', () => {
  globalThis.localStorage = {
    getItem: () => null,
    setItem() {
      throw new Error('forbidden')
    },
    removeItem: () => undefined,
  }
  const session = begin()
  assert.equal(saveSession(session), false)
  assert.equal(loadSession(session.session), session)
  assert.deepEqual(savedSessions('lite0'), [session])
  removeSession(session.session)
  assert.equal(loadSession(session.session), null)
})

test('damaged storage is no session', () => {
  for (const text of ['{', 'null', '{}', '{"questions": [], "answers": [1], "atlas": {"name": "lite0"}}']) {
    localStorage.setItem('neuron-atlas-study:x', text)
    assert.equal(loadSession('x'), null, text)
    assert.deepEqual(savedSessions('lite0'), [])
  }
})

test('raters without a name stay apart, names stay within bounds', () => {
  assert.notEqual(begin(' ').rater, begin(' ').rater)
  assert.match(begin('').rater, /^anonymous-[0-9a-f]{6}$/)
  assert.equal(begin('x'.repeat(300)).rater.length, 80)
  assert.notEqual(begin().session, begin().session)
  assert.ok(Number.isInteger(drawSeed()))
})

test('the file tells what was asked, shown and answered, and nothing of questions to come', () => {
  const session = begin()
  session.answers.push({ answer: 'a dog', milliseconds: 12 }, { answer: null, milliseconds: 3 })
  const file = answersFile(session)
  assert.equal(file.schema, ANSWERS_SCHEMA)
  assert.equal(file.planned, session.questions.length)
  assert.equal(file.answers.length, 2)
  assert.equal('questions' in file, false)
  const [{ neuron: id, method, visualizations }] = session.questions
  assert.deepEqual(file.answers[0], {
    task: 'words',
    neuron: id,
    method,
    seed: visualizations[0].seed,
    shown: { label: '', visualizations: [{ seed: visualizations[0].seed, sha256: visualizations[0].sha256 }], dataset_images: [] },
    answer: 'a dog',
    milliseconds: 12,
  })
  assert.doesNotMatch(JSON.stringify(file), /webp/)
})
