"""Evaluate: scores of each picture against the data set, and the verdict ok, weak or dead.

A verdict is on the picture as published: decoded from the atlas, shown to the model.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.metrics.accuracy import class_rank
from pipeline.metrics.activation import measure
from pipeline.models import Model
from pipeline.statistics.store import StatisticsStore


def score_pictures(
    model: Model,
    statistics: StatisticsStore,
    layer: str,
    units: Sequence[int],
    pictures: Sequence[np.ndarray],
    *,
    reduction: str,
    weak_percentile: float,
) -> list[dict[str, Any]]:
    """Score the pictures of units of one layer.

    Args:
        model: whose neurons they are.
        statistics: of the data set, collected with this model.
        layer: of the units.
        units: the unit of each picture.
        pictures: as published, uint8 [H, W, 3].
        reduction: of the activation over positions, as in the statistics: `max` or `mean`.
        weak_percentile: a picture below it is `weak`, in [0, 100].

    Returns:
        Per picture the columns that `evaluate` adds to a row (`pipeline.atlas.schema.SCORE_SCHEMA`).
    """
    activations, logits = measure(model, pictures, layer, units, reduction=reduction)
    rows = []
    for unit, activation, logit in zip(units, activations.tolist(), logits, strict=True):
        data = data_columns(statistics, layer, unit)
        highest = data["max_activation"]
        percentile = statistics.percentile(layer, unit, activation)
        row: dict[str, Any] = {
            "activation": activation,
            "activation_percentile": percentile,
            "activation_ratio": activation / highest if highest > 0 else None,
            "accuracy_top1": None,
            "accuracy_top5": None,
            "predicted_label": model.class_names[int(logit.argmax())] if model.has_classifier else None,
        }
        if layer == model.classifier_layer:
            rank = class_rank(logit, unit)
            row |= {"accuracy_top1": float(rank < 1), "accuracy_top5": float(rank < 5)}
        lowest = float(statistics.activation_moments(layer).minimum[unit])
        rows.append(row | data | _verdict(percentile, weak_percentile, highest, lowest))
    return rows


def data_columns(statistics: StatisticsStore, layer: str, unit: int) -> dict[str, Any]:
    """The columns that say what the data set does to a unit; they need no picture."""
    moments = statistics.activation_moments(layer)
    counts, low, high = statistics.display_histogram(layer, unit)
    return {
        "max_activation": float(moments.maximum[unit]),
        "mean_activation": float(moments.mean[unit]),
        "histogram_counts": counts.tolist(),
        "histogram_low": low,
        "histogram_high": high,
    }


def judge_classes(judge: Model, classes: Sequence[int], pictures: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Whether another network names the class of each picture: the transferability of METHOD 8.

    Args:
        judge: a network with the same classes.
        classes: the class index of each picture.
        pictures: as published, uint8 [H, W, 3].

    Returns:
        Per picture `accuracy_top1_<judge>` and `accuracy_top5_<judge>`, 0 or 1.

    Raises:
        ValueError: a class index is not among the judge's classes, or it has none.
    """
    if judge.classifier_layer is None or max(classes) >= judge.num_classes:
        raise ValueError(
            f'evaluate.held_out_models: "{judge.name}" has {judge.num_classes} classes and cannot judge '
            f"class {max(classes)}; name networks with the classes of the model"
        )
    suffix = re.sub(r"[^a-z0-9]+", "_", judge.name.lower())
    _, logits = measure(judge, pictures, judge.classifier_layer, classes)
    ranks = [class_rank(logit, index) for logit, index in zip(logits, classes, strict=True)]
    return [{f"accuracy_top1_{suffix}": float(rank < 1), f"accuracy_top5_{suffix}": float(rank < 5)} for rank in ranks]


def _verdict(percentile: float, weak_percentile: float, highest: float, lowest: float) -> dict[str, str]:
    if highest <= lowest:
        return {
            "status": "dead",
            "status_reason": f"the activation is {highest:.4g} on every image of the data set",
        }
    if percentile < weak_percentile:
        return {
            "status": "weak",
            "status_reason": (
                f"the picture excites the neuron more than {percentile:.1f} % of the images do; "
                f"{weak_percentile:g} % were asked for"
            ),
        }
    return {"status": "ok", "status_reason": ""}
