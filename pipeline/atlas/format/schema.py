"""What an atlas folder holds: columns, statuses, sizes and paths, in one place.

Types are plain words ("string", "int32", "float32", "list<string>"…), which `pipeline.io.parquet` turns into Parquet
types, so this module needs no pyarrow.

Legend: a *row* is one neuron × method × seed; the *primary* row of a neuron is the one of the recipe's first
method and the lowest seed: it stands for the neuron in the index and on the contact sheets.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from pipeline.errors import UserError
from pipeline.neurons import layer_file_name, layer_unit_name

SCHEMA_VERSION: Final = "atlas/2"
SITE_SCHEMA_VERSION: Final = "site/1"

HEAD_PATH: Final = "head.json"  # what the viewer reads first: atlas.json without its list of files
INDEX_PATH: Final = "index.parquet"
LABELS_PATH: Final = "labels.parquet"
MAP_TABLE: Final = "map.parquet"
MAP_FOLDER: Final = "map"
NEIGHBORS_FOLDER: Final = "neighbors"
# The page of a neuron reads its layer's table. A table above this size is also stored in parts of so many neurons: with
# fifty references per neuron, the table of a layer of 2,000 units has 1.9 MB, which a phone would wait for.
WHOLE_TABLE_BYTES: Final = 256 << 10
PART_NEURONS: Final = 16

Status = Literal["ok", "weak", "dead", "failed", "skipped"]
STATUSES: Final[tuple[str, ...]] = get_args(Status)
VISUALIZED_STATUSES: Final = ("ok", "weak")  # these rows always have a visualization; the others may

# Sheets of 896 px stay far below the 8,192 px that some browsers allow for one image.
TILE_SIZE_PX: Final = 112
SHEET_COLUMNS: Final = 8
SHEET_ROWS: Final = 8
SHEET_QUALITY: Final = 75
EXAMPLE_TILE_PX: Final = 112
MAX_EXAMPLES: Final = 16  # tiles in one example strip: 1,792 px wide
MAX_HISTOGRAM_BINS: Final = 64
# A row has the captions of its first MAX_EXAMPLES references, because no more dataset images are shown. The search box
# gets fewer and shorter ones, because it fetches them for all neurons at once.
TOP_CAPTIONS: Final = 4  # per row, those of the top-activating images
MAX_TOP_CAPTION: Final = 120  # characters of each

KEY_COLUMNS: Final = ("layer", "unit", "method", "seed")

# One row per neuron × method × seed, ordered by unit, method (recipe order), seed.
LAYER_SCHEMA: Final[dict[str, str]] = {
    "neuron_id": "string",  # MODEL/LAYER/UNIT
    "layer": "string",
    "unit": "int32",
    "label": "string",  # name of a class, a concept direction or a combination; "" for other intermediate neurons
    "method": "string",
    "seed": "int32",  # index of the seed, 0, 1, …; its facet is seed mod num_facets
    "facet": "int32",  # which cluster of the neuron's references the visualization shows, 0 is the top-activating
    "num_facets": "int32",
    "status": "string",  # one of STATUSES
    "status_reason": "string",  # "" only for ok
    "image_path": "string",  # relative to the atlas folder, "" without a visualization
    "image_sha256": "string",
    "alpha_path": "string",  # attribution mask (RGBA), "" without one
    "width_px": "int32",
    "height_px": "int32",
    "steps": "int32",
    "seconds": "float32",  # the only column that differs between equal runs
    "loss": "float32",
    "activation": "float32",  # of the published visualization
    "activation_percentile": "float32",  # 0–100
    "activation_ratio": "float32",
    "accuracy_top1": "float32",  # 0 or 1, null for intermediate neurons
    "accuracy_top5": "float32",
    "predicted_label": "string",
    "max_activation": "float32",  # over the data set
    "mean_activation": "float32",
    "histogram_counts": "list<int32>",  # per-image activations, at most MAX_HISTOGRAM_BINS bins
    "histogram_low": "float32",  # lower edge of the first bin
    "histogram_high": "float32",  # upper edge of the last bin
    "reference_keys": "list<string>",
    "reference_activations": "list<float32>",
    "reference_labels": "list<string>",  # class name or "" per reference
    "reference_captions": "list<string>",  # of the first MAX_EXAMPLES references, "" without one; [] if none has one
    "reference_positions": "list<float32>",  # x0, y0, x1, y1 each, in 0–1 of the square crop; [] for classes
    "reference_source": "string",  # label, label+top_logit, top_logit, top_activation, top_relevance, folder or keys
    "examples_path": "string",  # strip of EXAMPLE_TILE_PX tiles in reference order, "" if not published
    "num_examples": "int32",
    "num_references": "int32",
    "num_duplicates": "int32",  # near-duplicates of the references that were left out
    "relevance": "string",
    "alignment": "string",
    "preset": "string",
    "parameterization": "string",
    "precision": "string",  # of the network's arithmetic: float32 or bfloat16
    "recipe_fingerprint": "string",
    "seed_value": "string",  # the 63-bit seed in decimal: too large for a JavaScript number
}

_FOUND_BY_BUILD: Final = ("reference_captions",)
# What `evaluate` adds or decides; `visualize` knows everything else.
_SCORES: Final = (
    *("activation", "activation_percentile", "activation_ratio", "accuracy_top1", "accuracy_top5"),
    *("predicted_label", "max_activation", "mean_activation"),
    *("histogram_counts", "histogram_low", "histogram_high"),
)
FRAGMENT_SCHEMA: Final[dict[str, str]] = {
    name: kind
    for name, kind in LAYER_SCHEMA.items()
    if name == "activation" or name not in (*_SCORES, *_FOUND_BY_BUILD)
}
SCORE_SCHEMA: Final[dict[str, str]] = {
    name: LAYER_SCHEMA[name] for name in (*KEY_COLUMNS, "status", "status_reason", *_SCORES)
}

# One row per neuron, ordered by layer (model order), then unit.
INDEX_SCHEMA: Final[dict[str, str]] = {
    "layer": "string",
    "unit": "int32",
    "status": "string",
    "label": "string",
    "method": "string",
    "num_methods": "int32",  # by how many there are rows
    "activation_percentile": "float32",
    "activation_ratio": "float32",
    "accuracy_top1": "float32",
    "accuracy_top5": "float32",
    "loss": "float32",
    "image_path": "string",
    "sheet_path": "string",
    "tile": "int32",  # position on the sheet, row-major
}

# These halve the index of 100,000 neurons with seven scores (benchmarks/big_atlas.py).
_INDEX_ENCODINGS: Final = {"image_path": "DELTA_BYTE_ARRAY", "unit": "DELTA_BINARY_PACKED"}
_FEW_VALUES: Final = ("accuracy_top1", "accuracy_top5")  # 0, 1 or null: a dictionary is shorter


def index_encodings(schema: Mapping[str, str]) -> dict[str, str]:
    """Column → Parquet encoding of an index with these columns."""
    scores = [name for name, kind in schema.items() if kind == "float32" and not name.startswith(_FEW_VALUES)]
    return _INDEX_ENCODINGS | dict.fromkeys(scores, "BYTE_STREAM_SPLIT")


# One row per neuron in the order of the index: what the search box looks through beside layers and classes. It is not
# part of the index, because most readers never need it.
LABELS_SCHEMA: Final[dict[str, str]] = {
    "layer": "string",
    "unit": "int32",
    "top_labels": "list<string>",  # distinct labels of the top-activating references of all its rows
    "top_captions": "list<string>",  # the same of their captions, shortened; fewer
}

# Optional score columns (float32, by `evaluate`) that the gallery filters and sorts by.
_INDEXED_SCORE: Final = re.compile(r"two_afc|path_similarity|accuracy_top[15]_[a-z0-9_]+")


def indexed_scores(extra: Iterable[str]) -> dict[str, str]:
    """Schema of the optional score columns that are in the index too, sorted."""
    return {name: "float32" for name in sorted(extra) if _INDEXED_SCORE.fullmatch(name)}


@dataclass(frozen=True, kw_only=True)
class ColumnNote:
    """Unit, meaning and range of one score, for readers of the atlas."""

    unit: str
    meaning: str


SCORE_NOTES: Final[dict[str, ColumnNote]] = {
    "loss": ColumnNote(unit="", meaning="Final objective of the optimization; lower is better within one method."),
    "activation": ColumnNote(unit="activation", meaning="Activation of the unit on the published visualization."),
    "activation_percentile": ColumnNote(
        unit="%", meaning="Share of the dataset images that activate the unit no more than the visualization does."
    ),
    "activation_ratio": ColumnNote(
        unit="×",
        meaning="Activation of the visualization divided by that of the top-activating dataset image.",
    ),
    "accuracy_top1": ColumnNote(
        unit="0/1", meaning="1 if the model's top prediction for the visualization is the class; classes only."
    ),
    "accuracy_top5": ColumnNote(
        unit="0/1", meaning="1 if the class is among the model's top five predictions; classes only."
    ),
    "path_similarity": ColumnNote(
        unit="",
        meaning="Similarity of the visualization's intermediate activations to those of the neuron's top-activating "
        "images: 1 as similar as top-activating images of one neuron of the layer are to each other, 0 as similar as "
        "those of different neurons; may leave 0–1.",
    ),
    "alignment_distance": ColumnNote(
        unit="",
        meaning="Sort-matching distance of the visualization's features to the neuron's target, divided by their "
        "variance: 0 is the target itself, lower is better.",
    ),
    "max_activation": ColumnNote(unit="activation", meaning="Highest activation of the unit over the data set."),
    "mean_activation": ColumnNote(unit="activation", meaning="Mean activation of the unit over the data set."),
    "seconds": ColumnNote(unit="s", meaning="Share of this visualization in the optimization time of its batch."),
    "steps": ColumnNote(unit="steps", meaning="Optimization steps."),
}

_EXTRA_NAME = re.compile(r"[a-z][a-z0-9_]{0,119}")
_PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_MAX_PATH_LENGTH = 512


def extra_score_columns(names: Iterable[str]) -> dict[str, str]:
    """Schema of the score columns among `names` that LAYER_SCHEMA lacks (held-out models, distances), sorted.

    Raises:
        UserError: a name is not lower-case letters, digits and underscores.
    """
    extra = sorted(set(names) - set(LAYER_SCHEMA))
    for name in extra:
        if not _EXTRA_NAME.fullmatch(name):
            raise UserError(f"score column {name!r}: expected lower-case letters, digits and '_', like 'kid_lite1'")
    return dict.fromkeys(extra, "float32")


# Scores that an evaluator gives, by the column's name without the evaluator's slug; "{evaluator}" becomes its name.
_EVALUATED: Final[dict[str, ColumnNote]] = {
    "accuracy_top1": ColumnNote(
        unit="0/1",
        meaning="1 if the top prediction of {evaluator}, held out, for the visualization is the class; classes only.",
    ),
    "accuracy_top5": ColumnNote(
        unit="0/1",
        meaning="1 if the class is among the top five predictions of {evaluator}, held out, for the visualization; "
        "classes only.",
    ),
    "two_afc": ColumnNote(
        unit="",
        meaning="Two-alternative forced choice by {evaluator}: of two dataset images, how often the one that it finds "
        "more similar to the visualization is the one that activates the neuron; 0–1, chance is 0.5.",
    ),
}


def column_notes(extra: Iterable[str], evaluators: Sequence[Mapping[str, Any]] = ()) -> dict[str, dict[str, str]]:
    """`columns` of atlas.json: unit and meaning of every score of this atlas.

    Args:
        extra: names of the run's score columns beyond LAYER_SCHEMA.
        evaluators: `provenance.evaluators` with `slug`, `role` and `name`, the model's first.
    """
    held_out = [evaluator for evaluator in evaluators if evaluator["role"] != "model"]
    known = {name: note for name, note in SCORE_NOTES.items() if name in LAYER_SCHEMA or name in extra}
    for place, evaluator in enumerate(held_out or evaluators):
        for score, note in _EVALUATED.items():
            column = score if score == "two_afc" and place == 0 else f"{score}_{evaluator['slug']}"
            if column in extra:
                known[column] = ColumnNote(
                    unit=note.unit, meaning=note.meaning.replace("{evaluator}", evaluator["name"])
                )
    for name in extra:
        words = f"{name.replace('_', ' ')} (another score of this run's evaluation)"
        known.setdefault(name, ColumnNote(unit="", meaning=words))
    return {name: {"unit": note.unit, "meaning": note.meaning} for name, note in known.items()}


def check_atlas_path(path: object, *, folder: str = "") -> str:
    """`path` if it is a plain relative path inside the atlas folder (below `folder`, if given).

    Paths come from files that may be anybody's, so only a narrow alphabet passes: no absolute path, no "..",
    no hidden name, no backslash, no URL.

    Raises:
        UserError: anything else.
    """
    parts = path.split("/") if isinstance(path, str) else []
    inside = not folder or (len(parts) > 1 and parts[0] == folder)
    if (
        not isinstance(path, str)
        or len(path) > _MAX_PATH_LENGTH
        or not inside
        or not all(_PATH_PART.fullmatch(part) for part in parts)
    ):
        where = f"below {folder}/" if folder else "inside the atlas folder"
        raise UserError(f"path {str(path)[:200]!r}: expected a plain relative path {where}")
    return path


def layer_path(layer: str) -> str:
    """Where the table of `layer` lies."""
    return f"layers/{layer_file_name(layer)}.parquet"


def index_path(layer: str) -> str:
    """Where the index rows of `layer` lie, for a gallery that begins with one layer."""
    return f"index/{layer_file_name(layer)}.parquet"


def part_path(layer: str, number: int) -> str:
    """Where the rows of the `number`-th PART_NEURONS neurons lie, of a layer above WHOLE_TABLE_BYTES."""
    return f"parts/{layer_file_name(layer)}/{number:04d}.parquet"


def image_path(layer: str, unit: int, method: str, seed: int) -> str:
    """Where the visualization of one neuron × method × seed lies."""
    name = f"images/{layer_file_name(layer)}/{layer_unit_name(unit)}-{method}-s{seed}.webp"
    return check_atlas_path(name, folder="images")


def alpha_path(layer: str, unit: int, method: str, seed: int) -> str:
    """Where its attribution mask (MACO's transparency) lies."""
    return image_path(layer, unit, method, seed).removesuffix(".webp") + "-alpha.webp"


def sheet_path(layer: str, number: int) -> str:
    """Where contact sheet `number` (from 0) of `layer` lies."""
    return f"sheets/{layer_file_name(layer)}/{number:04d}.webp"


def examples_path(layer: str, unit: int, facet: int = 0) -> str:
    """Where the strip of top-activating images of a neuron's facet lies, if it is published."""
    suffix = f"-f{facet}" if facet else ""
    return f"examples/{layer_file_name(layer)}/{layer_unit_name(unit)}{suffix}.webp"


def neighbors_path(layer: str) -> str:
    """Where the neighbors of the neurons of `layer` lie."""
    return f"{NEIGHBORS_FOLDER}/{layer_file_name(layer)}.parquet"
