/** Two panes that scroll together, however it is done: by wheel, finger, key or by the focus going to a link in one. */

/**
 * The place of a pane that belongs to a place of the other: items that belong together reach the top together, and
 * between them it goes in proportion, so that panes whose items differ in height stay side by side.
 * @param {number[]} tops of the items in the pane that was scrolled, ascending
 * @param {number} end its last place
 * @param {number[]} otherTops of the same items in the other
 * @param {number} otherEnd its last place
 * @param {number} place of the pane that was scrolled
 * @returns {number} from 0 to `otherEnd`
 */
export function linkedPlace(tops, end, otherTops, otherEnd, place) {
  const from = [0, ...tops.slice(1).map((top) => Math.min(top, end)), end]
  const to = [0, ...otherTops.slice(1).map((top) => Math.min(top, otherEnd)), otherEnd]
  let item = 0
  while (item < from.length - 2 && place >= from[item + 1]) item++
  const length = from[item + 1] - from[item]
  const part = length > 0 ? Math.min(1, Math.max(0, (place - from[item]) / length)) : 1
  return to[item] + part * (to[item + 1] - to[item])
}

/** px by which a browser may round a place that was set. */
const ROUNDING_PX = 1.5

/**
 * Links two panes for as long as they are in the page.
 * @param {HTMLElement} first
 * @param {HTMLElement} second with as many items as the first
 * @param {string} items their selector
 */
export function linkScrolling(first, second, items) {
  /** Where this module put a pane: the scroll event that follows is no reader's. @type {Map<HTMLElement, number>} */
  const put = new Map()
  const tops = (/** @type {HTMLElement} */ pane) => {
    const elements = /** @type {HTMLElement[]} */ ([...pane.querySelectorAll(items)])
    return elements.map((element) => element.offsetTop - elements[0].offsetTop)
  }
  const end = (/** @type {HTMLElement} */ pane) => pane.scrollHeight - pane.clientHeight
  const follow = (/** @type {HTMLElement} */ pane, /** @type {HTMLElement} */ other) => {
    const expected = put.get(pane)
    put.delete(pane)
    if (expected !== undefined && Math.abs(pane.scrollTop - expected) <= ROUNDING_PX) return
    const before = other.scrollTop
    other.scrollTop = linkedPlace(tops(pane), end(pane), tops(other), end(other), pane.scrollTop)
    if (other.scrollTop !== before) put.set(other, other.scrollTop)
  }
  first.addEventListener('scroll', () => follow(first, second), { passive: true })
  second.addEventListener('scroll', () => follow(second, first), { passive: true })
}
