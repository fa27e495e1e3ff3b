"""FID, KID and the Inception Score against other formulas in float64, loops, and torchmetrics' own."""

import math
import warnings

import numpy as np
import pytest
import torch

from pipeline.evaluation.metrics.fid_kid import frechet_distance, inception_score, kernel_distance
from pipeline.models import torchvision_operators


def features(rows: int, dimensions: int, *, seed: int, shift: float = 0.0) -> np.ndarray:
    """Correlated, skewed features as float32, like a network's."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions)) / math.sqrt(dimensions)
    return (np.abs(rng.normal(size=(rows, dimensions))) @ mixing + shift).astype(np.float32)


def root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


def frechet_by_eigenvalues(real: np.ndarray, made: np.ndarray) -> float:
    """The same distance through S₁^½ S₂ S₁^½, which is symmetric and has the eigenvalues of S₁ S₂."""
    real, made = real.astype(np.float64), made.astype(np.float64)
    first, second = np.cov(real.T), np.cov(made.T)
    half = root(first)
    crossed = np.sqrt(np.linalg.eigvalsh(half @ second @ half).clip(0)).sum()
    apart = np.square(real.mean(0) - made.mean(0)).sum()
    return float(apart + np.trace(first) + np.trace(second) - 2 * crossed)


@pytest.mark.parametrize(("num_real", "num_made", "dimensions"), [(200, 90, 6), (40, 30, 50), (12, 7, 64), (2, 2, 3)])
def test_frechet_distance_is_that_of_the_symmetric_formula(num_real: int, num_made: int, dimensions: int) -> None:
    real = features(num_real, dimensions, seed=0)
    made = features(num_made, dimensions, seed=1, shift=0.3)
    assert frechet_distance(real, made) == pytest.approx(frechet_by_eigenvalues(real, made), rel=1e-6)


def test_frechet_distance_is_that_of_torchmetrics() -> None:
    torchvision_operators.declare()
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, made = features(60, 8, seed=0).astype(np.float64), features(50, 8, seed=1, shift=0.3).astype(np.float64)
    extractor = torch.nn.Identity()
    extractor.num_features = 8
    metric = FrechetInceptionDistance(feature=extractor)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(made), real=False)
    assert frechet_distance(real, made) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_frechet_distance_of_a_shift_is_its_square() -> None:
    real = features(60, 5, seed=0).astype(np.float64)
    assert frechet_distance(real, real + np.array([3, 0, 0, 4, 0])) == pytest.approx(25, rel=1e-9)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_equal_sets_is_not_below_zero() -> None:
    """Rounding puts some of these a hair below."""
    assert min(frechet_distance(same, same) for same in (features(60, 5, seed=seed) for seed in range(20))) >= 0


def test_frechet_distance_of_two_spreads_on_one_axis() -> None:
    """In one dimension it is (m₁ − m₂)² + (σ₁ − σ₂)²."""
    real, made = np.array([[-1.0], [0.0], [1.0]]), np.array([[1.0], [4.0], [7.0]])
    assert frechet_distance(real, made) == pytest.approx(4**2 + (1 - 3) ** 2)


def test_frechet_distance_survives_features_far_from_the_origin() -> None:
    real, made = features(50, 4, seed=0).astype(np.float64), features(50, 4, seed=1).astype(np.float64)
    assert frechet_distance(real + 1e6, made + 1e6) == pytest.approx(frechet_distance(real, made), rel=1e-5)


def test_small_sets_of_one_distribution_lie_apart() -> None:
    """The bias that the documents warn of, and that the kernel distance does not have."""
    draw = np.random.default_rng(0).normal(size=(20, 2, 400, 16))
    few = [(frechet_distance(a[:20], b[:20]), kernel_distance(a[:20], b[:20])) for a, b in draw]
    many = [frechet_distance(a, b) for a, b in draw[:5]]
    kernel = [distance for _, distance in few]
    assert np.mean([distance for distance, _ in few]) > 5 * np.mean(many)
    assert abs(np.mean(kernel)) < 2 * np.std(kernel) / math.sqrt(len(kernel))
    assert min(kernel) < 0


def kernel_distance_by_loops(real: np.ndarray, made: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (math.fsum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(rows: np.ndarray) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
        return math.fsum(pairs) / len(pairs)

    across = [kernel(x, y) for x in real for y in made]
    return within(real) + within(made) - 2 * math.fsum(across) / len(across)


def test_kernel_distance_is_that_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = features(13, 5, seed=0), features(8, 5, seed=1, shift=0.2)
    expected = kernel_distance_by_loops(real, made)
    assert kernel_distance(real, made) == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr("pipeline.evaluation.metrics.fid_kid._KERNEL_ROWS", 3)  # the matrix in pieces
    assert kernel_distance(real, made) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_of_sets_of_one_size_is_that_of_torchmetrics() -> None:
    torchvision_operators.declare()
    from torchmetrics.image.kid import KernelInceptionDistance

    real, made = features(30, 7, seed=0), features(30, 7, seed=1, shift=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features
        theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=30)
    theirs.update(torch.from_numpy(real).double(), real=True)
    theirs.update(torch.from_numpy(made).double(), real=False)
    assert kernel_distance(real, made) == pytest.approx(float(theirs.compute()[0]), rel=1e-9)


def inception_score_by_loops(logits: np.ndarray) -> float:
    probabilities = [[math.exp(v) / math.fsum(map(math.exp, row)) for v in row] for row in logits.tolist()]
    average = [math.fsum(column) / len(logits) for column in zip(*probabilities, strict=True)]
    divergences = [math.fsum(p * math.log(p / q) for p, q in zip(row, average, strict=True)) for row in probabilities]
    return math.exp(math.fsum(divergences) / len(divergences))


def test_inception_score_is_that_of_the_probabilities() -> None:
    logits = np.random.default_rng(0).normal(scale=3, size=(25, 6)).astype(np.float32)
    assert inception_score(logits) == pytest.approx(inception_score_by_loops(logits), rel=1e-10)


def test_inception_score_is_that_of_torchmetrics_in_one_split() -> None:
    torchvision_operators.declare()
    from torchmetrics.image.inception import InceptionScore

    logits = torch.randn(40, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all logits; the deviation of one split
        theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
        theirs.update(logits)
        mean, _ = theirs.compute()
    assert inception_score(logits.numpy()) == pytest.approx(float(mean), rel=1e-9)


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    assert inception_score(np.zeros((7, 5))) == pytest.approx(1)  # uniform probabilities
    assert inception_score(np.full((7, 5), [9, 0, 0, 0, 0])) == pytest.approx(1)  # always the same class
    certain = 1e4 * np.eye(5)
    assert inception_score(certain) == pytest.approx(5)  # no overflow, and 0 · log 0 counts as 0


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((5, 3), (1, 3)), ((0, 3), (5, 3)), ((5,), (5,))])
def test_sets_that_cannot_be_compared_are_refused(distance, shapes) -> None:
    with pytest.raises(ValueError, match="two sets"):
        distance(np.ones(shapes[0]), np.ones(shapes[1]))


def test_no_visualization_has_no_inception_score() -> None:
    with pytest.raises(ValueError, match="at least one visualization"):
        inception_score(np.empty((0, 5)))
