"""The merge of many partials: what adds up exactly in place, what is rounded as a tree.

Counts and best images come out the same however they are grouped, so they are added to one set of arrays, which takes
little memory and sorts little. Sums of real numbers depend on the grouping, and their error on its depth: they are
merged pairwise, and are small.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from pipeline.activations.accumulators.histogram import Histogram
from pipeline.activations.accumulators.shard_statistics import Partial
from pipeline.activations.accumulators.topk import TopK

_NO_HISTOGRAM: Final = Histogram.empty(0)
_NO_TOPK: Final = TopK.empty(0, 1)


def merge_all(partials: Iterable[Partial]) -> Partial:
    """Merge partials in the order they come: the result is that of `merge_tree`, to the bit.

    Memory: the histograms and best images of one partial beside those of all, and log2(partials) + 2 times the rest.

    Raises:
        ValueError: there are none.
    """
    exact = _Exact()
    merged = merge_tree(exact.take_out(partial) for partial in partials)
    return exact.put_back(merged)


def merge_tree(partials: Iterable[Partial]) -> Partial:
    """Merge partials pairwise as they come, like the carries of a binary counter.

    The grouping depends on the number of partials alone.

    Raises:
        ValueError: there are none.
    """
    stack: list[tuple[int, Partial]] = []  # (2^level partials are in it, merged); levels fall from left to right
    for partial in partials:
        level = 0
        while stack and stack[-1][0] == level:
            partial = stack.pop()[1].merge(partial)
            level += 1
        stack.append((level, partial))
    if not stack:
        raise ValueError("no partials to merge: data.shards names no tar shard")
    merged = stack.pop()[1]
    while stack:
        merged = stack.pop()[1].merge(merged)
    return merged


class _Exact:
    """Histograms and best images of all layers, added up."""

    def __init__(self) -> None:
        self._layers: Mapping[str, tuple[Histogram, TopK]] | None = None

    def take_out(self, partial: Partial) -> Partial:
        """Add those of a partial; returns the rest of it."""
        if self._layers is None:
            self._layers = {
                name: (Histogram.empty(len(layer.histogram.counts)), TopK.empty(*layer.topk.sample.shape))
                for name, layer in partial.layers.items()
            }
        for name, layer in partial.layers.items():
            histogram, topk = self._layers[name]
            histogram.absorb(layer.histogram)
            topk.absorb(layer.topk)
        rest = {n: replace(layer, histogram=_NO_HISTOGRAM, topk=_NO_TOPK) for n, layer in partial.layers.items()}
        return replace(partial, layers=rest)

    def put_back(self, merged: Partial) -> Partial:
        """The merged rest with the sums."""
        assert self._layers is not None
        layers = {
            name: replace(layer, histogram=self._layers[name][0], topk=self._layers[name][1])
            for name, layer in merged.layers.items()
        }
        return replace(merged, layers=layers)
