"""Metrics on embeddings of single images: two_afc and diversity."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.metrics.diversity import diversity
from pipeline.evaluation.metrics.similarity import cosine
from pipeline.evaluation.metrics.two_afc import two_afc


def embeddings(rows: int, *, seed: int, dimensions: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)


def cosine_of(x: np.ndarray, y: np.ndarray) -> float:
    dot, own, other = (
        math.fsum(float(a) * float(b) for a, b in zip(u, v, strict=True)) for u, v in ((x, y), (x, x), (y, y))
    )
    return dot / math.sqrt(own * other)


def test_cosine_is_that_of_each_pair() -> None:
    a, b = embeddings(3, seed=0), embeddings(4, seed=1)
    expected = [[cosine_of(x, y) for y in b] for x in a]
    np.testing.assert_allclose(cosine(a, b), expected, rtol=1e-12)


def test_a_vector_of_zeros_has_cosine_zero() -> None:
    assert cosine(np.zeros((1, 3)), np.ones((2, 3))).tolist() == [[0, 0]]


def solved_tasks(made: np.ndarray, high: np.ndarray, low: np.ndarray) -> float:
    """Every task by itself: which of two dataset images is nearer to the visualizations on average?"""

    def nearness(dataset_image: np.ndarray) -> float:
        return math.fsum(cosine_of(dataset_image, visualization) for visualization in made) / len(made)

    tasks = [(nearness(strong), nearness(weak)) for strong in high for weak in low]
    return math.fsum(1 if s > w else 0.5 if s == w else 0 for s, w in tasks) / len(tasks)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_two_afc_is_the_fraction_of_tasks_solved(made: int, high: int, low: int, seed: int) -> None:
    sets = embeddings(made, seed=seed), embeddings(high, seed=seed + 1), embeddings(low, seed=seed + 2)
    assert two_afc(*sets) == pytest.approx(solved_tasks(*sets))


def test_two_afc_runs_from_misleading_to_perfect() -> None:
    dog, cat = np.array([[1.0, 0.2, 0.0]]), np.array([[0.0, 0.2, 1.0]])
    dogs, cats = dog + 0.1 * embeddings(5, seed=0, dimensions=3), cat + 0.1 * embeddings(7, seed=1, dimensions=3)
    assert two_afc(dog, high=dogs, low=cats) == 1
    assert two_afc(cat, high=dogs, low=cats) == 0
    assert two_afc(dog, high=dogs[:1], low=dogs[:1]) == 0.5  # a tie is a guess
    assert two_afc(np.ones((2, 3)), high=np.ones((4, 3)), low=np.ones((4, 3))) == 0.5


def test_two_afc_by_chance_is_a_half() -> None:
    scores = [two_afc(*(embeddings(n, seed=3 * seed + i) for i, n in enumerate((2, 5, 5)))) for seed in range(200)]
    assert np.mean(scores) == pytest.approx(0.5, abs=3 * np.std(scores) / math.sqrt(len(scores)))


def test_the_length_of_embeddings_does_not_count() -> None:
    made, high, low = (embeddings(3, seed=seed) for seed in range(3))
    assert two_afc(9 * made, high / 5, low) == two_afc(made, high, low)


@pytest.mark.parametrize("empty", range(3))
def test_no_task_has_no_score(empty: int) -> None:
    sets = [embeddings(3, seed=seed) for seed in range(3)]
    sets[empty] = sets[empty][:0]
    assert math.isnan(two_afc(*sets))


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    visualizations = embeddings(4, seed=0)
    pairs = [1 - cosine_of(visualizations[i], visualizations[j]) for i in range(4) for j in range(i)]
    assert diversity(visualizations) == pytest.approx(math.fsum(pairs) / 6)


def test_diversity_runs_from_equal_to_opposite() -> None:
    assert diversity(np.ones((3, 4))) == pytest.approx(0)
    assert diversity(np.eye(3)) == pytest.approx(1)
    assert diversity(np.array([[1.0, 2.0], [-1.0, -2.0]])) == pytest.approx(2)
    assert math.isnan(diversity(np.ones((1, 4))))
    assert math.isnan(diversity(np.ones((0, 4))))
