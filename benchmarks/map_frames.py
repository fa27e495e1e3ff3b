"""Frames per second and memory of the map in a headless Chromium without a graphics card, by what a hand does.

    python benchmarks/map_frames.py [--neurons 100000] [--frames 240] [--shots FOLDER]

The atlas is drawn: places in 600 clouds, 49 layers, thumbnails of six sheets over and over. A pointer drags the map by
6 px in every frame, in a circle, or the wheel turns by 20 px; the times are those that requestAnimationFrame passes.
`script` is the time of the page's own frame callbacks, which other programs on the machine disturb less.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from playwright.sync_api import Page, sync_playwright

from atlas_viewer import viewer_files
from pipeline.atlas.format.file_list import file_entry
from pipeline.atlas.format.schema import (
    HEAD_PATH,
    INDEX_PATH,
    INDEX_SCHEMA,
    MAP_TABLE,
    SCHEMA_VERSION,
    index_encodings,
)
from pipeline.atlas.neighbors.map_sheets import (
    MAP_SHEET_COLUMNS,
    MAP_SHEET_PX,
    MAP_TILE_PX,
    map_sheet_path,
    num_map_sheets,
)
from pipeline.atlas.neighbors.projection import MAP_ENCODINGS, MAP_SCHEMA, MAP_SIDE, morton_order, quantize
from pipeline.atlas.site.serve import make_server
from pipeline.io.images import encode_webp
from pipeline.io.parquet import table_bytes

NUM_LAYERS: Final = 49
NUM_CLOUDS: Final = 600
NUM_DISTINCT_SHEETS: Final = 6
FOLDER: Final = "atlases/drawn/0123456789abcdef"
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=100_000)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--shots", type=Path)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder:
        write_drawn_site(Path(folder), arguments.neurons)
        with make_server(Path(folder), 0) as server, sync_playwright() as playwright:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"]
            )
            print(f"Chromium {browser.version}, Python {sys.version.split()[0]}, {os.cpu_count()} cores,", end=" ")
            print(
                f"load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}; {arguments.neurons:,} neurons, 1280 × 800"
            )
            print(
                f"{'scene':<20}{'fps median':>11}{'ms median':>11}{'ms 95 %':>9}"
                f"{'script median':>15}{'95 %':>7}{'heap MiB':>10}"
            )
            base = f"http://127.0.0.1:{server.server_address[1]}/"
            for name, zoom, wheel in SCENES:
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.add_init_script(TIME_CALLBACKS)
                page.goto(f"{base}#/map/drawn?at=0.5,0.5,{zoom}")
                page.locator(".map-canvas").wait_for()
                page.wait_for_timeout(2500)
                report(name, page, page.evaluate(MOVE, {"frames": arguments.frames, "wheel": wheel}))
                if arguments.shots:
                    page.wait_for_timeout(1500)
                    page.screenshot(path=str(arguments.shots / f"{name.replace(', ', '-').replace(' ', '-')}.png"))
                page.close()
            browser.close()
            server.shutdown()


def report(name: str, page: Page, found: dict[str, Any]) -> None:
    intervals = np.diff(found["times"])
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    median, script = statistics.median(intervals), found["script"]
    print(
        f"{name:<20}{1000 / median:>11.0f}{median:>11.1f}{np.percentile(intervals, 95):>9.1f}"
        f"{statistics.median(script):>15.1f}{np.percentile(script, 95):>7.1f}{heap:>10.1f}",
        flush=True,
    )


def write_drawn_site(folder: Path, num_neurons: int) -> None:
    """A site with what the map reads: no visualizations but the map's own sheets."""
    for name, path in viewer_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    atlas = folder / FOLDER
    (atlas / "map").mkdir(parents=True)
    rng = np.random.default_rng(0)
    cloud = rng.integers(0, NUM_CLOUDS, num_neurons)
    middle, width = rng.uniform(-1, 1, (NUM_CLOUDS, 2)), rng.uniform(0.01, 0.06, NUM_CLOUDS)
    places = quantize(middle[cloud] + width[cloud, None] * rng.normal(size=(num_neurons, 2)))
    order = morton_order(places)
    layers = {f"stages.{i}": len(range(i, num_neurons, NUM_LAYERS)) for i in range(NUM_LAYERS)}
    keys = [(layer, unit) for layer, num_units in layers.items() for unit in range(num_units)]
    shown = [keys[i] for i in rng.permutation(num_neurons)]
    files = {
        MAP_TABLE: table_bytes(
            {
                "layer": [layer for layer, _ in shown],
                "unit": [unit for _, unit in shown],
                "x": places[order, 0],
                "y": places[order, 1],
            },
            MAP_SCHEMA,
            encodings=MAP_ENCODINGS,
        ),
        INDEX_PATH: table_bytes(
            [
                dict.fromkeys(INDEX_SCHEMA)
                | {"layer": layer, "unit": unit, "status": "ok", "label": "", "method": "vital", "num_methods": 1}
                | {"image_path": f"images/{layer}/{unit:05d}-vital-s0.webp", "sheet_path": "", "tile": 0}
                for layer, unit in keys
            ],
            INDEX_SCHEMA,
            encodings=index_encodings(INDEX_SCHEMA),
        ),
    }
    head = {
        "schema": SCHEMA_VERSION,
        "name": "drawn",
        "title": f"{num_neurons:,} drawn neurons",
        "model": {"name": "timm:drawn_net"},
        "methods": ["vital"],
        "layers": [
            {
                "name": layer,
                "num_units": count,
                "num_neurons": count,
                "is_classes": False,
                "file": "layers/none.parquet",
            }
            for layer, count in layers.items()
        ],
        "counts": {"neurons": num_neurons},
        "columns": {},
        "provenance": {},
        "scores": [],
        "sizes": {path: file_entry(path, data)["bytes"] for path, data in files.items()},
        "neighbors": {
            "num_neighbors": 12,
            "num_top_images": 64,
            "num_dimensions": 64,
            "map": {
                "file": MAP_TABLE,
                "layout": "a drawn layout",
                "num_neurons": num_neurons,
                "side": MAP_SIDE,
                "tile_size_px": MAP_TILE_PX,
                "sheet_columns": MAP_SHEET_COLUMNS,
            },
        },
    }
    for path, data in (files | {HEAD_PATH: json.dumps(head).encode()}).items():
        (atlas / path).write_bytes(data)
    distinct = [encode_webp(drawn_sheet(rng), quality=75) for _ in range(NUM_DISTINCT_SHEETS)]
    for number in range(num_map_sheets(num_neurons)):
        (atlas / map_sheet_path(number)).write_bytes(distinct[number % NUM_DISTINCT_SHEETS])
    entry = {"slug": "drawn", "title": head["title"], "path": FOLDER, "counts": head["counts"]}
    (folder / "sites.json").write_text(json.dumps({"schema": "site/1", "atlases": [entry]}))
    sizes = ", ".join(f"{path} {len(data) / 1e6:.2f} MB" for path, data in files.items())
    print(f"{sizes}; {num_map_sheets(num_neurons)} sheets of {len(distinct[0]) / 1e3:.0f} kB (drawn waves)")


def drawn_sheet(rng: np.random.Generator) -> np.ndarray:
    """uint8 [1024, 1024, 3]: a tile of colored waves for each neuron."""
    step = np.linspace(0, 1, MAP_TILE_PX, endpoint=False)
    sheet = np.empty((MAP_SHEET_PX, MAP_SHEET_PX, 3), np.uint8)
    for top in range(0, MAP_SHEET_PX, MAP_TILE_PX):
        for left in range(0, MAP_SHEET_PX, MAP_TILE_PX):
            waves = rng.uniform(-3, 3, (2, 3))
            angle = 2 * np.pi * (step[:, None, None] * waves[0] + step[None, :, None] * waves[1])
            tile = rng.uniform(60, 195, 3) + 50 * np.sin(angle + rng.uniform(0, 6, 3))
            sheet[top : top + MAP_TILE_PX, left : left + MAP_TILE_PX] = tile
    return sheet


if __name__ == "__main__":
    main()
