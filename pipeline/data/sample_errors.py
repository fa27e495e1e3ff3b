"""Data errors: what is wrong with samples is counted and bounded here; errors of the code never come here."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.errors import UserError

_NUM_REASONS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class SkippedSample:
    """A sample that was left out, and why: `reason` is one word for counting.

    Attributes:
        key: its name in the tar shard.
        tar_shard: URL.
        index: position in the shard; images under one key share it.
        reason: one word for counting.
        detail: what a user has to know.
        num_images: how many image members it stands for: 0 for a key without one.
        is_bad: whether it counts against `data.max_error_fraction`; an image that is rightly passed over does not.
    """

    key: str
    tar_shard: str
    index: int
    reason: str
    detail: str
    num_images: int = 1
    is_bad: bool = True


@dataclass(frozen=True, kw_only=True)
class SampleAccount:
    """What became of all images of some tar shards, and of keys without one: used, skipped or passed over.

    Attributes:
        skipped: reason → how many samples were left out as bad data.
        passed_over: reason → how many images are none of the data set (other formats of one key, hidden files).
        num_empty: tar shards that hold nothing of all this.
        num_narrow: images of 16 bits whose values take a quarter of their range or less.
        largest_value: of these images.
    """

    skipped: Mapping[str, int] = field(default_factory=dict)
    passed_over: Mapping[str, int] = field(default_factory=dict)
    num_empty: int = 0
    num_narrow: int = 0
    largest_value: int = 0

    def merge(self, other: "SampleAccount") -> "SampleAccount":
        """Of the tar shards of both."""
        return SampleAccount(
            skipped=dict(Counter(self.skipped) + Counter(other.skipped)),
            passed_over=dict(Counter(self.passed_over) + Counter(other.passed_over)),
            num_empty=self.num_empty + other.num_empty,
            num_narrow=self.num_narrow + other.num_narrow,
            largest_value=max(self.largest_value, other.largest_value),
        )

    def since(self, earlier: "SampleAccount") -> "SampleAccount":
        """What was counted after an earlier account of the same budget."""
        return replace(
            self,
            skipped=dict(Counter(self.skipped) - Counter(earlier.skipped)),
            passed_over=dict(Counter(self.passed_over) - Counter(earlier.passed_over)),
            num_narrow=self.num_narrow - earlier.num_narrow,
        )

    def describe(self, num_samples: int) -> str:
        """For a line of a report: the counts, which add up, and a warning where one is due."""
        num_skipped, num_passed = sum(self.skipped.values()), sum(self.passed_over.values())
        parts = [f"{num_samples} images"]
        if num_skipped:
            parts.append(f"{num_skipped} samples left out: {_by_reason(self.skipped)}")
        if num_passed:
            parts.append(f"{num_passed} further images passed over: {_by_reason(self.passed_over)}")
        if len(parts) > 1:
            parts.append(f"{num_samples + num_skipped + num_passed} in all")
        if self.num_empty:
            parts.append(f"{self.num_empty} tar shards are empty")
        text = ", ".join(parts)
        if self.num_narrow:
            text += (
                f". Warning: {self.num_narrow} images of 16 bits have no value above {self.largest_value}, so that few "
                f"shades of them are left: if that is their range, set data.max_value = "
                f"{(1 << self.largest_value.bit_length()) - 1} (in another output.root)"
            )
        return text


def _by_reason(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(counts).most_common())


class TooManyBadSamples(UserError):  # noqa: N818 - says what is the matter, as the other names here
    """The share of bad samples passed `data.max_error_fraction`."""


class ErrorBudget:
    """Counts good and bad samples and stops a run whose data are worse than allowed.

    The bound is checked by `check`, not at each sample: one bad one among the first three says nothing yet.
    """

    def __init__(self, max_error_fraction: float) -> None:
        if not 0 <= max_error_fraction <= 1:
            raise UserError(f"max_error_fraction = {max_error_fraction}: expected a number from 0 to 1")
        self.max_error_fraction = max_error_fraction
        self.num_good = 0
        self.skipped: list[SkippedSample] = []
        self._passed_over: Counter[str] = Counter()
        self._num_narrow = self._largest_value = 0

    def add_good(self, n: int = 1) -> None:
        """Count `n` samples that were used."""
        self.num_good += n

    def add_skip(self, skipped: SkippedSample) -> None:
        """Count one sample that was left out."""
        if skipped.is_bad:
            self.skipped.append(skipped)
        else:
            self._passed_over[skipped.reason] += 1

    def add_narrow(self, largest_value: int) -> None:
        """Count one image of 16 bits whose values are all small."""
        self._num_narrow += 1
        self._largest_value = max(self._largest_value, largest_value)

    @property
    def num_skipped(self) -> int:
        """How many samples were left out."""
        return len(self.skipped)

    def counts(self) -> dict[str, int]:
        """Return how many samples were left out for each reason, most frequent first."""
        return dict(Counter(skip.reason for skip in self.skipped).most_common())

    def account(self) -> SampleAccount:
        """What was counted so far."""
        return SampleAccount(
            skipped=self.counts(),
            passed_over=dict(self._passed_over.most_common()),
            num_narrow=self._num_narrow,
            largest_value=self._largest_value,
        )

    def check(self) -> None:
        """Raise TooManyBadSamples if the share of bad samples is above the bound."""
        total = self.num_good + self.num_skipped
        if not total or self.num_skipped <= self.max_error_fraction * total:
            return
        first = "; ".join(
            f"{skip.reason} ({skip.key} in {skip.tar_shard}: {skip.detail})"
            for skip in self.skipped[:_NUM_REASONS_SHOWN]
        )
        raise TooManyBadSamples(
            f"{self.num_skipped} of {total} samples are bad ({self.num_skipped / total:.2%}, allowed "
            f"{self.max_error_fraction:.2%}): {first}. Repair the shards, or raise data.max_error_fraction"
        )
