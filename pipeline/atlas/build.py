"""Build the atlas: joined rows and pictures in, Parquet tables, contact sheets and atlas.json out.

First everything is planned and checked without touching a file; then the old atlas.json goes, the parts are
written, and the new atlas.json, written last, is the commit: it lists every published file with its size and
sha256. head.json, its part that a browser needs, is written just before. Pictures are decoded one sheet at a time.
Equal rows give equal bytes, except `provenance.created` (SOURCE_DATE_EPOCH sets it) and the column `seconds`.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from pipeline.atlas.fragments import Key, Row, row_key
from pipeline.atlas.manifest import (
    MODEL_KEYS,
    PROVENANCE_KEYS,
    Manifest,
    creation_date,
    file_entry,
    make_head,
    make_manifest,
    require_keys,
)
from pipeline.atlas.map_sheets import MAP_FOLDER
from pipeline.atlas.neuron_map import MAP_TABLE
from pipeline.atlas.rows import (
    LayerRows,
    describe,
    index_rows,
    index_scores,
    label_rows,
    part_rows,
    published_row,
    row_problems,
)
from pipeline.atlas.schema import (
    HEAD_PATH,
    INDEX_PATH,
    INDEX_SCHEMA,
    KEY_COLUMNS,
    LABELS_PATH,
    LABELS_SCHEMA,
    LAYER_SCHEMA,
    SHEET_QUALITY,
    WHOLE_TABLE_BYTES,
    extra_score_columns,
    index_encodings,
    index_path,
    indexed_scores,
    layer_path,
    part_path,
)
from pipeline.atlas.scores import SCORES_TABLE, SCORES_TEXT
from pipeline.atlas.sheets import Sheet, draw_sheet, picture_tile, status_tile
from pipeline.atlas.similar import SIMILAR_FOLDER, SimilarNeurons
from pipeline.images import BadImage, decode_webp, encode_webp
from pipeline.neurons import nearest
from pipeline.recipe import Recipe
from pipeline.storage import Root
from pipeline.tables import table_bytes

_READERS: Final = 8  # files read at once: hides the latency of object stores
_FILES_IN_FLIGHT: Final = 64  # encoded files held at once: one sheet's worth


def build_atlas(
    root: Root,
    *,
    recipe: Recipe,
    rows: Iterable[Mapping[str, Any]],
    model: Mapping[str, Any],
    provenance: Mapping[str, Any],
    layers: Mapping[str, int] | Sequence[tuple[str, int]],
    scores: Mapping[str, bytes] | None = None,
    similar: SimilarNeurons | None = None,
) -> Manifest:
    """Write the atlas of `rows` into `root`, where their pictures already lie; return what atlas.json says.

    Args:
        root: the atlas folder (the recipe's output.root).
        recipe: published as recipe.toml; gives name, title, license, order of the methods, and whether
            examples go out.
        rows: fragments joined with scores (`fragments.join_rows`), in any order.
        model: MODEL_KEYS.
        provenance: PROVENANCE_KEYS, and `judges` of an evaluation; `created` and the method's citation are added here.
        layers: layer name → number of units in the model, in model order; a layer without rows is left out.
        scores: SCORES_TABLE and SCORES_TEXT with their bytes, of an evaluation of these rows.
        similar: of the neurons of these rows.

    Raises:
        ValueError: rows that contradict each other, the layers or the pictures; the message names the neuron.
    """
    require_keys(model, MODEL_KEYS, "model")
    require_keys(provenance, PROVENANCE_KEYS, "provenance")
    created = creation_date(os.environ.get("SOURCE_DATE_EPOCH"))
    rows = list(rows)
    extra = extra_score_columns(name for row in rows for name in row)
    plans = plan_layers(rows, recipe=recipe, model=model, layers=dict(layers), extra=extra)
    del rows  # the plans hold what is published of them

    root.remove("atlas.json")
    files: list[dict[str, Any]] = []

    def publish(path: str, data: bytes) -> None:
        root.write_bytes(path, data)
        files.append(file_entry(path, data))

    index_schema = INDEX_SCHEMA | indexed_scores(extra)
    encodings = index_encodings(index_schema)
    index: list[Row] = []
    labels: list[Row] = []
    for plan in plans:
        for sheet in plan.sheets:
            entries, picture = _paint(root, sheet)
            files.extend(entries)
            publish(sheet.path, encode_webp(picture, quality=SHEET_QUALITY))
        files.extend(_other_entries(root, plan))
        table = table_bytes(plan.rows, LAYER_SCHEMA | extra)
        publish(layer_path(plan.name), table)
        for number, rows_of_sheet in enumerate(part_rows(plan) if len(table) > WHOLE_TABLE_BYTES else ()):
            publish(part_path(plan.name, number), table_bytes(rows_of_sheet, LAYER_SCHEMA | extra))
        part = index_rows(plan, index_schema)
        publish(index_path(plan.name), table_bytes(part, index_schema, encodings=encodings))
        index += part
        labels += label_rows(plan)
    publish(INDEX_PATH, table_bytes(index, index_schema, encodings=encodings))
    publish(LABELS_PATH, table_bytes(labels, LABELS_SCHEMA))
    for name, data in (scores or {}).items():
        publish(name, data)
    for name, data in similar.files(root, plans) if similar is not None else ():
        publish(name, data)
    publish("recipe.toml", recipe.to_toml().encode())
    _remove_stale(root, {entry["path"] for entry in files})

    atlas = make_manifest(
        recipe=recipe,
        layers=plans,
        model=model,
        provenance=provenance,
        created=created,
        extra=extra,
        files=files,
        similar=similar.note() if similar is not None else None,
    )
    head = json.dumps(make_head(atlas, index_scores(index, index_schema)), ensure_ascii=False, sort_keys=True).encode()
    root.write_bytes(HEAD_PATH, head)
    atlas["files"] = sorted([*atlas["files"], file_entry(HEAD_PATH, head)], key=lambda entry: entry["path"])
    root.write_json("atlas.json", atlas)
    return atlas


def plan_layers(
    rows: Sequence[Mapping[str, Any]],
    *,
    recipe: Recipe,
    model: Mapping[str, Any],
    layers: Mapping[str, int],
    extra: Mapping[str, str],
) -> list[LayerRows]:
    """Complete, check and order the rows (pure): layers in model order, rows by unit, method and seed.

    Raises:
        ValueError: a row is unsound, occurs twice, or claims another row's picture.
    """
    methods = {method: position for position, method in enumerate(recipe.visualize.methods)}
    model_name = str(model["name"])
    keep_examples = recipe.atlas.publish_examples == "thumbnails"
    by_layer: dict[str, list[Row]] = {name: [] for name in layers}
    keys: set[Key] = set()
    owners: dict[str, Row] = {}
    for given in rows:
        require_keys(given, (*KEY_COLUMNS, "status"), "row")
        layer = given["layer"]
        if layer not in layers:
            raise ValueError(f"{describe(given)}: layer {layer!r} is not in the model{nearest(layer, layers)}")
        row = published_row(given, model_name=model_name, extra=extra, keep_examples=keep_examples)
        for problem in row_problems(row, layer=layer, num_units=layers[layer], methods=methods, model_name=model_name):
            raise ValueError(f"{describe(row)}: {problem}")
        if row_key(row) in keys:
            raise ValueError(f"{describe(row)} occurs twice")
        keys.add(row_key(row))
        for path in filter(None, (row["image_path"], row["alpha_path"])):
            if path in owners:
                raise ValueError(f"{describe(row)}: {path} is also that of {describe(owners[path])}")
            owners[path] = row
        by_layer[layer].append(row)
    for members in by_layer.values():
        members.sort(key=lambda row: (row["unit"], methods[row["method"]], row["seed"]))
    return [
        LayerRows.of(name, layers[name], name == model["classifier_layer"], members)
        for name, members in by_layer.items()
        if members
    ]


def _read_files(root: Root, paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) in order, a few read ahead; never more than _FILES_IN_FLIGHT held."""
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(paths), _FILES_IN_FLIGHT):
            some = paths[start : start + _FILES_IN_FLIGHT]
            try:
                yield from zip(some, pool.map(root.read_bytes, some), strict=True)
            except FileNotFoundError as error:
                raise ValueError(
                    f"{root.url}: a picture that a fragment names is missing ({error}); remove that "
                    "fragment from run/fragments and run `neuron-atlas visualize` again"
                ) from error


