"""Human study: agreement, intervals and words against published examples and computations by other ways."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.evaluation.human.agreement import krippendorff_alpha
from pipeline.evaluation.human.scores import (
    METRICS,
    HumanAnswer,
    _weighted_medians,
    crossed_interval,
    human_scores,
    rater_similarity,
    rating_agreement,
)
from pipeline.evaluation.human.text_overlap import content_words, name_overlap, word_overlap
from pipeline.evaluation.metrics.proportion import wilson_interval

_ = np.nan
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section E: four observers, twelve units, gaps.
PUBLISHED_RATINGS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)


def alpha_by_pairs(ratings: np.ndarray) -> float:
    """α from its definition, pair by pair, without a coincidence matrix."""
    units = [[value for value in column if not np.isnan(value)] for column in ratings.T]
    units = [unit for unit in units if len(unit) >= 2]
    everything = [value for unit in units for value in unit]

    def distance(a: float, b: float) -> float:
        low, high = min(a, b), max(a, b)
        between = sum(low <= value <= high for value in everything)
        return (between - (everything.count(a) + everything.count(b)) / 2) ** 2

    observed = sum(
        distance(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2)
    ) / len(everything)
    expected = sum(distance(a, b) for a, b in itertools.permutations(everything, 2))
    expected /= len(everything) * (len(everything) - 1)
    return 1 - observed / expected


def test_alpha_of_the_published_example() -> None:
    assert krippendorff_alpha(PUBLISHED_RATINGS) == pytest.approx(0.815, abs=5e-4)


ratings_with_gaps = arrays.arrays(
    np.float64,
    st.tuples(st.integers(2, 5), st.integers(1, 8)),
    elements=st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, np.nan]),
)


@settings(max_examples=60)
@given(ratings_with_gaps)
def test_alpha_is_that_of_its_definition(ratings: np.ndarray) -> None:
    paired = ratings[:, (~np.isnan(ratings)).sum(axis=0) >= 2]
    alpha = krippendorff_alpha(ratings)
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        assert np.isnan(alpha)
    else:
        assert alpha == pytest.approx(alpha_by_pairs(ratings), abs=1e-9)
        assert alpha == pytest.approx(krippendorff_alpha(ratings[::-1] * 10), abs=1e-9)  # only the order counts


def test_alpha_is_one_for_agreement_and_below_zero_for_systematic_disagreement() -> None:
    assert krippendorff_alpha(np.array([[1.0, 3, 5], [1, 3, 5]])) == pytest.approx(1)
    assert krippendorff_alpha(np.array([[1.0, 5], [5, 1]])) < 0
    assert np.isnan(krippendorff_alpha(np.array([[4.0, 4], [4, 4]])))
    assert np.isnan(krippendorff_alpha(np.array([[4.0, _], [_, 2]])))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), 857–872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_of_the_published_examples(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((successes / trials, low, high), abs=5e-5)


def test_a_wilson_interval_mirrors_and_is_nan_without_trials() -> None:
    share, low, high = wilson_interval(3, 10, confidence=0.9)
    assert wilson_interval(7, 10, confidence=0.9) == pytest.approx((1 - share, 1 - high, 1 - low))
    assert np.isnan(wilson_interval(0, 0)).all()


def test_content_words_are_kept_in_one_form() -> None:
    assert content_words("The dogs, and a CAFÉ!") == {"dog", "cafe"}
    assert content_words("boxes of glass; a bus, the iris, its classes") == {"box", "glass", "bus", "iris", "class"}
    assert content_words("something of the… 123") == frozenset()


def test_word_overlap_by_hand() -> None:
    assert word_overlap("a striped cat", "cat on a chair") == pytest.approx(2 * 1 / 4)
    assert word_overlap("cats", "the cat") == 1
    assert word_overlap("cat", "dog") == word_overlap("", "") == word_overlap("the", "the") == 0
    assert name_overlap("great shark", "great white shark, white shark") == pytest.approx(4 / 5)
    assert name_overlap("a tench", "tench, Tinca tinca") == 1


@settings(max_examples=40)
@given(st.text(max_size=30), st.text(max_size=30))
def test_word_overlap_is_symmetric_and_bounded(one: str, other: str) -> None:
    assert word_overlap(one, other) == word_overlap(other, one)
    assert 0 <= word_overlap(one, other) <= 1


def test_what_raters_differ_in_widens_the_interval_however_many_neurons_there_are() -> None:
    # Rater 0 always says 1, rater 1 always 5: another draw of two raters may be one of them twice.
    raters, neurons = np.repeat([0, 1], 100), np.tile(np.arange(100), 2)
    values = np.where(raters == 0, 1.0, 5.0)
    assert crossed_interval(values, raters, neurons, resamples=500) == (3.0, 1.0, 5.0)


def test_the_interval_over_raters_has_the_width_of_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    habit = rng.normal(size=60)
    raters, neurons = np.repeat(np.arange(60), 8), np.tile(np.arange(8), 60)
    value, low, high = crossed_interval(habit[raters], raters, neurons, resamples=4000)
    assert value == pytest.approx(habit.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * habit.std() / np.sqrt(60), rel=0.06)


def test_the_interval_over_neurons_has_the_width_of_its_standard_error() -> None:
    difficulty = np.random.default_rng(1).normal(size=50)
    _, low, high = crossed_interval(difficulty, ["one"] * 50, range(50), resamples=4000)
    assert (high - low) / 2 == pytest.approx(1.96 * difficulty.std() / np.sqrt(50), rel=0.06)


def test_medians_under_weights_are_medians_of_repeated_values() -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(1, 6, size=9).astype(float)
    weights = rng.integers(0, 4, size=(200, 9))
    weights = weights[weights.any(axis=1)]
    expected = [np.median(np.repeat(values, row)) for row in weights]
    np.testing.assert_array_equal(_weighted_medians(values, weights), expected)


def test_intervals_are_reproducible_and_nan_without_answers() -> None:
    arguments = ([1.0, 2, 5], ["a", "b", "a"], ["x", "y", "z"])
    assert crossed_interval(*arguments, seed=4) == crossed_interval(*arguments, seed=4)
    assert np.isnan(crossed_interval([], [], [])).all()
    with pytest.raises(ValueError, match=r"mode.*mean or median"):
        crossed_interval(*arguments, statistic="mode")


def answer(task: str, value: int | str, *, rater: str = "ada", neuron: str = "n0", **parts: object) -> HumanAnswer:
    fields = {"method": "vital", "seed": 0, "name": "", "seconds": 2.0, **parts}
    return HumanAnswer(rater=rater, task=task, neuron=neuron, answer=value, **fields)


def test_scores_of_a_small_study_by_hand() -> None:
    answers = [
        *(answer("class", value, rater=rater) for rater, value in (("ada", 4), ("bob", 5))),
        *(answer("class", value, rater=rater, neuron="n1") for rater, value in (("ada", 1), ("bob", 2))),
        answer("class", 3, method="maco"),
        answer("choice", 1),
        answer("choice", 0, neuron="n1", seconds=4.0),
        answer("words", "a red dog", name="dog, hound"),
        answer("words", "dogs", rater="bob", name="dog, hound"),
        answer("words", "", neuron="n1"),
    ]
    scores = {(s.task, s.method, s.metric): s for s in human_scores(answers, ["maco", "vital", "pixel"], resamples=200)}
    assert {metric for _, _, metric in scores} == set(METRICS)
    assert {method for _, method, _ in scores} == {"vital", "maco", ""}

    assert scores["class", "vital", "median"].value == 3.0
    assert scores["class", "vital", "mean"].value == 3.0
    assert scores["class", "vital", "mean"].low < 3.0 < scores["class", "vital", "mean"].high
    counts = scores["class", "vital", "mean"]
    assert (counts.num_answers, counts.num_raters, counts.num_neurons) == (4, 2, 2)
    assert scores["class", "vital", "agreement"].value == pytest.approx(alpha_by_pairs(np.array([[4.0, 1], [5, 2]])))
    assert scores["class", "", "agreement"].num_answers == 5
    assert scores["class", "maco", "median"].value == 3.0
    assert np.isnan(scores["class", "maco", "agreement"].value)

    accuracy = scores["choice", "vital", "accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high) == wilson_interval(1, 2)
    assert scores["choice", "vital", "seconds"].value == 3.0
    assert scores["words", "vital", "described"].value == pytest.approx(2 / 3)
    assert scores["words", "vital", "rater_similarity"].value == pytest.approx(2 / 3)
    assert scores["words", "vital", "name_similarity"].value == pytest.approx((2 / 3 + 1) / 2)
    assert scores["words", "vital", "name_similarity"].num_answers == 2  # n1 is no class


def test_similarity_between_raters_is_of_the_same_visualization_alone() -> None:
    same = [answer("words", "dog", rater=rater) for rater in ("ada", "bob", "eve")]
    assert rater_similarity(same, resamples=50)[0] == 1
    by_another_method = answer("words", "cat", rater="dan", method="maco")
    assert rater_similarity([*same, by_another_method], resamples=50)[0] == 1
    assert np.isnan(rater_similarity([same[0], by_another_method])).all()


def test_a_rater_who_rates_a_visualization_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="twice"):
        rating_agreement([answer("class", 1), answer("class", 2)])
