"""The recorded images, where each lies and its label: `run/samples.parquet`, ordered by sample id.

A data set has millions of them, so they are never all held as Python objects: the table is written tar shard by tar
shard, and a look-up reads the row groups of the requested samples.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from pipeline.activations.accumulators.shard_statistics import CAPTION_SCHEMA, sample_schema
from pipeline.activations.storage.shard_files import read_sample_table
from pipeline.io.parquet import join_tables
from pipeline.io.parquet_lookup import SortedTable
from pipeline.io.root import Root

SAMPLES: Final = "run/samples.parquet"
LOCATION: Final = ("key", "tar_shard", "offset", "size", "label", "top1")


def write_samples(root: Root, shards: Sequence[int], *, captions: bool = False) -> None:
    """Write the sample rows of all committed tar shards, ascending: a sample id begins with the index of its shard.

    Args:
        root: the atlas folder.
        shards: indices of the tar shards.
        captions: whether their rows have captions.

    Raises:
        CorruptShardStatisticsError: the rows of a tar shard changed since they were written.
    """
    tables = ((f"samples of tar shard {shard}", read_sample_table(root, shard)) for shard in shards)
    root.write_bytes(SAMPLES, join_tables(tables, sample_schema(captions=captions)))


class SampleTable:
    """Read side of `run/samples.parquet`."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._table = SortedTable(root, SAMPLES, by="sample", columns=LOCATION)

    @cached_property
    def _captions(self) -> SortedTable:
        """A table of their own, because few look-ups need them and they are longer than all other columns."""
        return SortedTable(self._root, SAMPLES, by="sample", columns=list(CAPTION_SCHEMA))

    @cached_property
    def ids(self) -> np.ndarray:
        """All sample ids, ascending, int64 [num_samples]: 8 bytes for each image of the data set."""
        found = [group["sample"] for group in self._table.scan(["sample"])]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def rows(self, samples: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
        """`sample` and the columns of `LOCATION` of given samples, in the order given.

        Raises:
            UserError: a sample was not recorded.
        """
        return self._table.rows(samples)

    def labels(self, samples: Sequence[int] | np.ndarray) -> np.ndarray:
        """Label of each of given samples, −1 without one, int32."""
        return np.array(self.rows(samples)["label"], np.int32)

    def labels_and_classes(self) -> Iterator[dict[str, np.ndarray]]:
        """Columns `label` and `top1` of all samples, −1 for none, some thousand samples at a time."""
        return self._table.scan(["label", "top1"])

    def captions(self, samples: Sequence[int] | np.ndarray) -> list[str]:
        """Caption of each of given samples, "" without one. Only of statistics that were made with captions.

        Raises:
            UserError: a sample was not recorded.
        """
        return self._captions.rows(samples)["caption"]

    def with_keys(self, keys: Sequence[str]) -> dict[str, list[int]]:
        """Key → ids of the samples of that key, ascending: none, or more than one where tar shards repeat a key."""
        found: dict[str, list[int]] = {key: [] for key in keys}
        for group in self._table.scan(["sample", "key"]):
            for key, sample in zip(group["key"], group["sample"].tolist(), strict=True):
                if key in found:
                    found[key].append(sample)
        return found

    def num_repeated_keys(self) -> int:
        """How many samples have the key of an earlier one: in one tar shard keys are unique."""
        hashes = [np.fromiter(map(hash, group["key"]), np.int64) for group in self._table.scan(["key"])]
        return sum(map(len, hashes)) - len(np.unique(np.concatenate(hashes))) if hashes else 0

    def keys(self) -> list[str]:
        """The keys of all samples in order of sample id. For a message: all of them are held."""
        return [key for group in self._table.scan(["key"]) for key in group["key"]]
