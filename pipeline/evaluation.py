"""Evaluate: scores of each picture against the data set, and the verdict ok, weak or dead.

A verdict is on the picture as published: decoded from the atlas, shown to the model.
"""

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
    moments = statistics.activation_moments(layer)
    rows = []
    for unit, activation, logit in zip(units, activations.tolist(), logits, strict=True):
        highest = float(moments.maximum[unit])
        percentile = statistics.percentile(layer, unit, activation)
        counts, low, high = statistics.display_histogram(layer, unit)
        row: dict[str, Any] = {
            "activation": activation,
            "activation_percentile": percentile,
            "activation_ratio": activation / highest if highest > 0 else None,
            "accuracy_top1": None,
            "accuracy_top5": None,
            "predicted_label": model.class_names[int(logit.argmax())],
            "max_activation": highest,
            "mean_activation": float(moments.mean[unit]),
            "histogram_counts": counts.tolist(),
            "histogram_low": low,
            "histogram_high": high,
        }
        if layer == model.classifier_layer:
            rank = class_rank(logit, unit)
            row |= {"accuracy_top1": float(rank < 1), "accuracy_top5": float(rank < 5)}
        rows.append(row | _verdict(percentile, weak_percentile, highest, float(moments.minimum[unit])))
    return rows


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
