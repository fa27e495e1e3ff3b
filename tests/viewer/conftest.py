"""A browser on a synthetic atlas: the fixtures of the viewer's browser tests.

A test fails on an unexpected console message or an error in the page, whatever else it asserts. A request to another
origin is such a message: the site's own policy forbids it. Without Chromium or playwright these tests are skipped,
with the reason.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from pipeline.atlas.site.serve import make_server
from pipeline.atlas.site.site import write_site
from tests.support.synthetic_atlas import COMPARISON, build_synthetic_atlas
from tests.viewer.plain_server import run_to_the_end

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# The headless shell draws pages without a browser around them, and starts them in half the time.
CHROMIUM_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_ARGUMENTS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    # Nothing but these tests' servers can be reached, whatever a page asks for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
TIMEOUT_MS = 20_000

Serving = Callable[[Path], str]


@dataclass
class Visit:
    """One page and what happened in it."""

    page: "Page"
    base: str
    expected_messages: list[str] = field(default_factory=list)  # patterns of what a test provokes
    problems: list[str] = field(default_factory=list)

    def open(self, address: str = "", *, settled: bool = True) -> "Page":
        """Open an address of the site, as from a bookmark, and wait for a view and what a gallery loads later."""
        if self.page.url != "about:blank":  # else only the hash would change, and the old view still stand there
            self.page.goto("about:blank")
        self.page.goto(self.base + address, wait_until="commit")
        self.page.locator("#content h1, #content .problem").first.wait_for(state="attached")
        if settled:
            self.page.locator(".gallery-page:not([data-complete])").wait_for(state="detached")
        return self.page

    def drawn_tiles(self) -> list[str]:
        """Addresses of the tiles that are in the page, in the order of the gallery."""
        self.page.locator(".tile").first.wait_for()
        return self.page.eval_on_selector_all(
            ".tile-link",
            """links => links.sort((a, b) => a.dataset.position - b.dataset.position)
                             .map(link => link.getAttribute('href'))""",
        )

    def wait_for_image(self, selector: str) -> None:
        """Wait until the image has arrived, with pixels."""
        self.page.wait_for_function("selector => document.querySelector(selector)?.naturalWidth > 0", arg=selector)

    def note(self, kind: str, text: str) -> None:
        """Remember a problem unless the test announced it."""
        if not any(re.search(pattern, text) for pattern in self.expected_messages):
            self.problems.append(f"{kind}: {text}")

    def watch(self) -> None:
        """Note every console message, error and dialog from now on."""
        self.page.on("console", lambda message: self.note(f"console {message.type}", message.text))
        self.page.on("pageerror", lambda error: self.note("page error", str(error)))
        self.page.on("dialog", lambda dialog: (self.note("dialog", dialog.message), dialog.dismiss()))

    def watch_requests(self) -> None:
        """Note every request to another origin from now on, also one that the site's policy stops."""
        host = urlsplit(self.base).netloc

        def check(url: str) -> None:
            if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).netloc != host:
                self.note("request to another origin", url)

        self.page.context.on("request", lambda request: check(request.url))


Visitor = Callable[..., Visit]


@pytest.fixture(scope="session")
def serving() -> Serving:
    """serving(folder) serves a folder on a free port of 127.0.0.1 until all tests are over; gives the address."""
    return lambda folder: run_to_the_end(make_server(folder, 0)) + "/"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, serving: Serving) -> str:
    """Address of the synthetic atlas."""
    folder = tmp_path_factory.mktemp("atlas")
    build_synthetic_atlas(str(folder), neighbors=True, captions=True)
    return serving(folder)


@pytest.fixture(scope="session")
def comparison_site(tmp_path_factory: pytest.TempPathFactory, serving: Serving) -> str:
    """Address of the synthetic atlas with every method, facets, concepts and a combination."""
    folder = tmp_path_factory.mktemp("comparison")
    build_synthetic_atlas(str(folder), **COMPARISON)
    return serving(folder)


@pytest.fixture(scope="session")
def keys_site(tmp_path_factory: pytest.TempPathFactory, serving: Serving) -> str:
    """Address of an atlas that names its dataset images and does not publish them."""
    folder = tmp_path_factory.mktemp("keys")
    build_synthetic_atlas(str(folder), publish_examples="keys", layers={"conv_stem": (16, 4)}, seeds=1)
    return serving(folder)


@pytest.fixture(scope="session")
def two_atlases(tmp_path_factory: pytest.TempPathFactory, serving: Serving) -> str:
    """Address of a site of two atlases of one layer: `one` has one method, `two` has two."""
    folder = tmp_path_factory.mktemp("two")
    atlases = [
        build_synthetic_atlas(str(folder / name), name=name, layers={"conv_stem": (16, 4)}, methods=methods, seeds=1)
        for name, methods in (("one", ("vital",)), ("two", ("vital", "maco")))
    ]
    write_site(folder / "site", atlases)
    return serving(folder / "site")


@pytest.fixture
def comparison(visitor: Visitor, comparison_site: str) -> Visit:
    """A visit to the atlas with every method and three facets."""
    return visitor(comparison_site)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (it comes with the extra 'test')"
    )
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if chromium is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser: "Browser") -> Iterator[Visitor]:
    """Makes visits with window settings of their own; checks at the end that nothing went wrong in any."""
    visits: list[Visit] = []

    def start(base: str, **settings: Any) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
        context.set_default_timeout(TIMEOUT_MS)
        visits.append(Visit(context.new_page(), base))
        visits[-1].watch()
        return visits[-1]

    yield start
    for visit in visits:
        visit.page.context.close()
    assert [problem for visit in visits for problem in visit.problems] == []


@pytest.fixture
def visit(visitor: Visitor, site: str) -> Visit:
    """A visit to the synthetic atlas in an ordinary window."""
    return visitor(site)