def _paint(root: Root, sheet: Sheet) -> tuple[list[dict[str, Any]], np.ndarray]:
    """File entries of the sheet's pictures, and the sheet [896, 896, 3]."""
    pictures = dict(_read_files(root, [row["image_path"] for row in sheet.rows if row["image_path"]]))
    tiles, entries = [], []
    for row in sheet.rows:
        path = row["image_path"]
        if not path:
            tiles.append(status_tile(row["status"]))
            continue
        entries.append(file_entry(path, pictures[path]))
        _check_sha256(row, entries[-1])
        try:
            picture = decode_webp(pictures[path])
        except BadImage as error:
            raise ValueError(f"{describe(row)}: {path} cannot be decoded: {error}") from error
        if picture.shape[:2] != (row["height_px"], row["width_px"]):
            raise ValueError(
                f"{describe(row)}: {path} has pixels {list(picture.shape)}, "
                f"its row says {row['width_px']} × {row['height_px']}"
            )
        tiles.append(picture_tile(picture))
    return entries, draw_sheet(tiles)


def _other_entries(root: Root, plan: LayerRows) -> Iterator[dict[str, Any]]:
    """Entries of the layer's files that stand on no sheet: further methods and seeds, masks, examples."""
    painted = {row["image_path"] for row in plan.primary_rows}
    named = {row[column] for row in plan.rows for column in ("image_path", "alpha_path", "examples_path")}
    rows = {row["image_path"]: row for row in plan.rows}
    for path, data in _read_files(root, sorted(named - painted - {""})):
        entry = file_entry(path, data)
        if path in rows:
            _check_sha256(rows[path], entry)
        yield entry


def _check_sha256(row: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    if entry["sha256"] != row["image_sha256"]:
        raise ValueError(f"{describe(row)}: {entry['path']} is not the picture of its fragment (image_sha256 differs)")


def _remove_stale(root: Root, listed: set[str]) -> None:
    """Drop tables and sheets of an earlier build; pictures are the work of hours and stay."""
    for folder in ("layers", "parts", "index", "sheets", SIMILAR_FOLDER, MAP_FOLDER):
        for name in root.walk(folder):
            if f"{folder}/{name}" not in listed:
                root.remove(f"{folder}/{name}")
    for name in {SCORES_TABLE, SCORES_TEXT, MAP_TABLE} - listed:
        root.remove(name)
