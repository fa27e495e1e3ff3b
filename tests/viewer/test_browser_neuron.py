"""The page of a neuron in a real browser: visualization, dataset images, variants, previous and next, downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.synthetic_atlas import CAPTIONS, HOSTILE_STRINGS
from tests.viewer.waiting import wait_for_address

if TYPE_CHECKING:
    from tests.viewer.conftest import Visit, Visitor

GALLERY = "#/atlas/synthetic"


def test_a_deep_link_opens_the_neuron_with_visualization_and_dataset_images(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/blocks.2.1/54")
    assert page.locator("h1").inner_text() == "blocks.2.1:54"
    visit.wait_for_image(".stage img")
    visit.wait_for_image(".top-image img")
    assert page.locator(".top-image").count() == 6
    assert page.locator(".top-image-value").first.inner_text() == "12.5"
    box = page.locator(".top-image-box").first.evaluate("box => [box.style.left, box.style.top, box.style.width]")
    assert box == ["25%", "25%", "25%"]
    assert page.locator(".variant").count() == 4
    assert page.locator(".histogram svg rect").count() > 5
    assert page.locator(".histogram-mark").count() == 3
    scores = page.locator(".scores").inner_text()
    for words in ("Activation percentile", "Activation ratio", "squeezenet1_1"):
        assert words in scores


def test_dataset_images_chosen_by_label_are_not_called_top_activating(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/classifier/1")
    assert page.locator(".top-images h2").inner_text() == "Dataset images of this class"
    page = visit.open(f"{GALLERY}/conv_stem/1")
    assert page.locator(".top-images h2").inner_text() == "Top-activating images"


def test_the_example_strip_is_cut_into_its_dataset_images(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/0")
    visit.wait_for_image(".top-image:nth-child(3) img")
    assert page.locator(".top-image:nth-child(3) img").evaluate("i => [i.style.left, i.style.width]") == [
        "-200%",
        "600%",
    ]
    tile = page.locator(".top-image:nth-child(3) .image-frame").bounding_box()
    assert tile["width"] == pytest.approx(tile["height"])


def test_the_mask_mask_is_applied_and_in_the_address(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/0")
    page.get_by_role("button", name="Attribution mask").click()
    page.wait_for_function(
        "() => document.querySelector('.stage img').style.maskImage.includes('00000-vital-s0-alpha.webp')"
    )
    assert "mask=1" in page.evaluate("location.hash")
    page.keyboard.press("t")
    page.wait_for_function("() => !document.querySelector('.stage img').style.maskImage")


def test_a_mask_of_fewer_pixels_is_stretched_over_its_visualization(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/0?mask=1")
    page.wait_for_function("() => document.querySelector('.stage img')?.style.maskImage")
    assert page.locator(".stage img").evaluate("image => getComputedStyle(image).maskSize") == "100% 100%"


def test_facets_are_named_and_bring_their_own_dataset_images(visitor: Visitor, comparison_site: str) -> None:
    page = visitor(comparison_site).open("#/atlas/comparison/conv_stem/0")
    assert page.locator(".variants h2").inner_text() == "Other methods and facets"
    page.locator(".variant", has_text="MACO, facet 2 of 3 · seed 0").click()
    page.wait_for_function("() => document.querySelector('.stage img').src.endsWith('00000-maco-s1.webp')")
    assert "facet 2 of 3 · seed 0" in page.locator("figcaption").first.inner_text()
    assert page.locator(".top-images h2").inner_text() == "Top-activating images: facet 2 of 3"
    assert page.locator(".top-image img").first.get_attribute("src").endswith("examples/conv_stem/00000-f1.webp")
    page.locator(".top-images summary").click()
    assert "photo-0000-6" in page.locator(".top-images td").all_inner_texts()


def test_concepts_and_combinations_are_called_so(visitor: Visitor, comparison_site: str) -> None:
    visit = visitor(comparison_site)
    page = visit.open("#/atlas/comparison")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    headings = page.locator(".gallery-heading").all_inner_texts()
    assert [text for text in headings if "concepts.textures" in text] == ["concepts.textures 2 concepts"]
    assert [text for text in headings if "combinations.eye" in text] == ["combinations.eye 1 combination"]
    assert page.locator(".filter-layers .kind").all_inner_texts() == ["concept", "combination"]
    visit.open("#/atlas/comparison/concepts.textures/1")
    assert "A concept: one of 2 directions" in page.locator(".neuron-kind").inner_text()
    assert page.locator(".breadcrumbs .kind").inner_text() == "concept"
    visit.open("#/atlas/comparison/combinations.eye/0")
    assert "a combination: several units" in page.locator(".neuron-kind").inner_text()
    visit.open("#/compare/comparison?n=combinations.eye:0,conv_stem:0")
    assert page.locator("tbody .kind").all_inner_texts() == ["combination"]
    visit.open("#/about?atlas=comparison")
    assert "Some layers of this atlas were derived from the model" in page.locator("#content").inner_text()


def test_a_visualization_can_be_seen_at_its_native_pixels(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/0?zoom=native")
    visit.wait_for_image(".stage img")
    assert page.locator(".stage img").bounding_box()["width"] == 64
    page.get_by_role("button", name="Native pixels").click()
    page.wait_for_function("() => document.querySelector('.stage img').getBoundingClientRect().width > 200")


def test_another_seed_is_shown_large_by_its_address(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/0")
    page.locator(".variant", has_text="MACO, seed 1").click()
    page.wait_for_function("() => document.querySelector('.stage img').src.endsWith('00000-maco-s1.webp')")
    assert "show=maco%3A1" in page.evaluate("location.hash")


def test_previous_and_next_walk_the_result_list(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/classifier/1?layer=classifier&status=ok")
    assert "2 of" in page.locator(".place").inner_text()
    page.keyboard.press("j")
    wait_for_address(page, "location.hash.includes('/classifier/2?')")
    page.locator(".place", has_text="3 of").wait_for()
    page.keyboard.press("ArrowRight")
    wait_for_address(page, "location.hash.includes('/classifier/7?')")  # 3 to 6 are not ok
    page.locator(".place", has_text="4 of").wait_for()
    page.keyboard.press("k")
    wait_for_address(page, "location.hash.includes('/classifier/2?')")
    page.locator(".place", has_text="3 of").wait_for()
    page.get_by_role("link", name="Next").click()
    wait_for_address(page, "location.hash.includes('/classifier/7?')")
    assert page.evaluate("document.activeElement.dataset.keep") == "Next"


def test_escape_leads_back_to_the_tile(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/blocks.2.1/60?sort=-loss")
    page.keyboard.press("Escape")
    page.locator(".gallery").wait_for()
    page.wait_for_function("() => document.activeElement.getAttribute('href')?.includes('/blocks.2.1/60?')")
    box = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
    assert 0 <= box["top"] < box["bottom"] <= page.viewport_size["height"]


def test_a_failed_neuron_gives_its_reason_as_text(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/5")
    assert "RuntimeError: <b>CUDA out of memory</b> at step 17" in page.locator(".notice").inner_text()
    assert page.locator(".notice b").count() == 0
    assert "failed" in page.locator(".visualization-none").inner_text()


def test_the_row_and_the_visualization_can_be_taken_along(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/1")
    visit.wait_for_image(".stage img")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download this row as JSON").click()
    row = json.loads(Path(download.value.path()).read_text())
    assert (row["layer"], row["unit"], row["method"], row["seed"]) == ("conv_stem", 1, "vital", 0)
    assert len(row["reference_keys"]) == 6
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the visualization as PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the visualization as WebP").click()
    assert download.value.suggested_filename == "conv_stem-1-vital-s0.webp"
    page.get_by_text("Cite", exact=True).click()
    assert "arXiv:2503.22399" in page.locator("details[open] pre").inner_text()


def test_captions_stand_with_the_dataset_images_and_are_whole_in_the_table(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/0")
    captions = page.locator(".top-image-caption")
    assert captions.first.inner_text() == CAPTIONS[0]
    assert captions.count() == 5  # the fifth dataset image has none
    assert captions.nth(3).evaluate("caption => caption.scrollHeight > caption.clientHeight")  # clipped
    page.get_by_text("Names and captions of 6 dataset images").click()
    cells = page.locator(".caption-cell").all_inner_texts()
    assert cells == [*CAPTIONS[:5], HOSTILE_STRINGS[0]]
    assert page.locator("details .scrollable").evaluate("box => box.scrollWidth - box.clientWidth") <= 300


def test_an_atlas_without_captions_does_not_speak_of_them(visitor: Visitor, comparison_site: str) -> None:
    page = visitor(comparison_site).open("#/atlas/comparison/conv_stem/0")
    assert page.locator(".top-image-caption, .caption-cell").count() == 0
    assert page.get_by_text("Names of 6 dataset images").count() == 1
    assert page.locator("#search").get_attribute("placeholder") == "Search neurons and labels"
