"""Per class: how many images are labeled with it, and those with the highest logit of the class; mergeable.

Shapes: B images, K classes, k ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.activations.accumulators.topk import NO_SAMPLE, best_columns, entering

NO_LABEL = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassTopK:
    """Best labeled images of K classes, best first; slots without an image hold −inf and NO_SAMPLE.

    Attributes:
        activation: float32 [K, k], logit of the labeled class.
        sample: int64 [K, k].
        counts: int64 [K], images labeled with the class.
    """

    activation: np.ndarray
    sample: np.ndarray
    counts: np.ndarray

    @classmethod
    def empty(cls, num_classes: int, k: int) -> "ClassTopK":
        """The identity of `merge`."""
        return cls(
            activation=np.full((num_classes, k), -np.inf, np.float32),
            sample=np.full((num_classes, k), NO_SAMPLE, np.int64),
            counts=np.zeros(num_classes, np.int64),
        )

    @classmethod
    def of(cls, logits: np.ndarray, label: np.ndarray, sample: np.ndarray, k: int) -> "ClassTopK":
        """Of a batch: finite logits [B, K], label [B] (NO_LABEL where there is none), sample id [B]."""
        result = cls.empty(logits.shape[1], k)
        (labeled,) = np.nonzero(label != NO_LABEL)
        classes, samples = label[labeled], sample[labeled]
        own_logit = logits[labeled, classes].astype(np.float32)
        order = np.lexsort((samples, -own_logit, classes))
        classes, samples, own_logit = classes[order], samples[order], own_logit[order]
        # `classes` is sorted, so the rank inside a class is the distance to its first place.
        rank = np.arange(len(classes)) - np.searchsorted(classes, classes)
        kept = rank < k
        result.activation[classes[kept], rank[kept]] = own_logit[kept]
        result.sample[classes[kept], rank[kept]] = samples[kept]
        result.counts[:] = np.bincount(classes, minlength=logits.shape[1])
        return result

    def merge(self, other: "ClassTopK") -> "ClassTopK":
        """Best k of both; the two must not share an image."""
        merged = ClassTopK(
            activation=self.activation.copy(), sample=self.sample.copy(), counts=self.counts + other.counts
        )
        rows, columns = entering(self.activation, self.sample, other.activation, other.sample)
        activation = np.concatenate([self.activation[rows], other.activation[rows, :columns]], axis=1)
        sample = np.concatenate([self.sample[rows], other.sample[rows, :columns]], axis=1)
        best = best_columns(activation, sample, self.activation.shape[1])
        merged.activation[rows] = np.take_along_axis(activation, best, axis=1)
        merged.sample[rows] = np.take_along_axis(sample, best, axis=1)
        return merged

    def arrays(self) -> dict[str, np.ndarray]:
        """Named arrays, each with the class as first axis, from which `from_arrays` makes the same object."""
        return {
            "class_topk_activation": self.activation,
            "class_topk_sample": self.sample,
            "class_count": self.counts,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "ClassTopK":
        """Inverse of `arrays`."""
        return cls(
            activation=arrays["class_topk_activation"],
            sample=arrays["class_topk_sample"],
            counts=arrays["class_count"],
        )
