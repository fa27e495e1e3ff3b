"""The compare page in a real browser: methods side by side, facets, pages, its ways in and out, what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.synthetic_atlas import COMPARISON as ATLAS
from tests.support.synthetic_atlas import METHODS, NUM_REFERENCES, VISUALIZATION_PX
from tests.viewer.waiting import wait_for_address

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.viewer.conftest import Visit, Visitor

SYNTHETIC = "#/compare/synthetic"
COMPARISON = "#/compare/comparison"
GALLERY = "#/atlas/synthetic"
METHOD_TITLES = ["VITAL", "MACO", "Fourier", "DeepInversion", "Pixel"]
MAXIMUM_VISUALIZATIONS = 280


def group(page: Page, neuron: str) -> Locator:
    """The lines of one neuron."""
    return page.locator(f'tbody[data-neuron="{neuron}"]')


def names(page: Page) -> list[str]:
    """The neurons that are compared, from top to bottom."""
    page.locator("tbody").first.wait_for()
    return page.eval_on_selector_all("tbody", "groups => groups.map(group => group.dataset.neuron)")


def titles(page: Page) -> list[str]:
    """The titles of the columns."""
    return page.locator(".compare-titles th").all_inner_texts()


def test_a_neuron_has_a_line_per_facet_and_a_column_per_method(comparison: Visit) -> None:
    page = comparison.open(f"{COMPARISON}?n=conv_stem:0")
    assert titles(page) == ["Neuron", "Dataset images", *METHOD_TITLES]
    lines = group(page, "conv_stem:0").locator("tr")
    assert lines.count() == 3
    for facet in range(3):
        images = lines.nth(facet).locator(".compare-cell img")
        sources = images.evaluate_all("images => images.map(image => image.src.split('/').pop())")
        assert sources == [f"00000-{method}-s{facet}.webp" for method in METHODS]
        strip = lines.nth(facet).locator(".dataset-strip img")
        suffix = f"-f{facet}" if facet else ""
        assert strip.first.get_attribute("src").endswith(f"examples/conv_stem/00000{suffix}.webp")
        assert lines.nth(facet).locator(".compare-facet").inner_text().lower() == f"facet {facet + 1} of 3"
    image = lines.nth(1).locator(".compare-cell img").nth(1)
    assert image.get_attribute("alt") == "MACO visualization of conv_stem:0, facet 2 of 3"
    assert image.evaluate("i => [i.getAttribute('width'), i.getAttribute('height')]") == [str(VISUALIZATION_PX)] * 2
    assert lines.nth(1).locator(".compare-score").first.text_content() == "●okactivation percentile 99 %"
    comparison.wait_for_image("tbody tr:nth-child(3) .compare-cell img")
    comparison.wait_for_image("tbody tr:nth-child(3) .dataset-strip img")


def test_the_dataset_images_are_cut_into_two_lines_with_their_frames(comparison: Visit) -> None:
    page = comparison.open(f"{COMPARISON}?n=conv_stem:0")
    strips = group(page, "conv_stem:0").locator("tr").first.locator(".dataset-strip")
    assert strips.count() == 2
    style = "image => [image.style.left, image.style.width]"
    assert [strips.nth(line).locator("img").evaluate(style) for line in (0, 1)] == [["0%", "200%"], ["-100%", "200%"]]
    boxes = (
        strips.nth(1).locator(".top-image-box").evaluate_all("boxes => boxes.map(b => [b.style.left, b.style.width])")
    )
    # The part from a quarter to a half of each of the three dataset images of a line.
    assert boxes == [["8.33%", "8.33%"], ["41.67%", "8.33%"], ["75%", "8.33%"]]
    assert (
        strips.nth(1)
        .locator("img")
        .get_attribute("alt")
        .startswith(f"Dataset images 4 to {NUM_REFERENCES} of conv_stem:0")
    )


def test_what_is_missing_is_said_in_words(comparison: Visit) -> None:
    page = comparison.open(f"{COMPARISON}?n=conv_stem:1,conv_stem:4,conv_stem:5,nonsense,conv_stem:99")
    cells = group(page, "conv_stem:1").locator("tr").first.locator(".compare-cell")
    assert cells.nth(0).locator("img").count() == 1
    for column in range(1, 5):
        assert "not made for this neuron" in cells.nth(column).inner_text()
    dead = group(page, "conv_stem:4").locator(".compare-cell").first.inner_text()
    assert "dead" in dead
    assert "no image of the data set activates this unit" in dead
    failed = group(page, "conv_stem:5").locator(".compare-cell").first
    assert "RuntimeError: <b>CUDA out of memory</b> at step 17" in failed.inner_text()
    assert failed.locator("b").count() == 0
    for name in ("nonsense", "conv_stem:99"):
        assert f"This atlas has no neuron “{name}”." in group(page, name).inner_text()


def test_columns_are_the_methods_of_the_neurons_shown(comparison: Visit) -> None:
    page = comparison.open(f"{COMPARISON}?n=conv_stem:2")
    assert titles(page) == ["Neuron", "Dataset images", "MACO", "Pixel"]
    assert "No column for VITAL, Fourier and DeepInversion" in page.locator(".compare-page").inner_text()


def test_no_more_visualizations_than_the_page_bears_and_pages_lead_to_the_rest(comparison: Visit) -> None:
    page = comparison.open(COMPARISON)
    first = names(page)
    assert 0 < page.locator(".compare-table img").count() <= MAXIMUM_VISUALIZATIONS
    page.get_by_role("link", name="Next").first.click()
    wait_for_address(page, "location.hash.includes('from=')")
    second = names(page)
    assert page.evaluate("location.hash") == f"{COMPARISON}?from={len(first) + 1}"
    # A neuron of one method has nothing to compare: it is shown only where an address names it.
    everything = {f"{layer}:{unit}" for layer, (_, count) in ATLAS["layers"].items() for unit in range(count)}
    assert everything - {*first, *second} == {"conv_stem:1"}
    assert not set(first) & set(second)
    page.get_by_role("link", name="Previous").first.click()
    wait_for_address(page, "!location.hash.includes('from=')")
    assert names(page) == first
    page.go_back()
    wait_for_address(page, "location.hash.includes('from=')")
    assert names(page) == second


def test_keys_turn_the_pages(visit: Visit) -> None:
    page = visit.open(SYNTHETIC)
    assert page.locator(".place").first.inner_text() == "1–24 of 106 neurons"
    page.keyboard.press("j")
    wait_for_address(page, "location.hash.endsWith('from=25')")
    page.keyboard.press("ArrowRight")
    wait_for_address(page, "location.hash.endsWith('from=49')")
    page.keyboard.press("k")
    wait_for_address(page, "location.hash.endsWith('from=25')")
    page.keyboard.press("Escape")
    page.locator(".gallery").wait_for()


def test_keys_pressed_before_the_page_has_come_are_meant_for_it(visit: Visit) -> None:
    page = visit.open(SYNTHETIC)
    # All at once, so that each is pressed while the page that the one before leads to is still on its way.
    page.evaluate(
        """keys => { for (const key of keys) document.body.dispatchEvent(
                     new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true })) }""",
        ["j", "k", "j", "ArrowRight", "ArrowRight"],  # only the last leads so far
    )
    wait_for_address(page, "location.hash.endsWith('from=73')")
    assert page.locator(".place").first.inner_text().startswith("73–")


def test_the_gallery_leads_to_its_results_in_their_order(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}?layer=conv_stem&status=ok&sort=-activation_percentile")
    tiles = [tile.split("?")[0].removeprefix(f"{GALLERY}/").replace("/", ":") for tile in visit.drawn_tiles()]
    page.get_by_role("link", name="Compare methods").click()
    assert names(page) == tiles
    page.go_back()
    page.locator(".gallery").wait_for()
    page.keyboard.press("c")
    assert names(page) == tiles
    assert "8 neurons marked ok of conv_stem" in page.locator(".lead").inner_text()


def test_a_neuron_page_leads_there_and_others_are_added_and_removed(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/1")
    page.get_by_role("link", name="Compare methods").click()
    assert names(page) == ["conv_stem:1"]
    page.go_back()
    page.locator(".neuron-page").wait_for()
    page.keyboard.press("c")
    assert names(page) == ["conv_stem:1"]
    page.get_by_label("Compare with").fill("blocks.2.1:500")
    page.keyboard.press("Enter")
    page.get_by_text("This atlas has no neuron “blocks.2.1:500”.").wait_for()
    page.get_by_label("Compare with").fill("BLOCKS.2.1:5")
    page.get_by_role("button", name="Add this neuron").click()
    group(page, "blocks.2.1:5").wait_for()
    assert names(page) == ["conv_stem:1", "blocks.2.1:5"]
    assert "n=conv_stem%3A1%2Cblocks.2.1%3A5" in page.evaluate("location.hash")
    page.get_by_role("button", name="Remove conv_stem:1").click()
    group(page, "conv_stem:1").wait_for(state="detached")
    assert names(page) == ["blocks.2.1:5"]
    page.get_by_role("link", name="All neurons").click()
    wait_for_address(page, "!location.hash.includes('n=')")
    page.locator("tbody").nth(23).wait_for()
    assert len(names(page)) == 24


def test_a_visualization_leads_to_its_variant_on_the_neuron_page(comparison: Visit) -> None:
    page = comparison.open(f"{COMPARISON}?layer=conv_stem&mask=1")
    group(page, "conv_stem:0").get_by_alt_text("Pixel visualization of conv_stem:0, facet 3 of 3").click()
    page.wait_for_function("() => document.querySelector('.stage img')?.src.endsWith('00000-pixel-s2.webp')")
    assert page.get_by_role("button", name="Attribution mask").get_attribute("aria-pressed") == "true"
    assert "1 of 11 results" in page.locator(".place").inner_text()


def test_mask_is_in_the_address_and_shows_masks(visit: Visit) -> None:
    page = visit.open(f"{SYNTHETIC}?n=conv_stem:0")
    page.keyboard.press("t")
    masked = "document.querySelector('.compare-cell img')?.style.maskImage.includes('00000-vital-s0-alpha.webp')"
    page.wait_for_function(f"() => {masked}")
    assert "mask=1" in page.evaluate("location.hash")
    page.get_by_role("button", name="Attribution mask").click()
    page.wait_for_function("() => !document.querySelector('.compare-cell img').style.maskImage")
    assert page.evaluate("document.activeElement.textContent") == "Attribution mask"


def test_a_missing_mask_leaves_the_visualization_and_says_so_in_its_cell(visit: Visit) -> None:
    visit.expected_messages.append("Failed to load resource.*404")
    visit.page.route("**/00000-maco-s0-alpha.webp", lambda route: route.fulfill(status=404))
    page = visit.open(f"{SYNTHETIC}?n=conv_stem:0&mask=1")
    cells = group(page, "conv_stem:0").locator(".compare-cell")
    cells.nth(1).get_by_text("The attribution mask could not be loaded").wait_for()
    assert cells.nth(1).locator("img").evaluate("image => image.style.maskImage") == ""
    assert "could not be loaded" not in cells.nth(0).inner_text()


def test_a_result_without_neurons_says_so_and_leads_out(visit: Visit) -> None:
    page = visit.open(f"{SYNTHETIC}?q=nothing-like-this")
    assert "No neuron matches" in page.locator(".problem").inner_text()
    page.get_by_role("link", name="Clear search and filters").click()
    assert len(names(page)) == 24


def test_only_tables_of_the_layers_shown_are_read(visit: Visit) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    page = visit.open(f"{SYNTHETIC}?n=conv_stem:0,classifier:1")
    assert names(page) == ["conv_stem:0", "classifier:1"]
    tables = {url.rsplit("/", 1)[1] for url in asked if "/layers/" in url}
    assert tables == {"conv_stem.parquet", "classifier.parquet"}


def test_dataset_images_that_are_not_published_are_said_to_be_so(visitor: Visitor, keys_site: str) -> None:
    page = visitor(keys_site).open(SYNTHETIC)
    assert "not published; labeled tench, Tinca tinca" in group(page, "conv_stem:0").inner_text()
    assert page.locator(".dataset-strip").count() == 0


def test_a_comparison_is_offered_only_where_there_are_several_methods(visitor: Visitor, two_atlases: str) -> None:
    visit = visitor(two_atlases)
    page = visit.open()
    offered = page.locator(".card-compare")
    offered.wait_for()
    assert offered.get_attribute("href") == "#/compare/two"
    for address in ("#/atlas/one", "#/atlas/one/conv_stem/0", "#/about?atlas=one"):
        visit.open(address)
        models = 1 if address.endswith("/0") else 0  # a neuron page also leads to the other model
        assert page.locator('a[href*="#/compare"]').count() == models
        page.keyboard.press("c")
        assert page.evaluate("location.hash") == address
    for address in ("#/atlas/two", "#/atlas/two/conv_stem/0", "#/about?atlas=two"):
        visit.open(address)
        assert page.locator('a[href*="#/compare"]:not([href*="with="])').count() == 1


def test_the_titles_lead_to_an_explanation_of_the_methods(comparison: Visit) -> None:
    page = comparison.open(COMPARISON)
    page.get_by_role("link", name="About the method MACO").click()
    page.wait_for_function("() => document.activeElement.textContent === 'Methods'")
    assert "Fel et al., NeurIPS 2023" in page.locator("#content").inner_text()
    box = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
    header = page.evaluate("document.querySelector('#header').getBoundingClientRect().bottom")
    assert header <= box["top"] < page.viewport_size["height"] / 2


def test_titles_stay_in_sight_below_the_header(comparison: Visit) -> None:
    page = comparison.open(COMPARISON)
    names(page)
    page.evaluate("scrollTo(0, 1500)")
    header = page.evaluate("document.querySelector('#header').getBoundingClientRect().bottom")
    assert page.locator(".compare-titles th").nth(2).bounding_box()["y"] == pytest.approx(header, abs=1.5)


def test_nothing_moves_while_visualizations_arrive(visit: Visit) -> None:
    page = visit.open(f"{SYNTHETIC}?layer=blocks.2.1")
    visit.wait_for_image(".compare-cell img")
    visit.wait_for_image(".dataset-strip img")
    shift = page.evaluate(
        """() => new Promise(resolve => {
             let sum = 0
             const add = (entries) => entries.forEach((entry) => { sum += entry.value })
             const observer = new PerformanceObserver((list) => add(list.getEntries()))
             observer.observe({ type: 'layout-shift', buffered: true })
             requestAnimationFrame(() => requestAnimationFrame(() => {
               add(observer.takeRecords())
               resolve(sum)
             }))
           })"""
    )
    assert shift < 0.01


def test_a_stacked_table_is_still_a_table_and_fits_a_narrow_window(visitor: Visitor, comparison_site: str) -> None:
    visit = visitor(comparison_site, viewport={"width": 360, "height": 740}, has_touch=True)
    page = visit.open(f"{COMPARISON}?n=conv_stem:0,combinations.eye:0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.get_by_role("columnheader").all_inner_texts() == ["Neuron", "Dataset images", *METHOD_TITLES]
    assert page.get_by_role("rowheader").count() == 2
    assert page.get_by_role("cell").count() == 2 * 3 * (1 + len(METHODS))  # the notes below the titles are left out
    assert page.locator(".compare-column", has_text="MACO").first.is_visible()
    vital, maco, fourier = (page.locator(".compare-cell img").nth(column).bounding_box() for column in range(3))
    assert maco["y"] == fourier["y"] > vital["y"] + vital["height"]
    # Some browsers take an element's part in a table from it with its display: every part must be written out.
    assert page.locator(".compare-table :is(thead, tbody, tr, th, td):not([role])").count() == 0


def test_a_table_wider_than_the_window_scrolls_in_a_region_with_a_name(visitor: Visitor, comparison_site: str) -> None:
    page = visitor(comparison_site, viewport={"width": 800, "height": 700}).open(COMPARISON)
    region = page.get_by_role("region", name="Visualizations by neuron and method")
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    region.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('.compare-region').scrollLeft > 0")
    assert page.evaluate("location.hash") == COMPARISON  # the arrow scrolled and turned no page


def test_a_neuron_is_added_to_those_compared(visit: Visit) -> None:
    page = visit.open(f"{SYNTHETIC}?n=conv_stem:0")
    page.get_by_label("Compare with").fill("conv_stem:99")
    page.keyboard.press("Enter")
    page.get_by_text("This atlas has no neuron “conv_stem:99”").wait_for()
    page.get_by_label("Compare with").fill("classifier:1")
    page.keyboard.press("Enter")
    wait_for_address(page, "location.hash.includes('classifier')")
    page.locator('tbody[data-neuron="classifier:1"]').wait_for()
    assert names(page) == ["conv_stem:0", "classifier:1"]
