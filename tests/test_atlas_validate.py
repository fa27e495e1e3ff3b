"""Validation: a good atlas passes, every kind of damage is named, and nothing in a folder is trusted."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.atlas.file_list import build_id, file_entry
from pipeline.atlas.manifest import make_head
from pipeline.atlas.picture_checks import sheet_problems, thumbnail
from pipeline.atlas.schema import HEAD_PATH, INDEX_SCHEMA, LAYER_SCHEMA
from pipeline.atlas.sheets import draw_sheet, picture_tile, status_tile
from pipeline.atlas.site import write_site
from pipeline.atlas.validate import Fault, validate
from pipeline.images import decode_webp, encode_webp
from pipeline.storage import Root
from pipeline.tables import column_types, read_rows, write_table
from tests.synthetic_atlas import build_synthetic_atlas, draw_picture, without_head

OPTIONS: dict[str, Any] = {
    "layers": {"conv_stem": (16, 12), "classifier": (30, 8)},
    "methods": ("vital",),
    "seeds": 1,
}
PICTURE = "images/conv_stem/00001-vital-s0.webp"
STEM = "layers/conv_stem.parquet"
SHEET = "sheets/conv_stem/0000.webp"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "atlas"
    build_synthetic_atlas(str(folder), **OPTIONS)
    return folder


@pytest.fixture
def root(good: Path, tmp_path: Path) -> Root:
    shutil.copytree(good, tmp_path / "atlas")
    return Root.open(str(tmp_path / "atlas"))


def sign(root: Root, **changes: Any) -> None:
    """Make atlas.json and head.json agree with the files again, as an attacker or a faulty build would."""
    manifest = root.read_json("atlas.json") | changes
    head = next((entry for entry in manifest["files"] if entry["path"] == HEAD_PATH), {})
    for entry in manifest["files"]:
        if root.exists(entry["path"]):
            entry |= file_entry(entry["path"], root.read_bytes(entry["path"]))
    manifest["build_id"] = build_id(manifest["files"])
    if head:
        root.write_json(HEAD_PATH, make_head(manifest, root.read_json(HEAD_PATH)["scores"]))
        head |= file_entry(HEAD_PATH, root.read_bytes(HEAD_PATH))
    root.write_json("atlas.json", manifest)


def change_rows(root: Root, change: Callable[[list[dict[str, Any]]], Any], path: str = STEM) -> None:
    """Rewrite a table with changed rows and sign it."""
    rows = read_rows(root, path)
    change(rows)
    write_table(root, path, rows, column_types(root.read_bytes(path), source=path))
    sign(root)


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
    root.remove(PICTURE)
    assert [fault.path for fault in validate(root)] == [PICTURE]


@pytest.mark.parametrize(
    "path", [PICTURE, SHEET, STEM, "index.parquet", "recipe.toml", "examples/conv_stem/00001.webp"]
)
def test_a_flipped_byte_is_named(root: Root, path: str) -> None:
    flip_byte(root, path)
    assert validate(root) == [Fault(path, "sha256 differs from atlas.json: damaged or replaced")]


@pytest.mark.parametrize(
    "path",
    [PICTURE, SHEET, STEM, "index.parquet", "recipe.toml", "images/conv_stem/00001-vital-s0-alpha.webp"],
)
def test_a_missing_file_is_named(root: Root, path: str) -> None:
    root.remove(path)
    assert validate(root) == [Fault(path, "missing, though atlas.json lists it")]


@pytest.mark.parametrize("path", [STEM, "index.parquet", PICTURE])
def test_a_truncated_file_is_named(root: Root, path: str) -> None:
    data = root.read_bytes(path)
    root.write_bytes(path, data[: len(data) // 2])
    (fault,) = validate(root)
    assert fault.path == path
    assert "cut or replaced" in fault.message


def test_damage_that_was_there_before_the_hashes_is_named(root: Root) -> None:
    """The hashes agree, so only reading the files themselves tells."""
    for path in (STEM, PICTURE):
        data = root.read_bytes(path)
        root.write_bytes(path, data[: len(data) // 2])
    sign(root)
    faults = {fault.path: fault.message for fault in validate(root)}
    assert "not a readable Parquet file" in faults[STEM]
    assert "does not decode: truncated" in faults[PICTURE]


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
    assert validate(root) == [Fault("atlas.json", f"files: bytes or sha256 of {path} are none")]


def test_work_after_the_last_build_is_named(root: Root) -> None:
    root.write_bytes("images/conv_stem/00015-vital-s0.webp", root.read_bytes(PICTURE))
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


def test_a_picture_of_another_neuron_is_named(root: Root) -> None:
    root.write_bytes(PICTURE, root.read_bytes("images/conv_stem/00000-vital-s0.webp"))
    sign(root)
    messages = [fault.message for fault in validate(root)]
    assert any("image_sha256 is not that of" in message for message in messages)
    assert any("tile 1 does not show" in message for message in messages)


def test_the_tile_comparison_survives_the_hardest_pictures() -> None:
    """Noise is what WebP keeps worst; the bound must hold there and still tell pictures apart."""
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (224, 224, 3)).astype(np.uint8) for _ in range(8)]
    pictures += [draw_picture(seed, size_px=224) for seed in range(8)]
    blocks = (generator.integers(0, 2, (4, 28, 28, 3)) * 255).astype(np.uint8)
    pictures += list(blocks.repeat(8, axis=1).repeat(8, axis=2))
    pictures += [np.full((224, 224, 3), value, np.uint8) for value in (0, 128, 255)]
    rows = [{"image_path": str(i), "status": "ok", "layer": "a", "unit": i} for i in range(len(pictures))]
    rows.append({"image_path": "", "status": "failed", "layer": "a", "unit": 99})
    tiles = [*map(picture_tile, pictures), status_tile("failed")]
    stored = decode_webp(encode_webp(draw_sheet(tiles), quality=75))
    thumbnails = {str(i): thumbnail(picture) for i, picture in enumerate(pictures)}
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
    ("change", "message"),
    [
        ({"image_path": "../../../etc/passwd"}, "image_path: path '../../../etc/passwd'"),
        ({"image_path": "images/../../x.webp"}, "image_path: path"),
        ({"image_path": "https://example.org/x.webp"}, "image_path: path"),
        ({"image_path": "images/conv_stem/99999-vital-s0.webp"}, "is not listed in atlas.json"),
        ({"alpha_path": "/dev/zero"}, "alpha_path: path '/dev/zero'"),
        ({"status": "fine"}, "status 'fine' is none of"),
        ({"status": "failed"}, "status 'failed' without a status_reason"),
        ({"neuron_id": "timm:other/conv_stem/0"}, "neuron_id is"),
        ({"layer": "conv_head"}, "layer is 'conv_head'"),
        ({"unit": 999}, "units 0 to 15"),
        ({"method": "pixel"}, "method 'pixel' is none of"),
        ({"width_px": 65}, "its row says (65, 64)"),
        ({"num_examples": 5}, "its row says (560, 112)"),
        ({"activation_percentile": 250.0}, "outside 0–100"),
        ({"loss": float("inf")}, "not finite"),
        ({"reference_activations": [1.0]}, "1 entries for 6"),
        ({"label": None}, "column 'label' has empty cells"),
        ({"unit": None}, "column 'unit' has empty cells"),
    ],
)
def test_an_unsound_row_is_named(root: Root, change: dict, message: str) -> None:
    change_rows(root, lambda rows: rows[0].update(change))
    assert any(message in fault.message for fault in validate(root)), validate(root)


def test_rows_out_of_order_or_twice_are_named(root: Root) -> None:
    change_rows(root, lambda rows: rows.append(rows[0]))
    assert any("out of order or twice" in fault.message for fault in validate(root))


def test_a_lost_row_is_named(root: Root) -> None:
    change_rows(root, lambda rows: rows.pop())
    messages = [str(fault) for fault in validate(root)]
    assert f"{STEM}: has 11 neurons, atlas.json says 12" in messages
    assert "index.parquet: has 20 rows, the layers have 19 neurons" in messages
    assert any(message.startswith("atlas.json: counts are") for message in messages)


def test_parts_and_labels_that_say_something_else_are_named(root: Root) -> None:
    change_rows(root, lambda rows: rows[3].update(tile=7), "index/conv_stem.parquet")
    change_rows(root, lambda rows: rows[0].update(top_labels=["nothing of the kind"]), "labels.parquet")
    assert validate(root) == [
        Fault("index/conv_stem.parquet", "row 3 (conv_stem:3): ['tile'] differ from the layer's table"),
        Fault("labels.parquet", "row 0 (conv_stem:0): ['top_labels'] differ from the layer's table"),
    ]


def test_captions_that_say_something_else_are_named(tmp_path: Path) -> None:
    root = build_synthetic_atlas(str(tmp_path), layers={"conv_stem": (16, 5)}, seeds=1, captions=True)
    assert validate(root) == []
    change_rows(root, lambda rows: rows[1].update(top_captions=["<b>"]), "labels.parquet")
    assert validate(root) == [
        Fault("labels.parquet", "row 1 (conv_stem:1): ['top_captions'] differ from the layer's table")
    ]
    root.write_json("atlas.json", root.read_json("atlas.json") | {"has_captions": False})
    assert Fault("atlas.json", "has_captions is not true, as the tables say") in validate(root)


def test_an_atlas_from_before_there_were_captions_is_as_good(root: Root) -> None:
    for path in (STEM, "labels.parquet"):
        types = column_types(root.read_bytes(path), source=path)
        kept = {name: kind for name, kind in types.items() if "captions" not in name}
        rows = [{name: row[name] for name in kept} for row in read_rows(root, path)]
        write_table(root, path, rows, kept)
    sign(root)
    assert validate(root) == []


@pytest.mark.parametrize("text", ['{"title": "another"}', "no JSON"])
def test_a_head_that_says_something_else_is_named(root: Root, text: str) -> None:
    manifest = root.read_json("atlas.json")
    root.write_text(HEAD_PATH, text)
    for entry in manifest["files"]:
        if entry["path"] == HEAD_PATH:
            entry |= file_entry(HEAD_PATH, text.encode())
    root.write_json("atlas.json", manifest)
    assert validate(root) == [Fault(HEAD_PATH, "does not say what atlas.json and the index say")]


def test_a_large_layer_also_lies_there_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.atlas.build.WHOLE_TABLE_BYTES", 0)
    root = build_synthetic_atlas(str(tmp_path / "atlas"), layers={"conv_stem": (96, 66)}, methods=("vital",), seeds=1)
    head = root.read_json("head.json")
    assert (head["part_neurons"], head["layers"][0]["num_parts"]) == (16, 5)
    parts = [row for number in range(5) for row in read_rows(root, f"parts/conv_stem/{number:04d}.parquet")]
    assert parts == read_rows(root, STEM)
    assert validate(root) == []
    change_rows(root, lambda rows: rows[1].update(loss=7.0), "parts/conv_stem/0004.parquet")
    (fault,) = validate(root)
    assert fault == Fault(
        "parts/conv_stem/0004.parquet", "row 1 (conv_stem:65): ['loss'] differ from the layer's table"
    )


def test_an_atlas_from_before_there_were_heads_is_as_good(root: Root) -> None:
    """Its labels stand in the index, as text; one that lies is named."""
    without_head(root)
    assert validate(root) == []
    rows = read_rows(root, "index.parquet")
    rows[0]["top_labels"] = "zebra"
    types = column_types(root.read_bytes("index.parquet"), source="index.parquet")
    write_table(root, "index.parquet", rows, types)
    sign(root)
    (fault,) = validate(root)
    assert fault == Fault("index.parquet", "row 0 (conv_stem:0): ['top_labels'] differ from the layer's table")


def test_an_index_that_says_something_else_is_named(root: Root) -> None:
    change_rows(root, lambda rows: rows[3].update(status="ok", tile=7), "index.parquet")
    assert validate(root) == [
        Fault("index.parquet", "row 3 (conv_stem:3): ['status', 'tile'] differ from the layer's table")
    ]


@pytest.mark.parametrize(
    ("path", "schema", "change", "message"),
    [
        (STEM, LAYER_SCHEMA, {"loss": None}, "column 'loss' is missing, expected float32"),
        (STEM, LAYER_SCHEMA, {"unit": "int64"}, "column 'unit' is int64, expected int32"),
        (STEM, LAYER_SCHEMA, {"secret": "string"}, "column 'secret' is not in the schema"),
        ("index.parquet", INDEX_SCHEMA, {"tile": None}, "column 'tile' is missing, expected int32"),
    ],
)
def test_wrong_columns_are_named(root: Root, path: str, schema: dict, change: dict, message: str) -> None:
    schema = {name: kind for name, kind in (schema | change).items() if kind}
    rows = [{name: row.get(name) for name in schema} for row in read_rows(root, path)]
    write_table(root, path, rows, schema)
    sign(root)
    assert any(fault.path == path and message in fault.message for fault in validate(root))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable"),
        ("[]", "a list, expected an object"),
        ("[" * 100_000, "not readable"),
        ("{}", "'schema' is missing, expected str"),
        ('{"files": {}}', "'files' is dict, expected list"),
    ],
)
def test_a_broken_manifest_is_named(root: Root, text: str, message: str) -> None:
    root.write_text("atlas.json", text)
    faults = validate(root)
    assert {fault.path for fault in faults} == {"atlas.json"}
    assert any(message in fault.message for fault in faults)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "atlas/2"}, "schema 'atlas/2', expected 'atlas/1'"),
        ({"tile_size_px": 10**9}, "tile_size_px is 1000000000"),
        ({"tile_size_px": True}, "'tile_size_px' is bool"),
        (
            {"layers": [{"name": "../..", "num_units": 1, "num_neurons": 1, "is_classes": False, "file": "x"}]},
            "layers: ",
        ),
        ({"layers": [7]}, "layers[0]: a int, expected an object"),
        ({"methods": [["vital"]]}, "methods: "),
        ({"model": {}}, "model: 'name' is missing"),
        ({"counts": {"neurons": 5}}, "counts are"),
        ({"recipe": "other"}, "is not the recipe that atlas.json quotes"),
    ],
)
def test_a_manifest_that_is_not_of_the_contract_is_named(root: Root, changes: dict, message: str) -> None:
    sign(root, **changes)
    assert any(message in fault.message for fault in validate(root))


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
    secret.write_bytes(root.read_bytes(PICTURE))
    file = root.local_path / PICTURE
    file.unlink()
    file.symlink_to(secret)
    assert validate(root) == [Fault(PICTURE, "cannot be read: a link out of the folder, or not a plain file")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang_the_check(root: Root) -> None:
    file = root.local_path / PICTURE
    file.unlink()
    os.mkfifo(file)
    assert [fault.path for fault in validate(root)] == [PICTURE]


def test_an_image_bomb_is_refused_by_its_header(root: Root) -> None:
    bomb = encode_webp(np.zeros((4100, 4100, 3), np.uint8), lossless=True)
    assert len(bomb) < 200_000, "a small file with many pixels"
    root.write_bytes(PICTURE, bomb)
    sign(root)
    assert any(fault.path == PICTURE and "too-large" in fault.message for fault in validate(root))


def test_a_picture_of_another_format_is_a_fault(root: Root) -> None:
    root.write_bytes(PICTURE, b"\x89PNG\r\n\x1a\n" + bytes(100))
    sign(root)
    assert any(fault.path == PICTURE and "not a WebP file" in fault.message for fault in validate(root))


def test_a_fault_cannot_steer_the_terminal(root: Root) -> None:
    change_rows(root, lambda rows: rows[0].update(layer="\x1b[2J\x07", status="\x1b]0;x"))
    printed = [str(fault) for fault in validate(root)]
    assert printed
    assert all(line.isprintable() for line in printed)


def test_a_folder_that_is_neither_is_a_fault(tmp_path: Path) -> None:
    (fault,) = validate(tmp_path)
    assert "neither an atlas nor a site" in fault.message


def site_of(root: Root, tmp_path: Path) -> tuple[Root, str]:
    write_site(tmp_path / "site", [root])
    site = Root.open(str(tmp_path / "site"))
    return site, site.read_json("sites.json")["atlases"][0]["path"]


def test_damage_in_a_site_is_named_with_its_place(root: Root, tmp_path: Path) -> None:
    site, folder = site_of(root, tmp_path)
    flip_byte(site, f"{folder}/{PICTURE}")
    site.write_bytes(f"{folder}/notes.txt", b"not published by us")
    site.remove("index.html")
    site.write_bytes("atlases/synthetic/0123456789abcdef/atlas.json", b"{}")
    assert {fault.path for fault in validate(site)} == {
        f"{folder}/{PICTURE}",
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
