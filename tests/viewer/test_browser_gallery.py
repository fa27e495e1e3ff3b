"""The gallery in a real browser: tiles, search, filters, order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from atlas_viewer import VIEWER_FOLDER
from tests.support.synthetic_atlas import CAPTIONS, LAYERS
from tests.viewer.waiting import wait_for_address

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from tests.viewer.conftest import Visit, Visitor

GALLERY = "#/atlas/synthetic"
NUM_NEURONS = sum(num_neurons for _, num_neurons in LAYERS.values())


def test_the_gallery_shows_tiles_of_every_layer_and_their_visualizations(visit: Visit) -> None:
    page = visit.open()
    assert page.title() == "Synthetic <em>atlas</em> & co."
    assert page.locator("h1").inner_text() == "Synthetic <em>atlas</em> & co."
    assert page.locator(".result-count").inner_text() == f"{NUM_NEURONS} neurons"
    assert f"{GALLERY}/conv_stem/0" in visit.drawn_tiles()
    visit.wait_for_image(".tile img")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.tile img')].filter(i => i.getBoundingClientRect().bottom < innerHeight)"
        ".every(image => image.complete && image.naturalWidth > 0)"
    )
    assert page.locator(".image-missing").count() == 0


def test_small_tiles_are_cut_from_the_sheet_that_shows_their_neuron(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}?layer=blocks.2.1&size=small")
    # Tile 65 is on the second sheet, second place: its visualization lies one tile to the left of the frame.
    tile = page.locator('.tile-link[href*="/blocks.2.1/65"] img')
    assert tile.get_attribute("src").endswith("sheets/blocks.2.1/0001.webp")
    assert tile.evaluate("image => [image.style.left, image.style.top, image.style.width]") == ["-100%", "0%", "800%"]
    visit.wait_for_image('.tile-link[href*="/blocks.2.1/65"] img')


def test_only_the_tiles_near_the_window_are_in_the_page(visit: Visit) -> None:
    last = f"/classifier/{LAYERS['classifier'][1] - 1}"
    for size in ("small", "medium", "large"):
        page = visit.open(f"{GALLERY}?size={size}")
        assert 0 < len(visit.drawn_tiles()) <= 300, size
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        page.locator(f'.tile-link[href*="{last}?"], .tile-link[href$="{last}"]').wait_for()
        assert len(visit.drawn_tiles()) <= 300, size


def test_a_neuron_without_a_visualization_says_why_instead(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}?status=dead,failed,skipped")
    texts = page.locator(".tile .image-none .status").all_inner_texts()
    assert len(texts) > 5
    assert {text.split()[-1] for text in texts} == {"dead", "failed", "skipped"}
    assert all(len(text.split()) == 2 for text in texts)  # a shape and a word: not by color alone


def test_search_filters_while_one_types_and_stays_in_the_address(visit: Visit) -> None:
    page = visit.open()
    page.keyboard.press("/")
    page.keyboard.type("goldfish")
    wait_for_address(page, "location.hash.includes('q=goldfish')")
    page.locator(".result-count", has_text=" of ").wait_for()
    tiles = visit.drawn_tiles()
    assert f"{GALLERY}/classifier/1?q=goldfish" in tiles
    assert 0 < len(tiles) < NUM_NEURONS
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Escape")
    wait_for_address(page, "!location.hash.includes('q=')")
    assert page.locator(".result-count").inner_text() == f"{NUM_NEURONS} neurons"


@pytest.mark.parametrize("of_method", ["", "&method=maco"], ids=["index", "layers' tables"])
def test_words_of_captions_find_neurons(visit: Visit, of_method: str) -> None:
    page = visit.open(f"{GALLERY}?layer=conv_stem&q=%22bowl+of+Noodles%22{of_method}")
    found = [int(tile.rpartition("/")[2].partition("?")[0]) for tile in visit.drawn_tiles()]
    assert "noodles" in CAPTIONS[2]
    assert found == [0, 1, 2]  # that of unit 3 begins with the next caption
    assert page.locator("#search").get_attribute("placeholder") == "Search neurons, labels, captions"
    page.keyboard.press("?")
    assert "labels and captions of the dataset images" in page.locator("dialog.help").inner_text()


def test_a_neuron_id_in_the_search_box_opens_it(visit: Visit) -> None:
    page = visit.open()
    page.locator("#search").fill("blocks.2.1:54")
    wait_for_address(page, "location.hash.includes('q=')")  # the gallery follows the typing before Enter
    page.keyboard.press("Enter")
    page.locator("h1", has_text="blocks.2.1:54").wait_for()
    assert page.evaluate("location.hash") == f"{GALLERY}/blocks.2.1/54"


def test_filters_of_layer_and_status_combine(visit: Visit) -> None:
    page = visit.open()
    page.locator(".filter-layers").get_by_text("blocks.2.1").click()
    wait_for_address(page, "location.hash.includes('layer=blocks.2.1')")
    page.locator(".filters").get_by_text("weak").click()
    wait_for_address(page, "location.hash.includes('status=weak')")
    units = [int(re.search(r"/(\d+)\?", tile)[1]) for tile in visit.drawn_tiles()]
    assert units == [unit for unit in range(LAYERS["blocks.2.1"][1]) if unit % 11 == 3]
    page.go_back()
    wait_for_address(page, "!location.hash.includes('status')")
    assert page.locator(".result-count").inner_text() == f"{LAYERS['blocks.2.1'][1]} neurons of {NUM_NEURONS}"


def test_sorting_puts_the_highest_first_and_missing_values_last(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}?layer=conv_stem")
    page.locator("#sort").select_option("activation_percentile")
    wait_for_address(page, "location.hash.includes('sort=-activation_percentile')")
    units = [int(re.search(r"/(\d+)\?", tile)[1]) for tile in visit.drawn_tiles()]
    # percentile 99 + unit % 10 / 10 where the visualization is good, 42 for unit 3, none for 4, 5, 6
    assert units == [9, 8, 7, 2, 1, 11, 0, 10, 3, 4, 5, 6]
    assert page.locator(".tile-score").first.inner_text() == "99.9 %"
    page.get_by_role("button", name="High to low").click()
    wait_for_address(page, "location.hash.includes('sort=activation_percentile')")
    assert page.locator('.tile-link[data-position="0"]').get_attribute("title").startswith("conv_stem:3")


def test_another_method_changes_the_visualizations(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}?layer=conv_stem")
    page.locator(".filters").get_by_text("MACO").click()
    page.wait_for_function("() => document.querySelector('.tile img')?.src.includes('-maco-')")
    page.locator('.tile-link[data-position="1"]').click()
    visit.wait_for_image(".stage img")
    assert "00001-maco-s0" in page.locator(".stage img").get_attribute("src")


def test_a_neuron_without_the_shown_method_is_shown_by_another_and_says_so(
    visitor: Visitor, comparison_site: str
) -> None:
    visit = visitor(comparison_site)
    page = visit.open("#/atlas/comparison?layer=conv_stem")
    visit.drawn_tiles()
    alternatives = [page.locator(".tile img").nth(unit).get_attribute("alt") for unit in (1, 2)]
    assert alternatives == ["Visualization of neuron conv_stem:1", "Visualization of neuron conv_stem:2, by MACO"]
    visit.open("#/atlas/comparison?layer=conv_stem&method=maco&q=conv_stem:1")
    assert "Only neurons that MACO was run for" in page.locator(".problem").inner_text()


# Parts of the page that moved without a reader's doing: name, and place before and after.
RECORD_SHIFTS = """
window.moved = []
window.shifts = new PerformanceObserver((list) => noteShifts(list.getEntries()))
window.noteShifts = (entries) => window.moved.push(...entries.filter((entry) => !entry.hadRecentInput).flatMap(
  (entry) => entry.sources.map(({ node, previousRect: a, currentRect: b }) => [node?.className, a.x, a.y, b.x, b.y])))
