"""Intervals over neurons: against closed forms, by their coverage, and what is left out."""

import math

import numpy as np
import pytest

from pipeline.evaluation.metrics.bootstrap import jackknife_interval, mean_interval, paired_difference


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=400)
    mean, low, high = mean_interval(values)
    reach = 1.96 * values.std() / math.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(mean - reach, abs=0.05 * reach)
    assert high == pytest.approx(mean + reach, abs=0.05 * reach)


def test_the_interval_of_hits_and_misses_is_that_of_the_binomial() -> None:
    """Drawing from k hits among n is binomial; quantiles of that, from its own probabilities."""
    hits, n = 3, 12
    terms = [math.comb(n, k) * (hits / n) ** k * (1 - hits / n) ** (n - k) for k in range(n + 1)]
    cumulative = np.cumsum(terms)
    expected = [int(np.searchsorted(cumulative, q)) / n for q in (0.025, 0.975)]
    assert list(mean_interval([1.0] * hits + [0.0] * (n - hits))[1:]) == pytest.approx(expected)


def test_the_interval_covers_the_mean_with_its_confidence() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.exponential(size=60), confidence=0.8, resamples=400) for _ in range(300)]
    covered = np.mean([low <= 1 <= high for _, low, high in intervals])
    assert 0.8 - 0.08 < covered < 0.8 + 0.06


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=7)
    whole = mean_interval(values, resamples=1000)
    monkeypatch.setattr("pipeline.evaluation.metrics.bootstrap._BLOCK_VALUES", 70)
    assert mean_interval(values, resamples=1000) == whole


def test_intervals_repeat_and_depend_on_the_seed() -> None:
    values = np.random.default_rng(0).normal(size=9)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1)[1:] != mean_interval(values, seed=2)[1:]


def test_what_was_not_measured_is_left_out() -> None:
    values = [1.0, float("nan"), 3.0, 2.5]
    assert mean_interval(values) == mean_interval([1.0, 3.0, 2.5])
    assert all(math.isnan(part) for part in mean_interval([]))
    assert all(math.isnan(part) for part in mean_interval([float("nan")] * 3))
    assert mean_interval([0.5]) == (0.5, 0.5, 0.5)


def test_pairing_takes_out_what_is_hard_for_both() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.normal(scale=5, size=50)
    a, b = hardness + 0.5 + 0.1 * rng.normal(size=50), hardness + 0.1 * rng.normal(size=50)
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(np.mean(a - b))
    assert 0 < low < 0.5 < high
    assert paired_difference(b, a)[0] == -difference
    unpaired = mean_interval(a)[1] - mean_interval(b)[2]
    assert unpaired < 0


def test_a_pair_with_a_gap_is_left_out() -> None:
    nan = float("nan")
    assert paired_difference([1, 2, nan, 4], [0, nan, 1, 1])[0] == pytest.approx(2)
    with pytest.raises(ValueError, match="same neurons"):
        paired_difference([1, 2], [1])


def test_the_jackknife_of_a_mean_is_the_normal_interval() -> None:
    values = np.random.default_rng(0).exponential(size=30)
    mean, low, high = jackknife_interval(lambda neurons: float(values[list(neurons)].mean()), 30, confidence=0.9)
    reach = 1.6449 * values.std(ddof=1) / math.sqrt(30)  # the jackknife's error of a mean is exactly this
    assert (mean, low, high) == pytest.approx((values.mean(), values.mean() - reach, values.mean() + reach), rel=1e-4)
