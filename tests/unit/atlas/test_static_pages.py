"""What a site says without JavaScript: data cards, citations, pages of neurons, sitemaps; Embedding Atlas's table."""

import base64
import io
import re
import shlex
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

from jobs.cli import main, make_parser
from pipeline.atlas.site.neuron_pages import MAX_URLS, sitemap_files
from pipeline.atlas.site.site import write_site
from pipeline.atlas.site.site_parts import SiteForm
from pipeline.atlas.site.static_pages import check_base_url, html_text, markdown_text, one_line
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import parse_table
from pipeline.io.root import Root
from tests.support.paths import ROOT
from tests.support.synthetic_atlas import CLASS_NAMES, HOSTILE_STRINGS, build_synthetic_atlas

URL = "https://people.example.org/~me/atlas/"
HOSTILE = (*HOSTILE_STRINGS, "\u202egpj.exe", "zero\u200bwidth", "\ud800 half a pair", "\x00\x1b[31m", "A" * 10_000)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Root:
    folder = tmp_path_factory.mktemp("pages") / "atlas"
    layers = {"conv_stem": (16, 5), "classifier": (1000, 14)}
    return build_synthetic_atlas(str(folder), layers=layers, methods=("vital",), seeds=1, neighbors=True, captions=True)


@pytest.fixture(scope="module")
def site(atlas: Root, tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root.open(str(tmp_path_factory.mktemp("site")))
    write_site(root, [atlas], SiteForm(neuron_pages_url=URL, embedding_table=True))
    return root


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def values(self, tag: str, name: str) -> list[str]:
        return [attributes[name] or "" for found, attributes in self.tags if found == tag and name in attributes]

    def meta(self, name: str) -> str | None:
        found = [a for tag, a in self.tags if tag == "meta" and name in (a.get("property"), a.get("name"))]
        return found[0]["content"] if found else None


def page_of(site: Root, path: str) -> Page:
    return Page(site.read_text(path))


def test_a_neurons_page_has_visualization_scores_and_previews(site: Root) -> None:
    unit = CLASS_NAMES.index("great white shark")
    page = page_of(site, f"neurons/synthetic/classifier/{unit}.html")
    address = f"{URL}neurons/synthetic/classifier/{unit}.html"
    folder = site.read_json("sites.json")["atlases"][0]["path"]
    visualization = f"{folder}/images/classifier/{unit:05d}-vital-s0.webp"
    assert page.values("link", "href")[-1] == address
    assert page.meta("og:url") == address
    assert page.meta("og:title") == f"great white shark · classifier:{unit}"
    assert page.meta("og:image") == page.meta("twitter:image") == URL + visualization
    assert page.meta("twitter:card") == "summary"
    assert page.values("img", "src") == [f"../../../{visualization}"]
    assert f"../../../index.html#/atlas/synthetic/classifier/{unit}" in page.values("a", "href")
    text = " ".join(page.texts)
    facts = ("Labels of the dataset images", "Captions of the dataset images", "Steam rises from a bowl of noodles")
    for words in ("great white shark", "Activation percentile", "99.2 %", "ok", *facts):
        assert words in text


def test_a_neuron_without_a_visualization_has_a_page_that_says_so(site: Root) -> None:
    page = page_of(site, "neurons/synthetic/conv_stem/4.html")
    assert page.meta("og:image") is None
    assert page.values("img", "src") == []
    assert "dead" in page.texts


def test_every_link_of_every_page_leads_to_a_file(site: Root) -> None:
    files = set(site.walk())
    for path in files:
        if not path.endswith(".html"):
            continue
        page = page_of(site, path)
        for target in page.values("a", "href") + page.values("img", "src") + page.values("script", "src"):
            if target.startswith(("http", "#")):
                continue
            parts = path.split("/")[:-1]
            for part in target.split("#")[0].split("/"):
                parts = parts[:-1] if part == ".." else [*parts, part]
            assert "/".join(parts) in files, (path, target)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_any_text_comes_out_of_html_as_it_went_in(text: str) -> None:
    written = f'<p title="{html_text(text)}">{html_text(text)}</p><i>end</i>'.encode()
    page = Page(written.decode())
    shown = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", text.replace("\ud800", "?"))
    assert [tag for tag, _ in page.tags] == ["p", "i"]
    assert page.values("p", "title") == [shown]
    assert "".join(page.texts) == shown + "end"
    assert "\n" not in one_line(text)
    assert len(one_line(text)) <= 200
    assert "<" not in markdown_text(text).replace("\\<", "")


def test_hostile_labels_are_text_in_pages_and_cards(site: Root) -> None:
    for unit in range(14):
        page = page_of(site, f"neurons/synthetic/classifier/{unit}.html")
        label = CLASS_NAMES[unit]
        if label:
            assert html_text(label) in site.read_text(f"neurons/synthetic/classifier/{unit}.html")
        assert [tag for tag, _ in page.tags].count("script") == 1
        assert len(page.values("img", "src")) <= 1
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    card = page_of(site, "cards/synthetic.html")
    assert "Synthetic <em>atlas</em> & co." in card.texts
    assert "em" not in {tag for tag, _ in card.tags}
    assert r"\<em\>" in site.read_text("cards/synthetic.md")


def test_the_citations_are_what_programs_read(site: Root) -> None:
    citation = yaml.safe_load(site.read_text("cards/synthetic.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == "Synthetic <em>atlas</em> & co."
    assert citation["type"] == "dataset"
    assert citation["authors"]
    assert citation["references"][0]["authors"][0]["family-names"] == "Görgün"
    bibtex = site.read_text("cards/synthetic.bib")
    assert bibtex.count("{") == bibtex.count("}")
    assert "@misc{neuron-atlas-synthetic," in bibtex
    assert "@inproceedings{gorgun2025vital," in bibtex
    front = next(yaml.safe_load_all(site.read_text("README.md").split("\n# ")[0].removesuffix("\n")))
    assert front == {"title": "Synthetic <em>atlas</em> & co.", "sdk": "static", "app_file": "index.html"}


def test_the_card_tells_model_data_method_limits_and_license(site: Root) -> None:
    text = " ".join(page_of(site, "cards/synthetic.html").texts)
    for words in ("timm:synthetic_net", "231", "2 more could not be read", "vital", "CC0-1.0", "does not prove"):
        assert words in text
    tables = page_of(site, "atlases.html").values("a", "href")
    assert [target for target in tables if target.endswith("/layers/classifier.parquet")]


def test_the_sitemap_names_every_page_and_splits_above_its_limit(site: Root) -> None:
    space = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
    found = [element.text for element in ElementTree.fromstring(site.read_bytes("sitemap.xml")).iter(f"{space}loc")]
    pages = [path for path in site.walk("neurons") if path.endswith(".html")]
    assert {f"{URL}neurons/{path}" for path in pages} | {URL, f"{URL}cards/synthetic.html"} <= set(found)
    assert f"Sitemap: {URL}sitemap.xml" in site.read_text("robots.txt")
    many = sitemap_files(URL, (f"neurons/a/b/{unit}.html" for unit in range(MAX_URLS + 1)))
    assert set(many) == {"sitemap.xml", "sitemap-0001.xml", "sitemap-0002.xml", "robots.txt"}
    assert many["sitemap-0001.xml"].count(b"<url>") == MAX_URLS
    assert many["sitemap-0002.xml"].count(b"<url>") == 1
    assert many["sitemap.xml"].count(b"<sitemap>") == 2


def test_the_table_for_embedding_atlas_has_its_columns(site: Root) -> None:
    table = parse_table(site.read_bytes("embedding/synthetic.parquet"), source="table")
    assert {"neuron", "text", "image", "x", "y", "activation_percentile"} <= set(table)
    assert len(table["neuron"]) == 19
    head, _, data = table["image"][0].partition(",")
    assert head == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (112, 112)
    assert "great white shark" in "".join(table["text"])
    assert "--x x --y y" in site.read_text("cards/synthetic.html")


def test_a_site_without_pages_again_has_none_and_keeps_foreign_files(atlas: Root, tmp_path: Path) -> None:
    site = Root.open(str(tmp_path / "site"))
    write_site(site, [atlas], SiteForm(neuron_pages_url=URL, embedding_table=True))
    assert validate(site) == []
    site.write_bytes("robots.txt", b"User-agent: *\nDisallow: /\n")
    write_site(site, [atlas], SiteForm(neuron_pages_url=URL))
    assert not site.exists("embedding/synthetic.parquet")
    write_site(site, [atlas])
    assert not [path for path in site.walk() if path.startswith(("neurons/", "sitemap"))]
    assert site.read_bytes("robots.txt") == b"User-agent: *\nDisallow: /\n"
    assert validate(site) == []


@pytest.mark.parametrize(
    "url", ["example.org", "https://a b/", "https://a/?q", 'https://a/"><script>', "ftp://a/", "https://"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected where the site will be"):
        check_base_url(url)
    assert check_base_url("http://localhost:8000/x") == "http://localhost:8000/x/"


def test_the_workflow_publishes_what_it_has_checked() -> None:
    workflow = yaml.safe_load((ROOT / "docs" / "publish" / "pages.yml").read_text())
    build, deploy = workflow["jobs"]["build"], workflow["jobs"]["deploy"]
    assert workflow["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    assert deploy["needs"] == "build"
    commands = [step["run"] for step in build["steps"] if "run" in step]
    site = next(command for command in commands if command.startswith("neuron-atlas site"))
    parsed = make_parser().parse_args(shlex.split(site)[1:])
    assert (parsed.out, parsed.neuron_pages) == ("site", "${{ steps.pages.outputs.base_url }}")
    assert commands.index("neuron-atlas validate site") > commands.index(site)
    (upload,) = [step for step in build["steps"] if step.get("uses", "").startswith("actions/upload-pages-artifact@")]
    assert upload["with"]["path"] == parsed.out


def test_the_command_refuses_an_address_that_is_none_in_words(
    atlas: Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["site", str(tmp_path / "site"), atlas.url, "--neuron-pages", "example.org"]) == 1
    assert "'example.org': expected where the site will be" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
