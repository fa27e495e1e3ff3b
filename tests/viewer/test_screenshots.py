"""Visualizations of every view on a desktop and on a phone, dark and light, and what must hold in each of them.

They go into pytest's own folder, or into the one that NEURON_ATLAS_SCREENSHOTS names, for people to look at:

    NEURON_ATLAS_SCREENSHOTS=shots .venv/bin/python -m pytest tests/viewer/test_screenshots.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.viewer.test_browser_map import PAINTED

if TYPE_CHECKING:
    from tests.viewer.conftest import Visitor

# View → its address, and what is there once it is drawn.
VIEWS = {
    "gallery": ("#/atlas/synthetic", ".tile img"),
    "neuron": ("#/atlas/synthetic/conv_stem/0", ".stage img"),
    "map": ("#/map/synthetic?n=conv_stem:0", ".map-near img"),
    "compare": ("#/compare/synthetic?n=conv_stem:0,classifier:1", ".compare-cell img"),
    "side-by-side": ("#/compare/synthetic?n=conv_stem:0&with=synthetic&m=classifier:1", ".compare-cell img"),
}
WINDOWS = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
# WCAG relative luminance that separates a dark page from a light one by far.
MIDDLE = 0.18
SHOWN = """() => {
  const inWindow = (box) => box.bottom > 0 && box.top < innerHeight && box.width > 0
  const images = [...document.querySelectorAll('#content img')].filter(i => inWindow(i.getBoundingClientRect()))
  return images.every(i => i.complete && i.naturalWidth > 0)
}"""
LUMINANCE = """() => {
  const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(v => (v / 255) ** 2.2)
  return 0.2126 * r + 0.7152 * g + 0.0722 * b
}"""
# Parts of the header that lie over each other or leave the window.
COLLISIONS = """() => {
  const parts = [...document.querySelectorAll('.brand, .search, .header-link, .site-header .icon-button')]
    .filter(part => part.checkVisibility()).map(part => [part.textContent || part.title, part.getBoundingClientRect()])
  const outside = parts.filter(([, box]) => box.left < 0 || box.right > innerWidth)
  const over = parts.flatMap(([name, a], at) => parts.slice(at + 1)
    .filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
    .map(([other]) => [name, other]))
  return [...outside, ...over]
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the visualizations go."""
    chosen = os.environ.get("NEURON_ATLAS_SCREENSHOTS")
    path = Path(chosen) if chosen else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("window", WINDOWS)
def test_every_view_is_whole(visitor: Visitor, site: str, folder: Path, window: str) -> None:
    size = WINDOWS[window]
    visit = visitor(site, viewport=size, has_touch=window == "phone", reduced_motion="reduce")
    visit.expected_messages.append("willReadFrequently")  # looking at the map's canvas is this test's doing
    for view, (address, drawn) in VIEWS.items():
        page = visit.open(address)
        page.locator(drawn).first.scroll_into_view_if_needed()
        visit.wait_for_image(drawn)
        for scheme in ("light", "dark"):  # switched while the page is open: nothing may keep the other's colors
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function(SHOWN)
            if view == "map":
                page.wait_for_function(f"() => ({PAINTED})() > .05")
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], view
            assert page.evaluate(COLLISIONS) == [], view
            assert (page.evaluate(LUMINANCE) < MIDDLE) == (scheme == "dark"), view
            visualization = folder / f"{view}-{window}-{scheme}.png"
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=visualization)
            with Image.open(visualization) as image:
                assert image.size == (size["width"], size["height"]), view
