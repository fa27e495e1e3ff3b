"""The rows of an atlas, completed, checked and ordered, and the tables and counts that follow from them. Pure.

`build` and `validate` share this module, so that one expects what the other writes.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.atlas.format.fragments import Row, pack_lists
from pipeline.atlas.format.schema import (
    INDEX_SCHEMA,
    LAYER_SCHEMA,
    MAX_EXAMPLES,
    MAX_HISTOGRAM_BINS,
    MAX_TOP_CAPTION,
    PART_NEURONS,
    STATUSES,
    TOP_CAPTIONS,
    VISUALIZED_STATUSES,
    check_atlas_path,
)
from pipeline.atlas.format.sheets import Sheet, plan_sheets
from pipeline.data.captions import MAX_CAPTION_CHARACTERS
from pipeline.errors import UserError
from pipeline.neurons import Neuron, layer_file_name

PATH_FOLDERS = {"image_path": "images", "alpha_path": "images", "examples_path": "examples"}


@dataclass(frozen=True, kw_only=True)
class LayerRows:
    """One layer: its rows by unit, method (recipe order) and seed, and the sheets of its neurons."""

    name: str
    num_units: int
    is_classes: bool
    rows: tuple[Row, ...]
    sheets: tuple[Sheet, ...]

    @staticmethod
    def of(name: str, num_units: int, is_classes: bool, rows: Sequence[Row]) -> "LayerRows":
        """The layer with its sheets; `rows` are in order, so that the first row of a unit is its primary one."""
        primary: dict[int, Row] = {}
        for row in rows:
            primary.setdefault(row["unit"], row)
        sheets = tuple(plan_sheets(name, list(primary.values())))
        return LayerRows(name=name, num_units=num_units, is_classes=is_classes, rows=tuple(rows), sheets=sheets)

    @cached_property
    def methods_of(self) -> dict[int, set[str]]:
        """Unit → the methods of its rows."""
        methods: dict[int, set[str]] = {}
        for row in self.rows:
            methods.setdefault(row["unit"], set()).add(row["method"])
        return methods

    @property
    def primary_rows(self) -> list[Row]:
        """The rows that stand for their neurons, by unit."""
        return [row for sheet in self.sheets for row in sheet.rows]


def describe(row: Mapping[str, Any]) -> str:
    """A row in words, for messages."""
    return f"neuron {row['layer']}:{row['unit']} (method {row['method']}, seed {row['seed']})"


def published_row(row: Mapping[str, Any], *, model_name: str, extra: Mapping[str, str], keep_examples: bool) -> Row:
    """The row as the atlas has it: all columns, text and lists never null, numbers finite or null.

    Args:
        row: fragment joined with scores; absent columns count as null.
        model_name: for the neuron's id.
        extra: further score columns of this run.
        keep_examples: whether strips of dataset images are published, which the terms of most data sets do not allow.
    """
    published: Row = {}
    for name, kind in (LAYER_SCHEMA | dict(extra)).items():
        value = row.get(name)
        if kind == "string":
            value = "" if value is None else value
        elif kind.startswith("list<"):
            value = [] if value is None else value if isinstance(value, array) else list(value)
        elif isinstance(value, float | np.floating) and not math.isfinite(value):
            value = None
        published[name] = value
    pack_lists(published)  # all rows of a layer are in memory at once
    published["neuron_id"] = Neuron(model_name, row["layer"], row["unit"]).id
    if not keep_examples:
        published["examples_path"] = ""
    if not published["examples_path"]:
        published["num_examples"] = 0
    return published


def row_problems(
    row: Mapping[str, Any], *, layer: str, num_units: int, methods: Iterable[str], model_name: str
) -> Iterator[str]:
    """What is wrong with one published row, in words; nothing if it is sound."""
    if row["layer"] != layer:
        yield f"layer is {row['layer'][:200]!r}, expected {layer!r}"
    if not 0 <= row["unit"] < num_units:
        yield f"the layer has units 0 to {num_units - 1}"
    if row["neuron_id"] != Neuron(model_name, row["layer"], row["unit"]).id:
        yield f"neuron_id is {row['neuron_id'][:200]!r}"
    if row["method"] not in methods:
        yield f"method {row['method'][:80]!r} is none of {list(methods)}"
    if row["status"] not in STATUSES:
        yield f"status {row['status'][:80]!r} is none of {STATUSES}"
    elif row["status"] != "ok" and not row["status_reason"]:
        yield f"status {row['status']!r} without a status_reason"
    elif row["status"] in VISUALIZED_STATUSES and not row["image_path"]:
        yield f"status {row['status']!r} without a visualization"
    for column, folder in PATH_FOLDERS.items():
        if row[column]:
            try:
                check_atlas_path(row[column], folder=folder)
            except UserError as error:
                yield f"{column}: {error}"
                continue
            # Then no row of another layer can claim this image, and layers can be checked one by one.
            if not row[column].startswith(f"{folder}/{layer_file_name(layer)}/"):
                yield f"{column} {row[column]!r} is outside the layer's folder {folder}/{layer_file_name(layer)}/"
    if row["image_path"] and not (row["image_sha256"] and row["width_px"] and row["height_px"]):
        yield "a visualization needs image_sha256, width_px and height_px"
    percentile = row["activation_percentile"]
    if percentile is not None and not 0 <= percentile <= 100:
        yield f"activation_percentile {percentile} is outside 0–100"
    yield from _list_problems(row)
    if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):
        yield "a number is not finite; unknown values are null"


def _list_problems(row: Mapping[str, Any]) -> Iterator[str]:
    num_keys = len(row["reference_keys"])
    for column, allowed in (
        ("reference_activations", {num_keys}),
        ("reference_labels", {num_keys}),
        ("reference_captions", {0, min(num_keys, MAX_EXAMPLES)}),
        ("reference_positions", {0, 4 * num_keys}),  # none for classes
    ):
        if len(row[column]) not in allowed:
            yield f"{column} has {len(row[column])} entries for {num_keys} reference_keys"
    if any(len(caption) > MAX_CAPTION_CHARACTERS for caption in row["reference_captions"]):
        yield f"one of reference_captions has more than {MAX_CAPTION_CHARACTERS} characters"
    if len(row["histogram_counts"]) > MAX_HISTOGRAM_BINS:
        yield f"histogram_counts has {len(row['histogram_counts'])} bins, at most {MAX_HISTOGRAM_BINS}"


def index_rows(layer: LayerRows, extra: Iterable[str] = ()) -> list[Row]:
    """Rows of one layer in the index: the primary row of every neuron with its place on a sheet.

    Args:
        layer: one layer; index.parquet has the rows of all layers, in model order.
        extra: optional score columns of the index, `indexed_scores`.
    """
    names = [*INDEX_SCHEMA, *extra]
    return [
        {name: row[name] for name in names if name in row}
        | {"num_methods": len(layer.methods_of[row["unit"]]), "sheet_path": sheet.path, "tile": tile}
        for sheet in layer.sheets
        for tile, row in enumerate(sheet.rows)
    ]


def part_rows(layer: LayerRows) -> list[list[Row]]:
    """The rows of one layer, PART_NEURONS neurons at a time."""
    units = dict.fromkeys(row["unit"] for row in layer.rows)
    part_of = {unit: place // PART_NEURONS for place, unit in enumerate(units)}
    parts: list[list[Row]] = [[] for _ in range(-(-len(units) // PART_NEURONS))]
    for row in layer.rows:
        parts[part_of[row["unit"]]].append(row)
    return parts


def index_scores(rows: Sequence[Row], schema: Mapping[str, str]) -> list[str]:
    """The score columns of an index that have a value somewhere, in its order: what the gallery can be sorted by."""
    names = [name for name, kind in schema.items() if kind == "float32"]
    return [name for name in names if any(row.get(name) is not None for row in rows)]


def label_rows(layer: LayerRows) -> list[Row]:
    """Rows of one layer in labels.parquet: for every neuron the distinct labels of its top-activating references.

    Of each facet, method and seed the first MAX_EXAMPLES references count, because a label far down their list says
    little about the neuron. Of captions the first TOP_CAPTIONS count, MAX_EXAMPLES per neuron.
    """
    labels: dict[int, dict[str, None]] = {}
    captions: dict[int, dict[str, None]] = {}
    for row in layer.rows:
        of_unit = labels.setdefault(row["unit"], {})
        of_unit.update(dict.fromkeys(label for label in row["reference_labels"][:MAX_EXAMPLES] if label))
        short = (shortened(caption) for caption in row["reference_captions"][:TOP_CAPTIONS])
        captions.setdefault(row["unit"], {}).update(dict.fromkeys(filter(None, short)))
    return [
        {
            "layer": layer.name,
            "unit": unit,
            "top_labels": list(found),
            "top_captions": list(captions[unit])[:MAX_EXAMPLES],
        }
        for unit, found in labels.items()
    ]


def shortened(caption: str) -> str:
    """A caption in at most MAX_TOP_CAPTION characters: whole words, unless the first is longer than that."""
    if len(caption) <= MAX_TOP_CAPTION:
        return caption
    head = caption[: MAX_TOP_CAPTION + 1]
    return head.rpartition(" ")[0].rstrip() or head[:MAX_TOP_CAPTION]


def has_captions(layer: LayerRows) -> bool:
    """Whether a dataset image of a layer has a caption."""
    return any(row["reference_captions"] for row in layer.rows)


def count_statuses(primary_rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """{"neurons": …, "ok": …, …} of primary rows."""
    counts = {"neurons": 0, **dict.fromkeys(STATUSES, 0)}
    for row in primary_rows:
        counts["neurons"] += 1
        counts[row["status"]] += 1
    return counts
