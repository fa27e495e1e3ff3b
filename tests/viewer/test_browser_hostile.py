"""Somebody's hostile text, in every view of a real browser: it is shown as text, runs nothing, and fits a telephone.

The visits fail by themselves on a dialog, any console message (a violation of the policy is one), an error in the page
and a request to another origin.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pipeline.atlas.format.schema import LAYER_SCHEMA
from pipeline.atlas.site.site import write_site
from pipeline.atlas.site.site_parts import SiteForm
from pipeline.data.captions import one_line
from pipeline.io.parquet import column_types, read_rows, write_table
from pipeline.io.root import Root
from pipeline.neurons import layer_file_name
from tests.support import synthetic_atlas
from tests.support.synthetic_atlas import build_synthetic_atlas
from tests.viewer.plain_server import plain_server

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.viewer.conftest import Visitor

LONG = "long" * 2500  # 10 kB without a place to break
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</title></script><script>alert(2)</script>",
    "\" onmouseover=alert(3) x='",
    "javascript:alert(4)//",
    "\u202egnp.exe\u202c \u2067isolated",
    "\u200bzero\u200dwidth\ufeff",
    "🧑‍🚀 emoji 🏳️‍🌈 e\u0301\u0302\u0303\u0304\u0305\u0306",
    LONG,
    "<style>*{display:none}</style>",
    "&lt;b&gt; {{7*7}} ${7*7} %00 %n",
    "line\nbreak\ttab",
    "",
)
TITLE = f"<svg onload=alert(5)> \u202e {LONG}"
LAYERS = {"conv_stem": (16, 5), "classifier": (1000, len(HOSTILE))}
# What the browser would have made of them, had it read them as HTML.
INJECTED = (
    "main :is(script, style, iframe, object, embed, form[action], svg[onload], img[src='x'], a[href^='javascript'])"
)
NEXT_FRAMES = "() => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(() => resolve())))"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a site with an atlas of hostile labels, keys, reasons and title, and one with hostile layer names."""
    folder = tmp_path_factory.mktemp("hostile")
    recipe = synthetic_atlas.recipe
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_atlas, "CLASS_NAMES", HOSTILE * 4)
        patch.setattr(synthetic_atlas, "HOSTILE_STRINGS", HOSTILE)
        patch.setattr(synthetic_atlas, "CAPTIONS", HOSTILE)
        patch.setattr(synthetic_atlas, "_REASONS", dict.fromkeys(synthetic_atlas._REASONS, HOSTILE[0]))
        patch.setattr(synthetic_atlas, "recipe", lambda **options: _titled(recipe(**options)))
        further = {"neighbors": True, "captions": True}
        texts = build_synthetic_atlas(str(folder / "texts"), name="texts", layers=LAYERS, seeds=1, **further)
        names = build_synthetic_atlas(str(folder / "names"), name="names", layers=LAYERS, seeds=1)
    site = Root.open(str(folder / "site"))
    write_site(site, [texts, names], SiteForm(neuron_pages_url="https://example.org/atlas/", embedding_table=True))
    _rename_layer(site, "names", "conv_stem", HOSTILE[0])
    return plain_server(site.local_path, prefix="/people/me/")


def _titled(recipe: synthetic_atlas.Recipe) -> synthetic_atlas.Recipe:
    return recipe.replace(atlas=recipe.atlas.replace(title=TITLE))


def _rename_layer(site: Root, slug: str, layer: str, name: str) -> None:
    """Give a published layer a name that `build` would refuse: the viewer must not trust that one was built by us."""
    (entry,) = [entry for entry in site.read_json("sites.json")["atlases"] if entry["slug"] == slug]
    atlas = site.join(entry["path"])
    head = atlas.read_json("head.json")
    for path in ("index.parquet", f"index/{layer}.parquet", f"layers/{layer}.parquet"):
        types = column_types(atlas.read_bytes(path), source=path)
        types = LAYER_SCHEMA | types if path.startswith("layers/") else types
        rows = [row | {"layer": name if row["layer"] == layer else row["layer"]} for row in read_rows(atlas, path)]
        renamed = path.replace(f"index/{layer}", f"index/{layer_file_name(name)}")
        write_table(atlas, renamed, rows, types)
        head["sizes"][renamed] = len(atlas.read_bytes(renamed))
    for listed in head["layers"]:
        listed["name"] = name if listed["name"] == layer else listed["name"]
    atlas.write_json("head.json", head)


def check(page: Page, address: str) -> None:
    """Nothing was made of the text, and nothing sticks out of the window."""
    assert page.locator(INJECTED).count() == 0, address
    assert page.evaluate(OVERFLOW) <= 0, address
    assert page.evaluate("document.styleSheets.length") >= 1
    assert page.locator("main").first.is_visible(), address


