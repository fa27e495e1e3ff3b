"""The statistics of some tar shards: all layers at once, as one object that merges.

Arrays have the same names in the files of a tar shard and in the final store (Zarr).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from pipeline.activations.accumulators.class_topk import ClassTopK
from pipeline.activations.accumulators.comoments import CoMoments
from pipeline.activations.accumulators.histogram import Histogram
from pipeline.activations.accumulators.moments import Moments
from pipeline.activations.accumulators.spectrum import MeanSpectrum
from pipeline.activations.accumulators.topk import TopK
from pipeline.data.sample_errors import SampleAccount
from pipeline.errors import UserError
from pipeline.neurons import layer_file_name, layer_of_file_name

# One row per image that was recorded. `label` is −1 without a label; `offset` and `size` are the byte range of the
# image in its tar shard; `top1` is the class of the highest logit, −1 (and a logit of NaN) for a model without
# classifier.
SAMPLE_SCHEMA: Final = {
    "sample": "int64",
    "key": "string",
    "tar_shard": "string",
    "offset": "int64",
    "size": "int64",
    "label": "int32",
    "top1": "int32",
    "top1_logit": "float32",
}
CAPTION_SCHEMA: Final = {"caption": "string"}  # further columns if captions were requested; "" without one
SampleRow = dict[str, Any]

_ACTIVATION_PREFIX: Final = "activation_"
_DIGEST_MODULUS: Final = 1 << 256


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerStatistics:
    """Statistics of one layer.

    Attributes:
        moments: of every unit over all positions of all images.
        activation_moments: of every unit's activation, one value per image (the spatial maximum or mean).
        histogram: of the same values.
        topk: the images with the highest of them.
        comoments: feature layer → co-moments with its channels; empty unless asked for.
    """

    moments: Moments
    activation_moments: Moments
    histogram: Histogram
    topk: TopK
    comoments: Mapping[str, CoMoments]

    @classmethod
    def empty(cls, num_units: int, top_k: int, num_channels: Mapping[str, int]) -> "LayerStatistics":
        """The identity of `merge`; `num_channels` is feature layer → channels."""
        return cls(
            moments=Moments.empty(num_units),
            activation_moments=Moments.empty(num_units),
            histogram=Histogram.empty(num_units),
            topk=TopK.empty(num_units, top_k),
            comoments={name: CoMoments.empty(num_units, count) for name, count in num_channels.items()},
        )

    def merge(self, other: "LayerStatistics") -> "LayerStatistics":
        """Statistics over the images of both."""
        return LayerStatistics(
            moments=self.moments.merge(other.moments),
            activation_moments=self.activation_moments.merge(other.activation_moments),
            histogram=self.histogram.merge(other.histogram),
            topk=self.topk.merge(other.topk),
            comoments={name: mine.merge(other.comoments[name]) for name, mine in self.comoments.items()},
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Named arrays from which `from_arrays` makes the same object."""
        found = {**self.moments.arrays(), **self.histogram.arrays(), **self.topk.arrays()}
        found |= {_ACTIVATION_PREFIX + name: array for name, array in self.activation_moments.arrays().items()}
        for feature_layer, comoments in self.comoments.items():
            found |= comoments.arrays(feature_layer)
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], feature_layers: Sequence[str]) -> "LayerStatistics":
        """Inverse of `arrays`."""
        return cls(
            moments=Moments.from_arrays(arrays),
            activation_moments=activation_moments(arrays),
            histogram=Histogram.from_arrays(arrays),
            topk=TopK.from_arrays(arrays),
            comoments={name: CoMoments.from_arrays(arrays, name) for name in feature_layers},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardStatistics:
    """Statistics of the images of some tar shards.

    Attributes:
        shards: indices of the tar shards covered.
        num_samples: images recorded.
        digest: sum of the SHA-256 of all (label, image bytes) modulo 2^256, the same in any order.
        layers: layer → its statistics, in model order; the classifier, if there is one, is among them.
        classes: per-class counts and best labeled images; of no class without a classifier.
        spectrum: mean Fourier magnitude of the preprocessed images.
        account: what became of the other images.
        samples: one row per image in order of sample id; kept per tar shard, so merged statistics have none.
    """

    shards: frozenset[int]
    num_samples: int
    digest: int
    layers: Mapping[str, LayerStatistics]
    classes: ClassTopK
    spectrum: MeanSpectrum
    account: SampleAccount = field(default_factory=SampleAccount)
    samples: Sequence[SampleRow] = ()

    @property
    def num_skipped(self) -> int:
        """Samples left out as bad data."""
        return sum(self.account.skipped.values())

    def merge(self, other: "ShardStatistics") -> "ShardStatistics":
        """Statistics over the shards of both, without their sample rows.

        Raises:
            UserError: a tar shard is in both (its images would count twice), or they are of different layers.
        """
        twice = sorted(self.shards & other.shards)
        if twice:
            raise UserError(f"tar shards {twice} are in both shard statistics: each may be merged once")
        if list(self.layers) != list(other.layers):
            raise UserError(f"shard statistics of different layers: {list(self.layers)} and {list(other.layers)}")
        return self.add(other, shards=self.shards | other.shards)

    def add(self, other: "ShardStatistics", *, shards: frozenset[int]) -> "ShardStatistics":
        """Statistics over the images of both, which together cover `shards`; both may be of one tar shard."""
        return ShardStatistics(
            shards=shards,
            num_samples=self.num_samples + other.num_samples,
            account=self.account.merge(other.account),
            digest=add_digests([self.digest, other.digest]),
            layers={name: mine.merge(other.layers[name]) for name, mine in self.layers.items()},
            classes=self.classes.merge(other.classes),
            spectrum=self.spectrum.merge(other.spectrum),
        )

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The feature layers with co-moments."""
        return tuple(next(iter(self.layers.values())).comoments)

    @property
    def data_fingerprint(self) -> str:
        """16 hexadecimal digits that identify the set of images and labels."""
        return hashlib.sha256(self.digest.to_bytes(32, "big")).hexdigest()[:16]

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by path: `layers/<layer_file_name>/<name>`, `class_…`, `spectrum…`."""
        found = {**self.classes.arrays(), **self.spectrum.arrays()}
        for layer, statistics in self.layers.items():
            found |= {f"layers/{layer_file_name(layer)}/{name}": array for name, array in statistics.arrays().items()}
        return found

    def header(self) -> dict[str, Any]:
        """Everything but the arrays and the sample rows, as JSON values."""
        return {
            "shards": sorted(self.shards),
            "num_samples": self.num_samples,
            "num_skipped": self.num_skipped,
            "account": asdict(self.account),
            "digest": f"{self.digest:064x}",
            "layers": list(self.layers),
            "feature_layers": list(self.feature_layers),
        }

    @classmethod
    def from_arrays(cls, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "ShardStatistics":
        """Inverse of `header` and `arrays`, without sample rows."""
        own: dict[str, dict[str, np.ndarray]] = {layer: {} for layer in header["layers"]}
        for path, array in arrays.items():
            if path.startswith("layers/"):
                # The name of an array may hold a slash before a feature layer.
                _, layer, name = path.split("/", 2)
                own[layer_of_file_name(layer)][name] = array
        layers = {layer: LayerStatistics.from_arrays(found, header["feature_layers"]) for layer, found in own.items()}
        return cls(
            shards=frozenset(header["shards"]),
            num_samples=header["num_samples"],
            account=SampleAccount(**header["account"]),
            digest=int(header["digest"], 16),
            layers=layers,
            classes=ClassTopK.from_arrays(arrays),
            spectrum=MeanSpectrum.from_arrays(arrays),
        )


def sample_schema(*, captions: bool) -> dict[str, str]:
    """The columns of the sample rows of a run with or without captions."""
    return SAMPLE_SCHEMA | (CAPTION_SCHEMA if captions else {})


def add_digests(digests: Iterable[int]) -> int:
    """The digest of all samples together, whatever their order."""
    return sum(digests) % _DIGEST_MODULUS


def sample_digest(label: int, image: bytes) -> int:
    """Fingerprint of one image and its label, to be summed."""
    return int.from_bytes(hashlib.sha256(b"%d:" % label + image).digest(), "big")


def activation_moments(arrays: Mapping[str, np.ndarray]) -> Moments:
    """The moments of the per-image activation among a layer's arrays."""
    own = {
        name.removeprefix(_ACTIVATION_PREFIX): a for name, a in arrays.items() if name.startswith(_ACTIVATION_PREFIX)
    }
    return Moments.from_arrays(own)
