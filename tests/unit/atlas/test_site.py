"""Publishing: only listed files, build ids in the paths, sites.json last, nobody else's folder touched."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from atlas_viewer import viewer_files
from pipeline.atlas.site.host_limits import SiteReport
from pipeline.atlas.site.site import read_atlas, slug_of, write_site
from pipeline.atlas.validation.validate import validate
from pipeline.io.root import Root
from tests.support.synthetic_atlas import build, build_synthetic_atlas, write_run

OPTIONS: dict[str, Any] = {"layers": {"conv_stem": (16, 12)}, "methods": ("vital",), "seeds": 1}


@pytest.fixture
def atlas(tmp_path: Path) -> Root:
    return build_synthetic_atlas(str(tmp_path / "atlas"), **OPTIONS)


@pytest.fixture
def site(tmp_path: Path) -> Root:
    return Root.open(str(tmp_path / "site"))


def contents(root: Root) -> dict[str, bytes]:
    return {path: root.read_bytes(path) for path in root.walk()}


def republished(atlas: Root) -> Mapping[str, Any]:
    """The atlas after one more seed: another build."""
    more = OPTIONS | {"seeds": 2}
    write_run(atlas, **more)
    build(atlas, **more)
    return atlas.read_json("head.json")


def test_a_site_is_the_viewer_and_the_listed_files(atlas: Root, site: Root) -> None:
    atlas.write_bytes("images/conv_stem/unlisted.webp", b"half-finished work")
    report = write_site(site, [atlas])
    manifest = atlas.read_json("atlas.json")
    folder = f"atlases/synthetic/{manifest['build_id']}"
    expected = {"sites.json", ".nojekyll", ".neuron-atlas-site", f"{folder}/atlas.json", *viewer_files()}
    expected |= {f"{folder}/{entry['path']}" for entry in manifest["files"]}
    expected |= {"atlases.html", "README.md", *(f"cards/synthetic.{kind}" for kind in ("html", "md", "cff", "bib"))}
    assert set(site.walk()) == expected
    assert site.read_json("sites.json")["atlases"] == [
        {
            "slug": "synthetic",
            "title": manifest["title"],
            "path": folder,
            "build_id": manifest["build_id"],
            "counts": manifest["counts"],
            "model": manifest["model"]["name"],
        }
    ]
    assert site.read_bytes(f"{folder}/atlas.json") == atlas.read_bytes("atlas.json")
    assert report.num_files == len(expected)
    assert report.size_bytes == sum(len(data) for data in contents(site).values())
    assert report.warnings() == []


def test_publishing_twice_changes_nothing(atlas: Root, site: Root) -> None:
    write_site(site, [atlas])
    before = contents(site)
    write_site(site, [atlas])
    assert contents(site) == before


def test_publishing_again_keeps_other_atlases_and_replaces_builds_of_the_same_name(
    tmp_path: Path, atlas: Root, site: Root
) -> None:
    other = build_synthetic_atlas(str(tmp_path / "other"), name="Other_One", **OPTIONS)
    write_site(site, [atlas, other])
    (old,) = site.list("atlases/synthetic")
    new = republished(atlas)["build_id"]
    report = write_site(site, [atlas])
    assert new != old
    assert site.list("atlases/synthetic") == [new]
    assert report.slugs == ("other-one", "synthetic")
    assert [entry["slug"] for entry in site.read_json("sites.json")["atlases"]] == ["other-one", "synthetic"]
    assert validate(site) == []


@pytest.mark.parametrize("last_moment", [0, 1, 2, 20, "index.html", "sites.json"])
def test_a_killed_publication_leaves_the_old_site_whole(
    atlas: Root, site: Root, monkeypatch: pytest.MonkeyPatch, last_moment: int | str
) -> None:
    write_site(site, [atlas])
    (old,) = site.read_json("sites.json")["atlases"]
    republished(atlas)
    write_bytes, written = Root.write_bytes, []

    def die_later(self: Root, path: str, data: bytes) -> None:
        if last_moment in (len(written), path):
            raise KeyboardInterrupt
        written.append(path)
        write_bytes(self, path, data)

    monkeypatch.setattr(Root, "write_bytes", die_later)
    with pytest.raises(KeyboardInterrupt):
        write_site(site, [atlas])
    monkeypatch.setattr(Root, "write_bytes", write_bytes)
    assert site.read_json("sites.json")["atlases"] == [old]
    faults = [fault for fault in validate(site) if not fault.message.startswith("not named by sites.json")]
    assert faults == []
    write_site(site, [atlas])
    assert validate(site) == []


def test_a_first_publication_that_was_killed_can_be_repeated(
    atlas: Root, site: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json = Root.write_json

    def die(self: Root, path: str, obj: Any) -> None:
        if path == "sites.json":
            raise KeyboardInterrupt
        write_json(self, path, obj)

    monkeypatch.setattr(Root, "write_json", die)
    with pytest.raises(KeyboardInterrupt):
        write_site(site, [atlas])
    monkeypatch.setattr(Root, "write_json", write_json)
    write_site(site, [atlas])
    assert validate(site) == []


@pytest.mark.parametrize("name", ["thesis.tex", "index.html", "sites.json", ".ssh/id"])
def test_somebody_elses_folder_is_refused_and_left_alone(atlas: Root, site: Root, name: str) -> None:
    site.write_bytes(name, b"precious")
    with pytest.raises(ValueError, match="not empty and not a site of neuron-atlas"):
        write_site(site, [atlas])
    assert contents(site) == {name: b"precious"}


def test_the_clone_of_a_pages_branch_is_accepted(atlas: Root, site: Root) -> None:
    site.write_bytes(".git/HEAD", b"ref: refs/heads/gh-pages")
    site.write_bytes("CNAME", b"atlas.example.org")
    report = write_site(site, [atlas])
    assert site.read_bytes(".git/HEAD") == b"ref: refs/heads/gh-pages"
    assert report.num_files == len([path for path in site.walk() if not path.startswith(".git/")])


def test_an_atlas_that_is_not_built_or_not_whole_is_refused(tmp_path: Path, atlas: Root, site: Root) -> None:
    with pytest.raises(ValueError, match=r"no atlas\.json; build the atlas first"):
        write_site(site, [Root.open(str(tmp_path / "nothing"))])
    with pytest.raises(ValueError, match="no atlas to publish"):
        write_site(site, [])
    assert contents(site) == {}
    atlas.write_bytes("images/conv_stem/00001-vital-s0.webp", b"damaged")
    with pytest.raises(ValueError, match=r"00001-vital-s0\.webp: not the file that atlas.json lists"):
        write_site(site, [atlas])
    assert not site.exists("sites.json")


def test_two_atlases_of_one_name_are_refused(tmp_path: Path, atlas: Root, site: Root) -> None:
    other = build_synthetic_atlas(str(tmp_path / "other"), **OPTIONS)
    with pytest.raises(ValueError, match="both named 'synthetic': change `name`"):
        write_site(site, [atlas, other])


@pytest.mark.parametrize(
    "entry",
    [{"path": "../../../etc/passwd"}, {"path": "/etc/passwd"}, {"path": "run/secret"}, {"path": 7}, {}],
)
def test_a_manifest_that_lists_foreign_files_is_refused(atlas: Root, site: Root, entry: dict) -> None:
    manifest = atlas.read_json("atlas.json")
    manifest["files"].append({"bytes": 1, "sha256": "0" * 64, **entry})
    atlas.write_json("atlas.json", manifest)
    with pytest.raises(ValueError, match=r"atlas\.json: files"):
        write_site(site, [atlas])
    assert contents(site) == {}


def test_a_site_can_be_written_to_a_bucket(atlas: Root) -> None:
    site = Root.open("memory://site-bucket")
    write_site(site, [atlas])
    assert validate(site) == []


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("lite0-demo", "lite0-demo"),
        ("Größe <b>ß</b>", "groe-b-b"),
        ("../../etc", "etc"),
        ("a" * 200, "a" * 80),
        ("ResNet-50 (ImageNet)", "resnet-50-imagenet"),
    ],
)
def test_a_slug_is_plain_ascii(name: str, slug: str) -> None:
    assert slug_of(name) == slug
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)


def test_a_name_without_a_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="becomes part of the address"):
        slug_of("??? …")


def test_the_report_names_hosts_that_would_refuse_the_site_and_a_remedy() -> None:
    sizes = {f"images/layer/{number}.webp": 47_000 for number in range(25_000)} | {"index.parquet": 30 << 20}
    report = SiteReport.of("site", ("a",), sizes)
    assert report.lines()[0] == "site: a; 25,001 files, 1,206.5 MB"
    github, gitlab, cloudflare, hugging_face = report.warnings()
    assert "GitHub Pages (1,206.5 MB of 1,000.0 MB allowed): publish to an object store" in github
    assert "GitLab Pages" in gitlab
    assert "25,001 of 20,000 files allowed" in cloudflare
    assert "index.parquet has 31.5 MB of 26.2 MB allowed" in cloudflare
    assert "add --pack" in cloudflare
    assert "images/layer has 25,000 of 10,000 files allowed in a folder): add --pack" in hugging_face
    assert "object store" not in hugging_face
    table = {line.split("  ")[0]: line.split() for line in report.table()}
    assert table["This site"][2:] == ["1,206.5", "MB", "25,001", "31.5", "MB", "25,000"]
    assert table["GitHub Pages"][-1] == "no"
    assert "!" in table["GitHub Pages"]
    assert table["S3, R2, GCS, own web server"][-1] == "yes"
    small = SiteReport.of("site", ("a",), {"index.html": 10})
    assert small.warnings() == []


def test_the_remedy_for_too_many_files_is_what_makes_them() -> None:
    sizes = {f"neurons/{number}.html": 1 for number in range(20_001)}
    of_pages = SiteReport.of("site", ("a",), sizes, has_neuron_pages=True).warnings()[0]
    assert "leave out --neuron-pages" in of_pages
    packed = SiteReport.of("site", ("a",), sizes, is_packed=True).warnings()[0]
    assert "--pack" not in packed
    assert "object store" in packed


def test_read_atlas_wants_the_contract(atlas: Root) -> None:
    manifest = atlas.read_json("atlas.json")
    assert read_atlas(atlas) == manifest
    atlas.write_json("atlas.json", manifest | {"schema": "atlas/9"})
    with pytest.raises(ValueError, match="schema 'atlas/9', expected 'atlas/2'"):
        read_atlas(atlas)
