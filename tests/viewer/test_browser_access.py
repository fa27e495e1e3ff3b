"""Keyboard, colors, names, narrow windows and print, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.viewer.conftest import Visit, Visitor

GALLERY = "#/atlas/synthetic"
COMPARE = "#/compare/synthetic"
SIDE_BY_SIDE = f"{COMPARE}?n=conv_stem:3&with=synthetic&m=classifier:1"
MAP = "#/map/synthetic"
VIEWS = (
    "",
    f"{GALLERY}/classifier/3",
    f"{GALLERY}/conv_stem/5",
    "#/about?atlas=synthetic",
    f"{COMPARE}?n=conv_stem:3,conv_stem:5",
    f"{COMPARE}?n=conv_stem:0,classifier:5",
    SIDE_BY_SIDE,
    MAP,
)


def test_the_keyboard_alone_reaches_a_neuron_and_is_never_trapped(visit: Visit) -> None:
    page = visit.open()
    visit.drawn_tiles()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.activeElement.dataset.position === '0'")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.tile')].map(t => parseFloat(t.style.left))) / "
        "parseFloat(document.querySelectorAll('.tile')[1].style.left)"
    )
    position = int(page.evaluate("document.activeElement.dataset.position"))
    assert position == round(columns) + 2
    page.keyboard.press("Tab")  # leaves the gallery at once: it is one stop
    assert page.evaluate("document.activeElement.dataset.position") is None
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.dataset.position") == str(position)
    page.keyboard.press("Enter")
    page.locator(".neuron-page").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1"


def test_help_opens_and_closes_by_key_and_keeps_other_keys_out(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/1")
    page.keyboard.press("?")
    page.locator("dialog.help").wait_for()
    page.keyboard.press("j")
    assert page.evaluate("location.hash") == f"{GALLERY}/conv_stem/1"
    page.keyboard.press("Escape")
    page.locator("dialog.help").wait_for(state="hidden")
    assert page.evaluate("location.hash") == f"{GALLERY}/conv_stem/1"


def test_the_theme_follows_the_system_and_the_choice_is_kept(visitor: Visitor, site: str) -> None:
    visit = visitor(site, color_scheme="dark")
    page = visit.open()
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Switch to light colors").click()
    light = page.evaluate(paper)
    assert light != dark
    page.reload()
    page.locator("h1").wait_for()
    assert page.evaluate(paper) == light


def test_text_has_contrast_and_images_and_controls_have_names(visitor: Visitor, site: str) -> None:
    visit = visitor(site, reduced_motion="reduce")  # else colors are still on their way from one scheme to the other
    found = {}
    for address in VIEWS:
        page = visit.open(address)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found[address, scheme] = page.evaluate(CONTRAST_SCRIPT)
        found[address, "names"] = page.evaluate(UNNAMED_SCRIPT)
        assert page.locator("h1").count() == 1, address
    assert {place: bad for place, bad in found.items() if bad} == {}


def test_a_narrow_window_does_not_scroll_sideways_and_has_large_targets(visitor: Visitor, site: str) -> None:
    visit = visitor(site, viewport={"width": 360, "height": 740}, has_touch=True)
    for address in (*VIEWS, f"{COMPARE}?from=25"):
        page = visit.open(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, address
        small = page.eval_on_selector_all(
            "button, .button, select, input[type=search], .text-input, summary, .filter-item, .tile-link, "
            ".breadcrumbs a, .header-link, .check",
            "targets => targets.filter(t => t.checkVisibility()).map(t => [t.className, t.getBoundingClientRect()])"
            ".filter(([, box]) => box.height < 43.5 || box.width < 43.5).map(([name]) => name)",
        )
        assert small == [], address


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_axe_finds_nothing(visitor: Visitor, site: str, width: int, scheme: str) -> None:
    """Of axe-core's rules, run through the debugger, which the page's policy does not bind."""
    package = pytest.importorskip("axe_playwright_python", reason="axe comes with the extra 'test'")
    rules = (Path(package.__file__).parent / "axe.min.js").read_text()
    visit = visitor(site, color_scheme=scheme, viewport={"width": width, "height": 800})
    found = {}
    for address in (
        "",
        f"{GALLERY}?size=large",
        f"{GALLERY}/classifier/3",
        "#/about?atlas=synthetic",
        f"{COMPARE}?n=conv_stem:3",
        SIDE_BY_SIDE,
        f"{MAP}?n=conv_stem:3",
    ):
        session = visit.page.context.new_cdp_session(visit.open(address))
        session.send("Runtime.evaluate", {"expression": rules})
        violations = "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
        options = {"expression": violations, "awaitPromise": True, "returnByValue": True}
        found[address] = session.send("Runtime.evaluate", options)["result"]["value"]
    assert not [violation for violations in found.values() for violation in violations]


def test_the_about_page_tells_the_size_of_the_atlas(visit: Visit) -> None:
    size = visit.open("#/about?atlas=synthetic").locator("dt", has_text="Size").locator("xpath=following-sibling::dd")
    assert re.fullmatch(r"[\d,]{3,} files, [\d.]+ (kB|MB)", size.inner_text())


def test_the_print_view_keeps_the_content_and_drops_the_controls(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/0")
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator(".site-header").is_visible()
    assert page.locator(".stage img").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_printed_comparison_keeps_its_visualizations_and_drops_its_controls(visit: Visit) -> None:
    page = visit.open(f"{COMPARE}?n=conv_stem:0")
    page.emulate_media(media="print")
    assert page.locator(".compare-cell img").first.is_visible()
    for controls in (".compare-adder", ".action-list", ".compare-remove", ".site-header", ".breadcrumbs"):
        assert not page.locator(controls).first.is_visible(), controls


# WCAG 2.2, success criterion 1.4.3: contrast of 4.5:1, 3:1 for large text. Text over visualizations has a plate of its
# own.
CONTRAST_SCRIPT = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number)
  const over = ([r, g, b, a = 1], back) => [r, g, b].map((v, i) => v * a + back[i] * (1 - a))
  const background = (element) => {
    const layers = []
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor))
    return layers.reverse().reduce((back, color) => over(color, back), [255, 255, 255])
  }
  const luminance = (color) => {
    const [r, g, b] = color.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const bad = []
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())
    if (!text || !element.checkVisibility()) continue
    if (element.closest('[aria-disabled], .visually-hidden, .skip-link')) continue
    const style = getComputedStyle(element)
    const back = background(element)
    const [light, dark] = [luminance(over(parse(style.color), back)), luminance(back)].sort((a, b) => b - a)
    const size = parseFloat(style.fontSize)
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5
    const ratio = (light + 0.05) / (dark + 0.05)
    if (ratio < needed) bad.push([element.tagName, element.className, ratio, element.textContent.slice(0, 30)])
  }
  return bad
}"""

# An image or a control without a name for those who do not see it.
UNNAMED_SCRIPT = """() => [
  ...document.querySelectorAll('img:not([alt])'),
  ...[...document.querySelectorAll('button, a[href], input, select')].filter(control =>
    !(control.getAttribute('aria-label') || control.textContent.trim() || control.labels?.length
      || control.querySelector('img')?.alt)),
].map(element => element.outerHTML)"""
