"""The statistics store of a run: written once after the merge, then read by every later stage.

run/statistics.zarr     arrays of `Partial.arrays`, by the same paths
run/samples.parquet     one row per sample, ordered by sample id
run/statistics.json     marker, written last
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from pipeline.arrays import Group, create_group, open_group, read_array, write_array
from pipeline.neurons import nearest
from pipeline.statistics.comoments import CoMoments
from pipeline.statistics.histogram import DISPLAY_BINS, Histogram, unit_edges
from pipeline.statistics.labels import ClassTopK
from pipeline.statistics.moments import Moments
from pipeline.statistics.partial import SAMPLE_SCHEMA, Partial, activation_moments
from pipeline.statistics.partials import (
    committed_shards,
    merge_partials,
    read_partial,
    read_sample_table,
    write_partial,
)
from pipeline.statistics.spectrum import MeanSpectrum
from pipeline.statistics.topk import NO_SAMPLE, TopK
from pipeline.storage import Root
from pipeline.tables import parse_table, read_table, write_table

__all__ = [
    "Exemplar",
    "StatisticsStore",
    "committed_shards",
    "committed_statistics",
    "merge_partials",
    "read_partial",
    "write_partial",
    "write_statistics",
]

STORE: Final = "run/statistics.zarr"
SAMPLES: Final = "run/samples.parquet"
MARKER: Final = "run/statistics.json"
STATISTICS_SCHEMA: Final = "statistics/1"

# Axes of the arrays, by the last or last but one part of their path; those not named have the one axis
# "unit".
_DIMENSIONS: Final = {
    "histogram": ("unit", "bin"),
    "topk_activation": ("unit", "rank"),
    "topk_sample": ("unit", "rank"),
    "topk_position": ("unit", "rank", "yx"),
    "comoment": ("unit", "channel"),
    "comoment_mean_channel": ("channel",),
    "comoment_m2_channel": ("channel",),
    "class_topk_activation": ("class", "rank"),
    "class_topk_sample": ("class", "rank"),
    "class_count": ("class",),
    "spectrum": ("color", "frequency_y", "frequency_x"),
    "spectrum_count": ("one",),
}


def write_statistics(root: Root, merged: Partial, attrs: Mapping[str, Any]) -> None:
    """Write the store of all tar shards and commit it.

    Args:
        root: the atlas folder; it holds the committed partials, from which the sample rows come.
        merged: the partial of all tar shards.
        attrs: model, weights_sha256, preprocessing, recipe_fingerprint, …, kept with the store.

    Raises:
        ValueError: there is not one image.
    """
    if not merged.num_samples:
        raise ValueError(f"no usable image in {len(merged.shards)} tar shards ({merged.num_skipped} skipped)")
    root.remove(MARKER)
    header = {
        "schema": STATISTICS_SCHEMA,
        **attrs,
        "data_fingerprint": merged.data_fingerprint,
        "num_samples": merged.num_samples,
        "num_skipped": merged.num_skipped,
        "layers": list(merged.layers),
        "feature_layers": list(merged.feature_layers),
    }
    root.remove(STORE)
    group = create_group(root, STORE, header)
    for path, array in merged.arrays().items():
        write_array(group, path, array, dimensions=_dimensions(path))
    for layer in merged.layers:
        # Foreign readers see the bins without knowing our rule: edges at exponent 0.
        write_array(
            group,
            f"layers/{layer}/bin_edge",
            unit_edges(),
            attrs={"meaning": "times 2 ** histogram_exponent[unit]"},
            dimensions=("edge",),
        )
    write_table(root, SAMPLES, _all_samples(root, sorted(merged.shards)), SAMPLE_SCHEMA)
    root.write_json(MARKER, header)


def committed_statistics(root: Root) -> dict[str, Any] | None:
    """The attributes of the committed store, or None if there is none."""
    return root.read_json(MARKER) if root.exists(MARKER) else None


@dataclass(frozen=True, kw_only=True)
class Exemplar:
    """One image that excites a unit or shows a class, with where to read it.

    Attributes:
        sample: sample id.
        key: the sample's name in its tar shard.
        tar_shard: URL.
        offset: first byte of the image in the tar shard.
        size: bytes of the image.
        label: class index; −1 without a label.
        top1: class the model rates highest.
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
        """Images surveyed."""
        return int(self.attrs["num_samples"])

    @property
    def layers(self) -> list[str]:
        """Layers with statistics, in model order."""
        return list(self.attrs["layers"])

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
        """The images that excite each unit most."""
        names = ("topk_activation", "topk_sample", "topk_position")
        return self._layer(layer, "topk", names, TopK.from_arrays)

    def class_topk(self) -> ClassTopK:
        """The labeled images of each class that its own logit rates highest."""
        names = ("class_topk_activation", "class_topk_sample", "class_count")
        return self._read("", "class_topk", names, ClassTopK.from_arrays)

    def spectrum(self) -> MeanSpectrum:
        """Mean Fourier magnitude of the images."""
        return self._read("", "spectrum", ("spectrum", "spectrum_count"), MeanSpectrum.from_arrays)

    def correlation(self, layer: str, feature_layer: str) -> np.ndarray:
        """Correlation over the images of each unit with each channel of a feature layer, float64 [U, C].

        Raises:
            ValueError: the store has no co-moments of these layers.
        """
        self._check_layer(layer)
        known = self.attrs["feature_layers"]
        if feature_layer not in known:
            raise ValueError(
                f'no co-moments with feature layer "{feature_layer}"{nearest(feature_layer, known)}: set '
                'targets.relevance = "correlation" and run `neuron-atlas collect` again'
            )
        fields = (
            "comoment",
            *(f"comoment_{f}" for f in ("count", "mean_unit", "m2_unit", "mean_channel", "m2_channel")),
        )
        names = [f"{field}/{feature_layer}" for field in fields]
        comoments = self._layer(
            layer,
            f"comoments/{feature_layer}",
            names,
            lambda arrays: CoMoments.from_arrays(arrays, feature_layer),
        )
        return comoments.correlation()

    def percentile(self, layer: str, unit: int, value: float) -> float:
        """The percentage of images whose activation of the unit is at most `value`, in [0, 100].

        Exact (a count) if `value` reaches the unit's kept top-k; below, estimated from the histogram to
        within the share of images in one bin. NaN for NaN.
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

    def exemplars(self, layer: str, unit: int, count: int | None = None) -> list[Exemplar]:
        """The images that excite a unit most, best first; at most `count` (None: all that are kept)."""
        topk = self.topk(layer)
        return self._exemplars(topk.sample[unit], topk.activation[unit], topk.position[unit], count)

    def exemplars_of(self, samples: Sequence[int]) -> list[Exemplar]:
        """Where given samples lie, in the order given; activation NaN and position (0, 0), which nobody asked for."""
        count = len(samples)
        activations = np.full(count, np.nan, np.float32)
        return self._exemplars(np.array(samples, np.int64), activations, np.zeros((count, 2), np.int32), count)

    def class_exemplars(self, class_index: int, count: int | None = None) -> list[Exemplar]:
        """The images labeled with a class that its logit rates highest, best first."""
        topk = self.class_topk()
        sample = topk.sample[class_index]
        return self._exemplars(sample, topk.activation[class_index], np.zeros((len(sample), 2), np.int32), count)

    @cached_property
    def samples(self) -> dict[str, Any]:
        """Columns of `samples.parquet` in order of sample id; numbers as arrays, strings as lists."""
        columns = read_table(self.root, SAMPLES)
        return {
            name: values if SAMPLE_SCHEMA[name] == "string" else np.array(values, SAMPLE_SCHEMA[name])
            for name, values in columns.items()
        }

    def _exemplars(
        self, samples: np.ndarray, activations: np.ndarray, positions: np.ndarray, count: int | None
    ) -> list[Exemplar]:
        found = []
        rows = np.searchsorted(self.samples["sample"], samples)
        for rank in np.nonzero(samples != NO_SAMPLE)[0][:count]:
            row = int(rows[rank])
            found.append(
                Exemplar(
                    sample=int(samples[rank]),
                    key=self.samples["key"][row],
                    tar_shard=self.samples["tar_shard"][row],
                    offset=int(self.samples["offset"][row]),
                    size=int(self.samples["size"][row]),
                    label=int(self.samples["label"][row]),
                    top1=int(self.samples["top1"][row]),
                    activation=float(activations[rank]),
                    position=(int(positions[rank, 0]), int(positions[rank, 1])),
                )
            )
        return found

    @cached_property
    def _group(self) -> Group:
        return open_group(self.root, STORE)

    def _check_layer(self, layer: str) -> None:
        if layer not in self.layers:
            raise ValueError(
                f'no statistics of layer "{layer}"{nearest(layer, self.layers)}: add it to statistics.layers '
                f"and run `neuron-atlas collect`; there are {self.layers}"
            )

    def _layer(self, layer: str, kind: str, names: Sequence[str], make: Any) -> Any:
        self._check_layer(layer)
        return self._read(f"layers/{layer}/", kind, names, make)

    def _read(self, prefix: str, kind: str, names: Sequence[str], make: Any) -> Any:
        key = prefix + kind
        if key not in self._cache:
            self._cache[key] = make({name: read_array(self._group, prefix + name) for name in names})
        return self._cache[key]


def _dimensions(path: str) -> tuple[str, ...]:
    parts = path.split("/")
    # layers/<layer>/<name>[/<feature layer>], or <name>
    name = parts[2] if parts[0] == "layers" else parts[0]
    return _DIMENSIONS.get(name, ("unit",))


def _all_samples(root: Root, shards: Sequence[int]) -> dict[str, list[Any]]:
    """Sample rows of all tar shards in order of sample id, whose high part is the shard's index."""
    columns: dict[str, list[Any]] = {name: [] for name in SAMPLE_SCHEMA}
    for shard in shards:
        table = parse_table(read_sample_table(root, shard), source=f"samples of tar shard {shard}")
        for name, values in table.items():
            columns[name].extend(values)
    return columns
