"""Building the atlas: complete tables, equal bytes for equal rows, atlas.json last, nothing dropped."""

import hashlib
import tracemalloc
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pipeline.atlas.build as build_module
from pipeline.atlas.build import build_atlas
from pipeline.atlas.file_list import build_id
from pipeline.atlas.fragments import RunRows, join_rows, read_fragments, read_scores, rows_by_layer
from pipeline.atlas.reading import READERS
from pipeline.atlas.rows import shortened
from pipeline.atlas.schema import INDEX_SCHEMA, LAYER_SCHEMA, STATUSES, check_atlas_path, image_path
from pipeline.atlas.validate import validate
from pipeline.captions import one_line
from pipeline.storage import Root
from pipeline.tables import column_types, read_rows
from tests import synthetic_atlas
from tests.synthetic_atlas import HELD_OUT_COLUMN, build, build_synthetic_atlas, status_of, write_run

SMALL = {"layers": {"conv_stem": (16, 12), "classifier": (30, 8)}, "methods": ("vital", "maco"), "seeds": 2}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return build_synthetic_atlas(str(tmp_path_factory.mktemp("atlas")))


@pytest.fixture
def fixed_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def published(root: Root) -> dict[str, bytes]:
    """Every published byte, by path."""
    listed = [entry["path"] for entry in root.read_json("atlas.json")["files"]]
    return {path: root.read_bytes(path) for path in ["atlas.json", *listed]}


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


def test_the_labels_of_the_exemplars_stand_beside_the_index(atlas: Root) -> None:
    labels, index = read_rows(atlas, "labels.parquet"), read_rows(atlas, "index.parquet")
    assert [(row["layer"], row["unit"]) for row in labels] == [(row["layer"], row["unit"]) for row in index]
    assert labels[0]["top_labels"] == ["tench, Tinca tinca", "goldfish", "great white shark"]
    assert labels[4]["top_labels"] == []  # dead: no references


def test_captions_of_the_exemplars_are_kept_whole_and_searched_by_their_beginnings(tmp_path: Path) -> None:
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
    assert "has_captions" not in atlas.read_json("head.json")
    assert not any(row["top_captions"] for row in read_rows(atlas, "labels.parquet"))


@pytest.mark.parametrize(
    ("text", "short"),
    [("x" * 120, "x" * 120), ("x" * 121, "x" * 120), ("a " * 60 + "b", "a " * 59 + "a"), ("word " + "x" * 200, "word")],
)
def test_shortened_captions_end_with_a_word(text: str, short: str) -> None:
    assert shortened(text) == short


def test_the_head_is_the_manifest_without_its_files(atlas: Root) -> None:
    head, manifest = atlas.read_json("head.json"), atlas.read_json("atlas.json")
    assert {key: head[key] for key in head.keys() & manifest.keys() if key != "schema"} == {
        key: value for key, value in manifest.items() if key not in ("schema", "files")
    }
    assert head["schema"] == "head/1"
    assert head["sizes"]["layers/conv_stem.parquet"] == atlas.size_bytes("layers/conv_stem.parquet")
    assert "mis" not in head["scores"]
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


def test_workers_and_order_do_not_change_a_byte(tmp_path: Path, fixed_date: None) -> None:
    atlases = []
    for rows_per_batch in (5, 64):
        root = Root.open(str(tmp_path / f"by-{rows_per_batch}"))
        write_run(root, rows_per_batch, **SMALL)
        build(root, **SMALL)
        atlases.append(published(root))
    assert atlases[0] == atlases[1]
    assert b'"created": "2023-11-14T22:13:20Z"' in atlases[0]["atlas.json"]


def test_a_remote_root_gives_the_same_bytes(tmp_path: Path, fixed_date: None) -> None:
    assert published(build_synthetic_atlas("memory://atlas-build", **SMALL)) == published(
        build_synthetic_atlas(str(tmp_path), **SMALL)
    )


