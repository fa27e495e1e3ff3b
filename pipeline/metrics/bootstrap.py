"""Confidence intervals over neurons: of a mean, of the difference of two methods, of a statistic of a whole set."""

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

_BLOCK_VALUES = 4_000_000  # resampled values that are held at once, 32 MB


def mean_interval(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean over neurons with its bootstrap interval: neurons are drawn with replacement (percentile method).

    Args:
        values: one per neuron; NaN is left out.
        confidence: of the interval, in (0, 1).
        resamples: how often the neurons are drawn.
        seed: of the draws; the same values give the same interval.

    Returns:
        (mean, low, high); three NaN if no value is left.

    Reference: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK_VALUES // len(kept))
    means = np.concatenate(
        [
            kept[rng.integers(len(kept), size=(min(rows, resamples - start), len(kept)))].mean(axis=1)
            for start in range(0, resamples, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(kept.mean()), float(low), float(high)


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The mean of a − b over neurons with its bootstrap interval; b is no worse where the interval holds 0.

    Pairing takes out what makes a neuron easy or hard for both, which is most of the spread.

    Args:
        a: a score of one method, one per neuron.
        b: of another method, on the same neurons in the same order; a pair with NaN is left out.
        confidence: of the interval, in (0, 1).
        resamples: how often the neurons are drawn.
        seed: of the draws.

    Returns:
        (difference, low, high); three NaN if no pair is left.

    Raises:
        ValueError: the lengths differ.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired scores must be of the same neurons, got {first.shape} and {second.shape} of them")
    return mean_interval(first - second, confidence=confidence, resamples=resamples, seed=seed)


def set_interval(
    statistic: Callable[[np.ndarray], float], n: int, *, confidence: float = 0.95, groups: int = 20, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic of a set of neurons, such as FID, with an interval by the jackknife over groups.

    Neurons drawn twice would shrink the set and bias FID upward, so none is: the neurons are dealt into g groups, the
    statistic is taken without each of them, and its standard error is √((g − 1)/g · Σ(θᵢ − θ̄)²). The interval is
    normal around the value of the whole set. For the difference of two methods let the statistic be the difference.

    Args:
        statistic: of the neurons with the given indices, int64 [m].
        n: the number of neurons.
        confidence: of the interval, in (0, 1).
        groups: g ≥ 2; the statistic is computed g + 1 times. At most n.
        seed: of the dealing.

    Returns:
        (value, low, high); low and high are NaN for fewer than two neurons.

    Reference: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 11.
    """
    value = float(statistic(np.arange(n)))
    groups = min(groups, n)
    if groups < 2:
        return value, float("nan"), float("nan")
    dealt = np.random.default_rng(seed).permutation(n) % groups
    without = np.array([statistic(np.flatnonzero(dealt != group)) for group in range(groups)])
    error = np.sqrt((groups - 1) / groups * np.square(without - without.mean()).sum())
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * float(error)
    return value, value - reach, value + reach
