"""Partials and the store on disk: committed by a marker, never stale, checked, equal whatever the order."""

import json
import pickle
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.arrays import CorruptArrayError
from pipeline.statistics.merging import merge_all, merge_tree
from pipeline.statistics.packing import pack, unpack
from pipeline.statistics.partial import SAMPLE_SCHEMA, Partial
from pipeline.statistics.partials import CorruptPartialError, StalePartialError
from pipeline.statistics.store import (
    StatisticsStore,
    committed_shards,
    committed_statistics,
    merge_partials,
    read_partial,
    write_partial,
    write_statistics,
)
from pipeline.storage import Root
from pipeline.tables import table_bytes
from tests.tiny_survey import LAYERS, NUM_CLASSES, features_of_all, tiny_samples, tiny_survey

RECIPE = "0123456789abcdef"
URLS = ["s3://b/a-0.tar", "s3://b/a-1.tar", "s3://b/a-2.tar"]
ATTRS = {"model": "python:tiny", "recipe_fingerprint": RECIPE}
COUNTS = [9, 6, 8]
SAMPLES = [tiny_samples(n, first_seed=100 * i, tar_shard=URLS[i]) for i, n in enumerate(COUNTS)]
PARTIALS = [tiny_survey(samples, index) for index, samples in enumerate(SAMPLES)]
TOP_K = 4


def commit(root: Root, index: int) -> None:
    write_partial(root, index, PARTIALS[index], recipe_fingerprint=RECIPE, shard_url=URLS[index])


def collect(root: Root, order: tuple[int, ...] = (0, 1, 2)) -> None:
    for index in order:
        commit(root, index)
    merge(root)


def merge(root: Root) -> None:
    write_statistics(root, merge_partials(root, URLS, recipe_fingerprint=RECIPE), ATTRS)


def committed(root: Root) -> set[int]:
    return committed_shards(root, recipe_fingerprint=RECIPE, shard_urls=URLS)


def files_of(root: Root) -> dict[str, bytes]:
    return {path: root.read_bytes(path) for path in root.walk()}


