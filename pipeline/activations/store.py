"""The statistics store of a run as every later stage reads it; `storage.writing` describes its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.activations.accumulators.class_topk import ClassTopK
from pipeline.activations.accumulators.comoments import CoMoments
from pipeline.activations.accumulators.histogram import DISPLAY_BINS, Histogram
from pipeline.activations.accumulators.moments import Moments
from pipeline.activations.accumulators.shard_statistics import activation_moments
from pipeline.activations.accumulators.spectrum import MeanSpectrum
from pipeline.activations.accumulators.topk import NO_SAMPLE, TopK
from pipeline.activations.storage.samples import SampleTable
from pipeline.activations.storage.shard_files import (
    committed_shards,
    merge_shard_statistics,
    read_shard_statistics,
    write_shard_statistics,
)
from pipeline.activations.storage.writing import STORE, add_layers, committed_statistics, write_statistics
from pipeline.errors import UserError
from pipeline.io.root import Root
from pipeline.io.zarr_arrays import Group, open_group, read_array
from pipeline.neurons import layer_file_name, nearest

__all__ = [
    "StatisticsStore",
    "TopImage",
    "add_layers",
    "committed_shards",
    "committed_statistics",
    "merge_shard_statistics",
    "read_shard_statistics",
    "write_shard_statistics",
    "write_statistics",
]


@dataclass(frozen=True, kw_only=True)
class TopImage:
    """One image that activates a unit or shows a class, and where to read it.

    Attributes:
        sample: sample id.
        key: the sample's name in its tar shard.
        tar_shard: URL.
        offset: first byte of the image in the tar shard.
        size: bytes of the image.
        label: class index; −1 without a label.
        top1: class of the highest logit.
        activation: of the unit, or logit of the class.
        position: (y, x) of the peak in the layer's grid.
    """

    sample: int
    key: str
    tar_shard: str
    offset: int
    size: int
    label: int
    top1: int
    activation: float
    position: tuple[int, int]


class StatisticsStore:
    """Read side of a committed store; arrays are read when first asked for and kept. Picklable.

    Attributes:
        root: the atlas folder.
        attrs: attributes of the store: schema, model, weights_sha256, data_fingerprint, num_samples,
            layers, …
    """

    def __init__(self, root: Root, attrs: Mapping[str, Any]) -> None:
        self.root = root
        self.attrs = dict(attrs)
        self._cache: dict[str, Any] = {}

    @classmethod
    def open(cls, root: Root) -> "StatisticsStore":
        """The store below an atlas folder.

        Raises:
            FileNotFoundError: the collect stage has not finished there.
        """
        attrs = committed_statistics(root)
        if attrs is None:
            raise FileNotFoundError(f"{root.url}: no finished statistics; run `neuron-atlas collect` first")
        return cls(root, attrs)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "attrs": self.attrs, "_cache": {}}

    @property
    def num_samples(self) -> int:
        """Images recorded."""
        return int(self.attrs["num_samples"])

    @property
    def layers(self) -> list[str]:
        """Layers with statistics, in model order."""
        return list(self.attrs["layers"])

    @property
    def caption_key(self) -> str:
        """Where the samples' captions were found, a recipe's `data.caption_key`; "" if there are none."""
        return str(self.attrs.get("caption_key", ""))

    def moments(self, layer: str) -> Moments:
        """Moments of each unit over all positions of all images."""
        return self._layer(layer, "moments", ("count", "mean", "m2", "minimum", "maximum"), Moments.from_arrays)

    def activation_moments(self, layer: str) -> Moments:
        """Moments of each unit's per-image activation."""
        names = [f"activation_{name}" for name in ("count", "mean", "m2", "minimum", "maximum")]
        return self._layer(layer, "activation_moments", names, activation_moments)

    def histogram(self, layer: str) -> Histogram:
        """Histogram of each unit's per-image activation."""
        return self._layer(layer, "histogram", ("histogram", "histogram_exponent"), Histogram.from_arrays)

    def topk(self, layer: str) -> TopK:
        """The images that activate each unit most."""
        names = ("topk_activation", "topk_sample", "topk_position")
        return self._layer(layer, "topk", names, TopK.from_arrays)

    def class_topk(self) -> ClassTopK:
        """The labeled images of each class with its highest logits."""
        names = ("class_topk_activation", "class_topk_sample", "class_count")
        return self._read("", "class_topk", names, ClassTopK.from_arrays)

    def spectrum(self) -> MeanSpectrum:
        """Mean Fourier magnitude of the images."""
        return self._read("", "spectrum", ("spectrum", "spectrum_count"), MeanSpectrum.from_arrays)

    def correlation(self, layer: str, feature_layer: str) -> np.ndarray:
        """Correlation over the images of each unit with each channel of a feature layer, float64 [U, C].

        Raises:
            UserError: the store has no co-moments of these layers.
        """
        self._check_layer(layer)
        known = self.attrs["feature_layers"]
        if feature_layer not in known:
            raise UserError(
                f'no co-moments with feature layer "{feature_layer}"{nearest(feature_layer, known)}: set '
                'targets.relevance = "correlation" and run `neuron-atlas collect` again'
            )
        fields = (
            "comoment",
            *(f"comoment_{f}" for f in ("count", "mean_unit", "m2_unit", "mean_channel", "m2_channel")),
        )
        names = [f"{field}/{layer_file_name(feature_layer)}" for field in fields]
        comoments = self._layer(
            layer,
            f"comoments/{feature_layer}",
            names,
            lambda arrays: CoMoments.from_arrays(arrays, feature_layer),
        )
        return comoments.correlation()

    def percentile(self, layer: str, unit: int, value: float) -> float:
        """The percentage of images whose activation of the unit is at most `value`, in [0, 100].

        Exact (a count) if `value` reaches the unit's kept top-k; below, estimated from the histogram to within the
        share of images in one bin. NaN for NaN.
        """
        kept = self.topk(layer).activation[unit, : self.topk(layer).num_kept(unit)]
        above = int((kept > value).sum())
        exact = 100.0 * (1.0 - above / self.num_samples)
        if np.isnan(value):
            return float("nan")
        if above < len(kept) or len(kept) == self.num_samples:
            return exact
        estimate = float(self.histogram(layer).of_unit(unit).percentile(np.array([value]))[0])
        return min(estimate, exact)  # all of the top-k is above: so many images are certainly not below

    def display_histogram(self, layer: str, unit: int, max_bins: int = DISPLAY_BINS) -> tuple[np.ndarray, float, float]:
        """A unit's histogram for drawing: (counts int64 [≤ max_bins], low, high)."""
        return self.histogram(layer).display(unit, max_bins)

    def top_images(self, layer: str, unit: int, count: int | None = None) -> list[TopImage]:
        """The images that activate a unit most, best first; at most `count` (None: all that are kept)."""
        topk = self.topk(layer)
        return self._top_images(topk.sample[unit], topk.activation[unit], topk.position[unit], count)

    def top_images_of(self, samples: Sequence[int]) -> list[TopImage]:
        """Where given samples lie, in the order given; their activation (NaN) and position (0, 0) are not known."""
        count = len(samples)
        activations = np.full(count, np.nan, np.float32)
        return self._top_images(np.array(samples, np.int64), activations, np.zeros((count, 2), np.int32), count)

    def class_top_images(self, class_index: int, count: int | None = None) -> list[TopImage]:
        """The images labeled with a class, those with its highest logits first."""
        topk = self.class_topk()
        sample = topk.sample[class_index]
        return self._top_images(sample, topk.activation[class_index], np.zeros((len(sample), 2), np.int32), count)

    @cached_property
    def samples(self) -> SampleTable:
        """The recorded images: where they lie, their labels."""
        return SampleTable(self.root)

    def _top_images(
        self, samples: np.ndarray, activations: np.ndarray, positions: np.ndarray, count: int | None
    ) -> list[TopImage]:
        (ranks,) = np.nonzero(samples != NO_SAMPLE)
        ranks = ranks[:count]
        rows = self.samples.rows(samples[ranks])
        return [
            TopImage(
                **{name: values[i] for name, values in rows.items()},
                activation=float(activations[rank]),
                position=(int(positions[rank, 0]), int(positions[rank, 1])),
            )
            for i, rank in enumerate(ranks)
        ]

    @cached_property
    def _group(self) -> Group:
        return open_group(self.root, STORE)

    def _check_layer(self, layer: str) -> None:
        if layer not in self.layers:
            raise UserError(
                f'no statistics of layer "{layer}"{nearest(layer, self.layers)}: add it to statistics.layers '
                f"and run `neuron-atlas collect`; there are {self.layers}"
            )

    def _layer(self, layer: str, kind: str, names: Sequence[str], make: Any) -> Any:
        self._check_layer(layer)
        return self._read(f"layers/{layer_file_name(layer)}/", kind, names, make)

    def _read(self, prefix: str, kind: str, names: Sequence[str], make: Any) -> Any:
        key = prefix + kind
        if key not in self._cache:
            self._cache[key] = make({name: read_array(self._group, prefix + name) for name in names})
        return self._cache[key]
