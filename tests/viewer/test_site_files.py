"""The viewer's files as files: the vendored reader, the policy, no HTML from data, no leftovers of a build."""

import hashlib
import re
from pathlib import Path

import pytest

from atlas_viewer import VIEWER_FOLDER, published_bytes, viewer_files
from pipeline.atlas.site.serve import META_SECURITY_POLICY

VENDORED = VIEWER_FOLDER / "vendor" / "hyparquet.min.js"
OWN_MODULES = sorted(set(VIEWER_FOLDER.rglob("*.js")) - {VENDORED})
PAGES = sorted(VIEWER_FOLDER.glob("*.html"))
STYLESHEETS = sorted(VIEWER_FOLDER.rglob("*.css"))
MAX_LINES = 500


def names(path: Path) -> str:
    return path.relative_to(VIEWER_FOLDER).as_posix()


def test_viewer_files_are_what_a_browser_needs_and_the_licenses() -> None:
    files = viewer_files()
    assert {
        "index.html",
        "shell/main.js",
        "shell/style.css",
        "data.html",
        "vendor/hyparquet.min.js",
        "vendor/hyparquet.LICENSE",
    } <= set(files)
    assert all(path.is_file() for path in files.values())
    assert not [name for name in files if name.endswith((".py", ".pyc", "package.json")) or "__pycache__" in name]


def test_the_vendored_reader_is_the_one_its_readme_describes() -> None:
    readme = (VENDORED.parent / "README.md").read_text()
    stated = re.search(r"sha256 ([0-9a-f]{64})  hyparquet\.min\.js", readme)
    assert stated
    assert hashlib.sha256(VENDORED.read_bytes()).hexdigest() == stated[1]
    assert "npm install hyparquet@" in readme
    assert "MIT License" in (VENDORED.parent / "hyparquet.LICENSE").read_text()


def test_the_vendored_reader_names_no_source_map_and_no_folder_of_a_machine() -> None:
    text = VENDORED.read_text()
    assert "sourceMappingURL" not in text
    assert not re.search(r"node_modules|/home/|/tmp/|/Users/|[A-Z]:\\\\", text)


@pytest.mark.parametrize("path", [*OWN_MODULES, VENDORED], ids=names)
def test_no_module_makes_html_or_code_from_text(path: Path) -> None:
    text = path.read_text()
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "createContextualFragment",
        "srcdoc",
    ):
        assert word not in text, word
    assert not re.search(r"\beval\(|new Function\(|setTimeout\(\s*['\"`]", text)


@pytest.mark.parametrize("path", OWN_MODULES, ids=names)
def test_modules_import_only_their_neighbors_and_name_no_other_host(path: Path) -> None:
    text = path.read_text()
    imports = re.findall(r"""(?:^|\n)(?:import|export)\s[^'"\n]*(?:\n[^'"\n]*)*?from\s+['"]([^'"]+)['"]""", text)
    for target in imports:
        module = (path.parent / target).resolve()
        assert target.startswith((".", "..")), target
        assert module.is_file(), target
        assert VIEWER_FOLDER in module.parents, target
    # The name of the SVG namespace looks like an address and is none.
    hosts = set(re.findall(r"https?://[A-Za-z0-9.-]+", text)) - {"http://www.w3.org"}
    assert not hosts


@pytest.mark.parametrize("path", [*OWN_MODULES, *STYLESHEETS], ids=names)
def test_modules_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", STYLESHEETS, ids=names)
def test_stylesheets_are_linked_and_load_nothing_else(path: Path) -> None:
    with_the_page = f'<link rel="stylesheet" href="{names(path)}">' in (VIEWER_FOLDER / "index.html").read_text()
    with_a_view = f"withStyle('{names(path)}', import(" in (VIEWER_FOLDER / "shell" / "views.js").read_text()
    assert with_the_page != with_a_view
    assert not re.search(r"@import|url\(", path.read_text())


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_pages_carry_the_policy_and_nothing_inline(path: Path) -> None:
    text = path.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert policy[1] == META_SECURITY_POLICY
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", text)
    for target in re.findall(r'(?:src|href)="([^"#]+)"', text):
        assert target in viewer_files() or target in ("sites.json", "atlases.html"), target  # `site` writes these


def imported_by(name: str) -> set[str]:
    """A module and all that its static imports lead to."""
    found: set[str] = set()
    todo = [name]
    while todo:
        if (module := todo.pop()) not in found:
            found.add(module)
            file = VIEWER_FOLDER / module
            todo += [
                names((file.parent / target).resolve()) for target in re.findall(r"from '(\.[^']+)'", file.read_text())
            ]
    return found


def test_modules_of_the_gallery_and_of_a_neuron_are_asked_for_at_once() -> None:
    """Else each is found only once the module that imports it has come: a round trip for every step."""
    page = (VIEWER_FOLDER / "index.html").read_text()
    assert set(re.findall(r'rel="modulepreload" href="([^"]+)"', page)) == imported_by("shell/main.js") - {
        "shell/main.js"
    }
    listed = re.search(
        r"const NEURON_IMPORTS = \[(.*?)\n\]", (VIEWER_FOLDER / "shell" / "views.js").read_text(), re.DOTALL
    )
    assert listed
    further = imported_by("neuron/neuron.js") - imported_by("shell/main.js") - {"neuron/neuron.js"}
    assert set(re.findall(r"'([^']+)'", listed[1])) == further


def test_the_page_says_in_words_that_it_needs_javascript() -> None:
    noscript = re.search(r"<noscript>(.*?)</noscript>", (VIEWER_FOLDER / "index.html").read_text(), re.DOTALL)
    assert noscript
    assert "needs JavaScript" in noscript[1]
    assert 'href="data.html"' in noscript[1]
    assert 'href="atlases.html"' in noscript[1]  # with links to every table


def test_a_missing_page_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("atlas_viewer.VIEWER_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="reinstall"):
        viewer_files()


def test_what_is_published_is_our_code_without_comments_and_vendored_code_as_it_came() -> None:
    files = viewer_files()
    script = published_bytes(files["shell/views.js"]).decode()
    assert "@param" in files["shell/views.js"].read_text()
    assert "@param" not in script
    assert "import{GalleryView}from'../gallery/gallery.js'" in script
    style = published_bytes(files["shell/style.css"])
    assert b"/*" not in style
    assert len(style) < len(files["shell/style.css"].read_bytes())
    for path in ("index.html", "vendor/hyparquet.min.js"):
        assert published_bytes(files[path]) == files[path].read_bytes()
