"""Scores of each visualization against the data set, and the status ok, weak or dead.

Scores are of the visualization as published: decoded from the atlas, then given to the model.
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


def score_visualizations(
    model: Model,
    statistics: StatisticsStore,
    layer: str,
    units: Sequence[int],
    visualizations: Sequence[np.ndarray],
    *,
    reduction: str,
    weak_percentile: float,
    num_references: int,
) -> list[dict[str, Any]]:
    """Score the visualizations of units of one layer.

    Args:
        model: of the neurons.
        statistics: of the data set, collected with this model.
        layer: of the units.
        units: the unit of each visualization.
        visualizations: as published, uint8 [H, W, 3].
        reduction: of the activation over positions, as in the statistics: `max` or `mean`.
        weak_percentile: a visualization below it is `weak`, in [0, 100].
        num_references: number of top-activating images whose mean activation a visualization has to reach.

    Returns:
        Per visualization the columns that `evaluate` adds to a row (`pipeline.atlas.format.schema.SCORE_SCHEMA`).
    """
    activations, logits = measure(model, visualizations, layer, units, reduction=reduction)
    rows = []
    for unit, activation, logit in zip(units, activations.tolist(), logits, strict=True):
        data = data_columns(statistics, layer, unit)
        activation_range = ActivationRange.of(statistics, layer, unit, num_references)
        percentile = statistics.percentile(layer, unit, activation)
        row: dict[str, Any] = {
            "activation": activation,
            "activation_percentile": percentile,
            "activation_ratio": activation / activation_range.highest if activation_range.highest > 0 else None,
            "accuracy_top1": None,
            "accuracy_top5": None,
            "predicted_label": model.class_names[int(logit.argmax())] if model.has_classifier else None,
        }
        if layer == model.classifier_layer:
            rank = class_rank(logit, unit)
            row |= {"accuracy_top1": float(rank < 1), "accuracy_top5": float(rank < 5)}
        status, reason = status_of(activation, percentile, activation_range, weak_percentile=weak_percentile)
        rows.append(row | data | {"status": status, "status_reason": reason})
    return rows


def data_columns(statistics: StatisticsStore, layer: str, unit: int) -> dict[str, Any]:
    """The columns of a unit's activations over the data set; they need no visualization."""
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
class ActivationRange:
    """The activations of a unit over the data set.

    Attributes:
        lowest, highest: activation over all dataset images.
        top_mean: mean activation of the top-activating ones.
        num_top: how many those are.
    """

    lowest: float
    highest: float
    top_mean: float
    num_top: int

    @staticmethod
    def of(statistics: StatisticsStore, layer: str, unit: int, num_references: int) -> "ActivationRange":
        """That of one unit; its top-activating dataset images are `num_references`, or as many as are kept."""
        moments, topk = statistics.activation_moments(layer), statistics.topk(layer)
        num_top = min(num_references, topk.num_kept(unit))
        return ActivationRange(
            lowest=float(moments.minimum[unit]),
            highest=float(moments.maximum[unit]),
            top_mean=float(topk.activation[unit, :num_top].astype(np.float64).mean()),
            num_top=num_top,
        )

    @property
    def is_constant(self) -> bool:
        """Whether all dataset images activate the unit equally up to rounding: for example never, behind a ReLU."""
        return self.highest - self.lowest <= _ROUNDING * max(abs(self.highest), abs(self.lowest))


def status_of(
    activation: float, percentile: float, activation_range: ActivationRange, *, weak_percentile: float
) -> tuple[str, str]:
    """Status and reason of a visualization with this activation of its unit.

    `dead`: all dataset images give the same activation, so no visualization can represent the unit.
    `weak`: the visualization activates its unit less than the unit's top-activating images do on average, or more than
    fewer than `weak_percentile` percent of the data set. Dataset images are the bar because a reader compares with
    them.
    """
    if activation_range.is_constant:
        return "dead", f"the activation is {activation_range.highest:.4g} on every image of the data set"
    if not activation >= activation_range.top_mean:  # not "<": NaN is weak too
        return "weak", (
            f"the visualization's activation is {activation:.4g}; the {activation_range.num_top} top-activating images "
            f"of the data set have {activation_range.top_mean:.4g} on average"
        )
    if percentile < weak_percentile:
        return "weak", (
            f"the visualization activates the neuron more than {percentile:.1f} % of the images do; "
            f"at least {weak_percentile:g} % are required"
        )
    return "ok", ""
