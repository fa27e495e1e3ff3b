"""The map and similar neurons in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.support.synthetic_atlas import LAYERS, status_of
from tests.viewer.waiting import wait_for_address

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.viewer.conftest import Visit, Visitor

MAP = "#/map/synthetic"
NUM_PLACES = sum(status_of(unit) != "dead" for _, count in LAYERS.values() for unit in range(count))
# Share of the canvas that is not of its background's color.
PAINTED = """() => {
  const canvas = document.querySelector('.map-canvas')
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
  let painted = 0
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] !== data[0] || data[i + 1] !== data[1] || data[i + 2] !== data[2]) painted++
  }
  return painted / (data.length / 4)
}"""


def matching_address(page: Page, pattern: str) -> str:
    wait_for_address(page, f"/{pattern}/.test(location.hash)")
    return page.evaluate("location.hash")


def test_the_map_shows_thumbnails_and_names_the_neurons_in_the_middle_as_links(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("link", name="Map", exact=True).click()
    page.locator(".map-near li").first.wait_for()
    assert page.evaluate("location.hash") == MAP
    assert page.locator(".map-marked").inner_text() == f"{NUM_PLACES} neurons of timm:synthetic_net"
    assert page.locator(".map-near li").count() == 12
    page.wait_for_function(f"() => ({PAINTED})() > .05")
    visit.wait_for_image(".map-near img")
    name = page.locator(".map-open").inner_text()
    layer, unit = name.rsplit(":", 1)
    assert page.locator(f'.map-near a[href="#/atlas/synthetic/{layer}/{unit}"]').count() == 1
    counts = [int(text) for text in page.locator(".map-legend .filter-count").all_inner_texts()]
    assert sum(counts) == NUM_PLACES


def test_by_keyboard_one_zooms_moves_and_opens_the_neuron_in_the_middle(visit: Visit) -> None:
    page = visit.open(MAP)
    page.locator(".map-canvas").focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert matching_address(page, "at=0.5,0.5,2.25|at=0.5%2C0.5%2C2.25")
    page.keyboard.press("ArrowRight")
    at = re.search(r"at=([\d.]+)%2C", matching_address(page, r"at=0\.[6-9]"))
    assert at
    assert float(at[1]) > 0.5
    name = page.locator(".map-open").inner_text()
    assert name in page.locator("#announcer").inner_text()
    page.keyboard.press("Enter")
    page.locator(".neuron-page").wait_for()
    assert page.evaluate("location.hash") == f"#/atlas/synthetic/{name.replace(':', '/')}"
    page.go_back()
    page.locator(".map-open", has_text=name).wait_for()
    page.locator(".map-canvas").focus()
    page.keyboard.press("0")
    wait_for_address(page, "!location.hash.includes('at=')")
    page.keyboard.press("Escape")
    page.locator(".gallery-page").wait_for()


def test_dragging_and_the_wheel_move_the_map_and_a_click_opens_a_thumbnail(visit: Visit) -> None:
    page = visit.open(MAP)
    page.locator(".map-near li").first.wait_for()
    box = page.locator(".map-canvas").bounding_box()
    assert box
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 100, middle[1], steps=4)
    page.mouse.up()
    # A slow browser writes places on the way into the address too: the last one counts.
    moved = 0.5 + 100 / (0.94 * box["height"])
    wait_for_address(page, f"Math.abs(Number(/at=([\\d.]+)%2C[\\d.]+%2C1$/.exec(location.hash)?.[1]) - {moved}) < 0.01")
    page.mouse.move(*middle)
    page.mouse.wheel(0, -350)
    matching_address(page, "%2C2$")
    page.goto("about:blank")
    page = visit.open(f"{MAP}?n=blocks.2.1:8")  # begins at that neuron
    page.locator(".map-open", has_text="blocks.2.1:8").wait_for()
    page.mouse.click(*middle)
    page.locator(".neuron-page").wait_for()
    assert "/atlas/synthetic/blocks.2.1/8" in page.evaluate("location.hash")


def test_a_layer_and_a_search_are_marked_on_the_map(visit: Visit) -> None:
    page = visit.open(MAP)
    page.locator(".map-layer", has_text="conv_stem").click()
    matching_address(page, "layer=conv_stem")
    stem = sum(status_of(unit) != "dead" for unit in range(LAYERS["conv_stem"][1]))
    page.locator(".map-marked", has_text=f"{stem} neurons of {NUM_PLACES} marked").wait_for()
    links = page.eval_on_selector_all(".map-near a", "links => links.map(link => link.getAttribute('href'))")
    assert len(links) == stem
    assert all("/conv_stem/" in link for link in links)
    page.get_by_role("link", name="Mark all layers").click()
    page.locator("#search").fill("goldfish")
    page.keyboard.press("Enter")
    assert matching_address(page, "q=goldfish").startswith(MAP)
    page.locator(".map-marked", has_text="marked; the others are gray").wait_for()


def test_a_finger_drags_the_map_on_a_phone_and_nothing_is_wider_than_the_screen(visitor: Visitor, site: str) -> None:
    visit = visitor(site, viewport={"width": 390, "height": 844}, has_touch=True, device_scale_factor=2)
    page = visit.open(MAP)
    page.locator(".map-near li").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".map-canvas").bounding_box()
    assert box
    assert box["height"] < 0.7 * 844  # the page beside it can still be scrolled
    touch = page.context.new_cdp_session(page)
    x, y = box["x"] + 150, box["y"] + 150
    for kind, points in (
        ("touchStart", [(x, y), (x + 60, y)]),
        ("touchMove", [(x - 30, y), (x + 90, y)]),
        ("touchEnd", []),
    ):
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)]},
        )
    zoom = re.search(r"%2C([\d.]+)$", matching_address(page, "at="))
    assert zoom
    assert 1.5 < float(zoom[1]) < 2.5  # fingers twice as far from each other


def test_a_neuron_page_shows_similar_neurons_of_all_layers(visit: Visit) -> None:
    page = visit.open("#/atlas/synthetic/conv_stem/2")
    page.locator(".neighbors li").first.wait_for()
    links = page.eval_on_selector_all(".neighbors li a", "links => links.map(link => link.getAttribute('href'))")
    assert len(links) == 12
    assert all(int(link.rsplit("/", 1)[1]) % 5 == 2 for link in links)  # one group in the synthetic atlas
    assert len({link.split("/")[3] for link in links}) > 1
    values = [int(re.search(r"(\d+) %", text)[1]) for text in page.locator(".neighbors li").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert "made of the 8 top-activating images" in page.locator(".neighbor-how").inner_text()
    page.locator(".neighbors li a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("address => location.hash === address", arg=links[0])
    name = "{}:{}".format(*links[0].split("/")[3:5])
    page.locator(f'a[href*="{quote(name)}"]', has_text="Show on the map").click()
    page.locator(".map-open", has_text=name).wait_for()


def test_similar_neurons_are_asked_for_once_the_reader_comes_near_them(visitor: Visitor, site: str) -> None:
    visit = visitor(site, viewport={"width": 360, "height": 300})
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    page = visit.open("#/atlas/synthetic/conv_stem/2")
    page.wait_for_load_state("networkidle")
    assert any("conv_stem" in url for url in asked)
    assert not any("/neighbors/" in url for url in asked)
    page.locator(".neighbors").scroll_into_view_if_needed()
    page.locator(".neighbors li").first.wait_for()


def test_a_neuron_that_no_dataset_image_activates_says_so(visit: Visit) -> None:
    page = visit.open("#/atlas/synthetic/conv_stem/4")
    page.locator(".neighbor-body p").wait_for()
    assert "no dataset image activates this neuron" in page.locator(".neighbor-body").inner_text()


def test_what_cannot_be_read_is_said_in_its_place(visit: Visit) -> None:
    visit.expected_messages += ["Failed to load resource"]
    page = visit.page
    page.route("**/map/0000.webp", lambda route: route.fulfill(status=404))
    page.route("**/neighbors/*.parquet", lambda route: route.fulfill(status=500))
    visit.open(MAP)
    page.locator(".problem", has_text="map/0000.webp").wait_for()
    visit.open("#/atlas/synthetic/conv_stem/2")
    page.locator(".neighbors .problem", has_text="HTTP 500").wait_for()
    page.unroute("**/neighbors/*.parquet")
    page.locator(".neighbors").get_by_role("button", name="Try again").click()
    page.locator(".neighbors li").first.wait_for()


def test_an_atlas_without_a_map_says_why(visitor: Visitor, comparison_site: str) -> None:
    page = visitor(comparison_site).open("#/map/comparison")
    assert "This atlas has no map" in page.locator(".problem").inner_text()
    assert page.get_by_role("link", name="Map", exact=True).count() == 0
