"""Path similarity: whether a visualization activates the layers of a network as dataset images of its unit do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata


@dataclass(frozen=True, kw_only=True)
class PathCorrelations:
    """Mean rank correlations of activations at each layer, in [−1, 1]; NaN where nothing varies.

    Attributes:
        layers: their names, in the order of the other fields.
        made: float64 [L], of the visualization with the unit's dataset images.
        same: float64 [L], of the unit's dataset images with each other.
        other: float64 [L], of the unit's dataset images with those of other units.
    """

    layers: tuple[str, ...]
    made: np.ndarray
    same: np.ndarray
    other: np.ndarray

    def per_layer(self) -> np.ndarray:
        """(made − other) / (same − other), [L]; NaN where the unit's dataset images are no nearer to each other."""
        scale = self.same - self.other
        separates = scale > 0  # False for NaN
        return np.divide(self.made - self.other, scale, out=np.full_like(scale, np.nan), where=separates)

    def overall(self) -> float:
        """One value for all layers: the ratio of the sums over the layers that separate dataset images.

        A mean over layers, each weighted by how well it separates the unit's dataset images from others. Early layers
        hardly do; their small denominators would dominate a plain mean.
        """
        scale = self.same - self.other
        used = (scale > 0) & np.isfinite(self.made)
        return float((self.made - self.other)[used].sum() / scale[used].sum()) if used.any() else float("nan")


def path_correlations(
    made: Mapping[str, np.ndarray], same: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> PathCorrelations:
    """The rank correlations that path similarity is made of; see `path_similarity` for the arguments.

    To average over units, average these and form the ratio of the averages, as `shared_scale_similarities` does.
    """
    layers = tuple(made)
    values = np.full((3, len(layers)), np.nan)
    for i, layer in enumerate(layers):
        visualization, unit, rest = (_standard_ranks(array) for array in (made[layer][None], same[layer], other[layer]))
        pairs = np.triu_indices(len(unit), 1)
        for row, correlations in enumerate((visualization @ unit.T, (unit @ unit.T)[pairs], unit @ rest.T)):
            if correlations.size:
                values[row, i] = correlations.mean()
    return PathCorrelations(layers=layers, made=values[0], same=values[1], other=values[2])


def shared_scale_similarities(
    visualizations: Sequence[PathCorrelations], units: Sequence[PathCorrelations]
) -> np.ndarray:
    """One value for all layers per visualization, on one scale for all units of a layer of the network.

    The sum over layers of made − other, over the mean over units of the sum of same − other. A unit whose dataset
    images are hardly nearer to each other than to others has a denominator near 0 of its own, and a value without
    bounds; on the shared scale values of units can be averaged and compared. Their mean is the ratio of the averages: 1
    is as similar as dataset images of a unit are to each other on average, 0 as similar as to those of other units.

    Args:
        visualizations: of each visualization, all at the same layers.
        units: of each unit once; of which of its visualizations makes no difference.

    Returns:
        float64 [number of visualizations]; NaN where a layer has no correlation, and everywhere if the dataset images
        of the units are on average no nearer to each other than to others.
    """
    scales = np.array([(unit.same - unit.other).sum() for unit in units])
    scales = scales[np.isfinite(scales)]
    scale = float(scales.mean()) if len(scales) else float("nan")
    above = np.array([(visualization.made - visualization.other).sum() for visualization in visualizations], np.float64)
    return above / scale if scale > 0 else np.full(len(visualizations), np.nan)


def path_similarity(
    made: Mapping[str, np.ndarray], same: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> np.ndarray:
    """How similar a visualization's activations are to those of the unit's dataset images, layer by layer.

    Spearman's rank correlation of the visualization's activations with each dataset image's, averaged, then scaled: 1
    is as similar as dataset images of the unit are to each other, 0 as similar as they are to those of other units. No
    bounds: above 1 for a visualization nearer to the dataset images than they are to each other (an average of them,
    say), below 0 for one farther than those of other units.

    Geirhos et al. compare natural images with feature visualizations of classes; theirs are the rank correlation and
    the scale from 0 to 1. What differs: activations are the means of a layer's channels over positions, not all its
    values, so neither layout nor the number of positions counts; and units need not be classes: the dataset images of
    an intermediate unit are those that activate it most.

    Args:
        made: layer → [C], means of the layer's channels over positions, of one visualization.
        same: layer → [R, C], of dataset images of the unit's class, or that activate the unit most, R ≥ 2.
        other: layer → [S, C], of dataset images of other classes or units, S ≥ 1.

    Returns:
        float64 [L], in the order of `made`'s layers; NaN where the layer does not separate the dataset images.

    Reference: Geirhos et al., "Don't trust your eyes: on the (un)reliability of feature visualizations", ICML 2024,
    section 4.
    """
    return path_correlations(made, same, other).per_layer()


def _standard_ranks(rows: np.ndarray) -> np.ndarray:
    """Ranks along axis 1, ties averaged, centered and of length 1: the dot product of two is Spearman's ρ.

    Rows without any variation become NaN.
    """
    ranks = rankdata(rows, axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.divide(ranks, norms, out=np.full_like(ranks, np.nan), where=norms > 0)
