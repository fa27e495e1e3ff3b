"""Histogram of a value per image and unit, mergeable without error.

Each unit has 2·HALF_BINS equal bins over [−2^e, 2^e). Its exponent e is the smallest that covers every
value so far; to double the range, neighboring bins are added in pairs. Bin edges are dyadic, so the bin of
a value in the doubled histogram is exactly the pair its old bin went to: the counts depend on the set of
values alone, never on their order or grouping, and no range has to be known beforehand.

Shapes: B images, U units, I = 2·HALF_BINS bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

# 256 on each side: a unit whose values fill a quarter of its range still has 128 bins, twice what is ever drawn.
HALF_BINS: Final = 256
# Values below 2^−32 in size are zero compared with any activation of interest; dead units end here.
MIN_EXPONENT: Final = -32
# Width of a drawn histogram (column `histogram_counts` of an atlas).
DISPLAY_BINS: Final = 64

_MAX_SHIFT: Final = HALF_BINS.bit_length() - 1  # after so many doublings one bin is left on each side of zero


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """Histograms of U units.

    Attributes:
        counts: int64 [U, I]; bin i of unit u covers [i − HALF_BINS, i − HALF_BINS + 1) · 2^exponent[u] /
            HALF_BINS.
        exponent: int32 [U].
    """

    counts: np.ndarray
    exponent: np.ndarray

    @classmethod
    def empty(cls, num_units: int) -> "Histogram":
        """The identity of `merge`."""
        return cls(
            counts=np.zeros((num_units, 2 * HALF_BINS), np.int64),
            exponent=np.full(num_units, MIN_EXPONENT, np.int32),
        )

    @classmethod
    def of(cls, activation: np.ndarray) -> "Histogram":
        """Histogram of finite values [B, U]."""
        num_images, num_units = activation.shape
        if num_images == 0:
            return cls.empty(num_units)
        # |v| = m·2^e with m in [0.5, 1): the least e with |v| < 2^e.
        size = np.abs(activation).max(axis=0)
        exponent = np.where(size > 0, np.frexp(size)[1], MIN_EXPONENT)  # frexp gives zero the exponent 0
        exponent = np.maximum(exponent, MIN_EXPONENT).astype(np.int32)
        bins = _bins(activation, exponent) + np.arange(num_units) * (2 * HALF_BINS)
        counts = np.bincount(bins.ravel(), minlength=num_units * 2 * HALF_BINS)
        return cls(counts=counts.reshape(num_units, 2 * HALF_BINS).astype(np.int64, copy=False), exponent=exponent)

    def merge(self, other: "Histogram") -> "Histogram":
        """Histogram of the values of both."""
        exponent = np.maximum(self.exponent, other.exponent)
        counts = _widen(self.counts, exponent - self.exponent) + _widen(other.counts, exponent - other.exponent)
        return Histogram(counts=counts, exponent=exponent)

    def absorb(self, other: "Histogram") -> None:
        """`merge` into the arrays of this one."""
        exponent = np.maximum(self.exponent, other.exponent)
        (grown,) = np.nonzero(exponent > self.exponent)
        self.counts[grown] = _widen(self.counts[grown], (exponent - self.exponent)[grown])
        self.exponent[grown] = exponent[grown]
        np.add(self.counts, other.counts, out=self.counts)
        (narrower,) = np.nonzero(exponent > other.exponent)
        added = other.counts[narrower]
        self.counts[narrower] += _widen(added, (exponent - other.exponent)[narrower]) - added

    def edges(self) -> np.ndarray:
        """Bin edges, float64 [U, I + 1]."""
        return np.ldexp(unit_edges(), self.exponent[:, None])

    def of_unit(self, unit: int) -> "Histogram":
        """The histogram of one unit."""
        return Histogram(counts=self.counts[unit : unit + 1], exponent=self.exponent[unit : unit + 1])

    def percentile(self, value: np.ndarray) -> np.ndarray:
        """Per unit, the estimated percentage of values at most `value` [U]: float64 [U] in [0, 100].

        Values are taken as spread evenly inside a bin, so the error is at most the percentage that lies in
        the bin of `value`. NaN gives NaN, an empty histogram NaN.
        """
        limit = np.ldexp(1.0, self.exponent)
        inside = np.clip(np.asarray(value, np.float64), -limit, limit)
        place = np.ldexp(inside, -self.exponent) * HALF_BINS + HALF_BINS  # in bins from the left end
        below = np.concatenate([np.zeros((len(self.counts), 1)), self.counts.cumsum(axis=1)], axis=1)  # at each edge
        left = np.minimum(np.nan_to_num(np.floor(place)), 2 * HALF_BINS - 1).astype(np.int64)
        rows = np.arange(len(self.counts))
        rank = below[rows, left] + (place - left) * self.counts[rows, left]
        total = below[:, -1]
        return np.divide(100.0 * rank, total, out=np.full(len(total), np.nan), where=total > 0)

    def display(self, unit: int, max_bins: int = DISPLAY_BINS) -> tuple[np.ndarray, float, float]:
        """One unit's histogram for drawing: (counts int64 [≤ max_bins], low, high).

        The occupied range, in equal bins over [low, high]; no counts and 0.0, 0.0 if the histogram is empty.
        """
        (occupied,) = np.nonzero(self.counts[unit])
        if not len(occupied):
            return np.zeros(0, np.int64), 0.0, 0.0
        first, last = int(occupied[0]), int(occupied[-1])
        group = -(-(last + 1 - first) // max_bins)
        num_bins = -(-(last + 1 - first) // group)
        padded = np.zeros(num_bins * group, np.int64)
        padded[: last + 1 - first] = self.counts[unit, first : last + 1]
        width = float(np.ldexp(1.0 / HALF_BINS, self.exponent[unit]))
        low = (first - HALF_BINS) * width
        return padded.reshape(num_bins, group).sum(axis=1), low, low + num_bins * group * width

    def arrays(self) -> dict[str, np.ndarray]:
        """Named arrays, each with the unit as first axis, from which `from_arrays` makes the same object."""
        return {"histogram": self.counts, "histogram_exponent": self.exponent}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Histogram":
        """Inverse of `arrays`."""
        return cls(counts=arrays["histogram"], exponent=arrays["histogram_exponent"])


def unit_edges() -> np.ndarray:
    """Bin edges at exponent 0, float64 [I + 1] over [−1, 1]; a unit's own are these times 2^exponent."""
    return np.arange(-HALF_BINS, HALF_BINS + 1) / HALF_BINS


def _bins(activation: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Bin of each value [B, U], int64: scaling by a power of two is exact, and so is the floor."""
    scaled = np.ldexp(activation.astype(np.float64), -exponent) * HALF_BINS
    return np.floor(scaled).astype(np.int64) + HALF_BINS


def _widen(counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Counts [U, I] after doubling the range of unit u `shift[u]` times."""
    if not shift.any():
        return counts
    shift = np.minimum(shift, _MAX_SHIFT)
    out = counts.copy()
    for doublings in np.unique(shift[shift > 0]):
        rows = np.nonzero(shift == doublings)[0]
        half = HALF_BINS >> doublings
        out[rows] = 0
        grouped = counts[rows].reshape(len(rows), 2 * half, 1 << doublings).sum(axis=2)
        out[rows, HALF_BINS - half : HALF_BINS + half] = grouped
    return out
