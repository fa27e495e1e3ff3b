"""Packed sites: archives that any program opens, an index that is right to the byte, and validation that knows them."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.atlas.site.host_limits import HOST_LIMITS
from pipeline.atlas.site.packing import MAX_ARCHIVE_BYTES, PackedAtlas, packed_files
from pipeline.atlas.site.site import write_site
from pipeline.atlas.site.site_parts import SiteForm
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import parse_table
from pipeline.io.root import Root
from tests.support.synthetic_atlas import build_synthetic_atlas

PACKED = SiteForm(packed=True)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Root:
    folder = tmp_path_factory.mktemp("packing")
    return build_synthetic_atlas(str(folder / "atlas"), layers={"conv_stem": (16, 8)}, methods=("vital",), seeds=1)


@pytest.fixture
def site(atlas: Root, tmp_path: Path) -> Root:
    root = Root.open(str(tmp_path / "site"))
    write_site(root, [atlas], PACKED)
    return root


def folder_of(site: Root) -> Root:
    return site.join(site.read_json("sites.json")["atlases"][0]["path"])


@given(st.dictionaries(st.integers(0, 99_999), st.binary(min_size=1, max_size=300), min_size=1, max_size=20))
def test_every_visualization_lies_where_the_index_says_in_archives_below_the_bound(
    visualizations: dict[int, bytes],
) -> None:
    data = {
        f"images/layer.1/{number:05d}-vital-s0.webp": visualization for number, visualization in visualizations.items()
    }
    files = dict(packed_files(data, data.__getitem__, max_archive_bytes=1000))
    index = parse_table(files.pop("packs/images/layer.1.parquet"), source="index")
    assert index["path"] == sorted(data)
    for path, archive, offset, size, whole in zip(*index.values(), strict=True):
        assert files[archive][offset : offset + size] == data[path]
        assert len(files[archive]) == whole <= 1000
    members: list[str] = []
    for archive in files.values():
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            assert opened.testzip() is None
            assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}
            members += opened.namelist()
    assert members == sorted(data)


def test_an_archive_is_below_every_hosts_limit_for_one_file() -> None:
    limits = [limit.max_file_bytes for limit in HOST_LIMITS if limit.max_file_bytes is not None]
    assert min(limits) > MAX_ARCHIVE_BYTES


def test_a_packed_site_has_the_same_files_in_fewer(atlas: Root, site: Root) -> None:
    manifest = atlas.read_json("atlas.json")
    folder = folder_of(site)
    packed = PackedAtlas(folder)
    assert set(packed.walk()) == {"atlas.json", *(entry["path"] for entry in manifest["files"])}
    for entry in manifest["files"]:
        assert packed.read_bytes(entry["path"]) == atlas.read_bytes(entry["path"])
        assert packed.size_bytes(entry["path"]) == entry["bytes"]
    visualizations = [entry for entry in manifest["files"] if entry["path"].split("/")[0] in ("images", "examples")]
    assert len(folder.walk()) == len(manifest["files"]) + 1 - len(visualizations) + 4
    assert validate(site) == []


def test_publishing_in_the_other_form_leaves_nothing_of_the_first(atlas: Root, site: Root) -> None:
    packed = {path: site.read_bytes(path) for path in site.walk()}
    write_site(site, [atlas])
    assert not [path for path in site.walk() if "/packs/" in path]
    assert validate(site) == []
    write_site(site, [atlas], PACKED)
    assert {path: site.read_bytes(path) for path in site.walk()} == packed


def _cut(site: Root, path: str) -> None:
    site.write_bytes(path, site.read_bytes(path)[:-30])


def _shift(site: Root, path: str) -> None:
    site.write_bytes(path, b"#" + site.read_bytes(path))


def _compress(site: Root, path: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(site.read_bytes(path))) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    site.write_bytes(path, buffer.getvalue())


def _damage(site: Root, path: str) -> None:
    data = bytearray(site.read_bytes(path))
    data[200] ^= 0xFF
    site.write_bytes(path, bytes(data))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_cut, "not a ZIP that can be read|has .* bytes, its index says"),
        (_shift, "lies at|its index says"),
        (_compress, "is compressed, so that no part of it can be shown"),
        (_damage, "sha256 differs from atlas.json"),
        (lambda site, path: site.remove(path), "missing, though an index names it"),
        (lambda site, path: site.write_bytes(path.replace("0000", "0009"), b"PK"), "no index names it"),
        (lambda site, path: site.write_bytes(path.replace("-0000.zip", ".parquet"), b"PAR1"), "Parquet"),
    ],
    ids=["cut", "shifted", "compressed", "damaged", "missing", "extra", "index damaged"],
)
def test_validate_names_what_is_wrong_with_an_archive(
    site: Root, harm: Callable[[Root, str], None], message: str
) -> None:
    folder = site.read_json("sites.json")["atlases"][0]["path"]
    harm(site, f"{folder}/packs/images/conv_stem-0000.zip")
    faults = validate(site)
    assert faults
    assert any(re.search(message, str(fault)) for fault in faults), faults


def test_packing_and_pages_of_neurons_exclude_each_other(atlas: Root, site: Root) -> None:
    with pytest.raises(ValueError, match="--pack and --neuron-pages exclude each other"):
        SiteForm(packed=True, neuron_pages_url="https://example.org/")
    other = build_synthetic_atlas(
        atlas.url + "-other", name="other", layers={"conv_stem": (16, 2)}, methods=("vital",), seeds=1
    )
    before = site.read_json("sites.json")
    with pytest.raises(ValueError, match="'synthetic' of this site is packed"):
        write_site(site, [other], SiteForm(neuron_pages_url="https://example.org/"))
    assert site.read_json("sites.json") == before
