"""Count, mean, variance and range of every unit, mergeable.

What is merged is small and in float64: maps are reduced over positions before, see
`pipeline.activations.accumulators.reduction`.

Shapes: B images of a batch, U units, N positions.
Reference: Chan, Golub, LeVeque, "Algorithms for computing the sample variance", The American Statistician 37, 1983
(the rule for merging).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.activations.accumulators.reduction import FeatureSummary, summarize


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Moments of U units over `count` values each.

    Attributes:
        count: number of values of each unit.
        mean: float64 [U]; 0 if there are none.
        m2: float64 [U], sum of squared deviations from the mean.
        minimum: float32 [U]; +inf if there are none.
        maximum: float32 [U]; −inf if there are none.
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray

    @classmethod
    def empty(cls, num_units: int) -> "Moments":
        """The identity of `merge`."""
        return cls(
            count=0,
            mean=np.zeros(num_units),
            m2=np.zeros(num_units),
            minimum=np.full(num_units, np.inf, np.float32),
            maximum=np.full(num_units, -np.inf, np.float32),
        )

    @classmethod
    def of(cls, features: Tensor | np.ndarray) -> "Moments":
        """Moments over all positions of a batch of features [B, U, N]."""
        return cls.of_summary(summarize(torch.as_tensor(features)))

    @classmethod
    def of_summary(cls, summary: FeatureSummary) -> "Moments":
        """Moments over all positions of a batch already reduced per image."""
        num_images = len(summary.mean)
        if num_images == 0:
            return cls.empty(summary.mean.shape[1])
        mean = summary.mean.mean(axis=0)
        between = np.square(summary.mean - mean).sum(axis=0)
        return cls(
            count=num_images * summary.num_positions,
            mean=mean,
            m2=summary.m2.sum(axis=0) + summary.num_positions * between,
            minimum=summary.minimum.min(axis=0),
            maximum=summary.maximum.max(axis=0),
        )

    def merge(self, other: "Moments") -> "Moments":
        """Moments over the values of both; `a.merge(b)` and `b.merge(a)` are equal to the bit."""
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count=count,
            mean=(self.count * self.mean + other.count * other.mean) / count,
            m2=(self.m2 + other.m2) + np.square(delta) * (self.count * other.count / count),
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
        )

    @property
    def variance(self) -> np.ndarray:
        """Population variance, float64 [U]; 0 if there are no values."""
        return self.m2 / max(1, self.count)

    def arrays(self) -> dict[str, np.ndarray]:
        """Named arrays, each with the unit as first axis, from which `from_arrays` makes the same object."""
        return {
            "count": np.full(len(self.mean), self.count, np.int64),
            "mean": self.mean,
            "m2": self.m2,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Moments":
        """Inverse of `arrays`."""
        fields = {name: arrays[name] for name in ("mean", "m2", "minimum", "maximum")}
        return cls(count=int(arrays["count"][0]), **fields)