window.shifts.observe({ type: 'layout-shift', buffered: true })
"""
SHIFTS = """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => {
  noteShifts(shifts.takeRecords())
  resolve(moved)
})))"""
CONTROLS = """() => [...document.querySelectorAll('.result-controls, .result-controls > *')]
  .map((part) => [part.className, part.getBoundingClientRect().toJSON()])"""


@pytest.mark.parametrize("address", ["", f"{GALLERY}?sort=-loss", f"{GALLERY}/conv_stem/0"])
def test_nothing_moves_while_a_view_comes(visit: Visit, address: str) -> None:
    visit.page.add_init_script(RECORD_SHIFTS)
    page = visit.open(address)
    visit.wait_for_image(".tile img, .stage img")
    assert page.evaluate(SHIFTS) == []


# A telephone, a tablet, and where the controls just fit into one row or just not.
WIDTHS_PX = (360, 700, 1100, 1160, 1220, 1280)


@pytest.mark.parametrize("layer", ["", "&layer=conv_stem&q=fish"], ids=["all", "filtered"])
def test_the_controls_stay_in_place_while_a_slow_table_is_fetched(visit: Visit, layer: str) -> None:
    page = visit.page
    page.add_init_script(RECORD_SHIFTS)
    held: list[Route] = []
    table = "labels.parquet" if layer else "index.parquet"
    page.route(f"**/{table}", lambda route: held.append(route))
    moved = {}
    for width in WIDTHS_PX[:: 2 if layer else 1]:
        page.set_viewport_size({"width": width, "height": 800})
        visit.open(f"{GALLERY}?sort=-loss{layer}", settled=False)
        page.locator(".result-count", has_text="Fetching").wait_for()
        before = page.evaluate(CONTROLS)
        held.pop().continue_()
        page.locator(".gallery-page[data-complete]").wait_for()
        assert "neuron" in page.locator(".result-count").inner_text()
        after = page.evaluate(CONTROLS)
        assert before, width
        moved[width] = [] if before == after else [before, after], page.evaluate(SHIFTS)
    assert {width: what for width, what in moved.items() if what != ([], [])} == {}


def test_the_first_visualizations_wait_for_small_files_only(visit: Visit) -> None:
    """Neither for atlas.json, which lists every file, nor for the whole index and its labels; those may never come."""
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    for file in ("atlas.json", "index.parquet", "labels.parquet"):
        visit.page.route(f"**/{file}", lambda route: None)
    page = visit.open(settled=False)
    visit.wait_for_image(".tile img")
    assert page.locator(".result-count").inner_text() == f"{NUM_NEURONS} neurons"
    assert not [url for url in asked if url.endswith("/atlas.json")]
    page.goto("about:blank")
    visit.open(f"{GALLERY}/blocks.2.1/5")
    visit.open(f"{GALLERY}?layer=blocks.2.1&sort=-activation_percentile", settled=False)
    assert f"{GALLERY}/blocks.2.1/9?layer=blocks.2.1&sort=-activation_percentile" in visit.drawn_tiles()


def test_the_index_and_the_labels_come_when_they_are_requested(visitor: Visitor, site: str) -> None:
    visit = visitor(site, viewport={"width": 500, "height": 400})
    text = (VIEWER_FOLDER / "data" / "results.js").read_text()
    assert text.count("BEGINNING = 256") == 1
    body = text.replace("BEGINNING = 256", "BEGINNING = 13")  # two layers of three, more than this window shows
    visit.page.route("**/data/results.js", lambda route: route.fulfill(body=body, content_type="text/javascript"))
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url.split("/")[-1]))
    page = visit.open()
    visit.wait_for_image(".tile img")
    assert not {"index.parquet", "labels.parquet"} & {*asked}
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")  # to a tile whose row is not there yet
    page.wait_for_function(f"() => document.activeElement.dataset.position === '{NUM_NEURONS - 1}'")
    assert asked.count("index.parquet") == 1
    assert "labels.parquet" not in asked
    with page.expect_request("**/labels.parquet"):
        page.keyboard.press("/")


def test_a_search_says_what_it_waits_for(visit: Visit) -> None:
    held: list[Route] = []
    visit.page.route("**/labels.parquet", lambda route: held.append(route))
    page = visit.open()
    page.locator("#search").fill("goldfish")
    page.locator(".result-count", has_text=re.compile(r"Fetching [\d.]+ kB")).wait_for()
    assert "Fetching" in page.locator("#announcer").inner_text()
    held[0].continue_()
    page.locator(".result-count", has_text=" of ").wait_for()


def test_large_tiles_show_what_their_dataset_images_are_of(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}?size=large")
    page.locator('.tile-link[href*="/conv_stem/1?"] .tile-detail', has_text="goldfish").wait_for()
