/**
 * The answers of one rater: kept in this browser after every answer, and written as the file that
 * `neuron-atlas human-scores` reads.
 */

/**
 * @typedef {import('../data/data.js').Atlas} Atlas
 * @typedef {import('./plan.js').Question} Question
 * @typedef {import('./plan.js').Settings} Settings
 *
 * @typedef {object} Answer
 * @property {number | string | null} answer 1–5, the words, or the place (1, 2) of the dataset image chosen; null when the
 *   question could not be shown
 * @property {number} milliseconds from the moment its visualizations stood there
 *
 * @typedef {object} Session
 * @property {string} session
 * @property {string} rater
 * @property {{name: string, build_id: string, model: string, recipe_fingerprint: string}} atlas
 * @property {number} seed
 * @property {string} started ISO date and time
 * @property {string} address of the study before it was started, with its settings
 * @property {Settings} settings
 * @property {Question[]} questions
 * @property {Answer[]} answers of the first questions, in order
 */

export const ANSWERS_SCHEMA = 'human-answers/1'
export const MAXIMUM_RATER_LENGTH = 80
export const MAXIMUM_WORDS_LENGTH = 200

const KEY_PREFIX = 'neuron-atlas-study:'

/** @type {Map<string, Session>} what the browser would not keep, for as long as the page lives */
const unkept = new Map()

/** @returns {number} a seed that nobody chose */
export function drawSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0]
}

/**
 * @param {object} options
 * @param {Atlas} options.atlas
 * @param {string} options.rater a missing name is made up, so that raters stay apart
 * @param {number} options.seed
 * @param {string} options.address
 * @param {Settings} options.settings
 * @param {Question[]} options.questions
 * @returns {Session}
 */
export function newSession({ atlas, rater, seed, address, settings, questions }) {
  const { name, build_id: build, provenance } = atlas.manifest
  const session = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0'))
  return {
    session: session.join(''),
    rater: rater.trim().slice(0, MAXIMUM_RATER_LENGTH) || `anonymous-${session.slice(0, 3).join('')}`,
    atlas: { name, build_id: build, model: atlas.modelName, recipe_fingerprint: provenance?.recipe_fingerprint ?? '' },
    seed,
    started: new Date().toISOString(),
    address,
    settings,
    questions,
    answers: [],
  }
}

/**
 * The file of a session: what was asked, shown and answered so far.
 * @param {Session} session
 * @returns {Record<string, any>}
 */
export function answersFile({ questions, answers, ...rest }) {
  return {
    schema: ANSWERS_SCHEMA,
    ...rest,
    planned: questions.length,
    answers: answers.map((answer, number) => {
      const { task, neuron, method, label, visualizations, datasetImages } = questions[number]
      return {
        task,
        neuron,
        method,
        seed: visualizations[0].seed,
        shown: {
          label,
          visualizations: visualizations.map(({ seed, sha256 }) => ({ seed, sha256 })),
          dataset_images: datasetImages.map(({ neuron: of, rank }) => ({ neuron: of, rank })),
        },
        ...answer,
      }
    }),
  }
}

/** Keeps a session in this browser. @param {Session} session @returns {boolean} false when the browser refuses */
export function saveSession(session) {
  try {
    localStorage.setItem(KEY_PREFIX + session.session, JSON.stringify(session))
    unkept.delete(session.session)
    return true
  } catch {
    unkept.set(session.session, session)
    return false
  }
}

/** @param {string} id @returns {Session | null} null when this browser holds none */
export function loadSession(id) {
  const held = unkept.get(id)
  if (held) return held
  try {
    return parseSession(localStorage.getItem(KEY_PREFIX + id))
  } catch {
    return null
  }
}

/**
 * The sessions of an atlas that this browser holds, the latest first.
 * @param {string} atlasName
 * @returns {Session[]}
 */
export function savedSessions(atlasName) {
  /** @type {(Session | null)[]} */
  let found = []
  try {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(KEY_PREFIX))
    const kept = keys.map((key) => key.slice(KEY_PREFIX.length)).filter((id) => !unkept.has(id))
    found = kept.map(loadSession)
  } catch {
    // A browser that refuses storage holds none.
  }
  return [...unkept.values(), ...found]
    .filter((session) => session !== null)
    .filter((session) => session.atlas.name === atlasName)
    .sort((a, b) => (a.started < b.started ? 1 : -1))
}

/** @param {string} id */
export function removeSession(id) {
  unkept.delete(id)
  try {
    localStorage.removeItem(KEY_PREFIX + id)
  } catch {
    // What was never kept need not be removed.
  }
}

/** @param {string | null} text @returns {Session | null} null for what is not whole */
function parseSession(text) {
  if (!text) return null
  const session = JSON.parse(text)
  const whole =
    Array.isArray(session?.questions) &&
    Array.isArray(session.answers) &&
    session.answers.length <= session.questions.length &&
    typeof session.atlas?.name === 'string'
  return whole ? session : null
}
