"""A packed site in a real browser: images out of archives, by HTTP Range and without it, and failures in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.atlas.site.site import write_site
from pipeline.atlas.site.site_parts import SiteForm
from pipeline.io.root import Root
from tests.support.synthetic_atlas import build_synthetic_atlas
from tests.viewer.plain_server import plain_server

if TYPE_CHECKING:
    from tests.viewer.conftest import Serving, Visit, Visitor

GALLERY = "#/atlas/synthetic"
STEM = f"{GALLERY}?layer=conv_stem&size=large"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a packed site with one layer."""
    folder = tmp_path_factory.mktemp("packed")
    layers = {"conv_stem": (16, 12)}
    atlas = build_synthetic_atlas(str(folder / "atlas"), layers=layers, methods=("vital", "maco"), seeds=1)
    write_site(Root.open(str(folder / "site")), [atlas], SiteForm(packed=True))
    return folder / "site"


def messages(visit: Visit, address: str = STEM) -> str:
    """What stands in place of the first visualization of a gallery."""
    message = visit.open(address).locator(".tile .image-message").first
    message.wait_for()
    return message.inner_text()


def test_visualizations_come_out_of_the_archives_by_range(visitor: Visitor, serving: Serving, packed: Path) -> None:
    base = serving(packed)
    visit = visitor(base)
    statuses: list[tuple[int, str]] = []
    visit.page.on(
        "response",
        lambda answer: (
            answer.url.endswith(".zip") and statuses.append((answer.status, answer.request.headers["range"]))
        ),
    )
    page = visit.open(STEM)
    visit.wait_for_image(".tile img")
    assert statuses
    assert {status for status, _ in statuses} == {206}
    visit.open(f"{GALLERY}/conv_stem/1?mask=1")
    visit.wait_for_image(".stage img")
    visit.wait_for_image(".top-images img")
    page.locator(".image-masked").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download the visualization as WebP").click()
    assert saved.value.path().read_bytes()[8:12] == b"WEBP"
    visit.open("#/compare/synthetic?layer=conv_stem")
    visit.wait_for_image("#content img")
    assert page.locator(".image-missing").count() == 0


@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzip"])
def test_small_archives_are_taken_whole_from_a_host_without_ranges(
    visitor: Visitor, packed: Path, gzipped: bool
) -> None:
    base = plain_server(packed, prefix="/people/me/atlas/", gzipped=gzipped)
    visit = visitor(base)
    page = visit.open(STEM)
    visit.wait_for_image(".tile img")
    visit.open(f"{GALLERY}/conv_stem/1")
    visit.wait_for_image(".stage img")
    assert page.locator(".image-missing").count() == 0


def test_large_archives_are_not_and_the_page_says_why(visitor: Visitor, packed: Path) -> None:
    base = plain_server(packed)
    visit = visitor(base)
    text = (packed / "data" / "packs.js").read_text()
    assert "SMALL_ARCHIVE_BYTES=4_000_000" in text
    smaller = text.replace("SMALL_ARCHIVE_BYTES=4_000_000", "SMALL_ARCHIVE_BYTES=100")
    visit.page.route("**/data/packs.js", lambda route: route.fulfill(body=smaller, content_type="text/javascript"))
    words = messages(visit)
    for expected in (base, "conv_stem-0000.zip", "expected a part of it (HTTP 206)", "without --pack"):
        assert expected in words


def test_a_part_from_the_wrong_place_is_refused(visitor: Visitor, packed: Path) -> None:
    base = plain_server(packed, ranges="wrong place")
    words = messages(visitor(base))
    assert "expected bytes" in words
    assert "received HTTP 206 with the range" in words


def test_a_part_that_is_cut_off_is_refused(visitor: Visitor, packed: Path) -> None:
    base = plain_server(packed, ranges="cut off")
    words = messages(visitor(base))
    assert "received" in words
    assert "bytes, cut off" in words


def test_a_missing_archive_is_named(visitor: Visitor, serving: Serving, packed: Path) -> None:
    base = serving(packed)
    visit = visitor(base)
    visit.expected_messages.append("Failed to load resource.*404")
    visit.page.route("**/*.zip", lambda route: route.fulfill(status=404))
    words = messages(visit)
    assert "conv_stem-0000.zip" in words
    assert "HTTP 404" in words
