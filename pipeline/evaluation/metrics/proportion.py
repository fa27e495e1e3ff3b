"""The interval of a share of successes."""

from scipy.stats import binomtest


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """A share of successes with Wilson's score interval, all in [0, 1]; it keeps its confidence near 0 and 1.

    Trials count as independent. Answers of one rater, or about one neuron, are not quite: the true interval is wider.

    Args:
        successes: of the trials.
        trials: how many.
        confidence: of the interval, in (0, 1).

    Returns:
        (share, low, high); three NaN without a trial.

    Reference: Wilson, "Probable inference", JASA 22, 1927; method 3 of Newcombe, Statistics in Medicine 17, 1998.
    """
    if not trials:
        return float("nan"), float("nan"), float("nan")
    interval = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="wilson")
    return successes / trials, float(interval.low), float(interval.high)
