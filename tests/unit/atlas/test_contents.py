"""What a built atlas holds: complete tables with the columns of the contract, a head, and a list of every file."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from pipeline.atlas.format.file_list import build_id
from pipeline.atlas.format.rows import shortened
from pipeline.atlas.format.schema import INDEX_SCHEMA, LAYER_SCHEMA, STATUSES, image_path
from pipeline.atlas.validation.validate import validate
from pipeline.data.captions import one_line
from pipeline.io.parquet import column_types, read_rows
from pipeline.io.root import Root
from tests.support import synthetic_atlas
from tests.support.synthetic_atlas import HELD_OUT_COLUMN, build_synthetic_atlas, status_of


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return build_synthetic_atlas(str(tmp_path_factory.mktemp("atlas")))


def test_the_tables_have_the_columns_of_the_contract(atlas: Root) -> None:
    types = column_types(atlas.read_bytes("index.parquet"), source="index")
    assert types == INDEX_SCHEMA | {HELD_OUT_COLUMN: "float32"}
    for layer in synthetic_atlas.LAYERS:
        types = column_types(atlas.read_bytes(f"layers/{layer}.parquet"), source=layer)
        assert types == LAYER_SCHEMA | {HELD_OUT_COLUMN: "float32"}


def test_pandas_reads_every_table(atlas: Root) -> None:
    tables = [path for path in atlas.walk() if path.endswith(".parquet") and not path.startswith("run/")]
    assert len(tables) == 2 + 2 * len(synthetic_atlas.LAYERS)  # the index, whole and by layer; labels; layers
    for path in tables:
        frame = pd.read_parquet(atlas.local_path / path)
        assert len(frame) > 0
        text = frame.select_dtypes("str")
        assert not text.isna().to_numpy().any(), "text is never null"


def test_every_neuron_method_and_seed_has_its_row_and_reason(atlas: Root) -> None:
    seen = set()
    for layer, (_, num_neurons) in synthetic_atlas.LAYERS.items():
        rows = read_rows(atlas, f"layers/{layer}.parquet")
        keys = [(row["unit"], row["method"], row["seed"]) for row in rows]
        assert keys == [
            (unit, method, seed) for unit in range(num_neurons) for method in ("vital", "maco") for seed in (0, 1)
        ]
        for row in rows:
            assert row["status"] == status_of(row["unit"])
            assert (row["status"] == "ok") == (row["status_reason"] == "")
            assert (row["status"] in ("ok", "weak")) == (row["image_path"] != "")
            assert row["neuron_id"] == f"{synthetic_atlas.MODEL_NAME}/{layer}/{row['unit']}"
            seen.add(row["status"])
    assert seen == set(STATUSES)


def test_the_index_has_the_primary_row_and_the_place_on_the_sheet(atlas: Root) -> None:
    index = read_rows(atlas, "index.parquet")
    expected = [(layer, unit) for layer, (_, num) in synthetic_atlas.LAYERS.items() for unit in range(num)]
    assert [(row["layer"], row["unit"]) for row in index] == expected
    for row in index:
        assert row["method"] == "vital"
        assert (row["sheet_path"], row["tile"]) == (
            f"sheets/{row['layer']}/{row['unit'] // 64:04d}.webp",
            row["unit"] % 64,
        )
        if row["image_path"]:
            assert row["image_path"] == image_path(row["layer"], row["unit"], "vital", 0)
    for layer in synthetic_atlas.LAYERS:
        assert read_rows(atlas, f"index/{layer}.parquet") == [row for row in index if row["layer"] == layer]


def test_the_labels_of_the_top_images_stand_beside_the_index(atlas: Root) -> None:
    labels, index = read_rows(atlas, "labels.parquet"), read_rows(atlas, "index.parquet")
    assert [(row["layer"], row["unit"]) for row in labels] == [(row["layer"], row["unit"]) for row in index]
    assert labels[0]["top_labels"] == ["tench, Tinca tinca", "goldfish", "great white shark"]
    assert labels[4]["top_labels"] == []  # dead: no references


def test_captions_of_the_top_images_are_kept_whole_and_searched_by_their_beginnings(tmp_path: Path) -> None:
    atlas = build_synthetic_atlas(str(tmp_path), layers={"conv_stem": (16, 12)}, seeds=1, captions=True)
    (row, *_) = read_rows(atlas, "layers/conv_stem.parquet")
    assert row["reference_captions"] == [one_line(text) for text in synthetic_atlas.CAPTIONS[:6]]
    labels = read_rows(atlas, "labels.parquet")
    assert labels[0]["top_captions"] == [
        "A heron waits at the edge of a pond",
        "Two bicycles lean against a brick wall",
        "Steam rises from a bowl of noodles",
        "Rain on the window of a night train, seen from the last seat of the last car, with the lamps of a village "
        "that nobody on",
    ]
    assert labels[4]["top_captions"] == []  # dead: no references
    assert atlas.read_json("head.json")["has_captions"] is True
    assert validate(atlas) == []


def test_an_atlas_without_captions_does_not_speak_of_them(atlas: Root) -> None:
    assert atlas.read_json("head.json")["has_captions"] is False
    assert not any(row["top_captions"] for row in read_rows(atlas, "labels.parquet"))


@pytest.mark.parametrize(
    ("text", "short"),
    [("x" * 120, "x" * 120), ("x" * 121, "x" * 120), ("a " * 60 + "b", "a " * 59 + "a"), ("word " + "x" * 200, "word")],
)
def test_shortened_captions_end_with_a_word(text: str, short: str) -> None:
    assert shortened(text) == short


def test_the_head_is_the_manifest_without_its_files(atlas: Root) -> None:
    head, manifest = atlas.read_json("head.json"), atlas.read_json("atlas.json")
    assert {key: head[key] for key in head.keys() & manifest.keys()} == {
        key: value for key, value in manifest.items() if key != "files"
    }
    assert head["sizes"]["layers/conv_stem.parquet"] == atlas.size_bytes("layers/conv_stem.parquet")
    assert "two_afc" not in head["scores"]
    assert set(head["scores"]) >= {"activation_percentile", "accuracy_top1", "loss"}
    assert atlas.size_bytes("head.json") < atlas.size_bytes("atlas.json") / 5


def test_the_manifest_lists_every_published_file_with_its_hash(atlas: Root) -> None:
    manifest = atlas.read_json("atlas.json")
    listed = {entry["path"]: entry for entry in manifest["files"]}
    lying = {path for path in atlas.walk() if not path.startswith("run/")} - {"atlas.json"}
    assert set(listed) == lying
    for path, entry in listed.items():
        data = atlas.read_bytes(path)
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert manifest["build_id"] == build_id(manifest["files"])
    assert manifest["counts"]["neurons"] == sum(manifest["counts"][status] for status in STATUSES) == 106
    assert [(layer["name"], layer["num_units"], layer["num_neurons"]) for layer in manifest["layers"]] == [
        (name, *numbers) for name, numbers in synthetic_atlas.LAYERS.items()
    ]
    assert [layer["is_classes"] for layer in manifest["layers"]] == [False, False, True]
    assert HELD_OUT_COLUMN in manifest["columns"]
    assert manifest["recipe"] == atlas.read_text("recipe.toml")