@pytest.mark.parametrize("num_writes", [0, 1, 3, 5, 6])
def test_a_build_that_is_killed_commits_nothing_and_resumes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed_date: None, num_writes: int
) -> None:
    root = build_synthetic_atlas(str(tmp_path), **SMALL)
    unbroken = published(root)
    write_bytes, written = Root.write_bytes, []

    def die_later(self: Root, path: str, data: bytes) -> None:
        if len(written) == num_writes:
            raise KeyboardInterrupt
        written.append(path)
        write_bytes(self, path, data)

    monkeypatch.setattr(Root, "write_bytes", die_later)
    with pytest.raises(KeyboardInterrupt):
        build(root, **SMALL)
    assert not root.exists("atlas.json"), "atlas.json is the commit"
    monkeypatch.setattr(Root, "write_bytes", write_bytes)
    build(root, **SMALL)
    assert published(root) == unbroken


def test_few_pictures_are_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root.open(str(tmp_path))
    write_run(root, layers={"blocks.2.1": (96, 70)}, methods=("vital",), seeds=1)
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0
    decode = build_module.decode_webp

    class Counted(np.ndarray):
        __hash__ = object.__hash__  # type: ignore[assignment]

    def counting(data: bytes) -> np.ndarray:
        nonlocal most
        picture = decode(data).view(Counted)
        alive.add(picture)
        most = max(most, len(alive))
        return picture

    monkeypatch.setattr(build_module, "decode_webp", counting)
    build(root, layers={"blocks.2.1": (96, 70)}, methods=("vital",), seeds=1)
    assert 1 <= most <= READERS + 1 < 70


class DrawnRows(Mapping[str, list[dict[str, Any]]]):
    """Layers of 64 units without pictures, each with 40 references of its own, of 2 kB: 5 MB a layer."""

    def __init__(self, num_layers: int) -> None:
        self.names = [f"blocks.{number}" for number in range(num_layers)]

    def __getitem__(self, layer: str) -> list[dict[str, Any]]:
        same = {"layer": layer, "status": "failed", "status_reason": "made so", "method": "vital", "seed": 0}
        texts = {
            (unit, name): [f"{layer} {unit} {name} {i}".ljust(1000, ".") for i in range(40)]
            for unit in range(64)
            for name in ("keys", "labels")
        }
        return [
            same
            | {"unit": unit, "reference_keys": texts[unit, "keys"], "reference_labels": texts[unit, "labels"]}
            | {"reference_activations": [0.5] * 40}
            for unit in range(64)
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def peak_bytes(root: Root, num_layers: int) -> int:
    """What a build of so many drawn layers holds at most."""
    manifest = build_synthetic_atlas("memory://atlas-for-its-model", **SMALL).read_json("atlas.json")
    rows = DrawnRows(num_layers)
    tracemalloc.start()
    build_atlas(
        root,
        recipe=synthetic_atlas.recipe(methods=("vital",), seeds=1),
        rows=rows,
        model=manifest["model"],
        provenance=manifest["provenance"],
        layers=dict.fromkeys(rows, 64),
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    peak_bytes(Root.open(str(tmp_path / "first")), 1)  # what is loaded and kept at first use
    few, many = (peak_bytes(Root.open(str(tmp_path / str(number))), number) for number in (2, 6))
    # How far the threads are with packing sheets of 2.4 MB makes a difference of 4 MB; the rows of four layers have 20.
    assert many < few + 8_000_000, f"{few} bytes of two layers, {many} of six"


def test_stale_tables_and_sheets_of_an_earlier_build_go(tmp_path: Path) -> None:
    root = build_synthetic_atlas(str(tmp_path), **SMALL)
    root.write_bytes("layers/gone.parquet", b"old")
    root.write_bytes("sheets/gone/0000.webp", b"old")
    build(root, **SMALL)
    assert not root.exists("layers/gone.parquet")
    assert not root.exists("sheets/gone/0000.webp")


@pytest.mark.parametrize("setting", ["none", "keys"])
def test_example_pictures_are_opt_in_but_keys_are_always_there(tmp_path: Path, setting: str) -> None:
    root = build_synthetic_atlas(str(tmp_path), publish_examples=setting, **SMALL)
    assert not [entry for entry in root.read_json("atlas.json")["files"] if entry["path"].startswith("examples")]
    row = read_rows(root, "layers/conv_stem.parquet")[0]
    assert (row["examples_path"], row["num_examples"]) == ("", 0)
    assert len(row["reference_keys"]) == len(row["reference_activations"]) == synthetic_atlas.NUM_REFERENCES


def rebuild_with(root: Root, change: Any) -> None:
    """Build again with `change` applied to the first row, which is conv_stem:0 by vital with seed 0."""
    rows = join_rows(read_fragments(root), read_scores(root))
    first = next(row for row in rows if (row["layer"], row["unit"], row["method"]) == ("conv_stem", 0, "vital"))
    change(first)
    manifest = root.read_json("atlas.json")
    build_atlas(
        root,
        recipe=synthetic_atlas.recipe(),
        rows=rows_by_layer(rows),
        model=manifest["model"],
        provenance=manifest["provenance"],
        layers={"conv_stem": 16, "classifier": 30},
    )


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    root = build_synthetic_atlas(str(tmp_path), **SMALL)
    rebuild_with(root, lambda row: row.update(loss=float("nan"), activation_ratio=float("inf")))
    row = read_rows(root, "layers/conv_stem.parquet")[0]
    assert row["loss"] is None
    assert row["activation_ratio"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "conv_sten"}, 'did you mean "conv_stem"'),
        ({"unit": 16}, "units 0 to 15"),
        ({"unit": -1}, "units 0 to 15"),
        ({"unit": 1}, "occurs twice"),
        ({"method": "pixel"}, "method 'pixel' is none of"),
        ({"status": "weak"}, "'weak' without a status_reason"),
        ({"status": "fine"}, "status 'fine' is none of"),
        ({"image_path": ""}, "without a picture"),
        ({"image_path": "../../secret.webp"}, "image_path: path"),
        ({"image_path": "sheets/conv_stem/0000.webp"}, "below images/"),
        ({"image_path": "images/classifier/00000-vital-s0.webp"}, "outside the layer's folder images/conv_stem/"),
        ({"alpha_path": "/etc/passwd"}, "alpha_path: path"),
        ({"image_path": "images/conv_stem/00000-none-s0.webp"}, "a picture that a fragment names is missing"),
        ({"image_sha256": "0" * 64}, "image_sha256 differs"),
        ({"width_px": 65}, "its row says 65"),
        ({"activation_percentile": 101.0}, "outside 0–100"),
        ({"reference_labels": ["one"]}, "reference_labels has 1 entries"),
        ({"reference_captions": ["one"]}, "reference_captions has 1 entries"),
        ({"reference_captions": ["x" * 1001] * 6}, "one of reference_captions has more than 1000 characters"),
        ({"histogram_counts": [1] * 65}, "65 bins"),
        ({"Score": 1.0}, "score column 'Score'"),
    ],
)
def test_rows_that_contradict_anything_are_named(tmp_path: Path, change: dict, message: str) -> None:
    root = build_synthetic_atlas(str(tmp_path), **SMALL | {"methods": ("vital",), "seeds": 1})
    with pytest.raises(ValueError, match=message):
        rebuild_with(root, lambda row: row.update(change))


