"""Build the atlas: joined rows and visualizations in, Parquet tables, contact sheets and atlas.json out.

Everything is planned and checked before a file is touched. Then the old atlas.json is removed, the files are written,
and the new atlas.json, written last, is the commit: it lists every published file with its size and sha256. Rows are
read twice, to check and to write them, one layer at a time; of the other layers the list of files stays in memory and
their part of the index as Parquet. Equal rows give equal bytes, except `provenance.created` (SOURCE_DATE_EPOCH sets it)
and the column `seconds`.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipeline.atlas.build.planning import Planner, check_rows
from pipeline.atlas.format.file_list import FileList, file_entry
from pipeline.atlas.format.fragments import Row
from pipeline.atlas.format.manifest import (
    MODEL_KEYS,
    PROVENANCE_KEYS,
    LayerSummary,
    creation_date,
    make_head,
    make_manifest,
    manifest_bytes,
    require_keys,
)
from pipeline.atlas.format.rows import (
    LayerRows,
    describe,
    index_rows,
    index_scores,
    label_rows,
    part_rows,
)
from pipeline.atlas.format.schema import (
    HEAD_PATH,
    INDEX_PATH,
    INDEX_SCHEMA,
    LABELS_PATH,
    LABELS_SCHEMA,
    LAYER_SCHEMA,
    MAP_FOLDER,
    MAP_TABLE,
    NEIGHBORS_FOLDER,
    SHEET_QUALITY,
    WHOLE_TABLE_BYTES,
    index_encodings,
    index_path,
    indexed_scores,
    layer_path,
    part_path,
)
from pipeline.atlas.format.scores import SCORES_TABLE, SCORES_TEXT
from pipeline.atlas.format.sheets import draw_sheet, image_tile, status_tile
from pipeline.atlas.neighbors.find import NeighborTables
from pipeline.errors import UserError
from pipeline.io.images import BadImage, decode_webp, encode_webp
from pipeline.io.parquet import join_tables, table_bytes
from pipeline.io.prefetch import ahead, read_ahead
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe


def build_atlas(
    root: Root,
    *,
    recipe: Recipe,
    rows: Mapping[str, Iterable[Mapping[str, Any]]],
    model: Mapping[str, Any],
    provenance: Mapping[str, Any],
    layers: Mapping[str, int],
    scores: Mapping[str, bytes] | None = None,
    neighbors: NeighborTables | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the atlas of `rows` into `root`, where their visualizations already lie.

    Args:
        root: the atlas folder (the recipe's output.root).
        recipe: published as recipe.toml; gives name, title, license, the order of the methods, and whether dataset
            images are published.
        rows: layer → its rows, fragments joined with scores, in any order; read twice, a layer at a time
            (`fragments.RunRows`).
        model: MODEL_KEYS.
        provenance: PROVENANCE_KEYS, and `evaluators` of an evaluation; `created` and the method's citation are added.
        layers: layer name → number of units in the model, in model order; a layer without rows is left out.
        scores: SCORES_TABLE and SCORES_TEXT with their bytes, of an evaluation of these rows.
        neighbors: of the neurons of these rows.
        advance: called with the number of neurons finished since the last call.

    Raises:
        UserError: rows contradict each other, the layers or the images; the message names the neuron.
    """
    require_keys(model, MODEL_KEYS, "model")
    require_keys(provenance, PROVENANCE_KEYS, "provenance")
    created = creation_date(os.environ.get("SOURCE_DATE_EPOCH"))
    planner = Planner(recipe=recipe, model=model, layers=layers)
    extra = check_rows(planner, rows, neighbors)

    root.remove("atlas.json")
    writer = _Writer(root, extra, advance)
    for name in layers:
        plan = planner.plan(name, rows.get(name, ()), extra)
        if plan is not None:
            writer.write_layer(plan)
        del plan  # before the rows of the next one come
    writer.write_whole_tables()
    for path, data in (scores or {}).items():
        writer.publish(path, data)
    for path, data in neighbors.files(root) if neighbors is not None else ():
        writer.publish(path, data)
    writer.publish("recipe.toml", recipe.to_toml().encode())
    _remove_stale(root, writer.files)

    atlas = make_manifest(
        recipe=recipe,
        layers=writer.summaries,
        model=model,
        provenance=provenance,
        created=created,
        extra=extra,
        files=writer.files,
        neighbors=neighbors.note() if neighbors is not None else None,
    )
    head = make_head(atlas, writer.index_scores)
    writer.publish(HEAD_PATH, json.dumps(head, ensure_ascii=False, sort_keys=True).encode())
    root.write_bytes("atlas.json", manifest_bytes(atlas))


