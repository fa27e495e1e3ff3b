"""Distribution alignment: make the feature distributions of a synthetic image equal those of real images.

Shapes: B images, R reference images, C channels, N positions (H·W, or tokens), P cells of a coarse grid.

Sort matching compares two one-dimensional distributions by their quantile functions. For a channel with N
values a quantile function is simply its sorted values; its mean over the reference images is the
Wasserstein-2 barycenter of their distributions, a sufficient statistic of the references: it merges over
shards as a mean and the reference images need not be kept.

Reference: Görgün, Schiele, Fischer, "VITAL", ICCV 2025 (arXiv 2503.22399), the sort-matching loss. The published code
scatters the target through the inverse permutation; comparing sorted values rank by rank has the same value and
the same gradient and needs one sort.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.sorting import sort_values


@dataclass(frozen=True, kw_only=True)
class LayerTarget:
    """What one feature layer is aligned to, for one neuron.

    Attributes:
        quantile: mean sorted features of the reference images, float32 [C·P, N/P], ascending.
        importance: weight of each channel, [C] in [0, 1], or None for equal weights.
        weight: of this layer's loss in the sum over layers.
    """

    quantile: Tensor
    importance: Tensor | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NeuronTarget:
    """What the visualization of one neuron is aligned to.

    Attributes:
        layers: feature layer → its target. Three keys are no feature layers of the model: `INPUT_PIXELS`, the
            image itself; `TARGET_LAYER`, all channels of the neuron's layer, not weighted by relevance; and
            `TARGET_UNIT`, the neuron's own channel.
        relevance: the rule by which features are weighted by their relevance for the neuron; `none` leaves it out.
        goal_activation: the neuron's activation on its top exemplar, None if unknown.
    """

    layers: Mapping[str, LayerTarget]
    relevance: str = "none"
    goal_activation: float | None = None


# Dashes keep these apart from every module name.
INPUT_PIXELS = "input-pixels"
TARGET_LAYER = "target-layer"
TARGET_UNIT = "target-unit"


def partition(features: Tensor, grid: int = 1) -> Tensor:
    """Features as rows of positions, optionally split into grid × grid cells that are sorted apart.

    Sorting forgets where a value was; sorting within cells keeps the coarse layout. The cells of a map that the
    grid does not divide are cut at rounded borders and padded by repeating their own last rows and columns.

    Args:
        features: [B, C, H, W], or [B, C, N] (tokens and logits have no layout: the grid is ignored).
        grid: cells per side.

    Returns:
        [B, C·P, N/P], P = grid²; channel-major, so row c·P + p is channel c in cell p.
    """
    if features.ndim == 2:
        return features.unsqueeze(2)
    if features.ndim == 3 or grid == 1 or min(features.shape[2:]) < grid:
        return features.flatten(2)
    rows, columns = (_cell_index(side, grid, features.device) for side in features.shape[2:])
    B, C = features.shape[:2]
    cells_BCPhPw = features[:, :, rows.flatten()][..., columns.flatten()].view(B, C, *rows.shape, *columns.shape)
    return cells_BCPhPw.permute(0, 1, 2, 4, 3, 5).reshape(B, C * grid * grid, -1)


def _cell_index(side: int, grid: int, device: torch.device) -> Tensor:
    """Which positions along one axis each cell covers: [grid, ceil(side / grid)]."""
    length = -(-side // grid)
    starts = [round(cell * side / grid) for cell in range(grid + 1)]
    index = [[min(start + i, end - 1) for i in range(length)] for start, end in pairwise(starts)]
    return torch.tensor(index, device=device)


def sorted_target(features: Tensor) -> Tensor:
    """The mean quantile function of reference images.

    Args:
        features: [R, C, N], any floating type.

    Returns:
        [C, N] ascending along N, in the type of the features.

    Raises:
        ValueError: there is no reference image, or the shape is another one.
    """
    if features.ndim != 3 or features.shape[0] == 0:
        raise ValueError(f"features: expected [R, C, N] with R ≥ 1, got {list(features.shape)}")
    return sort_values(features).mean(dim=0)


def sort_matching(features: Tensor, target: Tensor, importance: Tensor | None = None) -> Tensor:
    """Squared distance of quantile functions, per image: mean over (C, N) of w[c] (sort(A)[c, j] − q[c, j])².

    Args:
        features: of the synthetic images, [B, C, N].
        target: mean quantile function, [C, N] or one per image [B, C, N], ascending along N.
        importance: w, [C] or [B, C]; None means 1.

    Returns:
        [B] losses, each depending on its own image only.

    Raises:
        ValueError: the shapes do not fit.

    Reference: VITAL (ICCV 2025), sort-matching loss; for inner neurons weighted by channel importance.
    """
    if features.ndim != 3 or target.shape[-2:] != features.shape[1:]:
        raise ValueError(
            f"features and target do not fit: {list(features.shape)} and {list(target.shape)}; "
            "expected [B, C, N] and [C, N] or [B, C, N] (made at the same image size and grid?)"
        )
    squared = (sort_values(features) - target).square().mean(dim=-1)  # [B, C]
    if importance is not None:
        squared = squared * importance
    return squared.mean(dim=-1)
