"""Near-duplicates: whether two visualizations are one dataset image, be it mirrored, recompressed, resized or slightly cropped.

Data sets hold many dataset images twice, and a neuron that likes one likes its copies. Left in, they would count twice
among the references and fill the strip of examples.

Two visualizations are one dataset image if their perceptual hashes differ in few bits and their colors agree. Measured
on 684 dataset images at 224 px (233,586 pairs of different ones): with at most 8 bits none of these pairs is taken for
one dataset image, while all copies are found that are mirrored, of half the size or of JPEG quality 40, or that lack 2
% of each side's length; of those that lack 5 % and are mirrored and recompressed, 86 %. Ten bits would find 97 % of
these.

Reference: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1 (the hash).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

Item = TypeVar("Item")

_SIDE = 32  # the visualization is hashed at this size,
_FREQUENCIES = 8  # by its lowest frequencies along each axis: 64 bits
_COLOR_CELLS = 8
# Largest mean difference of the colors in 8 × 8 cells, in gray levels of 255. The copies above differ by at most 15;
# without this, stripes of one period would be one dataset image in any colors, and so would all plain visualizations.
_COLOR_TOLERANCE = 16.0


def _cosines(side: int) -> np.ndarray:
    """The type II discrete cosine transform as a matrix [side, side], not normalized: only signs matter."""
    positions = np.arange(side)
    return np.cos(np.pi / side * (positions[None, :] + 0.5) * positions[:, None])


_COSINES = _cosines(_SIDE)[:_FREQUENCIES]
_MIRROR = np.where(np.arange(_FREQUENCIES) % 2 == 1, -1.0, 1.0)  # mirroring negates the odd horizontal frequencies


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a visualization is recognized by.

    Attributes:
        bits: of its perceptual hash, bool [64].
        mirrored_bits: of the hash of its mirror image.
        colors: mean colors in cells, float64 [8, 8, 3], 0–255.
    """

    bits: np.ndarray
    mirrored_bits: np.ndarray
    colors: np.ndarray


def predict_for(visualization: Image.Image) -> Predictions:
    """The look of a visualization, as the model sees it (a square crop)."""
    gray = np.asarray(visualization.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float64)
    spectrum = _COSINES @ gray @ _COSINES.T
    colors = visualization.convert("RGB").resize((_COLOR_CELLS, _COLOR_CELLS), Image.Resampling.BOX)
    return Predictions(
        bits=_hash(spectrum), mirrored_bits=_hash(spectrum * _MIRROR), colors=np.asarray(colors, np.float64)
    )


def _hash(spectrum: np.ndarray) -> np.ndarray:
    values = spectrum.flatten()
    return values > np.median(values[1:])  # without the mean brightness, which would only move the median


def hash_distance(one: Predictions, other: Predictions) -> int:
    """Bits in which the hashes differ, 0–64; the mirror image counts as the visualization."""
    return int(min((one.bits != other.bits).sum(), (one.bits != other.mirrored_bits).sum()))


def is_same_dataset_image(one: Predictions, other: Predictions, max_distance: int) -> bool:
    """Whether two visualizations are one dataset image: hashes at most `max_distance` bits apart, and like colors."""
    if hash_distance(one, other) > max_distance:
        return False
    difference = min(np.abs(one.colors - colors).mean() for colors in (other.colors, other.colors[:, ::-1]))
    return bool(difference <= _COLOR_TOLERANCE)


class DistinctVisualizations(Generic[Item]):
    """Takes items one after the other and leaves out those whose visualization has been taken already.

    Args:
        predictions_of: the look of an item's visualization.
        max_distance: see `is_same_dataset_image`; below 0 nothing is looked at, and all are taken.
        load: is told which items will be looked at next, so that their visualizations can be read together.

    Attributes:
        num_duplicates: how many were left out.
    """

    def __init__(
        self,
        predictions_of: Callable[[Item], Predictions],
        max_distance: int,
        load: Callable[[Sequence[Item]], None] = lambda _: None,
    ) -> None:
        self._predictions_of = predictions_of
        self._load = load
        self._max_distance = max_distance
        self._taken: list[Predictions] = []
        self.num_duplicates = 0

    def take(self, candidates: Sequence[Item], count: int) -> list[Item]:
        """The first `count` candidates that are distinct from all taken before; no more are looked at than needed."""
        taken: list[Item] = []
        if self._max_distance >= 0:
            self._load(candidates[:count])
        for candidate in candidates:
            if len(taken) == count:
                break
            if self._max_distance >= 0:
                predict = self._predictions_of(candidate)
                if any(is_same_dataset_image(predict, other, self._max_distance) for other in self._taken):
                    self.num_duplicates += 1
                    continue
                self._taken.append(predict)
            taken.append(candidate)
        return taken
