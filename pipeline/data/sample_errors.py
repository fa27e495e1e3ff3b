"""Data errors: what is wrong with samples is counted and bounded here; errors of the code never come here."""

from collections import Counter
from dataclasses import dataclass

from pipeline.errors import UserError

_NUM_REASONS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class SkippedSample:
    """A sample that was left out, and why: `reason` is one word for counting."""

    key: str
    tar_shard: str
    index: int
    reason: str
    detail: str


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

    def add_good(self, n: int = 1) -> None:
        """Count `n` samples that were used."""
        self.num_good += n

    def add_skip(self, skipped: SkippedSample) -> None:
        """Count one sample that was left out."""
        self.skipped.append(skipped)

    @property
    def num_skipped(self) -> int:
        """How many samples were left out."""
        return len(self.skipped)

    def counts(self) -> dict[str, int]:
        """Return how many samples were left out for each reason, most frequent first."""
        return dict(Counter(skip.reason for skip in self.skipped).most_common())

    def check(self) -> None:
        """Raise TooManyBadSamples if the share of bad samples is above the bound."""
        total = self.num_good + self.num_skipped
        if not total or self.num_skipped <= self.max_error_fraction * total:
            return
        first = "; ".join(
            f"{skip.reason} ({skip.key or 'whole shard'} in {skip.tar_shard}: {skip.detail})"
            for skip in self.skipped[:_NUM_REASONS_SHOWN]
        )
        raise TooManyBadSamples(
            f"{self.num_skipped} of {total} samples are bad ({self.num_skipped / total:.2%}, allowed "
            f"{self.max_error_fraction:.2%}): {first}. Repair the shards, or raise data.max_error_fraction"
        )