def assert_equal(first: Partial, second: Partial) -> None:
    assert first.header() == second.header()
    arrays = second.arrays()
    assert first.arrays().keys() == arrays.keys()
    for path, array in first.arrays().items():
        assert array.dtype == arrays[path].dtype, path
        np.testing.assert_array_equal(array, arrays[path], err_msg=path)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(tmp_path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StatisticsStore:
    root = Root.open(tmp_path_factory.mktemp("atlas"))
    collect(root)
    return StatisticsStore.open(root)


def test_a_partial_comes_back_equal(root: Root) -> None:
    commit(root, 1)
    assert_equal(read_partial(root, 1, recipe_fingerprint=RECIPE, shard_url=URLS[1]), PARTIALS[1])
    assert committed(root) == {1}


class KilledError(BaseException):
    """Stands for the end of a process between two writes."""


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_writer_killed_before_its_marker_commits_nothing(
    root: Root, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    write = Root.write_bytes
    for before in ("nothing", "an older partial"):
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
        with pytest.raises(StalePartialError, match="found none"):
            read_partial(root, 1, recipe_fingerprint=RECIPE, shard_url=URLS[1])
        commit(root, 1)
        assert committed(root) == {1}


def test_a_partial_of_another_recipe_or_tar_shard_is_never_merged(root: Root) -> None:
    for index in range(3):
        commit(root, index)
    other_urls = [URLS[0], "s3://b/new.tar", URLS[2]]
    assert committed_shards(root, recipe_fingerprint=RECIPE, shard_urls=other_urls) == {0, 2}
    with pytest.raises(StalePartialError, match=r"s3://b/new\.tar.*collect"):
        merge_partials(root, other_urls, recipe_fingerprint=RECIPE)
    assert committed_shards(root, recipe_fingerprint="f" * 16, shard_urls=URLS) == set()
    with pytest.raises(StalePartialError, match="f" * 16):
        merge_partials(root, URLS, recipe_fingerprint="f" * 16)
    # A list that became shorter takes no more than it names.
    assert committed_shards(root, recipe_fingerprint=RECIPE, shard_urls=URLS[:1]) == {0}
    assert merge_partials(root, URLS[:1], recipe_fingerprint=RECIPE).num_samples == COUNTS[0]


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}"])
def test_a_damaged_marker_commits_nothing(root: Root, text: str) -> None:
    commit(root, 0)
    root.write_text("run/partials/000000.json", text)
    assert committed(root) == set()


@pytest.mark.parametrize("suffix", ["safetensors.zst", "parquet"])
def test_a_damaged_partial_is_noticed_before_it_is_merged(root: Root, suffix: str) -> None:
    for index in range(3):
        commit(root, index)
    name = f"run/partials/000001.{suffix}"
    data = bytearray(root.read_bytes(name))
    data[len(data) // 2] ^= 4
    root.write_bytes(name, bytes(data))
    with pytest.raises(CorruptPartialError, match=f"000001.{suffix}.*collect"):
        merge(root)
    root.remove(name)
    with pytest.raises(CorruptPartialError, match="is missing"):
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
    merged = PARTIALS[order[0]].merge(PARTIALS[order[1]])
    assert_equal(merged, PARTIALS[0].merge(PARTIALS[1]))


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
    before = [{path: array.copy() for path, array in partial.arrays().items()} for partial in PARTIALS]
    assert_equal(merge_all(PARTIALS[:count]), merge_tree(PARTIALS[:count]))
    for partial, arrays in zip(PARTIALS, before, strict=True):  # and what went in is as it was
        for path, array in partial.arrays().items():
            np.testing.assert_array_equal(array, arrays[path], err_msg=path)


def test_partials_read_ahead_are_merged_in_their_order(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        commit(root, index)
    delay = iter([0.05, 0.0, 0.0])

    def slow(*arguments: object, **keywords: object) -> Partial:
        time.sleep(next(delay))
        return read_partial(*arguments, **keywords)

    monkeypatch.setattr("pipeline.statistics.partials.read_partial", slow)
    assert_equal(merge_partials(root, URLS, recipe_fingerprint=RECIPE), merge_tree(PARTIALS))


def test_the_merge_equals_one_pass_over_all_images() -> None:
    merged = merge_tree(PARTIALS)
    assert merged.num_samples == sum(COUNTS)
    single = merge_tree(tiny_survey(samples, i, batch_size=64) for i, samples in enumerate(SAMPLES))
    for path, array in merged.arrays().items():
        exact = any(word in path for word in ("histogram", "topk", "count", "minimum", "maximum"))
        other = single.arrays()[path]
        if exact:
            np.testing.assert_array_equal(array, other, err_msg=path)
        else:
            np.testing.assert_allclose(array, other, rtol=1e-6, atol=1e-9, err_msg=path)


@given(st.integers(1, 40))
@settings(deadline=None)
def test_the_tree_merges_each_partial_once_and_holds_few(count: int) -> None:
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


def test_no_shards_and_no_images_are_errors_that_say_so(root: Root) -> None:
    with pytest.raises(ValueError, match=r"data\.shards"):
        merge_tree([])
    with pytest.raises(ValueError, match="no usable image in 1 tar shards"):
        write_statistics(root, tiny_survey([], 0), ATTRS)
    with pytest.raises(FileNotFoundError, match="neuron-atlas collect"):
        StatisticsStore.open(root)


@pytest.mark.parametrize("make", [lambda path: str(path), lambda _: f"memory://{uuid.uuid4().hex}/atlas"])
def test_a_store_holds_what_was_merged(tmp_path: Path, make: Callable[[Path], str]) -> None:
    root = Root.open(make(tmp_path))
    collect(root)
    store = StatisticsStore.open(root)
    merged = merge_tree(PARTIALS)
    assert store.layers == [*LAYERS, "fc"]
    assert store.num_samples == sum(COUNTS)
    assert store.attrs["model"] == "python:tiny"
    assert store.attrs["data_fingerprint"] == merged.data_fingerprint
    found = {"class": (store.class_topk(), merged.classes), "spectrum": (store.spectrum(), merged.spectrum)}
    for layer, statistics in merged.layers.items():
        found[f"{layer}/moments"] = (store.moments(layer), statistics.moments)
        found[f"{layer}/activation"] = (store.activation_moments(layer), statistics.activation_moments)
        found[f"{layer}/histogram"] = (store.histogram(layer), statistics.histogram)
        found[f"{layer}/topk"] = (store.topk(layer), statistics.topk)
        np.testing.assert_array_equal(store.correlation(layer, "stem"), statistics.comoments["stem"].correlation())
    for name, (read, written) in found.items():
        for path, array in written.arrays().items():
            np.testing.assert_array_equal(read.arrays()[path], array, err_msg=f"{name} {path}")


def test_foreign_readers_find_the_layout_of_the_design(store: StatisticsStore) -> None:
    folder = store.root.local_path / "run/statistics.zarr"
    for name in ("count", "mean", "m2", "minimum", "maximum", "histogram", "bin_edge", "topk_activation"):
        assert (folder / "layers/block" / name / "zarr.json").is_file(), name
    described = json.loads((folder / "layers/block/comoment/stem/zarr.json").read_text())
    assert described["dimension_names"] == ["unit", "channel"]
    assert described["shape"] == [8, 6]
    described = json.loads((folder / "layers/block/mean/zarr.json").read_text())
    assert [described["data_type"], described["codecs"][-1]["name"]] == ["float64", "crc32c"]


def test_a_flipped_bit_of_the_store_is_detected(root: Root) -> None:
    collect(root)
    path = "run/statistics.zarr/layers/block/topk_sample/c/0/0"
    data = bytearray(root.read_bytes(path))
    data[len(data) // 2] ^= 1
    root.write_bytes(path, bytes(data))
    store = StatisticsStore.open(root)
    store.moments("block")
    with pytest.raises(CorruptArrayError, match="layers/block/topk_sample"):
        store.topk("block")


def test_a_store_without_its_marker_is_not_there(root: Root) -> None:
    collect(root)
    root.remove("run/statistics.json")
    with pytest.raises(FileNotFoundError, match="neuron-atlas collect"):
        StatisticsStore.open(root)


def test_a_store_killed_while_it_is_written_again_is_not_there(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(root)

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.statistics.store_writing.write_array", killed)
        with pytest.raises(KilledError):
            merge(root)
    assert committed_statistics(root) is None
    merge(root)
    assert StatisticsStore.open(root).num_samples == sum(COUNTS)


def test_samples_are_ordered_by_id_and_complete(store: StatisticsStore) -> None:
    ids = store.samples.ids
    assert (np.diff(ids) > 0).all()
    samples = store.samples.rows(ids)
    assert samples["key"] == store.samples.keys() == [sample.key for shard in SAMPLES for sample in shard]
    assert samples["tar_shard"] == [url for url, n in zip(URLS, COUNTS, strict=True) for _ in range(n)]
    labels = [-1 if sample.label is None else sample.label for shard in SAMPLES for sample in shard]
    assert store.samples.labels(ids).tolist() == labels
    assert (store.samples.labels(ids[[7, 3, 7]]).tolist()) == [labels[7], labels[3], labels[7]]


def test_captions_are_kept_with_the_samples_also_of_shards_without_any(tmp_path: Path) -> None:
    """The second tar shard has no good sample, and the statistics are those of a run without captions."""
    root = Root.open(str(tmp_path))
    texts = ["a dog", "", "<b> \u202e 🧑‍🚀"]
    captioned = [replace(sample, caption=text) for sample, text in zip(tiny_samples(3), texts, strict=True)]
    for index, samples in enumerate([captioned, []]):
        partial = tiny_survey(samples, shard_index=index)
        write_partial(root, index, partial, recipe_fingerprint=RECIPE, shard_url=URLS[index], captions=True)
    merged = merge_partials(root, URLS[:2], recipe_fingerprint=RECIPE)
    write_statistics(root, merged, ATTRS | {"caption_key": "txt"})
    store = StatisticsStore.open(root)
    assert store.caption_key == "txt"
    assert store.samples.captions(store.samples.ids[[2, 0, 1, 2]]) == [texts[2], texts[0], "", texts[2]]
    plain = tiny_survey(tiny_samples(3), shard_index=0)
    assert merged.data_fingerprint == plain.data_fingerprint
    for path, array in plain.arrays().items():
        assert array.tobytes() == merged.arrays()[path].tobytes(), path


def test_the_table_of_samples_is_that_of_all_rows_at_once(store: StatisticsStore) -> None:
    rows = [row for partial in PARTIALS for row in partial.samples]
    assert store.root.read_bytes("run/samples.parquet") == table_bytes(rows, SAMPLE_SCHEMA)


def test_samples_are_found_by_their_keys_in_all_shards(root: Root) -> None:
    for index in range(2):  # both shards hold the samples of the first
        partial = tiny_survey(SAMPLES[0], index)
        write_partial(root, index, partial, recipe_fingerprint=RECIPE, shard_url=URLS[index])
    write_statistics(root, merge_partials(root, URLS[:2], recipe_fingerprint=RECIPE), ATTRS)
    samples = StatisticsStore.open(root).samples
    assert samples.with_keys(["photo-2", "absent"]) == {"photo-2": [2, (1 << 24) + 2], "absent": []}


def test_a_sample_that_was_not_surveyed_is_named(store: StatisticsStore) -> None:
    with pytest.raises(ValueError, match=r"samples\.parquet has no row with sample = 4711"):
        store.exemplars_of([0, 4711])


def test_exemplars_say_where_to_read_the_images(store: StatisticsStore) -> None:
    flat = [sample for shard in SAMPLES for sample in shard]
    features = features_of_all(flat, "block")
    for unit in range(features.shape[1]):
        per_image = features[:, unit].amax(1).numpy()
        best = sorted(range(len(flat)), key=lambda i: (-per_image[i], i))[:3]
        exemplars = store.exemplars("block", unit, 3)
        assert [exemplar.key for exemplar in exemplars] == [flat[i].key for i in best]
        assert [exemplar.activation for exemplar in exemplars] == per_image[best].tolist()
        for exemplar, i in zip(exemplars, best, strict=True):
            assert (exemplar.tar_shard, exemplar.offset, exemplar.size) == (
                flat[i].tar_shard,
                flat[i].offset,
                flat[i].size,
            )
            y, x = exemplar.position
            assert features[i, unit].reshape(4, 4)[y, x] == exemplar.activation
    assert len(store.exemplars("block", 0)) == TOP_K


def test_exemplars_of_a_class_carry_its_label(store: StatisticsStore) -> None:
    logits = features_of_all([sample for shard in SAMPLES for sample in shard], "fc")[..., 0].numpy()
    counts = store.class_topk().counts
    assert counts.sum() == np.sum(store.samples.labels(store.samples.ids) >= 0)
    for label in range(NUM_CLASSES):
        exemplars = store.class_exemplars(label)
        assert len(exemplars) == min(TOP_K, counts[label])
        assert {exemplar.label for exemplar in exemplars} == {label}
        own = logits[store.samples.labels(store.samples.ids) == label, label]
        assert [exemplar.activation for exemplar in exemplars] == sorted(own, reverse=True)[:TOP_K]


def test_percentile_is_an_exact_rank_at_the_top_and_a_bin_wide_below(store: StatisticsStore) -> None:
    for layer in store.layers:
        values = features_of_all([sample for shard in SAMPLES for sample in shard], layer).amax(2).numpy()
        histogram = store.histogram(layer)
        for unit in range(values.shape[1]):
            own = np.sort(values[:, unit])[::-1].astype(np.float64)
            for rank in range(TOP_K):  # at the kept activations themselves, and just above and below them
                for value in (own[rank], own[rank] + 1e-6):
                    exact = 100 * np.mean(own <= value)
                    assert store.percentile(layer, unit, value) == pytest.approx(exact, abs=1e-9)
            edges, counts = histogram.edges()[unit], histogram.counts[unit]
            for value in np.linspace(own[-1] - 1, own[TOP_K - 1] - 1e-3, 9):
                exact = 100 * np.mean(own <= value)
                inside = counts[np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(counts) - 1)]
                found = store.percentile(layer, unit, value)
                assert abs(found - exact) <= 100 * inside / len(own) + 1e-9
                assert found <= 100 * (1 - TOP_K / len(own)) + 1e-9  # all that is kept lies above
    assert store.percentile("block", 0, 1e9) == 100
    assert store.percentile("block", 0, -1e9) == 0
    assert np.isnan(store.percentile("block", 0, float("nan")))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a=st.floats(-50, 50), b=st.floats(-50, 50), unit=st.integers(0, 7))
def test_percentile_never_falls_as_the_value_rises(store: StatisticsStore, a: float, b: float, unit: int) -> None:
    assert store.percentile("block", unit, min(a, b)) <= store.percentile("block", unit, max(a, b)) + 1e-9


def test_the_drawn_histogram_counts_every_image(store: StatisticsStore) -> None:
    counts, low, high = store.display_histogram("block", 2)
    moments = store.activation_moments("block")
    assert counts.sum() == store.num_samples
    assert len(counts) <= 64
    assert low <= moments.minimum[2] <= moments.maximum[2] < high


def test_unknown_layers_are_named_with_the_nearest(store: StatisticsStore) -> None:
    with pytest.raises(ValueError, match=r'"blok".*block.*statistics\.layers'):
        store.topk("blok")
    with pytest.raises(ValueError, match=r"no co-moments.*targets\.relevance"):
        store.correlation("block", "fc")


def test_a_store_travels_to_workers_without_its_cache(store: StatisticsStore) -> None:
    store.topk("block")
    copy = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 2_000
    np.testing.assert_array_equal(copy.topk("block").sample, store.topk("block").sample)