class _Writer:
    """Writes the files of one layer after the other, then the tables of all layers.

    Attributes:
        files: all published files.
        summaries: of the written layers.
    """

    def __init__(self, root: Root, extra: Mapping[str, str], advance: Callable[[int], None]) -> None:
        self.files = FileList()
        self.summaries: list[LayerSummary] = []
        self._root, self._advance = root, advance
        self._schema = LAYER_SCHEMA | dict(extra)
        self._index_schema = INDEX_SCHEMA | indexed_scores(extra)
        self._encodings = index_encodings(self._index_schema)
        self._scored: set[str] = set()
        self._index: list[tuple[str, bytes]] = []  # (layer, its part of the index as a Parquet file)
        self._labels: list[tuple[str, bytes]] = []

    @property
    def index_scores(self) -> list[str]:
        """The score columns of the index that have a value somewhere."""
        return [name for name in self._index_schema if name in self._scored]

    def publish(self, path: str, data: bytes) -> None:
        """Write one file."""
        self._root.write_bytes(path, data)
        self.files.add(file_entry(path, data))

    def write_layer(self, plan: LayerRows) -> None:
        """Write the sheets and tables of a layer."""
        painted = ahead(_packed, _painted(self._root, plan, self.files), threads=1, most=2)
        for sheet, (_, data) in zip(plan.sheets, painted, strict=True):
            self.publish(sheet.path, data)
            self._advance(len(sheet.rows))
        for entry in _other_entries(self._root, plan):
            self.files.add(entry)
        table = table_bytes(plan.rows, self._schema)
        self.publish(layer_path(plan.name), table)
        parts = part_rows(plan) if len(table) > WHOLE_TABLE_BYTES else []
        for number, rows_of_sheet in enumerate(parts):
            self.publish(part_path(plan.name, number), table_bytes(rows_of_sheet, self._schema))
        index = index_rows(plan, self._index_schema)
        self._scored.update(index_scores(index, self._index_schema))
        self._index.append((plan.name, table_bytes(index, self._index_schema, encodings=self._encodings)))
        self._labels.append((plan.name, table_bytes(label_rows(plan), LABELS_SCHEMA)))
        self.publish(index_path(plan.name), self._index[-1][1])
        self.summaries.append(LayerSummary.of(plan, len(parts)))

    def write_whole_tables(self) -> None:
        """Write the tables of all layers."""
        self.publish(INDEX_PATH, join_tables(self._index, self._index_schema, encodings=self._encodings))
        # The same dataset images activate neurons of many layers, so one group stores each caption once.
        # Labels are short, and a page decodes groups without a pause.
        captioned = any(layer.has_captions for layer in self.summaries)
        self.publish(LABELS_PATH, join_tables(self._labels, LABELS_SCHEMA, one_group=captioned))


def _packed(sheet: np.ndarray) -> bytes:
    return encode_webp(sheet, quality=SHEET_QUALITY)


def _painted(root: Root, plan: LayerRows, files: FileList) -> Iterator[np.ndarray]:
    """Every sheet [896, 896, 3] of a layer; the images on it are added to `files`."""
    visualized = [row for row in plan.primary_rows if row["image_path"]]
    with _explaining_missing_images(root):
        visualizations = read_ahead(lambda row: _read_tile(root, row), visualized)
        for sheet in plan.sheets:
            tiles = []
            for row in sheet.rows:
                if not row["image_path"]:
                    tiles.append(status_tile(row["status"]))
                    continue
                _, (entry, tile) = next(visualizations)
                files.add(entry)
                tiles.append(tile)
            yield draw_sheet(tiles)


def _read_tile(root: Root, row: Row) -> tuple[dict[str, Any], np.ndarray]:
    """The file entry of a row's image, and the image as a tile [112, 112, 3]."""
    path = row["image_path"]
    data = root.read_bytes(path)
    entry = file_entry(path, data)
    _check_sha256(row, entry)
    try:
        visualization = decode_webp(data)
    except BadImage as error:
        raise UserError(f"{describe(row)}: {path} cannot be decoded: {error}") from error
    if visualization.shape[:2] != (row["height_px"], row["width_px"]):
        raise UserError(
            f"{describe(row)}: {path} has pixels {list(visualization.shape)}, "
            f"its row says {row['width_px']} × {row['height_px']}"
        )
    return entry, image_tile(visualization)


def _other_entries(root: Root, plan: LayerRows) -> Iterator[dict[str, Any]]:
    """Entries of the layer's images that are on no sheet: other methods and seeds, masks, examples."""
    painted = {row["image_path"] for row in plan.primary_rows}
    named = {row[column] for row in plan.rows for column in ("image_path", "alpha_path", "examples_path")}
    rows = {row["image_path"]: row for row in plan.rows}
    with _explaining_missing_images(root):
        paths = sorted(named - painted - {""})
        for path, entry in read_ahead(lambda path: file_entry(path, root.read_bytes(path)), paths):
            if path in rows:
                _check_sha256(rows[path], entry)
            yield entry


@contextmanager
def _explaining_missing_images(root: Root) -> Iterator[None]:
    """Name the remedy if an image is missing."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{root.url}: a visualization that a fragment names is missing ({error}); remove that "
            "fragment from run/fragments and run `neuron-atlas visualize` again"
        ) from error


def _check_sha256(row: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    if entry["sha256"] != row["image_sha256"]:
        raise UserError(f"{describe(row)}: {entry['path']} is not the image of its fragment (image_sha256 differs)")


def _remove_stale(root: Root, listed: FileList) -> None:
    """Remove tables and sheets of an earlier build; images took hours to make and stay."""
    for folder in ("layers", "parts", "index", "sheets", NEIGHBORS_FOLDER, MAP_FOLDER):
        for name in root.walk(folder):
            if f"{folder}/{name}" not in listed:
                root.remove(f"{folder}/{name}")
    for name in (SCORES_TABLE, SCORES_TEXT, MAP_TABLE):
        if name not in listed:
            root.remove(name)
