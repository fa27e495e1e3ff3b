"""Scores of each picture against the data set, and the verdict ok, weak or dead.

A verdict is on the picture as published: decoded from the atlas, shown to the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.activations.store import StatisticsStore
from pipeline.evaluation.metrics.accuracy import class_rank
from pipeline.evaluation.metrics.activation import measure
from pipeline.models import Model

# A unit whose activations over the whole data set lie closer together than this fraction of the largest is constant:
# sums of float32 in another order (another batch) differ by about 1e-6.
_ROUNDING = 1e-5


def score_pictures(
    model: Model,
    statistics: StatisticsStore,
    layer: str,
    units: Sequence[int],
    pictures: Sequence[np.ndarray],
    *,
    reduction: str,
    weak_percentile: float,
    num_references: int,
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
        num_references: so many of the most exciting photographs set the activation that a picture is to reach.

    Returns:
        Per picture the columns that `evaluate` adds to a row (`pipeline.atlas.format.schema.SCORE_SCHEMA`).
    """
    activations, logits = measure(model, pictures, layer, units, reduction=reduction)
    rows = []
    for unit, activation, logit in zip(units, activations.tolist(), logits, strict=True):
        data = data_columns(statistics, layer, unit)
        excitement = DataExcitement.of(statistics, layer, unit, num_references)
        percentile = statistics.percentile(layer, unit, activation)
        row: dict[str, Any] = {
            "activation": activation,
            "activation_percentile": percentile,
            "activation_ratio": activation / excitement.highest if excitement.highest > 0 else None,
            "accuracy_top1": None,
            "accuracy_top5": None,
            "predicted_label": model.class_names[int(logit.argmax())] if model.has_classifier else None,
        }
        if layer == model.classifier_layer:
            rank = class_rank(logit, unit)
            row |= {"accuracy_top1": float(rank < 1), "accuracy_top5": float(rank < 5)}
        status, reason = verdict(activation, percentile, excitement, weak_percentile=weak_percentile)
        rows.append(row | data | {"status": status, "status_reason": reason})
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


@dataclass(frozen=True, kw_only=True)
class DataExcitement:
    """How the photographs of the data set excite a unit.

    Attributes:
        lowest, highest: activation over all photographs.
        top_mean: mean activation of the most exciting ones.
        num_top: how many those are.
    """

    lowest: float
    highest: float
    top_mean: float
    num_top: int

    @staticmethod
    def of(statistics: StatisticsStore, layer: str, unit: int, num_references: int) -> "DataExcitement":
        """That of one unit; its most exciting photographs are `num_references`, or as many as are kept."""
        moments, topk = statistics.activation_moments(layer), statistics.topk(layer)
        num_top = min(num_references, topk.num_kept(unit))
        return DataExcitement(
            lowest=float(moments.minimum[unit]),
            highest=float(moments.maximum[unit]),
            top_mean=float(topk.activation[unit, :num_top].astype(np.float64).mean()),
            num_top=num_top,
        )

    @property
    def is_constant(self) -> bool:
        """Whether all photographs excite the unit equally, but for rounding: a ReLU's unit that is always 0, say."""
        return self.highest - self.lowest <= _ROUNDING * max(abs(self.highest), abs(self.lowest))


def verdict(
    activation: float, percentile: float, excitement: DataExcitement, *, weak_percentile: float
) -> tuple[str, str]:
    """Status and reason of a picture with this activation of its unit.

    `dead`: no photograph excites the unit, all give the same activation; so no picture says anything of it. `weak`: the
    picture excites its unit less than the unit's most exciting photographs do on average, or less than
    `weak_percentile` percent of the data set do. Photographs are the bar because they are shown beside the picture.
    """
    if excitement.is_constant:
        return "dead", f"the activation is {excitement.highest:.4g} on every image of the data set"
    if not activation >= excitement.top_mean:  # not "<": NaN is weak too
        return "weak", (
            f"the picture's activation is {activation:.4g}; the {excitement.num_top} most exciting images of the data "
            f"set have {excitement.top_mean:.4g} on average"
        )
    if percentile < weak_percentile:
        return "weak", (
            f"the picture excites the neuron more than {percentile:.1f} % of the images do; "
            f"{weak_percentile:g} % were asked for"
        )
    return "ok", ""
