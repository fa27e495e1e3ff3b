"""Building the atlas: equal bytes for equal rows, atlas.json last, rows that contradict anything refused."""

import shutil
import tracemalloc
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline.atlas.build.build as build_module
from pipeline.atlas.build.build import build_atlas
from pipeline.atlas.format.fragments import RunRows, join_rows, read_fragments, read_scores, rows_by_layer
from pipeline.atlas.format.schema import check_atlas_path
from pipeline.io.parquet import read_rows
from pipeline.io.prefetch import READERS
from pipeline.io.root import Root
from tests.support import synthetic_atlas
from tests.support.synthetic_atlas import build, build_synthetic_atlas, write_run

SMALL = {"layers": {"conv_stem": (16, 12), "classifier": (30, 8)}, "methods": ("vital", "maco"), "seeds": 2}
SINGLE = SMALL | {"methods": ("vital",), "seeds": 1}


@pytest.fixture
def fixed_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def published(root: Root) -> dict[str, bytes]:
    """Every published byte, by path."""
    listed = [entry["path"] for entry in root.read_json("atlas.json")["files"]]
    return {path: root.read_bytes(path) for path in ["atlas.json", *listed]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas of one method and one seed, for tests to copy."""
    return build_synthetic_atlas(str(tmp_path_factory.mktemp("built") / "atlas"), **SINGLE).local_path


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Root:
    shutil.copytree(built, tmp_path / "copy")
    return Root.open(str(tmp_path / "copy"))


def test_batches_and_storage_do_not_change_a_byte(tmp_path: Path, fixed_date: None) -> None:
    atlases = []
    for url, rows_per_batch in ((str(tmp_path / "a"), 5), (str(tmp_path / "b"), 64), ("memory://atlas-build", 16)):
        root = Root.open(url)
        write_run(root, rows_per_batch, **SMALL)
        build(root, **SMALL)
        atlases.append(published(root))
    assert atlases[0] == atlases[1] == atlases[2]
    assert b'"created": "2023-11-14T22:13:20Z"' in atlases[0]["atlas.json"]


@pytest.mark.parametrize("num_writes", [0, 3, 6])
def test_a_build_that_is_killed_commits_nothing_and_resumes_to_the_same(
    root: Root, monkeypatch: pytest.MonkeyPatch, fixed_date: None, num_writes: int
) -> None:
    build(root, **SINGLE)
    unbroken = published(root)
    write_bytes, written = Root.write_bytes, []

    def die_later(self: Root, path: str, data: bytes) -> None:
        if len(written) == num_writes:
            raise KeyboardInterrupt
        written.append(path)
        write_bytes(self, path, data)

    monkeypatch.setattr(Root, "write_bytes", die_later)
    with pytest.raises(KeyboardInterrupt):
        build(root, **SINGLE)
    assert not root.exists("atlas.json"), "atlas.json is the commit"
    monkeypatch.setattr(Root, "write_bytes", write_bytes)
    build(root, **SINGLE)
    assert published(root) == unbroken


def test_few_visualizations_are_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root.open(str(tmp_path))
    write_run(root, layers={"blocks.2.1": (96, 70)}, methods=("vital",), seeds=1)
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0
    decode = build_module.decode_webp

    class Counted(np.ndarray):
        __hash__ = object.__hash__  # type: ignore[assignment]

    def counting(data: bytes) -> np.ndarray:
        nonlocal most
        visualization = decode(data).view(Counted)
        alive.add(visualization)
        most = max(most, len(alive))
        return visualization

    monkeypatch.setattr(build_module, "decode_webp", counting)
    build(root, layers={"blocks.2.1": (96, 70)}, methods=("vital",), seeds=1)
    assert 1 <= most <= READERS + 1 < 70


class DrawnRows(Mapping[str, list[dict[str, Any]]]):
    """Layers of 64 units without visualizations, each with 40 references of its own, of 2 kB: 5 MB a layer."""

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


def peak_bytes(root: Root, num_layers: int, manifest: dict[str, Any]) -> int:
    """The peak of the memory of a build of so many drawn layers, by the model of another atlas."""
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


def test_memory_does_not_grow_with_the_number_of_layers(tmp_path: Path, root: Root) -> None:
    manifest = root.read_json("atlas.json")
    few, many = (peak_bytes(Root.open(str(tmp_path / str(number))), number, manifest) for number in (2, 6))
    # How far the threads are with packing sheets of 2.4 MB makes a difference of 4 MB; the rows of four layers have 20.
    assert many < few + 8_000_000, f"{few} bytes of two layers, {many} of six"


def test_stale_tables_and_sheets_of_an_earlier_build_go(root: Root) -> None:
    root.write_bytes("layers/gone.parquet", b"old")
    root.write_bytes("sheets/gone/0000.webp", b"old")
    build(root, **SINGLE)
    assert not root.exists("layers/gone.parquet")
    assert not root.exists("sheets/gone/0000.webp")


@pytest.mark.parametrize("setting", ["none", "keys"])
def test_dataset_images_are_opt_in_but_keys_are_always_there(root: Root, setting: str) -> None:
    build(root, publish_examples=setting, **SINGLE)
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


def test_numbers_that_are_not_finite_become_null(root: Root) -> None:
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
        ({"image_path": ""}, "without a visualization"),
        ({"image_path": "../../secret.webp"}, "image_path: path"),
        ({"image_path": "sheets/conv_stem/0000.webp"}, "below images/"),
        ({"image_path": "images/classifier/00000-vital-s0.webp"}, "outside the layer's folder images/conv_stem/"),
        ({"alpha_path": "/etc/passwd"}, "alpha_path: path"),
        ({"image_path": "images/conv_stem/00000-none-s0.webp"}, "a visualization that a fragment names is missing"),
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
def test_rows_that_contradict_anything_are_named(root: Root, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rebuild_with(root, lambda row: row.update(change))


def test_neighbors_of_other_neurons_are_refused(root: Root) -> None:
    others = synthetic_atlas.nearest_neighbors({"conv_stem": (16, 11), "classifier": (30, 8)})
    manifest = root.read_json("atlas.json")
    with pytest.raises(ValueError, match="layer 'conv_stem': the neighbors are of other neurons"):
        build_atlas(
            root,
            recipe=synthetic_atlas.recipe(),
            rows=RunRows(root),
            model=manifest["model"],
            provenance=manifest["provenance"],
            layers={"conv_stem": 16, "classifier": 30},
            neighbors=others,
        )


def test_a_refused_build_leaves_the_earlier_atlas_alone(root: Root) -> None:
    before = published(root)
    with pytest.raises(ValueError, match="units 0 to 15"):
        rebuild_with(root, lambda row: row.update(unit=99))
    assert published(root) == before


def test_a_broken_source_date_epoch_is_an_error(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ValueError, match="SOURCE_DATE_EPOCH='yesterday'"):
        build(root, **SINGLE)


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
