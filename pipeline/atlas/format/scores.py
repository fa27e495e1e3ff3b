"""scores.parquet and scores.md of an atlas: the scores of its methods as a tidy table, and the same as Markdown.

Each row is one metric of one method, over the visualizations of one kind of neurons, by one evaluator. A value has no
interval where a bootstrap is too expensive (FID, KID, Inception Score) or has no meaning (counts).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

SCORES_TABLE: Final = "scores.parquet"
SCORES_TEXT: Final = "scores.md"
SUMMARY_SCHEMA: Final[dict[str, str]] = {
    "method": "string",  # or DATASET_IMAGES: the same measured on dataset images instead of visualizations
    "layer": "string",  # "": all layers of the kind together
    "kind": "string",  # one of KINDS
    "metric": "string",
    "evaluator": "string",  # its slug, "model" for the atlas's own model, "" without an evaluator
    "value": "float64",
    "low": "float64",  # 95 % interval over neurons, null without one
    "high": "float64",
    "num_visualizations": "int32",  # behind the value
}
KINDS: Final = ("class", "intermediate", "all")
DATASET_IMAGES: Final = "dataset_images"

# Metric → (unit and range, better is "higher", "lower" or "", meaning); in the order of the text.
METRICS: Final[dict[str, tuple[str, str, str]]] = {
    "num_ok": (
        "visualizations",
        "",
        "visualizations that activate their neuron as much as its top-activating images do",
    ),
    "num_weak": ("visualizations", "", "visualizations that activate their neuron less than that"),
    "num_dead": ("visualizations", "", "neurons that no dataset image activates"),
    "num_failed": ("visualizations", "", "neurons whose visualization could not be made"),
    "num_skipped": ("visualizations", "", "neurons that no visualization was made for"),
    "accuracy_top1": ("0–1", "higher", "share of the visualizations whose class is the evaluator's top prediction"),
    "accuracy_top5": (
        "0–1",
        "higher",
        "share of the visualizations whose class is among the evaluator's top five predictions",
    ),
    "activation_percentile": (
        "0–100 %",
        "higher",
        "share of the dataset images that activate the neuron no more than its visualization does",
    ),
    "activation_ratio": ("×", "", "activation of the visualization over that of the top-activating dataset image"),
    "exceeds_max_activation": (
        "0–1",
        "higher",
        "share of the visualizations that activate their neuron more than any dataset image does",
    ),
    "two_afc": (
        "0–1, chance 0.5",
        "higher",
        "two-alternative forced choice: of two dataset images, how often the one that the evaluator finds more similar "
        "to the visualization is the one that activates the neuron",
    ),
    "path_similarity": (
        "0 other, 1 same",
        "higher",
        "similarity of the visualization's intermediate activations to those of the neuron's top-activating images",
    ),
    "alignment_distance": (
        "≥ 0",
        "lower",
        "sort-matching distance of the visualization's features to the neuron's target",
    ),
    "fid": (
        "≥ 0",
        "lower",
        "Fréchet distance of the visualizations to dataset images in the evaluator's feature space",
    ),
    "kid": (
        "about ≥ 0",
        "lower",
        "kernel distance of the visualizations to dataset images in the evaluator's feature space",
    ),
    "inception_score": ("1 to number of classes", "higher", "Inception Score by the evaluator"),
    "diversity": (
        "0–2",
        "",
        "mean cosine distance between visualizations of one neuron from different seeds, in the evaluator's embedding",
    ),
}
_TITLES: Final = {"class": "Class neurons", "intermediate": "Intermediate neurons", "all": "All neurons"}
_UNLIKE_SCORES: Final = ("num_ok", "num_weak", "num_dead", "num_failed", "num_skipped")

Row = Mapping[str, Any]


def scores_text(rows: Sequence[Row], *, methods: Sequence[str], facts: Sequence[str], left_out: Sequence[str]) -> str:
    """The Markdown of a summary.

    Args:
        rows: of SUMMARY_SCHEMA.
        methods: in the order of the recipe.
        facts: dataset images and evaluators behind the numbers, a sentence each.
        left_out: what could not be measured and why, a sentence each.
    """
    used = {row["metric"] for row in rows}
    lines = ["# Scores", ""]
    lines += [f"- {fact}" for fact in facts]
    lines += ["", scores_tables(rows, methods)]
    lines += ["## What the numbers mean", ""]
    for metric, (unit, better, meaning) in METRICS.items():
        if metric in used:
            lines.append(f"- `{metric}` ({unit}{f', {better} is better' if better else ''}): {meaning}.")
    lines += [
        "",
        "In brackets: the 95 % bootstrap interval over neurons. The column `dataset_images` has the same scores of "
        "dataset images; FID and KID there compare disjoint sets, one as large as a method's visualizations. FID and "
        "Inception Score depend on the number of visualizations: compare equal numbers.",
        "",
        "## Not measured",
        "",
        *([f"- {reason}" for reason in left_out] or ["Nothing was left out."]),
    ]
    return "\n".join(lines) + "\n"


def scores_tables(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """The tables of the Markdown: one per kind of neurons, metrics down, methods across."""
    parts = []
    for kind in KINDS:
        of_kind = [row for row in rows if row["kind"] == kind and not row["layer"]]
        if kind == "all" and {row["kind"] for row in rows} != set(KINDS):
            continue  # equal to the only kind
        if of_kind:
            parts += [f"## {_TITLES[kind]}", "", *_table(of_kind, methods), ""]
    return "\n".join(parts)


def _table(rows: Sequence[Row], methods: Sequence[str]) -> Iterator[str]:
    present = [name for name in (*methods, DATASET_IMAGES) if any(row["method"] == name for row in rows)]
    cells = {(row["metric"], row["evaluator"], row["method"]): row for row in rows}
    order = list(METRICS)
    lines = sorted(
        {(row["metric"], row["evaluator"]) for row in rows}, key=lambda line: (order.index(line[0]), line[1])
    )
    yield f"| metric | evaluator | {' | '.join(present)} |"
    yield f"|---|---|{'---|' * len(present)}"
    for metric, evaluator in lines:
        values = [_cell(cells.get((metric, evaluator, name)), metric) for name in present]
        yield f"| `{metric}` | {f'`{evaluator}`' if evaluator else ''} | {' | '.join(values)} |"


def _cell(row: Row | None, metric: str) -> str:
    if row is None:
        return "–"
    if metric in _UNLIKE_SCORES:
        return f"{row['value']:.0f}"
    text = number(row["value"])
    return text if row["low"] is None else f"{text} [{number(row['low'])}, {number(row['high'])}]"


def number(value: float) -> str:
    """Three significant digits, without an exponent where that is readable."""
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.2e}" if value < 1 else f"{value:.0f}"


def code(text: str) -> str:
    """A name as a Markdown code span that nothing in it can close."""
    return f"`{' '.join(text.split()).replace('`', chr(39)).replace('|', '/')}`"


def summary_problems(rows: Iterable[Row], *, methods: Iterable[str], layers: Iterable[str]) -> Iterator[str]:
    """What is wrong with the rows of a scores.parquet, in words; nothing if they are valid."""
    methods, layers = {*methods, DATASET_IMAGES}, {"", *layers}
    seen = set()
    for number_, row in enumerate(rows):
        where = f"row {number_} ({str(row['metric'])[:80]})"
        if row["method"] not in methods:
            yield f"{where}: method {str(row['method'])[:80]!r} is none of {sorted(methods)}"
        if row["layer"] not in layers:
            yield f"{where}: layer {str(row['layer'])[:80]!r} is not in the atlas"
        if row["kind"] not in KINDS:
            yield f"{where}: kind {str(row['kind'])[:80]!r} is none of {KINDS}"
        if row["metric"] not in METRICS:
            yield f"{where}: there is no such metric"
        if row["value"] is None or not math.isfinite(row["value"]):
            yield f"{where}: value {row['value']} is not a number; what is unknown has no row"
        elif not _is_inside(row["value"], row["low"], row["high"]):
            yield f"{where}: {row['value']} is outside its interval {row['low']} to {row['high']}"
        if row["num_visualizations"] is None or row["num_visualizations"] < 0:
            yield f"{where}: num_visualizations is {row['num_visualizations']}"
        key = tuple(row[name] for name in ("method", "layer", "kind", "metric", "evaluator"))
        if key in seen:
            yield f"{where}: occurs twice"
        seen.add(key)


def _is_inside(value: float, low: float | None, high: float | None) -> bool:
    """Whether a value is in its interval. A value without an interval is; half an interval is an error."""
    if low is None or high is None:
        return low is high
    return low <= value <= high
