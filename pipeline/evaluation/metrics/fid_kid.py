"""Distances between sets of images in an evaluator's feature space (FID, KID), and the Inception Score of its logits.

The features are a *named* evaluator's (`pipeline.evaluation.evaluators.network`); values of two feature spaces cannot
be compared, nor with values in the literature, which are in Inception-v3's. FID is also biased upward by few
visualizations: between two sets of one distribution it is above 0, the more so the fewer the visualizations and the
more the dimensions (Bińkowski et al., ICLR 2018). So compare only values of sets of one size, and with the value of as
many dataset images. KID is unbiased, and can be negative.
"""

import math

import numpy as np

from pipeline.errors import UserError

_KERNEL_ROWS = 1024  # rows of the kernel matrix that are held at once


def frechet_distance(real: np.ndarray, made: np.ndarray) -> float:
    """Fréchet distance (FID) between Gaussians fitted to two sets of features; 0 for equal sets, ≥ 0, no upper bound.

    |m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₁ S₂)^½), with means m and covariances S (of N − 1), in float64. With centered
    features X = Q R, where R has D rows at most, S = Rᵀ R / (N − 1), and the trace of (S₁ S₂)^½ is the sum of the
    singular values of R₁ R₂ᵀ / √((N − 1) (M − 1)): small matrices where visualizations are few, and no root of one that
    rounding has made indefinite.

    Args:
        real: [N, D] features of dataset images, N ≥ 2.
        made: [M, D] features of visualizations, M ≥ 2.

    Raises:
        UserError: fewer than two features in a set, or D differs.

    Reference: Heusel et al., "GANs trained by a two time-scale update rule", NeurIPS 2017, equation 6.
    """
    real, made = _checked(real, made)
    first, second = _root_of_covariance(real), _root_of_covariance(made)
    crossed = np.linalg.svdvals(first @ second.T).sum()
    apart = np.square(real.mean(axis=0) - made.mean(axis=0)).sum()
    distance = apart + np.square(first).sum() + np.square(second).sum() - 2 * crossed
    return max(float(distance), 0.0)  # rounding can put equal sets a hair below 0


def kernel_distance(real: np.ndarray, made: np.ndarray) -> float:
    """Kernel distance (KID): the unbiased estimate of the squared maximum mean discrepancy of two sets of features.

    With the cubic kernel k(x, y) = (x·y / D + 1)³: mean of k over pairs of different dataset images, plus the same of
    the visualizations, minus twice the mean over all pairs of a dataset image and a visualization. 0 on average for
    sets of one distribution, so it can be a little negative; no upper bound. All pairs count, where torchmetrics draws
    random subsets of one size; for sets of one size the two agree.

    Args:
        real: [N, D] features of dataset images, N ≥ 2.
        made: [M, D] features of visualizations, M ≥ 2.

    Raises:
        UserError: fewer than two features in a set, or D differs.

    Reference: Bińkowski et al., "Demystifying MMD GANs", ICLR 2018, sections 3.1 and 4.
    """
    real, made = _checked(real, made)
    across = _kernel_sum(real, made) / (len(real) * len(made))
    return _mean_of_others(real) + _mean_of_others(made) - 2 * across


def inception_score(logits: np.ndarray) -> float:
    """Inception Score of a classifier: exp of the mean divergence of p(class | visualization) from its average.

    Higher if each visualization is classified with certainty and all together show many classes; in [1, K]. One split
    over all visualizations: it grows with their number, so compare only sets of one size and of the same neurons.

    Args:
        logits: [N, K], N ≥ 1.

    Raises:
        UserError: there is no visualization.

    Reference: Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, section 4.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or not len(logits):
        raise UserError(
            f"the Inception Score needs logits [N, K] of at least one visualization, got shape {logits.shape}"
        )
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    log_average = np.logaddexp.reduce(log_p, axis=0) - np.log(len(log_p))
    return float(np.exp((np.exp(log_p) * (log_p - log_average)).sum(axis=1).mean()))


def _checked(real: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, made = np.asarray(real, dtype=np.float64), np.asarray(made, dtype=np.float64)
    if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1] or min(len(real), len(made)) < 2:
        raise UserError(
            f"a distance needs two sets [N, D] of at least 2 features of one space, got shapes {real.shape} and "
            f"{made.shape}"
        )
    return real, made


def _root_of_covariance(features: np.ndarray) -> np.ndarray:
    """[N, D] → R of at most D rows, with RᵀR the covariance."""
    triangle = np.asarray(np.linalg.qr(features - features.mean(axis=0), mode="r"))
    return triangle / math.sqrt(len(features) - 1)


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of the cubic kernel over all pairs."""
    dimensions = a.shape[1]
    return float(
        sum(((a[i : i + _KERNEL_ROWS] @ b.T / dimensions + 1) ** 3).sum() for i in range(0, len(a), _KERNEL_ROWS))
    )


def _mean_of_others(a: np.ndarray) -> float:
    """The mean of the kernel over ordered pairs of different rows."""
    itself = ((np.square(a).sum(axis=1) / a.shape[1] + 1) ** 3).sum()
    return (_kernel_sum(a, a) - float(itself)) / (len(a) * (len(a) - 1))