CLASS = "#/atlas/texts/classifier/"
QUERY = "q=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"
VIEWS = [
    "#/",
    "#/about?atlas=texts",
    *(f"#/atlas/texts?size={size}" for size in ("small", "medium", "large")),
    f"#/atlas/texts?{QUERY}",
    f"#/atlas/texts?{QUERY}%20nothing",
    "#/atlas/texts?q=classifier:9999",
    "#/atlas/texts?sort=-activation_ratio&status=dead,failed",
    *(f"{CLASS}{unit}" for unit in range(len(HOSTILE))),
    "#/atlas/texts/conv_stem/3",
    "#/compare/texts?layer=classifier",
    "#/compare/texts?n=classifier:0,classifier:7",
    "#/compare/texts?with=names",
    "#/compare/names?n=conv_stem:0&with=texts&m=classifier:3",
    f"#/compare/texts?n=classifier:0,classifier:1&with=texts&m={QUERY},%22%3E",
    "#/study/texts?rater=%3Cb%3E",
    "#/map/texts?n=classifier:0",
    "#/atlas/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "#/atlas/names?size=large",
    "#/atlas/names/%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E/1",
    "#/compare/names",
    "#/about?atlas=names",
]


def test_every_view_shows_it_as_text_letter_by_letter_and_fits_a_telephone(visitor: Visitor, hostile_site: str) -> None:
    visit = visitor(hostile_site, viewport={"width": 390, "height": 800})
    visit.watch_requests()
    for address in VIEWS:
        if address.startswith(CLASS):  # from page to page, as readers go
            visit.page.evaluate("address => { location.hash = address }", address)
            unit = re.compile(f"^unit {address.removeprefix(CLASS)}$")
            visit.page.locator(".breadcrumbs [aria-current=page]", has_text=unit).wait_for(state="attached")
        else:
            visit.open(address)
        page = visit.page
        page.wait_for_function("() => !document.querySelector('#content').hasAttribute('aria-busy')")
        page.evaluate("document.querySelectorAll('#content details').forEach(details => { details.open = true })")
        page.evaluate(NEXT_FRAMES)  # what opens is filled in by an event
        check(page, address)
        if address.startswith(CLASS) and (label := HOSTILE[int(address.removeprefix(CLASS))]):
            assert label in (page.locator("h1").text_content() or "")


def test_titles_and_layer_names_are_there_letter_by_letter(visitor: Visitor, hostile_site: str) -> None:
    visit = visitor(hostile_site)
    page = visit.open("#/")
    assert page.locator(".card-title").first.text_content() == TITLE
    visit.open(f"#/atlas/texts?{QUERY}&layer=classifier&size=large")
    visit.drawn_tiles()
    assert HOSTILE[0] in page.locator(".tile-name").all_text_contents()
    visit.open("#/atlas/names?size=large")
    visit.drawn_tiles()
    assert any(HOSTILE[0] in text for text in page.locator("#content").all_text_contents())


def test_captions_are_there_letter_by_letter(visitor: Visitor, hostile_site: str) -> None:
    page = visitor(hostile_site, viewport={"width": 390, "height": 800}).open(f"{CLASS}7")
    assert page.locator(".caption-cell").all_text_contents() == [
        one_line(HOSTILE[(7 + i) % len(HOSTILE)]) for i in range(6)
    ]
    page = visitor(hostile_site).open("#/atlas/texts?q=%22line+break+tab%22&size=small")
    assert page.locator(".result-count").inner_text() == "4 neurons of 17"  # no label has it in one line
    check(page, "search")


def test_a_study_of_it_asks_its_questions(visitor: Visitor, hostile_site: str) -> None:
    page = visitor(hostile_site, viewport={"width": 390, "height": 800}).open("#/study/texts?q=classifier")
    page.locator("#study-rater").fill(HOSTILE[1])
    page.get_by_role("button", name="Start").click()
    page.locator("#study-question").wait_for()
    check(page, "study")


@pytest.mark.parametrize("scripts", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_pages_that_need_no_javascript_show_it_as_text(visitor: Visitor, hostile_site: str, scripts: bool) -> None:
    visit = visitor(hostile_site, viewport={"width": 390, "height": 800}, java_script_enabled=scripts)
    page = visit.page
    units = [f"neurons/texts/classifier/{unit}.html" for unit in range(len(HOSTILE))]
    for path in ("atlases.html", "cards/texts.html", "neurons/texts/classifier/index.html", *units):
        page.goto(hostile_site + path)
        if scripts:
            check(page, path)
        assert page.locator("h1").is_visible(), path
    page.goto(hostile_site + units[0])
    assert page.locator("h1").text_content() == HOSTILE[0]
    assert page.locator('a[href$="#/atlas/texts/classifier/0"]').count() == 1
    page.goto(hostile_site + "cards/texts.html")
    assert page.locator("h1").text_content() == TITLE
