/** Studies: people rate the visualizations of an atlas without knowing the method. */

import { joinWords, plural } from '../format.js'

export const STUDY = {
  title: (/** @type {string} */ atlas) => `Study · ${atlas}`,
  breadcrumb: 'Study',
  heading: 'Rate the visualizations',
  lead:
    'Images were made to show what the neurons of a vision model respond to. Say how well they do. There are no ' +
    'right answers to most questions; go by your first impression.',
  noSession:
    'This browser holds no unfinished answers under that address, or the atlas was built again since. Start anew, or ' +
    'take what is kept below.',
  note:
    'Keys 1 to 5 answer, Esc pauses. Each answer is kept in this browser at once, so the page may be closed and opened ' +
    'again. Nothing is sent anywhere: at the end you download one file. It holds your answers, the time each took, ' +
    'and the name given above.',
  noVisualizations: 'no neuron has a visualization by every method chosen',
  noClasses: 'none of the neurons is a class',
  unpublished: 'this atlas does not publish its dataset images',
  onlyClasses: 'all of the neurons are classes',
  noFoils: 'no other neuron of the layer differs in all dataset images and labels',
  neurons: (/** @type {number} */ count, /** @type {number} */ able, /** @type {number} */ methods) =>
    `${plural(count, 'neuron')}, ${able} of them with a visualization${methods > 1 ? ' by every method chosen' : ''}; ` +
    'only these are asked about.',
  unknown: (/** @type {string[]} */ names) => `This atlas has no ${joinWords(names)}.`,

  what: 'What is asked',
  copyLink: 'Copy a link to this study',
  rater: 'Your name, or a pseudonym',
  start: (/** @type {number} */ questions) =>
    questions ? `Start: ${plural(questions, 'question')}` : 'Nothing to ask',
  asked: (/** @type {number} */ times, /** @type {string} */ meaning) => `${times} times: ${meaning}`,
  tasks: 'Tasks',
  task: (/** @type {string} */ title, /** @type {string} */ meaning) => `${title}: ${meaning}`,
  leftOut: (/** @type {string} */ reason) => `left out, ${reason}`,
  methods: 'Methods, hidden while answering',
  items: 'Questions per task, at most',
  seed: 'Seed of the order',
  seedPlaceholder: 'another one for every rater',
  seedNote: 'A whole number below 4294967296.',
  chosen: (/** @type {string[]} */ names) => `Neurons: ${joinWords(names)}. `,
  takeAll: 'Take all neurons',
  allLayers: 'All layers',
  layer: 'Layer',
  only: (/** @type {string} */ query, /** @type {string[]} */ statuses) => {
    const parts = [query && `found by “${query}”`, statuses.join(' or ')].filter(Boolean)
    return parts.length ? `Only neurons ${parts.join(', ')}.` : ''
  },

  saved: 'Answers in this browser',
  progress: (/** @type {number} */ done, /** @type {number} */ all, /** @type {string} */ day) =>
    ` ${done} of ${all} answered, begun ${day}`,
  earlierBuild: ', of an earlier build of this atlas',
  goOn: 'Go on',
  download: 'Download',
  remove: 'Delete',
  removeSure: 'Delete for good',

  question: (/** @type {number} */ number, /** @type {number} */ all) => `Question ${number} of ${all}`,
  back: 'Back',
  pause: 'Pause',
  notKept: 'This browser keeps no answers: download them before you leave.',
  loading: 'Loading the images …',
  missing: 'An image is missing',
  unshown: 'An image of this question could not be loaded',
  unshownNote:
    'The connection may be down. Your answers so far are kept. A question that is skipped counts for nothing.',
  skip: 'Skip this question',
  end: 'Thank you',
  endLead: (/** @type {number} */ answers) =>
    `${plural(answers, 'answer')}. They are kept in this browser and nowhere else: download the file and ` +
    'send it to whoever asked you.',
  downloadAnswers: 'Download the answers',
  toStart: 'Back to the start',
  session: { rater: 'Rater', seed: 'Seed of the order', started: 'Started', session: 'Session' },

  visualization: (/** @type {number} */ number) => (number ? `Visualization ${number}` : 'Visualization'),
  datasetImage: (/** @type {number} */ number) => `Dataset image ${number}`,
  frames: { visualization: 'the visualization', datasetImage: 'the dataset image' },
  scaleEnds: { 1: ' not at all', 5: ' very well' },
  next: 'Next',
  recognizeNothing: 'I recognize nothing',
}

/**
 * The tasks: title, what a rater does, and the question for a number of visualizations; a class's name goes between its parts.
 * @type {Record<'words' | 'choice' | 'intermediate' | 'class', {title: string, meaning: string, question: (count: number) => string[]}>}
 */
export const TASK_NOTES = {
  words: {
    title: 'Describe',
    meaning: 'write in a few words what a visualization shows',
    question: () => ['What does the image show?'],
  },
  choice: {
    title: 'Choose',
    meaning: 'pick which of two dataset images goes with the visualization',
    question: (count) => [`Which dataset image goes with the visualization${count > 1 ? 's' : ''}?`],
  },
  intermediate: {
    title: 'Compare',
    meaning: 'rate how well a visualization fits the dataset images shown with it',
    question: () => ['How well does the visualization fit these dataset images?'],
  },
  class: {
    title: 'Rate',
    meaning: 'rate how well a visualization shows what its name says',
    question: () => ['How well does the visualization show “', '”?'],
  },
}
