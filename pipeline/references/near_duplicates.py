"""Near-duplicates: copies of one image, mirrored, recompressed, resized or slightly cropped.

Data sets hold many images twice, and a neuron that is activated by one is activated by its copies. Left in, they would
count twice among the references and fill the row of top-activating images.

Two images are near-duplicates if their perceptual hashes differ in few bits and their colors agree. Measured on 684
dataset images at 224 px (233,586 pairs of different ones): with at most 8 bits none of these pairs is taken for one
image. All copies are found that are mirrored, of half the size, of JPEG quality 40, or that lack 2 % of each side's
length; of those that lack 5 % and are mirrored and recompressed, 86 %. Ten bits would find 97 % of these.

Reference: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1 (the hash).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

Item = TypeVar("Item")

_SIDE = 32  # the image is hashed at this size,
_FREQUENCIES = 8  # by its lowest frequencies along each axis: 64 bits
_COLOR_CELLS = 8
# Largest mean difference of the colors in 8 × 8 cells, in gray levels of 255. The copies above differ by at most 15;
# without this bound, stripes of one period would be near-duplicates in any colors, and so would all uniform images.
_COLOR_TOLERANCE = 16.0


def _cosines(side: int) -> np.ndarray:
    """The type II discrete cosine transform as a matrix [side, side], not normalized: only signs matter."""
    positions = np.arange(side)
    return np.cos(np.pi / side * (positions[None, :] + 0.5) * positions[:, None])


_COSINES = _cosines(_SIDE)[:_FREQUENCIES]
_MIRROR = np.where(np.arange(_FREQUENCIES) % 2 == 1, -1.0, 1.0)  # mirroring negates the odd horizontal frequencies


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprint:
    """The features by which near-duplicates of an image are found.

    Attributes:
        bits: of its perceptual hash, bool [64].
        mirrored_bits: of the hash of its mirror image.
        colors: mean colors of 8 × 8 cells, float64 [8, 8, 3], 0–255.
    """

    bits: np.ndarray
    mirrored_bits: np.ndarray
    colors: np.ndarray


def fingerprint_of(image: Image.Image) -> Fingerprint:
    """The fingerprint of an image as the model's input is (a square crop)."""
    gray = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float64)
    spectrum = _COSINES @ gray @ _COSINES.T
    colors = image.convert("RGB").resize((_COLOR_CELLS, _COLOR_CELLS), Image.Resampling.BOX)
    return Fingerprint(
        bits=_hash(spectrum), mirrored_bits=_hash(spectrum * _MIRROR), colors=np.asarray(colors, np.float64)
    )


def _hash(spectrum: np.ndarray) -> np.ndarray:
    values = spectrum.flatten()
    return values > np.median(values[1:])  # without the mean brightness, which would only move the median


def hash_distance(one: Fingerprint, other: Fingerprint) -> int:
    """Bits in which the hashes differ, 0–64; the nearer of the image and its mirror image counts."""
    return int(min((one.bits != other.bits).sum(), (one.bits != other.mirrored_bits).sum()))


def is_near_duplicate(one: Fingerprint, other: Fingerprint, max_distance: int) -> bool:
    """Whether two images are near-duplicates: hashes at most `max_distance` bits apart, and like colors."""
    if hash_distance(one, other) > max_distance:
        return False
    difference = min(np.abs(one.colors - colors).mean() for colors in (other.colors, other.colors[:, ::-1]))
    return bool(difference <= _COLOR_TOLERANCE)


class DistinctImages(Generic[Item]):
    """Takes items one after the other and leaves out near-duplicates of those taken before.

    Args:
        fingerprint_of: the fingerprint of an item's image.
        max_distance: see `is_near_duplicate`; below 0 nothing is compared, and all are taken.
        load: receives the items that will be compared next, so that their images can be read together.

    Attributes:
        num_duplicates: how many were left out.
    """

    def __init__(
        self,
        fingerprint_of: Callable[[Item], Fingerprint],
        max_distance: int,
        load: Callable[[Sequence[Item]], None] = lambda _: None,
    ) -> None:
        self._fingerprint_of = fingerprint_of
        self._load = load
        self._max_distance = max_distance
        self._taken: list[Fingerprint] = []
        self.num_duplicates = 0

    def take(self, candidates: Sequence[Item], count: int) -> list[Item]:
        """The first `count` candidates that are distinct from all taken before; no more are compared than needed."""
        taken: list[Item] = []
        if self._max_distance >= 0:
            self._load(candidates[:count])
        for candidate in candidates:
            if len(taken) == count:
                break
            if self._max_distance >= 0:
                fingerprint = self._fingerprint_of(candidate)
                if any(is_near_duplicate(fingerprint, other, self._max_distance) for other in self._taken):
                    self.num_duplicates += 1
                    continue
                self._taken.append(fingerprint)
            taken.append(candidate)
        return taken
