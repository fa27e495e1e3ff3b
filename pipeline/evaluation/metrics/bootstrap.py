"""Confidence intervals over neurons: of a mean, of the difference of two methods, of any smooth statistic of a set."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from scipy.stats import bootstrap

from pipeline.errors import UserError

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
    mean = float(kept.mean())
    if len(kept) == 1:  # scipy wants at least two
        return mean, mean, mean
    low, high = bootstrap(
        (kept,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BLOCK_VALUES // len(kept)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return mean, float(low), float(high)


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
        UserError: the lengths differ.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise UserError(f"paired scores must be of the same neurons, got {first.shape} and {second.shape} of them")
    return mean_interval(first - second, confidence=confidence, resamples=resamples, seed=seed)


def jackknife_interval(
    statistic: Callable[[Sequence[int]], float], num_neurons: int, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """A statistic of a set of neurons with its normal interval: each neuron is left out in turn.

    For what is no mean over neurons, such as a difference of FIDs. Neurons drawn repeatedly, as by the bootstrap, would
    shrink the covariances that it compares.

    Args:
        statistic: of the neurons with these indices.
        num_neurons: n, at least 2.
        confidence: of the interval, in (0, 1).

    Returns:
        (value for all neurons, low, high).

    Reference: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 11: the standard error is
    √((n − 1) / n · Σ (θ₋ᵢ − θ̄₋)²).
    """
    everyone = list(range(num_neurons))
    without = np.array([statistic(everyone[:i] + everyone[i + 1 :]) for i in everyone])
    error = math.sqrt((num_neurons - 1) / num_neurons * np.square(without - without.mean()).sum())
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    value = statistic(everyone)
    return value, value - reach, value + reach
