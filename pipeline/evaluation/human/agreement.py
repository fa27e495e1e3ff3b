"""Agreement between raters."""

import numpy as np


def krippendorff_alpha(ratings: np.ndarray) -> float:
    """Krippendorff's α for ordinal ratings: 1 is perfect agreement, 0 what chance would give, below 0 worse than that.

    With n_c the number of paired ratings of value c, two values c < k are apart by

        δ²(c, k) = (Σ_{g=c…k} n_g − (n_c + n_k) / 2)²,

    and α = 1 − D_o / D_e, where D_o is the mean δ² between the ratings of one visualization (each visualization's pairs
    weighed by 1 / (number of its ratings − 1)) and D_e that between any two of all paired ratings. Visualizations with
    one rating are left out.

    Args:
        ratings: float [raters, visualizations]; NaN where a rater did not rate a visualization. Only the order of
        values counts.

    Returns:
        NaN if no visualization has two ratings, or if all paired ratings are equal.

    Reference: Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011; "Content Analysis", 2004, chapter 11.
    """
    rated = ~np.isnan(ratings)
    paired = ratings[:, rated.sum(axis=0) >= 2]
    values = np.unique(paired[~np.isnan(paired)])
    if len(values) < 2:
        return float("nan")
    counts = (paired[:, :, None] == values).sum(axis=0)  # [visualizations, values]
    weight = 1 / (counts.sum(axis=1) - 1)
    # Pairs of values within a visualization; a rating makes no pair with itself.
    coincidences = np.einsum("uc,uk,u->ck", counts, counts, weight) - np.diag(weight @ counts)
    totals = coincidences.sum(axis=1)
    up_to = np.cumsum(totals)
    rank = np.arange(len(values))
    low, high = np.minimum.outer(rank, rank), np.maximum.outer(rank, rank)
    between = up_to[high] - up_to[low] + totals[low]  # Σ n_g from the lower to the higher value, both included
    distance = np.square(between - (totals[low] + totals[high]) / 2)
    observed = (coincidences * distance).sum()
    expected = (np.outer(totals, totals) * distance).sum() / (totals.sum() - 1)
    return float(1 - observed / expected)
