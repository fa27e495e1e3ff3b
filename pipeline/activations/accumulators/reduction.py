"""A batch of feature maps reduced over positions, once for all statistics of a layer.

The maps are read in place, in either order of memory: `rows` (all positions of a unit adjacent, as convolutions give
them that are not channels-last) or `columns` (all units of a position adjacent: channels-last maps, tokens). Copying
columns into rows takes longer than reducing them.

Shapes: B images of a batch, U units, N positions.
Reference: Chan, Golub, LeVeque, "Algorithms for computing the sample variance", The American Statistician 37, 1983
(corrected two-pass sum).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from torch import Tensor

# Maps are reduced block by block, so that all passes over a block find it in the cache (of 1 MiB of L2 per core).
CPU_BLOCK_BYTES: Final = 2 << 20
# torch vectorizes the extremes of columns only where this divides their number.
_VECTOR_COLUMNS: Final = 32

_Extreme = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSummary:
    """What the statistics need of one layer's features of one batch, reduced over positions.

    Attributes:
        num_positions: N, the positions of each image.
        mean: float64 [B, U].
        m2: float64 [B, U], sum of squared deviations from `mean`.
        minimum: float32 [B, U].
        maximum: float32 [B, U].
        peak: int64 [B, U], flat position of the maximum, the first where several are equal.
    """

    num_positions: int
    mean: np.ndarray
    m2: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    peak: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["FeatureSummary"]) -> "FeatureSummary":
        """Of the images of all parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        names = [field.name for field in fields(cls) if field.name != "num_positions"]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(num_positions=parts[0].num_positions, **arrays)


def summarize(features: Tensor) -> FeatureSummary:
    """`reduce_positions` of features [B, U, N], fetched from their device."""
    return fetch(features.shape[2], reduce_positions(features))


def fetch(num_positions: int, reduced: Mapping[str, Tensor]) -> FeatureSummary:
    """The summary whose arrays are those of `reduce_positions`; waits for their device."""
    return FeatureSummary(num_positions=num_positions, **{name: value.cpu().numpy() for name, value in reduced.items()})


def reduce_positions(features: Tensor) -> dict[str, Tensor]:
    """The arrays of `FeatureSummary` for features [B, U, N], made on their own device, for which nothing waits.

    The features are taken in float32. The mean and `m2` are corrected by the rounding error of the float32 mean, so a
    large offset costs no digits, and no float64 copy of the features is made.
    """
    maps_BUN = features.detach().float()
    num_images, num_units, num_positions = maps_BUN.shape
    on_cpu = maps_BUN.device.type == "cpu"
    at_once = CPU_BLOCK_BYTES // (4 * num_units * num_positions) if on_cpu else num_images
    blocks = [_reduce(block) for block in maps_BUN.split(max(1, at_once))]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def _reduce(maps_BUN: Tensor) -> dict[str, Tensor]:
    """The fields of `FeatureSummary`, each [B, U], of one block."""
    num_positions = maps_BUN.shape[2]
    rounded = maps_BUN.mean(dim=2)
    deviation_BUN = maps_BUN - rounded[..., None]
    error = deviation_BUN.sum(dim=2).double() / num_positions  # of the rounded mean
    m2 = deviation_BUN.square_().sum(dim=2).double() - num_positions * error.square()
    if maps_BUN.device.type == "cpu":
        minimum, maximum = extreme_of(maps_BUN, torch.amin), extreme_of(maps_BUN, torch.amax)
        peak = _first_peak(maps_BUN, minimum, maximum)
    else:
        minimum, (maximum, peak) = maps_BUN.amin(dim=2), maps_BUN.max(dim=2)
    return {
        "mean": rounded.double() + error,
        "m2": m2.clamp_(min=0),
        "minimum": minimum,
        "maximum": maximum,
        "peak": peak,
    }


def extreme_of(maps_BUN: Tensor, extreme: _Extreme) -> Tensor:
    """The smallest or largest value of each map, [B, U]; `extreme` is `torch.amin` or `torch.amax`."""
    num_images, num_units, num_positions = maps_BUN.shape
    adjacent = _VECTOR_COLUMNS // math.gcd(_VECTOR_COLUMNS, num_units)  # positions that fill whole vectors
    if adjacent == 1 or num_positions % adjacent or not _is_columns(maps_BUN):
        return extreme(maps_BUN, dim=2)
    folded = maps_BUN.transpose(1, 2).reshape(num_images, num_positions // adjacent, adjacent * num_units)
    return extreme(extreme(folded, dim=1).reshape(num_images, adjacent, num_units), dim=1)


def _first_peak(maps_BUN: Tensor, minimum: Tensor, maximum: Tensor) -> Tensor:
    """The first position of the maximum of each map, [B, U], on a CPU."""
    if not _is_columns(maps_BUN):
        return torch.from_numpy(maps_BUN.numpy().argmax(axis=2))
    _, num_units, num_positions = maps_BUN.shape
    # Constant maps, as those of silent units, peak at their first position; all their positions need not be listed.
    highest_BU = np.where(minimum.numpy() < maximum.numpy(), maximum.numpy(), np.nan)
    is_highest_BNU = maps_BUN.transpose(1, 2).numpy() == highest_BU[:, None]
    # One flat list is much faster than `nonzero` of three axes.
    images, positions, units = np.unravel_index(np.flatnonzero(is_highest_BNU), is_highest_BNU.shape)
    peak = np.where(np.isnan(highest_BU), 0, num_positions).ravel()
    np.minimum.at(peak, images * num_units + units, positions)
    return torch.from_numpy(peak.reshape(highest_BU.shape))


def _is_columns(maps_BUN: Tensor) -> bool:
    """Whether the units of a position are adjacent in memory, not the positions of a unit."""
    return maps_BUN.stride(1) == 1 and maps_BUN.stride(2) != 1
