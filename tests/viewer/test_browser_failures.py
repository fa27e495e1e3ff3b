"""Hostile data, wrong addresses, missing and damaged files, and the smaller views, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.synthetic_atlas import CLASS_NAMES, HOSTILE_STRINGS
from tests.viewer.waiting import wait_for_address

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from tests.viewer.conftest import Visit, Visitor

GALLERY = "#/atlas/synthetic"


def test_hostile_labels_are_text(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}?layer=classifier&size=large")
    names = page.locator(".tile-name").all_inner_texts()
    assert "<img src=x onerror=alert(1)>" in names
    assert "</script><script>alert(2)</script>" in names
    unit = CLASS_NAMES.index("</script><script>alert(2)</script>")
    visit.open(f"{GALLERY}/classifier/{unit}")
    assert page.locator("h1").text_content() == "</script><script>alert(2)</script>"
    unit = 10  # its last reference's key is hostile
    visit.open(f"{GALLERY}/classifier/{unit}")
    page.locator(".top-images summary").click()
    assert HOSTILE_STRINGS[unit % len(HOSTILE_STRINGS)] in page.locator(".top-images td").all_text_contents()
    assert (
        page.evaluate(
            "document.querySelectorAll('#content script, #content img[src=x], #content em, #content td b').length"
        )
        == 0
    )
    visit.open(f"{GALLERY}?q=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E%20nothing")
    assert "<img src=x onerror=alert(1)> nothing" in page.locator(".problem").inner_text()


def test_an_unknown_address_leads_to_the_nearest_ones(visit: Visit) -> None:
    for address, words, nearest in (
        (f"{GALLERY}/blocks.2.7/5", "no layer “blocks.2.7”", f"{GALLERY}?layer=blocks.2.1"),
        (f"{GALLERY}/conv_stem/400", "no unit 400 in the layer “conv_stem”", f"{GALLERY}/conv_stem/11"),
        (f"{GALLERY}/conv_stem/four", "no address of this site", GALLERY),
        ("#/atlas/synthetik", "no atlas “synthetik”", GALLERY),
        ("#/nonsense", "“#/nonsense” is no address", GALLERY),
    ):
        page = visit.open(address)
        assert words in page.locator(".problem").inner_text()
        page.locator(f'.nearest a[href="{nearest}"]').click()
        page.locator(".gallery, .neuron-page").first.wait_for()


def test_an_address_typed_into_the_open_page_is_followed(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}/conv_stem/1")
    page.evaluate("location.hash = '#/atlas/synthetic/conv_stem/2'")
    page.locator("h1", has_text="conv_stem:2").wait_for()
    page.go_back()
    page.locator("h1", has_text="conv_stem:1").wait_for()


def test_an_unknown_neuron_in_the_search_leads_to_the_nearest(visit: Visit) -> None:
    page = visit.open(f"{GALLERY}?q=blocks.2.1:500")
    assert "There is no blocks.2.1:500 in this atlas" in page.locator(".problem").inner_text()
    page.locator(".problem").get_by_text("blocks.2.1:69").click()
    page.locator("h1", has_text="blocks.2.1:69").wait_for()


def test_a_missing_visualization_is_said_in_words(visit: Visit) -> None:
    visit.expected_messages.append("Failed to load resource.*404")
    page = visit.page
    page.route("**/images/conv_stem/00001-vital-s0.webp", lambda route: route.fulfill(status=404))
    visit.open(f"{GALLERY}?layer=conv_stem")
    message = page.locator(".tile .image-missing")
    message.wait_for()
    assert "Image missing" in message.inner_text()
    assert "images/conv_stem/00001-vital-s0.webp" in message.inner_text()
    visit.open(f"{GALLERY}/conv_stem/1")
    page.locator(".stage .image-missing", has_text="Image missing").wait_for()


def test_a_missing_mask_leaves_the_visualization_and_says_so(visit: Visit) -> None:
    visit.expected_messages.append("Failed to load resource.*404")
    visit.page.route("**/*-alpha.webp", lambda route: route.fulfill(status=404))
    page = visit.open(f"{GALLERY}/conv_stem/1?mask=1")
    page.get_by_text("The attribution mask could not be loaded").wait_for()
    visit.wait_for_image(".stage img")
    assert page.locator(".stage img").evaluate("image => image.style.maskImage") == ""


def answering(answer: dict[str, Any] | None) -> Callable[[Route], None]:
    """A handler of requests: with an answer, or with none at all."""
    return lambda route: route.fulfill(**answer) if answer else route.abort()


@pytest.mark.parametrize("file", ["sites.json", "head.json", "index/conv_stem.parquet", "layers/conv_stem.parquet"])
def test_a_file_that_cannot_be_read_is_named_with_what_came(visit: Visit, file: str) -> None:
    visit.expected_messages.append("Failed to load resource")
    answers: list[tuple[dict[str, Any] | None, str]] = [
        ({"status": 404, "body": "gone"}, "HTTP 404"),
        ({"status": 200, "body": "<!doctype html><title>captive portal</title>"}, "captive portal|bytes"),
        (None, "no answer"),
    ]
    for answer, received in answers:
        page = visit.page
        page.route(f"**/{file}", answering(answer))
        visit.open(f"{GALLERY}/conv_stem/1")
        text = page.locator(".problem").inner_text()
        assert file in text
        assert "Expected" in text
        assert re.search(received, text)
        page.unroute(f"**/{file}")
        page.get_by_role("button", name="Try again").click()
        page.locator(".neuron-page").wait_for()


def test_an_older_copy_of_a_table_is_noticed(visit: Visit, site: str) -> None:
    url = re.search(r'"path": ?"([^"]+)"', visit.page.request.get(f"{site}sites.json").text())[1]
    other = visit.page.request.get(f"{site}{url}/layers/classifier.parquet").body()
    visit.page.route("**/layers/conv_stem.parquet", lambda route: route.fulfill(body=other))
    page = visit.open(f"{GALLERY}/conv_stem/1")
    assert "as the atlas says" in page.locator(".problem").inner_text()


def test_an_index_that_cannot_be_read_is_named_once_it_is_requested(visit: Visit) -> None:
    visit.expected_messages.append("Failed to load resource")
    visit.page.route("**/index.parquet", lambda route: route.fulfill(status=503))
    page = visit.open()
    assert visit.drawn_tiles()
    page.locator("#sort").select_option("label")
    page.locator(".problem").wait_for()
    text = page.locator(".problem").inner_text()
    assert "index.parquet" in text
    assert "HTTP 503" in text
    page.unroute("**/index.parquet")
    page.get_by_role("button", name="Try again").click()
    assert visit.drawn_tiles()


def test_an_atlas_of_another_schema_is_refused_in_words(visit: Visit) -> None:
    visit.page.route("**/head.json", lambda route: route.fulfill(json={"schema": "head/99"}))
    page = visit.open()
    assert "schema “head/99”" in page.locator(".problem").inner_text()


def test_about_explains_scores_statuses_and_keys(visit: Visit) -> None:
    page = visit.open("#/about?atlas=synthetic")
    text = page.locator("#content").inner_text()
    for words in ("Activation percentile", "weak", "Keyboard", "CC0-1.0"):
        assert words in text
    assert page.locator('a[href="https://example.org/atlas"]').get_attribute("rel") == "noopener noreferrer"


def test_a_site_of_several_atlases_begins_with_a_list(visitor: Visitor, two_atlases: str) -> None:
    visit = visitor(two_atlases)
    page = visit.open()
    assert page.locator(".card").count() == 2
    visit.wait_for_image(".card img")
    page.locator(".card").nth(1).click()
    wait_for_address(page, "location.hash === '#/atlas/two'")
    assert visit.drawn_tiles()[0] == "#/atlas/two/conv_stem/0"
    page.get_by_text("All atlases").click()
    page.locator(".card").first.wait_for()


def test_dataset_images_that_are_not_published_are_listed_by_name(visitor: Visitor, keys_site: str) -> None:
    page = visitor(keys_site).open(f"{GALLERY}/conv_stem/0")
    assert "does not publish the dataset images" in page.locator(".top-images").inner_text()
    assert "photo-0000-0" in page.locator(".top-images td").all_inner_texts()
    assert page.locator(".top-images img").count() == 0


def test_without_javascript_the_page_says_what_to_do(visitor: Visitor, site: str) -> None:
    page = visitor(site, java_script_enabled=False).page
    page.goto(site)
    assert "needs JavaScript" in page.locator("noscript").inner_text()
    page.locator('noscript a[href="data.html"]').click()
    assert page.locator("h1").inner_text() == "How the data is laid out"
