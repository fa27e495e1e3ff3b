"""The k images that activate each unit most, with the position of the peak; mergeable.

Order is by activation, then by sample id, so equal activations (a silent unit's zeros) always resolve the
same way and the result depends on the set of images alone.

Shapes: B images, U units, k ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NO_SAMPLE = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class TopK:
    """Best images of U units, best first; slots without an image hold −inf, NO_SAMPLE and position (0, 0).

    Attributes:
        activation: float32 [U, k].
        sample: int64 [U, k].
        position: int32 [U, k, 2], (y, x) of the peak in the layer's own grid (`Model.map_shape`), of patch tokens
            too; (0, token) for tokens that form no grid, (0, 0) for logits.
    """

    activation: np.ndarray
    sample: np.ndarray
    position: np.ndarray

    @classmethod
    def empty(cls, num_units: int, k: int) -> "TopK":
        """The identity of `merge`."""
        return cls(
            activation=np.full((num_units, k), -np.inf, np.float32),
            sample=np.full((num_units, k), NO_SAMPLE, np.int64),
            position=np.zeros((num_units, k, 2), np.int32),
        )

    @classmethod
    def of(cls, activation: np.ndarray, sample: np.ndarray, position: np.ndarray, k: int) -> "TopK":
        """Best k of a batch: finite activation [B, U], sample id [B], position [B, U, 2]."""
        num_images, num_units = activation.shape
        empty = cls.empty(num_units, k)
        if num_images == 0:
            return empty
        candidates_UB = np.ascontiguousarray(activation.T, dtype=np.float32)
        samples_UB = np.broadcast_to(sample.astype(np.int64), candidates_UB.shape)
        best = best_columns(candidates_UB, samples_UB, k)
        kept = best.shape[1]
        empty.activation[:, :kept] = np.take_along_axis(candidates_UB, best, axis=1)
        empty.sample[:, :kept] = sample[best]
        empty.position[:, :kept] = position[best, np.arange(num_units)[:, None]]
        return empty

    def merge(self, other: "TopK") -> "TopK":
        """Best k of both; the two must not share an image."""
        merged = TopK(activation=self.activation.copy(), sample=self.sample.copy(), position=self.position.copy())
        merged.absorb(other)
        return merged

    def absorb(self, other: "TopK") -> None:
        """`merge` into the arrays of this one."""
        rows, columns = entering(self.activation, self.sample, other.activation, other.sample)
        activation = np.concatenate([self.activation[rows], other.activation[rows, :columns]], axis=1)
        sample = np.concatenate([self.sample[rows], other.sample[rows, :columns]], axis=1)
        position = np.concatenate([self.position[rows], other.position[rows, :columns]], axis=1)
        best = best_columns(activation, sample, self.activation.shape[1])
        self.activation[rows] = np.take_along_axis(activation, best, axis=1)
        self.sample[rows] = np.take_along_axis(sample, best, axis=1)
        self.position[rows] = np.take_along_axis(position, best[..., None], axis=1)

    def num_kept(self, unit: int) -> int:
        """How many slots of a unit hold an image."""
        return int((self.sample[unit] != NO_SAMPLE).sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """Named arrays, each with the unit as first axis, from which `from_arrays` makes the same object."""
        return {
            "topk_activation": self.activation,
            "topk_sample": self.sample,
            "topk_position": self.position,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "TopK":
        """Inverse of `arrays`."""
        return cls(**{name: arrays[f"topk_{name}"] for name in ("activation", "sample", "position")})


def best_columns(activation: np.ndarray, sample: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k best of each row of [U, M], best first: [U, min(k, M)]; ties: lower sample."""
    # A stable sort by activation alone is much faster than `lexsort`, and ties come out right if they were ordered by
    # sample before. Only the other rows are sorted by both.
    order = np.argsort(-activation, axis=-1, kind="stable")
    ordered, tie = np.take_along_axis(activation, order, axis=1), np.take_along_axis(sample, order, axis=1)
    (wrong,) = np.nonzero(((ordered[:, :-1] == ordered[:, 1:]) & (tie[:, :-1] > tie[:, 1:])).any(axis=1))
    if len(wrong):
        order[wrong] = np.lexsort((sample[wrong], -activation[wrong]), axis=-1)
    return order[:, :k]


def entering(
    activation: np.ndarray, sample: np.ndarray, new_activation: np.ndarray, new_sample: np.ndarray
) -> tuple[np.ndarray, int]:
    """Which new images [U, k'] can rank among the best [U, k], both best first: (rows, number of leading columns).

    In a long pass one more batch or tar shard changes few units, by an image or two each. Only those are sorted.
    """
    last, last_sample = activation[:, -1:], sample[:, -1:]

    def ranks_before_last(rows: np.ndarray | slice, columns: slice) -> np.ndarray:
        new, tie = new_activation[rows, columns], new_sample[rows, columns]
        before = (new > last[rows]) | ((new == last[rows]) & (tie < last_sample[rows]))
        return before & (tie != NO_SAMPLE)

    (rows,) = np.nonzero(ranks_before_last(slice(None), slice(1))[:, 0])
    if not len(rows):
        return rows, 0
    return rows, int(ranks_before_last(rows, slice(None)).sum(axis=1).max())
