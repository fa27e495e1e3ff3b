"""Fragments and scores: one small Parquet file per batch, written whole by the worker that made it.

A fragment is the commit of its batch: it is written after the batch's images, atomically, under a name that depends
only on the batch's members. A batch that ran twice (a lost worker, a resumed run) leaves one file, and
`todo = requested − committed` needs nothing but the files.
"""

import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.atlas.format.schema import (
    FRAGMENT_SCHEMA,
    KEY_COLUMNS,
    LAYER_SCHEMA,
    SCORE_SCHEMA,
    STATUSES,
    extra_score_columns,
)
from pipeline.errors import UserError
from pipeline.io.parquet import parse_table, write_table
from pipeline.io.prefetch import read_ahead
from pipeline.io.root import Root

FRAGMENTS_FOLDER: Final = "run/fragments"
SCORES_FOLDER: Final = "run/scores"

Key = tuple[str, int, str, int]  # layer, unit, method, seed
Row = dict[str, Any]

_STATUS_COLUMNS = (*KEY_COLUMNS, "status")
_LISTS = {name: kind for name, kind in LAYER_SCHEMA.items() if kind.startswith("list<")}
_ARRAY_TYPES = {"list<int32>": "i", "list<float32>": "f"}
_BATCH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


def row_key(row: Mapping[str, Any]) -> Key:
    """(layer, unit, method, seed) of a row."""
    return row["layer"], row["unit"], row["method"], row["seed"]


