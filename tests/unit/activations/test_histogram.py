"""Histogram and the percentile read from it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.activations.accumulators.histogram import HALF_BINS, MIN_EXPONENT, Histogram

unhurried = settings(deadline=None)  # the machine may be busy
values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


def histogram_of(numbers: list[float]) -> Histogram:
    return Histogram.of(np.array(numbers, np.float32)[:, None])


@unhurried
@given(values)
def test_every_value_is_counted_in_the_bin_that_holds_it(numbers: list[float]) -> None:
    histogram = histogram_of(numbers)
    expected, _ = np.histogram(np.array(numbers, np.float32).astype(np.float64), histogram.edges()[0])
    np.testing.assert_array_equal(histogram.counts[0], expected)
    assert histogram.counts.sum() == len(numbers)


@unhurried
@given(values)
def test_the_range_is_the_smallest_power_of_two_that_covers_the_values(numbers: list[float]) -> None:
    largest, exponent = np.abs(np.array(numbers, np.float32)).max(), histogram_of(numbers).exponent[0]
    assert largest < 2.0**exponent
    assert largest >= 2.0 ** (exponent - 1) or exponent == MIN_EXPONENT


@unhurried
@given(values, st.floats(-2e6, 2e6))
def test_percentile_is_within_one_bin_of_the_exact_rank(numbers: list[float], value: float) -> None:
    histogram = histogram_of(numbers)
    percentile = histogram.percentile(np.array([value]))[0]
    exact = 100 * np.mean(np.array(numbers, np.float32).astype(np.float64) <= value)
    bin_index = np.clip(np.searchsorted(histogram.edges()[0], value, side="right") - 1, 0, 2 * HALF_BINS - 1)
    assert 0 <= percentile <= 100
    assert abs(percentile - exact) <= 100 * histogram.counts[0, bin_index] / len(numbers) + 1e-9


@unhurried
@given(values, st.floats(-2e6, 2e6), st.floats(-2e6, 2e6))
def test_percentile_rises_with_the_value(numbers: list[float], a: float, b: float) -> None:
    low, high = (histogram_of(numbers).percentile(np.array([v]))[0] for v in sorted((a, b)))
    assert low <= high + 1e-9


def test_percentile_inside_a_bin_is_interpolated() -> None:
    # Range [-1, 1): bins of 1/256. Two values at the left edge of bin 0, two in bin 1.
    histogram = histogram_of([0.0, 0.0, 1 / 256, 1.5 / 256, 0.9])
    at = [-0.5, 0.0, 0.25 / 256, 1 / 256, 2 / 256, 0.5, 1.0]
    found = [float(histogram.percentile(np.array([value]))[0]) for value in at]
    assert found == pytest.approx([0, 0, 10, 40, 80, 80, 100])


def test_percentile_beyond_the_range_and_of_no_number() -> None:
    histogram = histogram_of([0.5, 1.0])
    found = [histogram.percentile(np.array([v]))[0] for v in (-np.inf, -1e30, 1e30, np.inf, np.nan)]
    np.testing.assert_array_equal(found, [0, 0, 100, 100, np.nan])
    assert np.isnan(Histogram.empty(1).percentile(np.array([0.0]))[0])


@unhurried
@given(values, st.sampled_from([1, 2, 7, 64]))
def test_the_drawn_histogram_keeps_all_counts_over_the_values_range(numbers: list[float], max_bins: int) -> None:
    histogram = histogram_of(numbers)
    counts, low, high = histogram.display(0, max_bins)
    exact = np.array(numbers, np.float32).astype(np.float64)
    assert len(counts) <= max_bins
    assert counts.sum() == len(numbers)
    assert low <= exact.min() <= exact.max() < high
    assert counts[0] > 0
    assert counts[-1] > 0
    np.testing.assert_array_equal(counts, np.histogram(exact, np.linspace(low, high, len(counts) + 1))[0])


def test_an_empty_histogram_draws_nothing() -> None:
    counts, low, high = Histogram.empty(2).display(1)
    assert (len(counts), low, high) == (0, 0.0, 0.0)


def test_one_unit_of_many() -> None:
    histogram = Histogram.of(np.array([[1.0, 100.0], [2.0, 300.0]]))
    np.testing.assert_array_equal(histogram.of_unit(1).counts[0], histogram.counts[1])
    assert histogram.of_unit(1).percentile(np.array([200.0]))[0] == 50
