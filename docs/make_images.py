"""The images of the documents, made from a demo atlas: `python docs/make_images.py demo-atlas`.

docs/view-….webp: the viewer in headless Chromium, on a desktop and on phones. docs/demo-sheet.webp: every visualization
by the first method over the top-activating image of its neuron. docs/demo-methods.webp: the neurons that
every method was asked for, a row per method.
"""

import io
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

from pipeline.atlas.format.schema import EXAMPLE_TILE_PX
from pipeline.atlas.site.serve import make_server
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root

DOCS = Path(__file__).parent
TILE_PX, TEXT_PX, COLUMNS = 150, 18, 8
WIDTH_PX, VIEW_QUALITY = 800, 70  # five such images take less than 200 kB
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# Name → address, what is there once it is drawn, window, colors.
VIEWS = {
    "gallery": ("#/atlas/lite0-demo?layer=classifier", ".tile img", DESKTOP, "light"),
    "neuron": ("#/atlas/lite0-demo/classifier/483", ".stage img", DESKTOP, "dark"),
    "map": ("#/map/lite0-demo", ".map-near img", DESKTOP, "light"),
    "compare": ("#/compare/lite0-demo?layer=classifier", ".compare-cell img", DESKTOP, "dark"),
    "phone-neuron": ("#/atlas/lite0-demo/blocks.5/88", ".stage img", PHONE, "light"),
    "phone-map": ("#/map/lite0-demo", ".map-near img", PHONE, "dark"),
    "phone-compare": ("#/compare/lite0-demo?n=classifier:483", ".compare-cell img", PHONE, "light"),
}


def main() -> None:
    folder = sys.argv[1]
    for name, screenshot in screenshots(folder):
        screenshot.save(DOCS / f"view-{name}.webp", quality=VIEW_QUALITY, method=6)
    contact_sheet(Root.open(folder)).save(DOCS / "demo-sheet.webp", quality=80)
    methods_sheet(Root.open(folder)).save(DOCS / "demo-methods.webp", quality=80)


def screenshots(folder: str) -> Iterator[tuple[str, Image.Image]]:
    """(name, screenshot) of the views as people see them, the phones' in one image."""
    server = make_server(folder, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser_path = next(path for name in ("chromium", "google-chrome") if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        phones = []
        for name, (address, drawn, size, scheme) in VIEWS.items():
            page = browser.new_page(viewport=size, color_scheme=scheme, has_touch=size is PHONE)
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/{address}", wait_until="networkidle")
            page.wait_for_function("drawn => document.querySelector(drawn)?.naturalWidth > 0", arg=drawn)
            page.wait_for_function("() => !document.querySelector('.gallery-page:not([data-complete])')")
            page.wait_for_timeout(1000)  # the map draws its thumbnails over some frames
            screenshot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            page.close()
            if size is PHONE:
                phones.append(screenshot)
            else:
                height = WIDTH_PX * screenshot.height // screenshot.width
                yield name, screenshot.resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
        browser.close()
    server.shutdown()
    yield "phone", side_by_side(phones)


def side_by_side(images: Sequence[Image.Image], gap_px: int = 12) -> Image.Image:
    """Images of one size in a line as wide as the other screenshots."""
    width = (WIDTH_PX - gap_px * (len(images) - 1)) // len(images)
    height = width * images[0].height // images[0].width
    line = Image.new("RGB", (WIDTH_PX, height), "gray")
    for order, image in enumerate(images):
        line.paste(image.resize((width, height), Image.Resampling.LANCZOS), (order * (width + gap_px), 0))
    return line


def contact_sheet(root: Root) -> Image.Image:
    """Each neuron's visualization over its top-activating image, with its name and percentile; classes first."""
    manifest = root.read_json("atlas.json")
    layers = sorted(manifest["layers"], key=lambda layer: not layer["is_classes"])
    rows = [row for layer in layers for row in read_rows(root, layer["file"])]
    rows = [row for row in rows if row["method"] == manifest["methods"][0]]
    height = 2 * TILE_PX + TEXT_PX
    sheet = Image.new("RGB", (COLUMNS * TILE_PX, -(-len(rows) // COLUMNS) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, row in enumerate(rows):
        x, y = index % COLUMNS * TILE_PX, index // COLUMNS * height
        visualization = Image.open(root.local_path / row["image_path"])
        strip = Image.open(root.local_path / row["examples_path"])
        dataset_image = Image.fromarray(np.asarray(strip)[:, :EXAMPLE_TILE_PX])
        for place, image in enumerate((visualization, dataset_image)):
            sheet.paste(image.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), (x, y + place * TILE_PX))
        name = row["label"] or f"{row['layer']}:{row['unit']}"
        text = f"{name}  {row['activation_percentile']:.1f} %"
        draw.text((x + 3, y + 2 * TILE_PX + 2), text, fill="black", font=font)
    return sheet


def methods_sheet(root: Root) -> Image.Image:
    """A column per neuron that has a visualization by every method, a row per method."""
    manifest = root.read_json("atlas.json")
    methods = manifest["methods"]
    visualizations: dict[tuple[str, int, str], dict[str, str]] = {}
    for layer in manifest["layers"]:
        for row in read_rows(root, layer["file"]):
            visualizations.setdefault((row["layer"], row["unit"], row["label"]), {})[row["method"]] = row["image_path"]
    full = {neuron: paths for neuron, paths in visualizations.items() if paths.keys() == set(methods)}
    sheet = Image.new("RGB", (len(full) * TILE_PX, TEXT_PX + len(methods) * (TILE_PX + TEXT_PX)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, ((layer, unit, label), paths) in enumerate(full.items()):
        draw.text((column * TILE_PX + 3, 2), label or f"{layer}:{unit}", fill="black", font=font)
        for line, method in enumerate(methods):
            y = TEXT_PX + line * (TILE_PX + TEXT_PX)
            visualization = Image.open(root.local_path / paths[method])
            sheet.paste(visualization.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), (column * TILE_PX, y))
            if column == 0:
                draw.text((3, y + TILE_PX + 2), method, fill="black", font=font)
    return sheet


if __name__ == "__main__":
    main()
