"""Validation of the tables and the manifest: rows, columns, heads and lists that contradict each other are named."""

from pathlib import Path

import pytest

from pipeline.atlas.format.file_list import file_entry
from pipeline.atlas.format.schema import HEAD_PATH, INDEX_SCHEMA, LAYER_SCHEMA
from pipeline.atlas.validation.validate import Fault, validate
from pipeline.io.parquet import read_rows, write_table
from pipeline.io.root import Root
from tests.support.damaged_atlas import STEM, change_rows, copied, sign
from tests.support.synthetic_atlas import build_synthetic_atlas

LAYER = {"num_units": 1, "num_neurons": 1, "num_parts": 0, "is_classes": False}


@pytest.fixture
def root(good_atlas: Path, tmp_path: Path) -> Root:
    return copied(good_atlas, tmp_path)


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
    assert Fault("atlas.json", "has_captions must be true, as the tables say") in validate(root)


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
    monkeypatch.setattr("pipeline.atlas.build.build.WHOLE_TABLE_BYTES", 0)
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
        ("{}", "schema 'None', expected 'atlas/2'"),
        ('{"schema": "atlas/2", "files": {}}', "'files' is dict, expected list"),
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
        ({"schema": "atlas/1"}, "schema 'atlas/1', expected 'atlas/2'; build the atlas again"),
        ({"tile_size_px": 10**9}, "tile_size_px is 1000000000"),
        ({"tile_size_px": True}, "'tile_size_px' is bool"),
        (
            {"layers": [LAYER | {"name": "../..", "file": "x"}]},
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


def test_a_fault_cannot_steer_the_terminal(root: Root) -> None:
    change_rows(root, lambda rows: rows[0].update(layer="\x1b[2J\x07", status="\x1b]0;x"))
    printed = [str(fault) for fault in validate(root)]
    assert printed
    assert all(line.isprintable() for line in printed)
