"""The store of statistics on disk: it holds what was merged, notices damage, and knows samples and percentiles."""

import json
import pickle
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.activations.accumulators.shard_statistics import SAMPLE_SCHEMA
from pipeline.activations.storage.merging import merge_tree
from pipeline.activations.store import (
    StatisticsStore,
    committed_statistics,
    merge_shard_statistics,
    write_shard_statistics,
    write_statistics,
)
from pipeline.io.parquet import table_bytes
from pipeline.io.root import Root
from pipeline.io.zarr_arrays import CorruptArrayError
from tests.support.tiny_collect import LAYERS, NUM_CLASSES, features_of_all, tiny_collect, tiny_samples
from tests.support.tiny_shard_statistics import (
    ATTRS,
    COUNTS,
    RECIPE,
    SAMPLES,
    SHARD_STATISTICS,
    URLS,
    KilledError,
    collect,
    merge,
)

TOP_K = 4


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(tmp_path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StatisticsStore:
    root = Root.open(tmp_path_factory.mktemp("atlas"))
    collect(root)
    return StatisticsStore.open(root)


def test_no_shards_and_no_images_are_errors_that_say_so(root: Root) -> None:
    with pytest.raises(ValueError, match=r"data\.shards"):
        merge_tree([])
    with pytest.raises(ValueError, match="no usable image in 1 tar shards"):
        write_statistics(root, tiny_collect([], 0), ATTRS)
    with pytest.raises(FileNotFoundError, match="neuron-atlas collect"):
        StatisticsStore.open(root)


@pytest.mark.parametrize("make", [lambda path: str(path), lambda _: f"memory://{uuid.uuid4().hex}/atlas"])
def test_a_store_holds_what_was_merged(tmp_path: Path, make: Callable[[Path], str]) -> None:
    root = Root.open(make(tmp_path))
    collect(root)
    store = StatisticsStore.open(root)
    merged = merge_tree(SHARD_STATISTICS)
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
        patch.setattr("pipeline.activations.storage.writing.write_array", killed)
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
        shard_statistics = tiny_collect(samples, shard_index=index)
        write_shard_statistics(
            root, index, shard_statistics, recipe_fingerprint=RECIPE, shard_url=URLS[index], captions=True
        )
    merged = merge_shard_statistics(root, URLS[:2], recipe_fingerprint=RECIPE)
    write_statistics(root, merged, ATTRS | {"caption_key": "txt"})
    store = StatisticsStore.open(root)
    assert store.caption_key == "txt"
    assert store.samples.captions(store.samples.ids[[2, 0, 1, 2]]) == [texts[2], texts[0], "", texts[2]]
    plain = tiny_collect(tiny_samples(3), shard_index=0)
    assert merged.data_fingerprint == plain.data_fingerprint
    for path, array in plain.arrays().items():
        assert array.tobytes() == merged.arrays()[path].tobytes(), path


def test_the_table_of_samples_is_that_of_all_rows_at_once(store: StatisticsStore) -> None:
    rows = [row for shard_statistics in SHARD_STATISTICS for row in shard_statistics.samples]
    assert store.root.read_bytes("run/samples.parquet") == table_bytes(rows, SAMPLE_SCHEMA)


def test_samples_are_found_by_their_keys_in_all_shards(root: Root) -> None:
    for index in range(2):  # both shards hold the samples of the first
        shard_statistics = tiny_collect(SAMPLES[0], index)
        write_shard_statistics(root, index, shard_statistics, recipe_fingerprint=RECIPE, shard_url=URLS[index])
    write_statistics(root, merge_shard_statistics(root, URLS[:2], recipe_fingerprint=RECIPE), ATTRS)
    samples = StatisticsStore.open(root).samples
    assert samples.with_keys(["photo-2", "absent"]) == {"photo-2": [2, (1 << 24) + 2], "absent": []}


def test_a_sample_that_was_not_recorded_is_named(store: StatisticsStore) -> None:
    with pytest.raises(ValueError, match=r"samples\.parquet has no row with sample = 4711"):
        store.top_images_of([0, 4711])


def test_top_images_say_where_to_read_the_images(store: StatisticsStore) -> None:
    flat = [sample for shard in SAMPLES for sample in shard]
    features = features_of_all(flat, "block")
    for unit in range(features.shape[1]):
        per_image = features[:, unit].amax(1).numpy()
        best = sorted(range(len(flat)), key=lambda i: (-per_image[i], i))[:3]
        top_images = store.top_images("block", unit, 3)
        assert [top_image.key for top_image in top_images] == [flat[i].key for i in best]
        assert [top_image.activation for top_image in top_images] == per_image[best].tolist()
        for top_image, i in zip(top_images, best, strict=True):
            assert (top_image.tar_shard, top_image.offset, top_image.size) == (
                flat[i].tar_shard,
                flat[i].offset,
                flat[i].size,
            )
            y, x = top_image.position
            assert features[i, unit].reshape(4, 4)[y, x] == top_image.activation
    assert len(store.top_images("block", 0)) == TOP_K


def test_top_images_of_a_class_carry_its_label(store: StatisticsStore) -> None:
    logits = features_of_all([sample for shard in SAMPLES for sample in shard], "fc")[..., 0].numpy()
    counts = store.class_topk().counts
    assert counts.sum() == np.sum(store.samples.labels(store.samples.ids) >= 0)
    for label in range(NUM_CLASSES):
        top_images = store.class_top_images(label)
        assert len(top_images) == min(TOP_K, counts[label])
        assert {top_image.label for top_image in top_images} == {label}
        own = logits[store.samples.labels(store.samples.ids) == label, label]
        assert [top_image.activation for top_image in top_images] == sorted(own, reverse=True)[:TOP_K]


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
