"""Merge laws of every statistic: identity, commutative, associative, equal to one pass over everything."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.activations.accumulators.class_topk import NO_LABEL, ClassTopK
from pipeline.activations.accumulators.comoments import CoMoments
from pipeline.activations.accumulators.histogram import Histogram
from pipeline.activations.accumulators.moments import Moments
from pipeline.activations.accumulators.spectrum import MeanSpectrum
from pipeline.activations.accumulators.topk import NO_SAMPLE, TopK

U, C, N, S, K = 3, 2, 4, 4, 3  # units, channels, positions, side in pixels, ranks


class Batch(NamedTuple):
    """B images with the inputs of every statistic."""

    features: np.ndarray  # float32 [B, U, N]
    channels: np.ndarray  # float32 [B, C]
    images: np.ndarray  # float32 [B, 3, S, S]
    sample: np.ndarray  # int64 [B], in no order
    label: np.ndarray  # int64 [B]

    @property
    def activation(self) -> np.ndarray:
        return self.features.max(axis=2)

    @property
    def position(self) -> np.ndarray:
        """A position that tells each image and unit from every other, [B, U, 2]."""
        unit = np.broadcast_to(np.arange(U), (len(self.sample), U))
        return np.stack([np.broadcast_to(self.sample[:, None], unit.shape), unit], axis=2).astype(np.int32)

    def take(self, rows: Any) -> "Batch":
        return Batch(*(array[rows] for array in self))


class Statistic(NamedTuple):
    of: Callable[[Batch], Any]
    empty: Callable[[], Any]
    exact: bool  # whether grouping cannot change a bit


STATISTICS = {
    "moments": Statistic(lambda b: Moments.of(b.features), lambda: Moments.empty(U), False),
    "histogram": Statistic(lambda b: Histogram.of(b.activation), lambda: Histogram.empty(U), True),
    "topk": Statistic(lambda b: TopK.of(b.activation, b.sample, b.position, K), lambda: TopK.empty(U, K), True),
    "labels": Statistic(
        lambda b: ClassTopK.of(b.activation, b.label, b.sample, K), lambda: ClassTopK.empty(U, K), True
    ),
    "comoments": Statistic(lambda b: CoMoments.of(b.activation, b.channels), lambda: CoMoments.empty(U, C), False),
    "spectrum": Statistic(
        lambda b: MeanSpectrum.of(torch.from_numpy(b.images)), lambda: MeanSpectrum.empty(3, S), False
    ),
}
# The first call of a torch or numpy routine may take longer than hypothesis allows an example.
unhurried = settings(deadline=None)
every_statistic = pytest.mark.parametrize("name", list(STATISTICS))


@st.composite
def data_sets(draw: st.DrawFn) -> Batch:
    """Up to twelve images; many equal values, zeros, negative units, and ranges from 2^-40 to 2^20."""
    count = draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features = rng.normal(size=(count, U, N)) * 2.0 ** rng.integers(-40, 20, (count, U, 1))
    if draw(st.booleans()):
        features = np.round(features)
    if draw(st.booleans()):
        features += draw(st.sampled_from([-1.0, 1000.0]))
    features[:, 0] *= draw(st.sampled_from([0.0, 1.0]))
    return Batch(
        features=features.astype(np.float32),
        channels=rng.normal(size=(count, C)).astype(np.float32),
        images=rng.random((count, 3, S, S), np.float32),
        sample=rng.permutation(100)[:count],
        label=rng.integers(NO_LABEL, U, count),
    )


def parts_of(data: Batch, cuts: list[int]) -> list[Batch]:
    edges = [0, *sorted(min(cut, len(data.sample)) for cut in cuts), len(data.sample)]
    return [data.take(slice(a, b)) for a, b in pairwise(edges)]


def assert_same(first: Any, second: Any, *, exact: bool) -> None:
    for field in first.__dataclass_fields__:
        a, b = np.asarray(getattr(first, field)), np.asarray(getattr(second, field))
        if exact:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, err_msg=field)
        else:
            scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9 * scale, err_msg=field)


@every_statistic
@unhurried
@given(data=data_sets())
def test_the_empty_statistic_is_the_identity(name: str, data: Batch) -> None:
    of, empty, _ = STATISTICS[name]
    assert_same(of(data).merge(empty()), of(data), exact=True)
    assert_same(empty().merge(of(data)), of(data), exact=True)


@every_statistic
@unhurried
@given(data=data_sets(), cut=st.integers(0, 12))
def test_merging_is_commutative_to_the_bit(name: str, data: Batch, cut: int) -> None:
    first, second = map(STATISTICS[name].of, parts_of(data, [cut]))
    assert_same(first.merge(second), second.merge(first), exact=True)


@every_statistic
@unhurried
@given(data=data_sets(), cuts=st.lists(st.integers(0, 12), min_size=2, max_size=2))
def test_merging_is_associative(name: str, data: Batch, cuts: list[int]) -> None:
    of, _, exact = STATISTICS[name]
    a, b, c = map(of, parts_of(data, cuts))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)), exact=exact)


@every_statistic
@unhurried
@given(data=data_sets(), cuts=st.lists(st.integers(0, 12), max_size=4), seed=st.integers(0, 99))
def test_merged_parts_equal_one_pass_in_any_order(name: str, data: Batch, cuts: list[int], seed: int) -> None:
    of, empty, exact = STATISTICS[name]
    shuffled = data.take(np.random.default_rng(seed).permutation(len(data.sample)))
    merged = empty()
    for part in parts_of(shuffled, cuts):
        merged = merged.merge(of(part))
    assert_same(merged, of(data), exact=exact)


@every_statistic
@unhurried
@given(data=data_sets())
def test_arrays_give_the_statistic_back(name: str, data: Batch) -> None:
    statistic = STATISTICS[name].of(data)
    more = ["conv1"] if name == "comoments" else []
    assert_same(type(statistic).from_arrays(statistic.arrays(*more), *more), statistic, exact=True)


@unhurried
@given(data=data_sets())
def test_moments_equal_float64_over_all_positions(data: Batch) -> None:
    moments = Moments.of(data.features)
    values = data.features.astype(np.float64).transpose(1, 0, 2).reshape(U, -1)  # [U, B·N]
    assert moments.count == values.shape[1]
    if not moments.count:
        return
    scale = np.abs(values).max(axis=1)
    np.testing.assert_array_less(np.abs(moments.mean - values.mean(axis=1)), 1e-6 * scale + 1e-300)
    np.testing.assert_array_less(np.abs(moments.variance - values.var(axis=1)), 2e-6 * scale**2 + 1e-300)
    np.testing.assert_array_equal(moments.minimum, values.min(axis=1))
    np.testing.assert_array_equal(moments.maximum, values.max(axis=1))


@pytest.mark.parametrize("num_positions", [1, 49, 12_544])
def test_a_large_offset_costs_moments_no_digits(num_positions: int) -> None:
    rng = np.random.default_rng(0)
    features = (1e4 + 0.05 * rng.normal(size=(4, 2, num_positions))).astype(np.float32)
    moments = Moments.of(features)
    values = features.astype(np.float64).transpose(1, 0, 2).reshape(2, -1)
    np.testing.assert_allclose(moments.mean, values.mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(moments.m2, values.var(axis=1) * values.shape[1], rtol=1e-5)


def test_topk_is_the_sorted_list_with_ties_by_sample() -> None:
    rng = np.random.default_rng(0)
    activation = rng.integers(0, 4, (20, U)).astype(np.float32)
    sample = rng.permutation(20)
    position = rng.integers(0, 9, (20, U, 2))
    topk = TopK.of(activation, sample, position, 6)
    for unit in range(U):
        ranked = sorted((-activation[i, unit], sample[i], *position[i, unit]) for i in range(20))[:6]
        found = zip(-topk.activation[unit], topk.sample[unit], *topk.position[unit].T, strict=True)
        assert list(found) == ranked


def test_topk_of_few_images_leaves_marked_slots() -> None:
    topk = TopK.of(np.array([[2.0], [3.0]]), np.array([7, 5]), np.zeros((2, 1, 2)), 4)
    assert topk.activation.tolist() == [[3.0, 2.0, -np.inf, -np.inf]]
    assert topk.sample.tolist() == [[5, 7, NO_SAMPLE, NO_SAMPLE]]
    assert topk.num_kept(0) == 2


def test_class_topk_ranks_labeled_images_by_their_own_logit() -> None:
    logits = np.array([[1, 9], [4, 0], [3, 2], [4, 8], [7, 7]], np.float32)
    classes = ClassTopK.of(logits, np.array([0, 0, 1, 0, NO_LABEL]), np.array([10, 12, 13, 11, 14]), 2)
    assert classes.counts.tolist() == [3, 1]
    assert classes.sample.tolist() == [[11, 12], [13, NO_SAMPLE]]  # 4 and 4 tie, then 1 falls out
    assert classes.activation.tolist() == [[4, 4], [2, -np.inf]]


def test_correlation_equals_numpy_and_is_zero_for_what_never_varies() -> None:
    rng = np.random.default_rng(0)
    unit, channel = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    channel[:, 0] += 2 * unit[:, 1]
    unit[:, 2] = 5.0
    halves = [CoMoments.of(unit[:20], channel[:20]), CoMoments.of(unit[20:], channel[20:])]
    correlation = halves[0].merge(halves[1]).correlation()
    expected = np.corrcoef(unit[:, :2].T, channel.T)[:2, 2:]
    np.testing.assert_allclose(correlation[:2], expected, rtol=1e-10)
    assert correlation[1, 0] > 0.8
    np.testing.assert_array_equal(correlation[2], 0.0)


def test_the_spectrum_of_a_uniform_image_is_its_mean_alone() -> None:
    spectrum = MeanSpectrum.of(torch.full((2, 3, S, S), 0.25)).magnitude
    assert spectrum.shape == (3, S, S // 2 + 1)
    np.testing.assert_allclose(spectrum[:, 0, 0], 0.25 * S * S)
    spectrum[:, 0, 0] = 0
    np.testing.assert_allclose(spectrum, 0, atol=1e-6)
