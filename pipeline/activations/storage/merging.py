"""The merge of the statistics of many tar shards: exact ones in place, rounded ones as a tree.

Counts and best images are the same in any grouping, so they are added to one set of arrays, which takes little memory.
Sums of real numbers depend on the grouping, and their error on its depth: they are small, and are merged pairwise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from pipeline.activations.accumulators.histogram import Histogram
from pipeline.activations.accumulators.shard_statistics import ShardStatistics
from pipeline.activations.accumulators.topk import TopK
from pipeline.errors import UserError

_NO_HISTOGRAM: Final = Histogram.empty(0)
_NO_TOPK: Final = TopK.empty(0, 1)


def merge_all(shard_statistics: Iterable[ShardStatistics]) -> ShardStatistics:
    """Merge shard statistics in the order they come: the result is that of `merge_tree`, to the bit.

    Memory: the histograms and best images of all and of one tar shard, and log2(number of tar shards) + 2 times the
    other statistics of one.

    Raises:
        UserError: there are none.
    """
    exact = _Exact()
    merged = merge_tree(exact.take_out(one) for one in shard_statistics)
    return exact.put_back(merged)


def merge_tree(shard_statistics: Iterable[ShardStatistics]) -> ShardStatistics:
    """Merge shard statistics pairwise as they come, like the carries of a binary counter.

    The grouping depends on their number alone.

    Raises:
        UserError: there are none.
    """
    # (level, merged): 2^level shard statistics are in `merged`; levels fall from left to right.
    stack: list[tuple[int, ShardStatistics]] = []
    for merged in shard_statistics:
        level = 0
        while stack and stack[-1][0] == level:
            merged = stack.pop()[1].merge(merged)
            level += 1
        stack.append((level, merged))
    if not stack:
        raise UserError("no shard statistics to merge: data.shards names no tar shard")
    merged = stack.pop()[1]
    while stack:
        merged = stack.pop()[1].merge(merged)
    return merged


class _Exact:
    """Histograms and best images of all layers, added up."""

    def __init__(self) -> None:
        self._layers: Mapping[str, tuple[Histogram, TopK]] | None = None

    def take_out(self, shard_statistics: ShardStatistics) -> ShardStatistics:
        """Add those of some shard statistics; returns the others."""
        if self._layers is None:
            self._layers = {
                name: (Histogram.empty(len(layer.histogram.counts)), TopK.empty(*layer.topk.sample.shape))
                for name, layer in shard_statistics.layers.items()
            }
        for name, layer in shard_statistics.layers.items():
            histogram, topk = self._layers[name]
            histogram.absorb(layer.histogram)
            topk.absorb(layer.topk)
        rest = {
            n: replace(layer, histogram=_NO_HISTOGRAM, topk=_NO_TOPK) for n, layer in shard_statistics.layers.items()
        }
        return replace(shard_statistics, layers=rest)

    def put_back(self, merged: ShardStatistics) -> ShardStatistics:
        """The merged others with the sums."""
        assert self._layers is not None
        layers = {
            name: replace(layer, histogram=self._layers[name][0], topk=self._layers[name][1])
            for name, layer in merged.layers.items()
        }
        return replace(merged, layers=layers)
