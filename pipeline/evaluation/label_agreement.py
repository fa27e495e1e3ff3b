"""Whether labels are the model's class indices: how often they are its top-1 class, and what fits better.

Labels that count from 1, that were sorted as text or that lack a class give whole and wrong atlases: each class is
made of the images of another. The model itself shows it, as its top-1 class is hardly ever the label.

Shapes: P distinct pairs of label and top-1 class, K classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.evaluation.metrics.proportion import wilson_interval

# Of two-sided intervals whose ends are one-sided tests: one comparison at p = 0.01, the best of many at p = 0.0001.
ONE: Final = 0.98
BEST: Final = 0.9998
# Classes that lie side by side are alike in ImageNet: labels that are off by one agree on some percent.
MIN_CHANCE: Final = 0.05
MIN_DISTINCT_LABELS: Final = 5  # of a part of the classes, to call it shifted
MIN_IMAGES_OF_LABEL: Final = 3  # to say what a label is mostly taken for
NUM_SHOWN: Final = 4


@dataclass(frozen=True, kw_only=True)
class LabelPairs:
    """How many images have which label and which top-1 class.

    Attributes:
        label: int64 [P].
        top1: int64 [P].
        count: int64 [P].
        num_samples: all images, the unlabeled ones too.
    """

    label: np.ndarray
    top1: np.ndarray
    count: np.ndarray
    num_samples: int

    @classmethod
    def of(cls, groups: Iterable[Mapping[str, np.ndarray]]) -> "LabelPairs":
        """Count groups of images with int columns `label` and `top1`, −1 for none."""
        codes, counts, num_samples = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
        for group in groups:
            label, top1 = (np.asarray(group[name], np.int64) for name in ("label", "top1"))
            num_samples += len(label)
            has_both = (label >= 0) & (top1 >= 0)
            found = np.unique(label[has_both] << 32 | top1[has_both], return_counts=True)
            codes.append(found[0])
            counts.append(found[1])
        code, place = np.unique(np.concatenate(codes), return_inverse=True)
        count = np.bincount(place, np.concatenate(counts), len(code)).astype(np.int64)
        return cls(label=code >> 32, top1=code & 0xFFFFFFFF, count=count, num_samples=num_samples)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Another reading of the labels: what it is, and on how many of the images that it concerns it agrees."""

    text: str
    num_agreeing: int
    num_images: int
    num_agreeing_as_is: int

    @property
    def gain(self) -> int:
        """On how many more images it agrees than the labels as they are."""
        return self.num_agreeing - self.num_agreeing_as_is


@dataclass(frozen=True, kw_only=True)
class LabelAgreement:
    """How labels and the model's top-1 classes agree.

    Attributes:
        num_labeled: images with a label.
        num_agreeing: those whose label is their top-1 class.
        hardly_agree: too few for a model that knows its classes.
        better: a reading of the labels that clearly agrees more often.
    """

    num_labeled: int
    num_agreeing: int
    hardly_agree: bool
    better: Reading | None

    @property
    def warning(self) -> str:
        """What to tell the user; nothing if the labels fit."""
        if not self.hardly_agree and self.better is None:
            return ""
        percent = _percent(self.num_agreeing, self.num_labeled)
        text = (
            f"labels agree with the model's top-1 class on {self.num_agreeing} of {self.num_labeled} labeled images "
            f"({percent})"
        )
        if self.better is not None:
            better = self.better
            return (
                f"{text}, but {better.text} agree on {_percent(better.num_agreeing, better.num_images)}: the labels of "
                "the tar shards are not the model's class indices, so its classes are made of images of other classes. "
                "Correct the labels and run into another output.root"
            )
        return (
            f"{text}: either the labels of the tar shards are not the model's class indices, and its classes are made "
            "of images of other classes; or its weights are not trained for these classes (random weights never "
            "agree); or it does not recognize these images"
        )


def compare_labels(pairs: LabelPairs, num_classes: int, class_names: Sequence[str] = ()) -> LabelAgreement:
    """Compare labels with top-1 classes.

    Labels hardly ever agree if the agreement is not above chance, and below halfway from chance to all, by Wilson's
    score intervals (Wilson 1927).

    Args:
        pairs: of the data.
        num_classes: K.
        class_names: K names, to find labels that are in the order of the names.
    """
    n, agreeing = int(pairs.count.sum()), int(pairs.count[pairs.label == pairs.top1].sum())
    chance = max(MIN_CHANCE, 1 / max(1, num_classes))
    _, low, high = wilson_interval(agreeing, n, confidence=ONE)
    hardly = low <= chance and high < (1 + chance) / 2

    def clear(readings: Iterable[tuple[Reading, float]]) -> Reading | None:
        found = [
            reading
            for reading, expected in readings
            if wilson_interval(reading.num_agreeing, reading.num_images, confidence=BEST)[1] > max(chance, expected)
            and reading.num_agreeing >= 2 * reading.num_agreeing_as_is + 3
        ]
        return max(found, key=lambda reading: reading.gain, default=None)  # of equal ones the first, the simplest

    better, of_each = clear(_readings(pairs, num_classes, class_names)), clear(_most_frequent(pairs, class_names))
    # What is chosen for each label fits more or less anything a little better.
    if of_each is not None and (better is None or of_each.gain > 1.5 * better.gain):
        better = of_each
    return LabelAgreement(num_labeled=n, num_agreeing=agreeing, hardly_agree=hardly, better=better)


