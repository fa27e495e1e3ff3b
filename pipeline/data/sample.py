"""One image of a tar shard, and its number in the whole data set."""

from dataclasses import dataclass, field
from typing import Final

from pipeline.errors import UserError

INDEX_BITS: Final = 24  # samples per tar shard that a sample id can hold: 16.7 million


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a tar shard, not decoded yet.

    Attributes:
        key: the sample's name in the shard.
        tar_shard: URL of the shard.
        index: position in the shard, good and bad samples counted.
        offset: first byte of the image's data in the shard.
        size: length of the image's data in bytes.
        label: class index, or None for an unlabeled sample.
        image: the file, as stored.
        caption: one line of text, "" for a sample without one; None where captions were not asked for.
    """

    key: str
    tar_shard: str
    index: int
    offset: int
    size: int
    label: int | None
    image: bytes = field(repr=False)
    caption: str | None = None


def sample_id(shard_index: int, index: int) -> int:
    """Return the number of a sample in the whole data set; it sorts by tar shard, then by position.

    Raises:
        UserError: the shard or the position is out of range.
    """
    if not (0 <= shard_index < 1 << (63 - INDEX_BITS) and 0 <= index < 1 << INDEX_BITS):
        raise UserError(f"shard {shard_index}, sample {index}: expected numbers ≥ 0, the second below 2^{INDEX_BITS}")
    return shard_index << INDEX_BITS | index


def split_sample_id(number: int) -> tuple[int, int]:
    """Return the (shard index, index in the shard) of a sample id."""
    return number >> INDEX_BITS, number & ((1 << INDEX_BITS) - 1)
