"""Sites as they are found: below a path, compressed or not, without Range, without a network, used from Python."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.atlas.site.site import write_site
from pipeline.io.root import Root
from tests.support.synthetic_atlas import build_synthetic_atlas
from tests.viewer.plain_server import plain_server

if TYPE_CHECKING:
    from tests.viewer.conftest import Visitor

GALLERY = "#/atlas/synthetic"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published site with one atlas."""
    folder = tmp_path_factory.mktemp("plain")
    layers = {"conv_stem": (16, 12), "classifier": (1000, 4)}
    atlas = build_synthetic_atlas(str(folder / "atlas"), layers=layers, seeds=1, neighbors=True)
    write_site(Root.open(str(folder / "site")), [atlas])
    return folder / "site"


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "gzip"])
def address(request: pytest.FixtureRequest, folder: Path) -> str:
    """Its address below a path, at a host that knows no Range; with and without gzip."""
    return plain_server(folder, prefix="/people/me/atlas/", gzipped=request.param)


def test_every_view_works_below_a_path_without_range_compressed_or_not(visitor: Visitor, address: str) -> None:
    visit = visitor(address)
    page = visit.open()
    assert visit.drawn_tiles()
    visit.wait_for_image(".tile img")
    for view in (f"{GALLERY}/conv_stem/1", "#/compare/synthetic", "#/about?atlas=synthetic", "#/map/synthetic"):
        visit.open(view)
        assert page.locator("#content .problem").count() == 0, view


def test_what_is_loaded_stays_usable_without_a_network_and_the_rest_says_so(visitor: Visitor, folder: Path) -> None:
    base = plain_server(folder, prefix="/atlas/")
    visit = visitor(base)
    page = visit.open(f"{GALLERY}?layer=conv_stem")
    assert visit.drawn_tiles()
    visit.wait_for_image(".tile img")
    visit.page.evaluate(f"location.hash = '{GALLERY}/conv_stem/1?layer=conv_stem'")
    visit.wait_for_image(".stage img")
    page.locator(".neighbors li").first.wait_for()  # they come last, and by themselves
    visit.expected_messages.append("ERR_INTERNET_DISCONNECTED")
    page.context.set_offline(True)
    page.keyboard.press("Escape")  # back to the gallery
    assert visit.drawn_tiles()
    page.evaluate(f"location.hash = '{GALLERY}/conv_stem/2?layer=conv_stem'")  # of a table that is there
    page.locator("h1", has_text="conv_stem:2").wait_for()
    page.evaluate(f"location.hash = '{GALLERY}/classifier/1'")  # of one that is not
    words = page.locator("#content .problem", has_text="classifier.parquet")
    words.wait_for()
    for expected in (base, "no answer"):
        assert expected in words.inner_text()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.locator(".neuron-page h1").wait_for()


def test_without_javascript_the_page_leads_to_the_tables(visitor: Visitor, address: str, folder: Path) -> None:
    page = visitor(address, java_script_enabled=False).page
    page.goto(address)
    assert "needs JavaScript" in page.locator("noscript").inner_text()
    page.locator('noscript a[href="atlases.html"]').click()
    table = page.locator('a[href$="/layers/classifier.parquet"]')
    answer = page.request.get(address + (table.get_attribute("href") or ""))
    assert answer.body()[:4] == b"PAR1"
    page.get_by_role("link", name="data card").click()
    assert "timm:synthetic_net" in page.locator("main").inner_text()


def snippets(visitor: Visitor, address: str) -> list[str]:
    """The texts that the about page offers: for pandas, for DuckDB."""
    return visitor(address).open("#/about?atlas=synthetic").locator(".export pre").all_text_contents()


def test_the_pandas_snippet_of_the_about_page_runs_as_it_stands(visitor: Visitor, folder: Path) -> None:
    pytest.importorskip("pandas")
    printed = io.StringIO()
    base = plain_server(folder, prefix="/atlas/")
    with contextlib.redirect_stdout(printed):
        text = snippets(visitor, base)[0]
        assert base in text
        exec(compile(text, "pandas snippet", "exec"), {})
    assert "activation_percentile" in printed.getvalue()
    assert "reference_keys" in printed.getvalue()


def test_the_duckdb_snippet_of_the_about_page_runs_as_it_stands(
    visitor: Visitor, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed (pip install duckdb)")
    package = pytest.importorskip("duckdb_extension_httpfs", reason="DuckDB would download its extension httpfs")
    extension = Path(package.__file__).parent / f"extensions/v{duckdb.__version__}/httpfs.duckdb_extension"
    duckdb.sql(f"SET extension_directory = '{tmp_path}'; INSTALL '{extension}'")
    base = plain_server(folder, prefix="/atlas/")
    exec(compile(snippets(visitor, base)[1], "DuckDB snippet", "exec"), {})
    printed = capsys.readouterr().out
    for expected in ("percentile", "conv_stem"):
        assert expected in printed
