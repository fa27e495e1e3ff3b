"""Correlation between the units of a layer and the channels of a feature layer over the data set, mergeable.

The pair is, per image, the activation of a unit and the spatial mean of a channel. Its correlation weights channels
under `targets.relevance = "correlation"`.

Shapes: B images, U units, C channels.
Reference: Chan, Golub, LeVeque, The American Statistician 37, 1983 (the merge rule, here for a product of
two).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.neurons import layer_file_name

_FIELDS = ("mean_unit", "m2_unit", "mean_channel", "m2_channel")


@dataclass(frozen=True, kw_only=True, eq=False)
class CoMoments:
    """Centered sums over `count` images, all float64.

    Attributes:
        count: number of images.
        mean_unit: [U].
        m2_unit: [U], sum of squared deviations.
        mean_channel: [C].
        m2_channel: [C].
        comoment: [U, C], sum of products of deviations.
    """

    count: int
    mean_unit: np.ndarray
    m2_unit: np.ndarray
    mean_channel: np.ndarray
    m2_channel: np.ndarray
    comoment: np.ndarray

    @classmethod
    def empty(cls, num_units: int, num_channels: int) -> "CoMoments":
        """The identity of `merge`."""
        unit, channel = np.zeros(num_units), np.zeros(num_channels)
        return cls(
            count=0,
            mean_unit=unit,
            m2_unit=unit,
            mean_channel=channel,
            m2_channel=channel,
            comoment=np.zeros((num_units, num_channels)),
        )

    @classmethod
    def of(cls, unit: np.ndarray, channel: np.ndarray) -> "CoMoments":
        """Of a batch: activation of units [B, U] and mean of channels [B, C]."""
        if len(unit) == 0:
            return cls.empty(unit.shape[1], channel.shape[1])
        unit, channel = unit.astype(np.float64), channel.astype(np.float64)
        mean_unit, mean_channel = unit.mean(axis=0), channel.mean(axis=0)
        d_unit, d_channel = unit - mean_unit, channel - mean_channel
        return cls(
            count=len(unit),
            mean_unit=mean_unit,
            m2_unit=np.square(d_unit).sum(axis=0),
            mean_channel=mean_channel,
            m2_channel=np.square(d_channel).sum(axis=0),
            comoment=d_unit.T @ d_channel,
        )

    def merge(self, other: "CoMoments") -> "CoMoments":
        """Of the images of both; `a.merge(b)` and `b.merge(a)` are equal to the bit."""
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        weight = self.count * other.count / count
        d_unit = other.mean_unit - self.mean_unit
        d_channel = other.mean_channel - self.mean_channel
        return CoMoments(
            count=count,
            mean_unit=(self.count * self.mean_unit + other.count * other.mean_unit) / count,
            m2_unit=(self.m2_unit + other.m2_unit) + np.square(d_unit) * weight,
            mean_channel=(self.count * self.mean_channel + other.count * other.mean_channel) / count,
            m2_channel=(self.m2_channel + other.m2_channel) + np.square(d_channel) * weight,
            comoment=(self.comoment + other.comoment) + np.outer(d_unit, d_channel) * weight,
        )

    def correlation(self) -> np.ndarray:
        """Pearson correlation, float64 [U, C] in [−1, 1]; 0 where a unit or a channel never varies."""
        scale = np.sqrt(np.outer(self.m2_unit, self.m2_channel))
        correlation = np.divide(self.comoment, scale, out=np.zeros_like(self.comoment), where=scale > 0)
        return np.clip(correlation, -1.0, 1.0)

    def arrays(self, feature_layer: str) -> dict[str, np.ndarray]:
        """Named arrays from which `from_arrays` makes the same object."""
        feature_layer = layer_file_name(feature_layer)
        side = {f"comoment_{name}/{feature_layer}": getattr(self, name) for name in _FIELDS}
        count = np.full(len(self.mean_unit), self.count, np.int64)
        return {f"comoment/{feature_layer}": self.comoment, f"comoment_count/{feature_layer}": count, **side}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], feature_layer: str) -> "CoMoments":
        """Inverse of `arrays`."""
        feature_layer = layer_file_name(feature_layer)
        side = {name: arrays[f"comoment_{name}/{feature_layer}"] for name in _FIELDS}
        count = int(arrays[f"comoment_count/{feature_layer}"][0])
        return cls(count=count, comoment=arrays[f"comoment/{feature_layer}"], **side)
