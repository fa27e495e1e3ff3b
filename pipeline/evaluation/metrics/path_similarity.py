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


def path_correlations(
    made: Mapping[str, np.ndarray], same: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> PathCorrelations:
    """Spearman's rank correlations of activations, layer by layer, which path similarity scales.

    Geirhos et al. compare natural images with feature visualizations of classes; theirs are the rank correlation and
    the scale from 0 (images of other classes) to 1 (of the same class). What differs: activations are the means of a
    layer's channels over positions, not all its values, so neither layout nor the number of positions counts; and units
    need not be classes: the dataset images of an intermediate unit are those that activate it most.

    Args:
        made: layer → [C], means of the layer's channels over positions, of one visualization.
        same: layer → [R, C], of dataset images of the unit's class, or that activate the unit most, R ≥ 2.
        other: layer → [S, C], of dataset images of other classes or units, S ≥ 1.

    Reference: Geirhos et al., "Don't trust your eyes: on the (un)reliability of feature visualizations", ICML 2024,
    section 4.
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


def _standard_ranks(rows: np.ndarray) -> np.ndarray:
    """Ranks along axis 1, ties averaged, centered and of length 1: the dot product of two is Spearman's ρ.

    Rows without any variation become NaN.
    """
    ranks = rankdata(rows, axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.divide(ranks, norms, out=np.full_like(ranks, np.nan), where=norms > 0)