def write_fragment(root: Root, batch_name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Commit the rows of one batch of visualizations (columns of FRAGMENT_SCHEMA; a missing column is null).

    Returns the path below `root` that is the commit.

    Raises:
        UserError: a bad batch name, status or value, a column that the schema does not know, no rows, or a
            neuron twice.
    """
    _check_rows(batch_name, rows)
    path = _path(FRAGMENTS_FOLDER, batch_name)
    write_table(root, path, list(rows), FRAGMENT_SCHEMA)
    return path


def write_scores(root: Root, batch_name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Commit the scores of one batch: SCORE_SCHEMA and any other float columns (of held-out models, say).

    Returns the path below `root` that is the commit.
    """
    _check_rows(batch_name, rows)
    extra = extra_score_columns(name for row in rows for name in row)
    path = _path(SCORES_FOLDER, batch_name)
    write_table(root, path, list(rows), SCORE_SCHEMA | extra)
    return path


def read_fragments(root: Root) -> list[Row]:
    """Rows of all fragments, one per (layer, unit, method, seed), ordered by it, whatever the batches were."""
    return _ordered(_best_rows(root, _files(root, FRAGMENTS_FOLDER)))


def read_scores(root: Root) -> list[Row]:
    """Rows of all scores, one per (layer, unit, method, seed), ordered by it."""
    return _ordered(_best_rows(root, _files(root, SCORES_FOLDER)))


def read_statuses(root: Root) -> dict[Key, str]:
    """Status of every committed visualization, without reading the other columns."""
    return {key: row["status"] for key, row in _statuses(root, FRAGMENTS_FOLDER).items()}


def committed_neurons(root: Root) -> set[Key]:
    """Keys of all committed visualizations, failed ones included."""
    return set(read_statuses(root))


def committed_scores(root: Root) -> set[Key]:
    """Keys of all committed scores."""
    return set(_statuses(root, SCORES_FOLDER))


def rows_by_layer(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows grouped by their layers, as `build_atlas` takes them."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["layer"], []).append(row)
    return found


def join_rows(fragments: Iterable[Mapping[str, Any]], scores: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Fragments with their scores filled in, in the order of the fragments.

    A score that is not null replaces the fragment's value. Only an "ok" visualization can change its status ("weak",
    "dead"); a failed or skipped one keeps it. Scores without a fragment are left out.
    """
    by_key = {row_key(score): score for score in scores}
    joined = []
    for fragment in fragments:
        row = dict(fragment)
        for name, value in by_key.get(row_key(fragment), {}).items():
            if name in ("status", "status_reason") and fragment["status"] != "ok":
                continue
            if value is not None or name not in row:
                row[name] = value
        joined.append(row)
    return joined


class RunRows(Mapping[str, list[Row]]):
    """Layer → its rows, fragments joined with scores, ordered by unit, method and seed.

    A layer is read anew on each access and not kept, so a loop over the layers holds one of them at a time.

    Args:
        root: the atlas folder.
        finish: (layer, rows) → the requested rows, completed.
    """

    def __init__(self, root: Root, finish: Callable[[str, list[Row]], list[Row]] = lambda _, rows: rows) -> None:
        self._root, self._finish = root, finish
        self._fragments = _files_by_layer(root, FRAGMENTS_FOLDER)
        self._scores = _files_by_layer(root, SCORES_FOLDER)

    def __getitem__(self, layer: str) -> list[Row]:
        fragments = _best_rows(self._root, self._fragments[layer], layer=layer)
        scores = _best_rows(self._root, self._scores.get(layer, []), layer=layer)
        return self._finish(layer, join_rows(_ordered(fragments), scores.values()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._fragments)

    def __len__(self) -> int:
        return len(self._fragments)


def pack_lists(row: Row) -> Row:
    """Shrink the lists of a row, in place: numbers become arrays of their type, equal texts are held once."""
    for name, kind in _LISTS.items():
        value = row.get(name)
        if value is None or isinstance(value, array):
            continue
        row[name] = array(_ARRAY_TYPES[kind], value) if kind in _ARRAY_TYPES else [sys.intern(text) for text in value]
    return row


def _check_rows(batch_name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        raise UserError(f"batch {batch_name!r}: no rows; an empty batch must not be committed")
    seen = set()
    for row in rows:
        absent = [name for name in KEY_COLUMNS if row.get(name) is None]
        if absent:
            raise UserError(f"batch {batch_name!r}: a row lacks {absent}")
        if row.get("status") is not None and row["status"] not in STATUSES:
            raise UserError(f"batch {batch_name!r}: status {row['status']!r} is none of {STATUSES}")
        if row_key(row) in seen:
            raise UserError(f"batch {batch_name!r}: {row_key(row)} occurs twice")
        seen.add(row_key(row))


def _path(folder: str, batch_name: str) -> str:
    if not _BATCH_NAME.fullmatch(batch_name):
        raise UserError(f"batch name {batch_name!r}: expected letters, digits, '_', '.' and '-'")
    return f"{folder}/{batch_name}.parquet"


def _files(root: Root, folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in root.list(folder) if name.endswith(".parquet")]


def _ordered(rows: Mapping[Key, Row]) -> list[Row]:
    return [rows[key] for key in sorted(rows)]


def _statuses(root: Root, folder: str) -> dict[Key, Row]:
    return _best_rows(root, _files(root, folder), columns=_STATUS_COLUMNS)


def _best_rows(
    root: Root, paths: Sequence[str], *, layer: str | None = None, columns: Sequence[str] | None = None
) -> dict[Key, Row]:
    """One row per key, of all layers or of one, whatever was written first.

    A neuron may be in two files (its batch failed, then it ran alone): a row that did not fail wins, then the one of
    the first file name.
    """
    best: dict[Key, Row] = {}
    for table in _tables(root, paths, columns):
        for values in zip(*table.values(), strict=True):
            row = dict(zip(table, values, strict=True))
            if layer is not None and row["layer"] != layer:
                continue
            key = row_key(row)
            if key not in best or (best[key]["status"] == "failed" and row["status"] != "failed"):
                best[key] = pack_lists(row)
    return best


def _tables(root: Root, paths: Sequence[str], columns: Sequence[str] | None) -> Iterator[dict[str, list[Any]]]:
    for path, data in read_ahead(root.read_bytes, paths):
        yield parse_table(data, source=f"{root.url}/{path}", columns=columns)


def _files_by_layer(root: Root, folder: str) -> dict[str, list[str]]:
    """Layer → the files with rows of it, in the order of their names. A batch may have several layers."""
    found: dict[str, list[str]] = {}
    paths = _files(root, folder)
    for path, table in zip(paths, _tables(root, paths, ["layer"]), strict=True):
        for layer in dict.fromkeys(table["layer"]):
            found.setdefault(layer, []).append(path)
    return found