def test_neighbors_of_other_neurons_are_refused(tmp_path: Path) -> None:
    root = Root.open(str(tmp_path))
    write_run(root, **SMALL)
    others = synthetic_atlas.similar_neurons({"conv_stem": (16, 11), "classifier": (30, 8)})
    manifest = build_synthetic_atlas("memory://atlas-for-its-model", **SMALL).read_json("atlas.json")
    with pytest.raises(ValueError, match="layer 'conv_stem': neighbors were sought for other neurons"):
        build_atlas(
            root,
            recipe=synthetic_atlas.recipe(),
            rows=RunRows(root),
            model=manifest["model"],
            provenance=manifest["provenance"],
            layers={"conv_stem": 16, "classifier": 30},
            similar=others,
        )


def test_a_refused_build_leaves_the_earlier_atlas_alone(tmp_path: Path) -> None:
    root = build_synthetic_atlas(str(tmp_path), **SMALL)
    before = published(root)
    with pytest.raises(ValueError, match="units 0 to 15"):
        rebuild_with(root, lambda row: row.update(unit=99))
    assert published(root) == before


def test_a_broken_source_date_epoch_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ValueError, match="SOURCE_DATE_EPOCH='yesterday'"):
        build_synthetic_atlas(str(tmp_path), **SMALL)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/.hidden",
        "a\\b",
        "a/b\0",
        "s3://b/k",
        "-x",
        "ü",
        "a" * 600,
        7,
        None,
    ],
)
def test_only_plain_paths_pass(path: object) -> None:
    with pytest.raises(ValueError, match="expected a plain relative path"):
        check_atlas_path(path)
