/**
 * Building the page. Every string that comes from an atlas goes into a text node or a checked attribute; there is no
 * function here that parses HTML.
 */

const SVG_NAMESPACE = 'http://www.w3.org/2000/svg'

/**
 * @typedef {Node | string | number | null | undefined | false} Child
 * @typedef {Record<string, unknown>} Attributes attributes by name; `on…` are event listeners, `style` is an object of
 *   CSS properties (custom properties included), `dataset` an object; false, null and undefined are left out
 */

/**
 * An HTML element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  setAttributes(element, attributes)
  append(element, children)
  return element
}

/**
 * An SVG element.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG_NAMESPACE, tag)
  setAttributes(element, attributes)
  append(element, children)
  return element
}

/** @param {HTMLElement | SVGElement} element @param {Attributes} attributes */
function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue
    if (name.startsWith('on') && typeof value === 'function') {
      element.addEventListener(name.slice(2).toLowerCase(), /** @type {EventListener} */ (value))
    } else if (name === 'style') {
      // The policy of the page forbids style attributes; the object model is allowed.
      for (const [property, setting] of Object.entries(/** @type {object} */ (value))) {
        element.style.setProperty(property, String(setting))
      }
    } else if (name === 'dataset') {
      Object.assign(element.dataset, value)
    } else {
      element.setAttribute(name, value === true ? '' : String(value))
    }
  }
}

/** @param {Element} element @param {(Child | Child[])[]} children */
function append(element, children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue
    element.append(child instanceof Node ? child : document.createTextNode(String(child)))
  }
}

/** Replaces the children of an element. @param {Element} element @param {...(Child | Child[])} children */
export function fill(element, ...children) {
  element.replaceChildren()
  append(element, children)
}

/** Announces to screen readers, politely, what changed. @param {string} message */
export function announce(message) {
  const announcer = document.getElementById('announcer')
  if (announcer) announcer.textContent = message
}

/**
 * A problem in words, where the content would have been.
 * @param {string} title one line
 * @param {Child[]} details paragraphs
 * @param {Child} [more] for example a list of nearest addresses
 * @returns {HTMLElement}
 */
export function problem(title, details, more = null) {
  return h('section', { class: 'problem', role: 'alert' },
    h('h2', {}, title),
    ...details.filter(Boolean).map((detail) => h('p', {}, detail)),
    more,
  )
}

/**
 * @param {Child} text
 * @param {(event: Event) => void} onClick
 * @param {Attributes} [attributes]
 * @returns {HTMLButtonElement}
 */
export function button(text, onClick, attributes = {}) {
  return h('button', { type: 'button', class: 'button', onClick, ...attributes }, text)
}

/** @param {Child[][]} entries a term and its parts each @param {Attributes} [attributes] @returns {HTMLElement} */
export function definitions(entries, attributes = {}) {
  const items = entries.map(([term, ...parts]) => h('div', {}, h('dt', {}, term), h('dd', attributes, parts)))
  return h('dl', { class: 'metadata' }, items)
}

/**
 * A link to another view of this page.
 * @param {string} hash address from `formatRoute`
 * @param {Attributes} attributes
 * @param {...Child} children
 * @returns {HTMLAnchorElement}
 */
export function link(hash, attributes, ...children) {
  return h('a', { href: hash, ...attributes }, ...children)
}

/**
 * A link off this site, made only when the address is an ordinary web address; otherwise its text.
 * @param {string} address from an atlas
 * @returns {Node}
 */
export function outsideLink(address) {
  if (!/^https?:\/\/[^\s]+$/i.test(address)) return document.createTextNode(address)
  return h('a', { href: address, rel: 'noopener noreferrer', target: '_blank' }, address)
}

/** Runs a function once an element comes near the window, as `loading="lazy"` does for images with an address. */
export const whenNear = (() => {
  /** @type {WeakMap<Element, () => void>} */
  const waiting = new WeakMap()
  /** @type {IntersectionObserver | null} */
  let observer = null
  /** @param {IntersectionObserverEntry[]} entries */
  const look = (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue
      observer?.unobserve(target)
      waiting.get(target)?.()
      waiting.delete(target)
    }
  }
  return (/** @type {Element} */ element, /** @type {() => void} */ run) => {
    observer ??= new IntersectionObserver(look, { rootMargin: '600px' })
    waiting.set(element, run)
    observer.observe(element)
  }
})()
