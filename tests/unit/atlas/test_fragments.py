"""Fragments: committed whole, read back the same however the batches were cut."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.atlas.format.fragments import (
    RunRows,
    committed_neurons,
    committed_scores,
    join_rows,
    pack_lists,
    read_fragments,
    read_scores,
    read_statuses,
    row_key,
    write_fragment,
    write_scores,
)
from pipeline.atlas.format.schema import FRAGMENT_SCHEMA, LAYER_SCHEMA, SCORE_SCHEMA
from pipeline.io.parquet import table_bytes
from pipeline.io.root import Root


def make_row(unit: int, **values: Any) -> dict[str, Any]:
    return {"layer": "conv1", "unit": unit, "method": "vital", "seed": 0, "status": "ok", **values}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(str(tmp_path))


def test_fragments_and_scores_make_up_a_whole_row() -> None:
    assert set(FRAGMENT_SCHEMA) | set(SCORE_SCHEMA) | {"reference_captions"} == set(LAYER_SCHEMA)


def test_rows_come_back_ordered_and_their_keys_are_committed(root: Root) -> None:
    write_fragment(root, "conv1-vital-s0-00002-1-ab12", [make_row(2, loss=0.5, reference_keys=["a"])])
    write_fragment(root, "conv1-vital-s0-00000-2-cd34", [make_row(1), make_row(0, status="failed")])
    rows = read_fragments(root)
    assert [row["unit"] for row in rows] == [0, 1, 2]
    assert rows[2]["loss"] == 0.5
    assert rows[2]["reference_keys"] == ["a"]
    assert committed_neurons(root) == {("conv1", unit, "vital", 0) for unit in range(3)}
    assert committed_scores(root) == set()


def test_nothing_is_committed_in_an_empty_root(root: Root) -> None:
    assert committed_neurons(root) == set()
    assert read_fragments(root) == read_scores(root) == []


@given(st.permutations(range(12)), st.lists(st.integers(1, 11), max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_cut_into_batches_does_not_matter(order: list[int], cuts: list[int]) -> None:
    root = Root.open(f"memory://fragments-{hash((tuple(order), tuple(cuts)))}")
    root.remove("run")
    edges = [0, *sorted(set(cuts)), 12]
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        write_fragment(root, f"batch-{number}", [make_row(unit) for unit in order[start:end]])
    assert [row["unit"] for row in read_fragments(root)] == list(range(12))


@pytest.mark.parametrize("first", ["a", "b"])
def test_of_two_rows_of_a_neuron_the_one_that_did_not_fail_counts(root: Root, first: str) -> None:
    second = {"a": "b", "b": "a"}[first]
    write_fragment(root, first, [make_row(0, status="failed", status_reason="out of memory")])
    write_fragment(root, second, [make_row(0, loss=0.25)])
    assert read_statuses(root) == {("conv1", 0, "vital", 0): "ok"}
    (row,) = read_fragments(root)
    assert (row["status"], row["loss"]) == ("ok", 0.25)


def test_scores_fill_in_and_evaluator_only_what_is_ok() -> None:
    fragments = [
        make_row(0, activation=1.0, loss=0.5),
        make_row(1, status="failed", status_reason="out of memory"),
        make_row(2),
    ]
    scores = [
        make_row(0, status="weak", status_reason="low", activation=None, activation_percentile=12.0, kid=0.5),
        make_row(1, status="ok", status_reason=""),
        make_row(7, activation_percentile=99.0),
    ]
    joined = join_rows(fragments, scores)
    assert [row_key(row)[1] for row in joined] == [0, 1, 2]
    assert joined[0] == make_row(
        0, status="weak", status_reason="low", activation=1.0, loss=0.5, activation_percentile=12.0, kid=0.5
    )
    assert (joined[1]["status"], joined[1]["status_reason"]) == ("failed", "out of memory")
    assert joined[2] == fragments[2]


def test_scores_take_further_float_columns(root: Root) -> None:
    write_scores(root, "batch", [make_row(0, kid_lite1=0.5), make_row(1)])
    assert [row["kid_lite1"] for row in read_scores(root)] == [0.5, None]
    with pytest.raises(ValueError, match="score column 'KID Lite'"):
        write_scores(root, "batch", [make_row(0, **{"KID Lite": 0.5})])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([make_row(0), make_row(0)], "occurs twice"),
        ([make_row(0, status="fine")], "'fine' is none of"),
        ([{**make_row(0), "unit": None}], r"lacks \['unit'\]"),
        ([make_row(0, los=0.5)], 'did you mean "loss"'),
    ],
)
def test_an_unsound_batch_is_not_committed(root: Root, rows: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_fragment(root, "batch", rows)
    assert root.walk() == []


def test_a_layer_is_read_from_the_files_that_have_rows_of_it(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fragment(root, "a", [make_row(1), make_row(0) | {"layer": "fc"}])
    write_fragment(root, "b", [make_row(1, status="failed"), make_row(0)])
    write_fragment(root, "c", [make_row(2) | {"layer": "fc"}])
    write_scores(root, "a", [make_row(1, status="weak", status_reason="why", activation=2.0)])
    rows = RunRows(root, lambda layer, found: [row | {"label": f"{layer}!"} for row in found])
    assert list(rows) == ["conv1", "fc"]
    whole = [
        row | {"label": f"{row['layer']}!"}
        for row in sorted(join_rows(read_fragments(root), read_scores(root)), key=row_key)
    ]
    assert [*rows["conv1"], *rows["fc"]] == whole
    read = []
    read_bytes = Root.read_bytes
    monkeypatch.setattr(Root, "read_bytes", lambda self, path: read.append(path) or read_bytes(self, path))
    assert [row["unit"] for row in rows["fc"]] == [0, 2]
    assert sorted(read) == ["run/fragments/a.parquet", "run/fragments/c.parquet"]


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "a b"])
def test_a_batch_name_cannot_leave_its_folder(root: Root, name: str) -> None:
    with pytest.raises(ValueError, match="batch name"):
        write_fragment(root, name, [make_row(0)])


def test_packed_rows_make_the_same_table() -> None:
    lists = {"reference_activations": [3.1, 0.2], "reference_labels": ["a", ""], "histogram_counts": [4, 0]}
    packed = pack_lists(make_row(1, **lists) | {"reference_keys": None})
    assert packed["reference_activations"].itemsize == packed["histogram_counts"].itemsize == 4
    assert packed["reference_keys"] is None
    assert table_bytes([packed], LAYER_SCHEMA) == table_bytes([make_row(1, **lists)], LAYER_SCHEMA)