def _readings(pairs: LabelPairs, num_classes: int, class_names: Sequence[str]) -> Iterator[tuple[Reading, float]]:
    """Other readings of the labels, the simplest first, each with the agreement expected of unrelated labels."""
    if not len(pairs.label):
        return
    yield from _shifts(pairs)
    num_labels = int(pairs.label.max()) + 1
    for count in dict.fromkeys((num_labels, num_classes)):
        if count > 10 and num_labels <= count <= num_classes:
            zero, one = (sorted(range(first, first + count), key=str) for first in (0, 1))
            yield _permuted(pairs, zero, f"class indices sorted as text ({_shown(zero)})")
            yield _permuted(pairs, [n - 1 for n in one], f"class numbers from 1 sorted as text ({_shown(one)})")
    if num_labels <= num_classes == len(class_names):
        by_name = sorted(range(num_classes), key=lambda index: class_names[index].casefold())
        yield _permuted(pairs, by_name, "the places in the sorted list of class names")


def _shifts(pairs: LabelPairs) -> Iterator[tuple[Reading, float]]:
    """Labels that are off by a constant, from the first or from some class on."""
    differences = pairs.top1 - pairs.label
    values, place = np.unique(differences, return_inverse=True)
    totals = np.bincount(place, pairs.count)
    often = [int(value) for value in values[np.argsort(-totals, kind="stable")] if value][:1]
    labels = np.unique(pairs.label)
    for shift in dict.fromkeys([-1, 1, *often]):
        gain = pairs.count * ((differences == shift).astype(np.int64) - (differences == 0))
        of_label = np.bincount(np.searchsorted(labels, pairs.label), gain, len(labels))
        from_here = np.cumsum(of_label[::-1])[::-1]
        first = int(np.argmax(from_here))
        text = f"labels {'−' if shift < 0 else '+'} {abs(shift)}"
        # From the first class on, unless the classes before it are many and lose by it.
        for start in dict.fromkeys([0, first]):
            if start and len(labels) - start < MIN_DISTINCT_LABELS:
                continue
            part = pairs.label >= labels[start]
            where = f" (from class {labels[start]} on)" if start else ""
            yield _reading(pairs, pairs.label + shift, text + where, part)


def _permuted(pairs: LabelPairs, classes: Sequence[int], text: str) -> tuple[Reading, float]:
    everywhere = np.ones(len(pairs.label), bool)
    return _reading(pairs, np.asarray(classes, np.int64)[pairs.label], text, everywhere)


def _most_frequent(pairs: LabelPairs, class_names: Sequence[str]) -> Iterator[tuple[Reading, float]]:
    """Each label as the class that its images are mostly taken for, if that is a class of its own."""
    mostly: dict[int, int] = {}
    for label in np.unique(pairs.label).tolist():
        mine = pairs.label == label
        if pairs.count[mine].sum() >= MIN_IMAGES_OF_LABEL:
            mostly[label] = int(pairs.top1[mine][np.argmax(pairs.count[mine])])
    if len(mostly) < 2 or len(set(mostly.values())) < 0.9 * len(mostly):
        return
    part = np.isin(pairs.label, list(mostly))
    read = np.array([mostly.get(label, -1) for label in pairs.label.tolist()], np.int64)
    moved = [(label, found) for label, found in mostly.items() if label != found]
    shown = ", ".join(
        f"{label} → {found}{f' {class_names[found]!r}' if found < len(class_names) else ''}"
        for label, found in moved[:NUM_SHOWN]
    )
    reading, expected = _reading(pairs, read, f"labels read as other classes ({shown}, …)", part)
    if 2 * reading.num_agreeing > reading.num_images:
        yield reading, expected


def _reading(pairs: LabelPairs, read: np.ndarray, text: str, part: np.ndarray) -> tuple[Reading, float]:
    """A reading of the labels in a part of the pairs."""
    label, read, top1, count = pairs.label[part], read[part], pairs.top1[part], pairs.count[part]
    n = max(1, int(count.sum()))
    values, place = np.unique(np.concatenate([read, top1]), return_inverse=True)
    of_read = np.bincount(place[: len(read)], count, len(values)) / n
    of_top1 = np.bincount(place[len(read) :], count, len(values)) / n
    reading = Reading(
        text=text,
        num_agreeing=int(count[read == top1].sum()),
        num_images=int(count.sum()),
        num_agreeing_as_is=int(count[label == top1].sum()),
    )
    return reading, float(of_read @ of_top1)


def _percent(part: int, whole: int) -> str:
    return f"{part / max(1, whole):.0%}".replace("%", " %")


def _shown(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:NUM_SHOWN])) + ", …"
