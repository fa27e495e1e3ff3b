/** Hands on the map: dragging, pinching, the wheel, a tap. What they mean is up to the view. */

/**
 * @typedef {object} MapHands px are from the middle of the canvas
 * @property {(dx: number, dy: number) => void} pan
 * @property {(factor: number, x: number, y: number) => void} zoom about a point
 * @property {(x: number, y: number) => void} tap
 * @property {(x: number, y: number) => void} hover
 * @property {() => void} leave
 */

/** px that a finger may tremble in a tap. */
const TAP_PX = 6

/** Doubles in 350 px of the wheel: one notch of a mouse, 100 px or so, is a fifth. */
const WHEEL_DOUBLING_PX = 350
const LINE_PX = 16

/** @param {HTMLCanvasElement} canvas @param {MapHands} hands */
export function listenToHands(canvas, hands) {
  /** @type {Map<number, {x: number, y: number}>} fingers and buttons that are down */
  const down = new Map()
  let moved = 0

  const place = (/** @type {MouseEvent} */ event) => {
    const box = canvas.getBoundingClientRect()
    return { x: event.clientX - box.left - box.width / 2, y: event.clientY - box.top - box.height / 2 }
  }

  canvas.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return
    canvas.setPointerCapture(event.pointerId)
    if (!down.size) moved = 0
    down.set(event.pointerId, place(event))
  })
  canvas.addEventListener('pointermove', (event) => {
    const now = place(event)
    const before = down.get(event.pointerId)
    if (!before) {
      if (event.pointerType !== 'touch') hands.hover(now.x, now.y)
      return
    }
    down.set(event.pointerId, now)
    moved += Math.hypot(now.x - before.x, now.y - before.y)
    if (moved < TAP_PX) return
    const other = [...down].find(([id]) => id !== event.pointerId)?.[1]
    if (!other) {
      hands.pan(now.x - before.x, now.y - before.y)
      return
    }
    // Two fingers: the map follows their middle, and stretches with their distance.
    const stretched = distance(now, other) / Math.max(1, distance(before, other))
    hands.pan((now.x - before.x) / 2, (now.y - before.y) / 2)
    hands.zoom(stretched, (now.x + other.x) / 2, (now.y + other.y) / 2)
  })
  const up = (/** @type {PointerEvent} */ event) => {
    const at = down.get(event.pointerId)
    down.delete(event.pointerId)
    if (at && !down.size && moved < TAP_PX && event.type === 'pointerup') hands.tap(at.x, at.y)
  }
  canvas.addEventListener('pointerup', up)
  canvas.addEventListener('pointercancel', up)
  canvas.addEventListener('pointerleave', () => {
    if (!down.size) hands.leave()
  })
  canvas.addEventListener(
    'wheel',
    (event) => {
      event.preventDefault()
      const px = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE_PX : 1)
      const at = place(event)
      hands.zoom(2 ** (-px / WHEEL_DOUBLING_PX), at.x, at.y)
    },
    { passive: false },
  )
}

/** @param {{x: number, y: number}} a @param {{x: number, y: number}} b @returns {number} px */
function distance(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y)
}
