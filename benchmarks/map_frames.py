"""Frames per second and memory of the map in a headless Chromium without a graphics card, by what a hand does.

    python -m benchmarks.map_frames ATLAS [--frames 240] [--shots FOLDER]

ATLAS is a built atlas with a map; `big_atlas.py` makes one of 100,000 neurons. A pointer drags the map by 6 px in every
frame, in a circle, or the wheel turns by 8 px; the times are those that requestAnimationFrame passes. `script` is the
time of the page's own frame callbacks, which other programs on the machine disturb less.
"""

import statistics
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from playwright.sync_api import Page, sync_playwright

from benchmarks.common.browser import WINDOW, chromium_path, read_manifest, serving, visiting
from benchmarks.common.program import make_parser, print_header
from pipeline.atlas.site.site import slug_of

# (name, zoom at the start, px of the wheel in a frame; 0: the pointer drags)
SCENES: Final = (
    ("drag, all dots", 1, 0),
    ("drag, dots near", 5, 0),
    ("drag, thumbnails", 14, 0),
    ("wheel, 1 to 20", 1, -8),
)
# Times every frame callback, so that its share of a frame is known.
TIME_CALLBACKS: Final = """
window.scriptTimes = []
const request = window.requestAnimationFrame.bind(window)
window.requestAnimationFrame = (callback) => request((time) => {
  const before = performance.now()
  callback(time)
  window.scriptTimes.push(performance.now() - before)
})
window.plainFrame = request
"""
MOVE: Final = """
({frames, wheel}) => new Promise((resolve) => {
  const canvas = document.querySelector('.map-canvas')
  const box = canvas.getBoundingClientRect()
  let [x, y] = [box.left + box.width / 2, box.top + box.height / 2]
  const send = (type) => canvas.dispatchEvent(new PointerEvent(type,
    {pointerId: 1, pointerType: 'mouse', button: 0, isPrimary: true, clientX: x, clientY: y, bubbles: true}))
  canvas.setPointerCapture = () => {}
  const times = []
  window.scriptTimes.length = 0
  if (!wheel) send('pointerdown')
  const step = (time) => {
    times.push(time)
    if (times.length > frames) {
      if (!wheel) send('pointerup')
      resolve({times, script: [...window.scriptTimes]})
      return
    }
    if (wheel) {
      canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: wheel, clientX: x, clientY: y, cancelable: true}))
    } else {
      const angle = times.length / 40
      x += 6 * Math.cos(angle)
      y += 6 * Math.sin(angle)
      send('pointermove')
    }
    window.plainFrame(step)
  }
  window.plainFrame(step)
})
"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("atlas", type=Path)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--shots", type=Path, help="folder for a screenshot of each scene")
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.atlas)
    if not manifest.get("neighbors", {}).get("map"):
        sys.exit(f"{arguments.atlas} has no map; `build` makes one where openTSNE is installed")
    with serving(arguments.atlas, manifest) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"]
        )
        print_header(
            f"{manifest['counts']['neurons']:,} neurons",
            f"Chromium {browser.version}",
            f"{WINDOW['width']} × {WINDOW['height']}",
        )
        print(
            f"{'scene':<20}{'fps median':>11}{'ms median':>11}{'ms 95 %':>9}"
            f"{'script median':>15}{'95 %':>7}{'heap MiB':>10}"
        )
        for name, zoom, wheel in SCENES:
            with visiting(browser, throttled=False, script=TIME_CALLBACKS) as (page, _session, _received):
                page.goto(f"{base}#/map/{slug_of(manifest['name'])}?at=0.5,0.5,{zoom}")
                page.locator(".map-canvas").wait_for()
                page.wait_for_timeout(2500)
                report(name, page, page.evaluate(MOVE, {"frames": arguments.frames, "wheel": wheel}))
                if arguments.shots:
                    page.wait_for_timeout(1500)
                    page.screenshot(path=str(arguments.shots / f"{name.replace(', ', '-').replace(' ', '-')}.png"))
        browser.close()


def report(name: str, page: Page, found: dict[str, Any]) -> None:
    intervals = np.diff(found["times"])
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    median, script = statistics.median(intervals), found["script"]
    print(
        f"{name:<20}{1000 / median:>11.0f}{median:>11.1f}{np.percentile(intervals, 95):>9.1f}"
        f"{statistics.median(script):>15.1f}{np.percentile(script, 95):>7.1f}{heap:>10.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
