"""Shard statistics in storage: committed by a marker, never stale, merged to the same bits in any order."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.activations.accumulators.shard_statistics import ShardStatistics
from pipeline.activations.storage.merging import merge_all, merge_tree
from pipeline.activations.storage.packing import pack, unpack
from pipeline.activations.storage.shard_files import CorruptShardStatisticsError, StaleShardStatisticsError
from pipeline.activations.store import (
    committed_shards,
    committed_statistics,
    merge_shard_statistics,
    read_shard_statistics,
)
from pipeline.io.root import Root
from tests.support.tiny_collect import tiny_collect
from tests.support.tiny_shard_statistics import (
    COUNTS,
    RECIPE,
    SAMPLES,
    SHARD_STATISTICS,
    URLS,
    KilledError,
    collect,
    commit,
    merge,
)


def committed(root: Root) -> set[int]:
    return committed_shards(root, recipe_fingerprint=RECIPE, shard_urls=URLS)


def files_of(root: Root) -> dict[str, bytes]:
    return {path: root.read_bytes(path) for path in root.walk()}


def assert_equal(first: ShardStatistics, second: ShardStatistics) -> None:
    assert first.header() == second.header()
    arrays = second.arrays()
    assert first.arrays().keys() == arrays.keys()
    for path, array in first.arrays().items():
        assert array.dtype == arrays[path].dtype, path
        np.testing.assert_array_equal(array, arrays[path], err_msg=path)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(tmp_path)


def test_shard_statistics_come_back_equal(root: Root) -> None:
    commit(root, 1)
    assert_equal(read_shard_statistics(root, 1, recipe_fingerprint=RECIPE, shard_url=URLS[1]), SHARD_STATISTICS[1])
    assert committed(root) == {1}


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_writer_killed_before_its_marker_commits_nothing(
    root: Root, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    write = Root.write_bytes
    for before in ("nothing", "older statistics"):
        left = iter([True] * writes)

        def killed(self: Root, path: str, data: bytes, left: Iterator[bool] = left) -> None:
            if not next(left, False):
                raise KilledError
            write(self, path, data)

        monkeypatch.setattr(Root, "write_bytes", killed)
        with pytest.raises(KilledError):
            commit(root, 1)
        monkeypatch.setattr(Root, "write_bytes", write)
        assert committed(root) == set(), before
        with pytest.raises(StaleShardStatisticsError, match="found none"):
            read_shard_statistics(root, 1, recipe_fingerprint=RECIPE, shard_url=URLS[1])
        commit(root, 1)
        assert committed(root) == {1}


def test_statistics_of_another_recipe_or_tar_shard_are_never_merged(root: Root) -> None:
    for index in range(3):
        commit(root, index)
    other_urls = [URLS[0], "s3://b/new.tar", URLS[2]]
    assert committed_shards(root, recipe_fingerprint=RECIPE, shard_urls=other_urls) == {0, 2}
    with pytest.raises(StaleShardStatisticsError, match=r"s3://b/new\.tar.*collect"):
        merge_shard_statistics(root, other_urls, recipe_fingerprint=RECIPE)
    assert committed_shards(root, recipe_fingerprint="f" * 16, shard_urls=URLS) == set()
    with pytest.raises(StaleShardStatisticsError, match="f" * 16):
        merge_shard_statistics(root, URLS, recipe_fingerprint="f" * 16)
    # A list that became shorter takes no more than it names.
    assert committed_shards(root, recipe_fingerprint=RECIPE, shard_urls=URLS[:1]) == {0}
    assert merge_shard_statistics(root, URLS[:1], recipe_fingerprint=RECIPE).num_samples == COUNTS[0]


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}"])
def test_a_damaged_marker_commits_nothing(root: Root, text: str) -> None:
    commit(root, 0)
    root.write_text("run/shard_statistics/000000.json", text)
    assert committed(root) == set()


@pytest.mark.parametrize("suffix", ["safetensors.zst", "parquet"])
def test_damaged_shard_statistics_are_noticed_before_they_are_merged(root: Root, suffix: str) -> None:
    for index in range(3):
        commit(root, index)
    name = f"run/shard_statistics/000001.{suffix}"
    data = bytearray(root.read_bytes(name))
    data[len(data) // 2] ^= 4
    root.write_bytes(name, bytes(data))
    with pytest.raises(CorruptShardStatisticsError, match=f"000001.{suffix}.*collect"):
        merge(root)
    root.remove(name)
    with pytest.raises(CorruptShardStatisticsError, match="is missing"):
        merge(root)
    assert committed_statistics(root) is None


@settings(deadline=None)
@given(
    arrays=st.dictionaries(
        st.text("ab/.", min_size=1),
        st.sampled_from(["int64", "int32", "float32", "float64"]).flatmap(
            lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
        ),
        max_size=4,
    )
)
def test_packed_arrays_come_back_to_the_bit(arrays: dict[str, np.ndarray]) -> None:
    data = pack(arrays)
    assert data == pack(dict(reversed(arrays.items())))
    found = unpack(data)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_ids_counts_and_positions_take_few_bytes() -> None:
    rng = np.random.default_rng(0)
    sample = (1023 << 24) + rng.integers(0, 1251, (100, 64))
    assert len(pack({"topk_sample": sample})) < 2.2 * sample.size


@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
def test_two_shards_in_any_order_give_identical_arrays(order: tuple[int, int]) -> None:
    merged = SHARD_STATISTICS[order[0]].merge(SHARD_STATISTICS[order[1]])
    assert_equal(merged, SHARD_STATISTICS[0].merge(SHARD_STATISTICS[1]))


def test_shards_committed_in_any_order_give_identical_bytes(tmp_path: Path) -> None:
    found = []
    for order in ((0, 1, 2), (2, 0, 1)):
        root = Root.open(tmp_path / "".join(map(str, order)))
        collect(root, order)
        found.append(files_of(root))
    assert found[0] == found[1]
    collect(root)  # and once more over what is there
    assert files_of(root) == found[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_counts_and_best_images_in_place_give_what_the_tree_gives(count: int) -> None:
    before = [
        {path: array.copy() for path, array in shard_statistics.arrays().items()}
        for shard_statistics in SHARD_STATISTICS
    ]
    assert_equal(merge_all(SHARD_STATISTICS[:count]), merge_tree(SHARD_STATISTICS[:count]))
    for shard_statistics, arrays in zip(SHARD_STATISTICS, before, strict=True):  # and what went in is as it was
        for path, array in shard_statistics.arrays().items():
            np.testing.assert_array_equal(array, arrays[path], err_msg=path)


def test_shard_statistics_read_ahead_are_merged_in_their_order(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        commit(root, index)
    delay = iter([0.05, 0.0, 0.0])

    def slow(*arguments: object, **keywords: object) -> ShardStatistics:
        time.sleep(next(delay))
        return read_shard_statistics(*arguments, **keywords)

    monkeypatch.setattr("pipeline.activations.storage.shard_files.read_shard_statistics", slow)
    assert_equal(merge_shard_statistics(root, URLS, recipe_fingerprint=RECIPE), merge_tree(SHARD_STATISTICS))


def test_the_merge_equals_one_pass_over_all_images() -> None:
    merged = merge_tree(SHARD_STATISTICS)
    assert merged.num_samples == sum(COUNTS)
    single = merge_tree(tiny_collect(samples, i, batch_size=64) for i, samples in enumerate(SAMPLES))
    for path, array in merged.arrays().items():
        exact = any(word in path for word in ("histogram", "topk", "count", "minimum", "maximum"))
        other = single.arrays()[path]
        if exact:
            np.testing.assert_array_equal(array, other, err_msg=path)
        else:
            np.testing.assert_allclose(array, other, rtol=1e-6, atol=1e-9, err_msg=path)


@given(st.integers(1, 40))
@settings(deadline=None)
def test_the_tree_merges_each_shard_once_and_holds_few(count: int) -> None:
    alive: set[frozenset[int]] = set()
    most = 0

    class Fake:
        def __init__(self, shards: frozenset[int]) -> None:
            nonlocal most
            self.shards = shards
            alive.add(shards)
            most = max(most, len(alive))

        def merge(self, other: "Fake") -> "Fake":
            assert max(self.shards) + 1 == min(other.shards)  # neighbors, in order
            alive.difference_update({self.shards, other.shards})
            return Fake(self.shards | other.shards)

    merged = merge_tree(Fake(frozenset({i})) for i in range(count))  # type: ignore[arg-type, misc]
    assert merged.shards == frozenset(range(count))
    assert most <= count.bit_length() + 1
