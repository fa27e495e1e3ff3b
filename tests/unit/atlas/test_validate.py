"""Validation: a good atlas passes, every kind of damage is named, and nothing in a folder is trusted."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.atlas.format.file_list import build_id
from pipeline.atlas.format.sheets import draw_sheet, image_tile, status_tile
from pipeline.atlas.site.site import write_site
from pipeline.atlas.validation.image_checks import sheet_problems, thumbnail
from pipeline.atlas.validation.validate import Fault, validate
from pipeline.io.images import decode_webp, encode_webp
from pipeline.io.root import Root
from tests.support.damaged_atlas import OPTIONS, SHEET, STEM, VISUALIZATION, copied, sign
from tests.support.synthetic_atlas import build_synthetic_atlas, draw_visualization


@pytest.fixture
def root(good_atlas: Path, tmp_path: Path) -> Root:
    return copied(good_atlas, tmp_path)


def flip_byte(root: Root, path: str, position: int = 200) -> None:
    data = bytearray(root.read_bytes(path))
    data[position] ^= 0x10
    root.write_bytes(path, bytes(data))


@pytest.mark.parametrize("examples", ["none", "thumbnails"])
def test_a_good_atlas_and_a_good_site_have_no_faults(tmp_path: Path, examples: str) -> None:
    layers = {"conv_stem": (16, 12), "blocks.2.1": (96, 66), "classifier": (30, 8)}  # two sheets in one layer
    root = build_synthetic_atlas(str(tmp_path / "atlas"), publish_examples=examples, layers=layers, seeds=1)
    assert validate(str(tmp_path / "atlas")) == []
    write_site(tmp_path / "site", [root])
    assert validate(tmp_path / "site") == []


def test_a_remote_atlas_is_validated_too() -> None:
    root = build_synthetic_atlas("memory://validate", **OPTIONS)
    assert validate(root) == []
    root.remove(VISUALIZATION)
    assert [fault.path for fault in validate(root)] == [VISUALIZATION]


@pytest.mark.parametrize(
    "path", [VISUALIZATION, SHEET, STEM, "index.parquet", "recipe.toml", "examples/conv_stem/00001.webp"]
)
def test_a_flipped_byte_is_named(root: Root, path: str) -> None:
    flip_byte(root, path)
    assert validate(root) == [Fault(path, "sha256 differs from atlas.json: damaged or replaced")]


@pytest.mark.parametrize(
    "path",
    [VISUALIZATION, SHEET, STEM, "index.parquet", "recipe.toml", "images/conv_stem/00001-vital-s0-alpha.webp"],
)
def test_a_missing_file_is_named(root: Root, path: str) -> None:
    root.remove(path)
    assert validate(root) == [Fault(path, "missing, though atlas.json lists it")]


@pytest.mark.parametrize("path", [STEM, "index.parquet", VISUALIZATION])
def test_a_truncated_file_is_named(root: Root, path: str) -> None:
    data = root.read_bytes(path)
    root.write_bytes(path, data[: len(data) // 2])
    (fault,) = validate(root)
    assert fault.path == path
    assert "cut or replaced" in fault.message


def test_damage_that_was_there_before_the_hashes_is_named(root: Root) -> None:
    """The hashes agree, so only reading the files themselves tells."""
    for path in (STEM, VISUALIZATION):
        data = root.read_bytes(path)
        root.write_bytes(path, data[: len(data) // 2])
    sign(root)
    faults = {fault.path: fault.message for fault in validate(root)}
    assert "not a readable Parquet file" in faults[STEM]
    assert "does not decode: truncated" in faults[VISUALIZATION]


def test_every_listed_file_is_counted_once_for_the_one_who_watches(root: Root) -> None:
    told: list[int] = []
    totals: list[int] = []

    @contextmanager
    def watch(num_files: int) -> Iterator[Callable[[int], None]]:
        totals.append(num_files)
        yield told.append

    assert validate(root, watch=watch) == []
    assert totals == [sum(told)] == [len(root.read_json("atlas.json")["files"])]


@pytest.mark.parametrize("change", [{"sha256": "zz" * 32}, {"sha256": "ab"}, {"bytes": -1}, {"bytes": 1 << 70}])
def test_a_list_with_sizes_or_hashes_that_are_none_is_named(root: Root, change: dict[str, Any]) -> None:
    manifest = root.read_json("atlas.json")
    manifest["files"][0] |= change
    root.write_json("atlas.json", manifest | {"build_id": build_id(manifest["files"])})
    path = manifest["files"][0]["path"]
    assert validate(root) == [Fault("atlas.json", f"files: bytes or sha256 of {path} are invalid")]


def test_work_after_the_last_build_is_named(root: Root) -> None:
    root.write_bytes("images/conv_stem/00015-vital-s0.webp", root.read_bytes(VISUALIZATION))
    (fault,) = validate(root)
    assert fault.path == "images/conv_stem/00015-vital-s0.webp"
    assert "run `neuron-atlas build` again" in fault.message


def test_a_tile_that_shows_another_neuron_is_named(root: Root) -> None:
    sheet = decode_webp(root.read_bytes(SHEET)).copy()
    one, other = sheet[:112, :112].copy(), sheet[:112, 112:224].copy()
    sheet[:112, :112], sheet[:112, 112:224] = other, one
    root.write_bytes(SHEET, encode_webp(sheet, quality=75))
    sign(root)
    assert [(fault.path, fault.message.split(" (")[0]) for fault in validate(root)] == [
        (SHEET, f"tile {unit} does not show images/conv_stem/{unit:05d}-vital-s0.webp of conv_stem:{unit}")
        for unit in (0, 1)
    ]


def test_a_visualization_of_another_neuron_is_named(root: Root) -> None:
    root.write_bytes(VISUALIZATION, root.read_bytes("images/conv_stem/00000-vital-s0.webp"))
    sign(root)
    messages = [fault.message for fault in validate(root)]
    assert any("image_sha256 is not that of" in message for message in messages)
    assert any("tile 1 does not show" in message for message in messages)


def test_the_tile_comparison_survives_the_hardest_visualizations() -> None:
    """Noise is what WebP keeps worst; the bound must hold there and still tell visualizations apart."""
    generator = np.random.default_rng(0)
    visualizations = [generator.integers(0, 256, (224, 224, 3)).astype(np.uint8) for _ in range(8)]
    visualizations += [draw_visualization(seed, size_px=224) for seed in range(8)]
    blocks = (generator.integers(0, 2, (4, 28, 28, 3)) * 255).astype(np.uint8)
    visualizations += list(blocks.repeat(8, axis=1).repeat(8, axis=2))
    visualizations += [np.full((224, 224, 3), value, np.uint8) for value in (0, 128, 255)]
    rows = [{"image_path": str(i), "status": "ok", "layer": "a", "unit": i} for i in range(len(visualizations))]
    rows.append({"image_path": "", "status": "failed", "layer": "a", "unit": 99})
    tiles = [*map(image_tile, visualizations), status_tile("failed")]
    stored = decode_webp(encode_webp(draw_sheet(tiles), quality=75))
    thumbnails = {str(i): thumbnail(visualization) for i, visualization in enumerate(visualizations)}
    assert list(sheet_problems(stored, rows, thumbnails)) == []
    thumbnails["9"], thumbnails["10"] = thumbnails["10"], thumbnails["9"]
    assert [problem.split(" does")[0] for problem in sheet_problems(stored, rows, thumbnails)] == [
        "tile 9",
        "tile 10",
    ]


def test_a_failed_neuron_must_not_have_a_silent_tile(root: Root) -> None:
    sheet = decode_webp(root.read_bytes(SHEET)).copy()
    sheet[:112, 5 * 112 : 6 * 112] = 128
    root.write_bytes(SHEET, encode_webp(sheet, quality=75))
    sign(root)
    (fault,) = validate(root)
    assert fault.message.startswith("tile 5 does not show the failed tile of conv_stem:5")


@pytest.mark.parametrize(
    "path",
    ["../outside.webp", "/etc/passwd", "images/../../x.webp", "run/recipe.json", "model.pkl", "evil.html"],
)
def test_a_listed_file_that_is_no_part_of_an_atlas_is_not_even_read(
    root: Root, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = root.read_json("atlas.json")
    manifest["files"].append({"path": path, "bytes": 1, "sha256": "0" * 64})
    manifest["build_id"] = build_id(manifest["files"])
    root.write_json("atlas.json", manifest)
    read: list[str] = []
    read_bytes = Root.read_bytes
    monkeypatch.setattr(
        Root,
        "read_bytes",
        lambda self, path, **options: read.append(path) or read_bytes(self, path, **options),
    )
    faults = validate(root)
    assert all(fault.path == "atlas.json" and path in fault.message for fault in faults)
    assert faults
    assert read == ["atlas.json"]


def test_a_link_out_of_the_folder_is_a_fault(root: Root, tmp_path: Path) -> None:
    secret = tmp_path / "secret.webp"
    secret.write_bytes(root.read_bytes(VISUALIZATION))
    file = root.local_path / VISUALIZATION
    file.unlink()
    file.symlink_to(secret)
    assert validate(root) == [Fault(VISUALIZATION, "cannot be read: a link out of the folder, or not a plain file")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang_the_check(root: Root) -> None:
    file = root.local_path / VISUALIZATION
    file.unlink()
    os.mkfifo(file)
    assert [fault.path for fault in validate(root)] == [VISUALIZATION]


def test_an_image_bomb_is_refused_by_its_header(root: Root) -> None:
    bomb = encode_webp(np.zeros((4100, 4100, 3), np.uint8), lossless=True)
    assert len(bomb) < 200_000, "a small file with many pixels"
    root.write_bytes(VISUALIZATION, bomb)
    sign(root)
    assert any(fault.path == VISUALIZATION and "too-large" in fault.message for fault in validate(root))


def test_a_visualization_of_another_format_is_a_fault(root: Root) -> None:
    root.write_bytes(VISUALIZATION, b"\x89PNG\r\n\x1a\n" + bytes(100))
    sign(root)
    assert any(fault.path == VISUALIZATION and "not a WebP file" in fault.message for fault in validate(root))


def test_a_folder_that_is_neither_is_a_fault(tmp_path: Path) -> None:
    (fault,) = validate(tmp_path)
    assert "neither an atlas nor a site" in fault.message


def site_of(root: Root, tmp_path: Path) -> tuple[Root, str]:
    write_site(tmp_path / "site", [root])
    site = Root.open(str(tmp_path / "site"))
    return site, site.read_json("sites.json")["atlases"][0]["path"]


def test_damage_in_a_site_is_named_with_its_place(root: Root, tmp_path: Path) -> None:
    site, folder = site_of(root, tmp_path)
    flip_byte(site, f"{folder}/{VISUALIZATION}")
    site.write_bytes(f"{folder}/notes.txt", b"not published by us")
    site.remove("index.html")
    site.write_bytes("atlases/synthetic/0123456789abcdef/atlas.json", b"{}")
    assert {fault.path for fault in validate(site)} == {
        f"{folder}/{VISUALIZATION}",
        f"{folder}/notes.txt",
        "index.html",
        "atlases/synthetic/0123456789abcdef",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../../elsewhere"},
        {"path": "atlases/synthetic/.."},
        {"slug": "<b>"},
        {"slug": 7},
        {"counts": {"neurons": 0}},
    ],
)
def test_an_unsound_sites_json_is_named(root: Root, tmp_path: Path, change: dict) -> None:
    site, _ = site_of(root, tmp_path)
    sites = site.read_json("sites.json")
    sites["atlases"][0] |= change
    site.write_text("sites.json", json.dumps(sites))
    assert "sites.json" in {fault.path for fault in validate(site)}
