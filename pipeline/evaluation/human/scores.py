"""Scores of each method by the answers of a blind human study.

The tasks are those of VITAL's study (section 5) and a choice between two dataset images (2-AFC; Borowski et
al., ICLR 2021; Zimmermann et al., NeurIPS 2021):

    class         rate a visualization, given the class's name: 1 (not at all) to 5 (very well)
    intermediate  rate a visualization shown with the top-activating images of the neuron: 1 to 5
    words         describe a visualization freely
    choice        given the visualization, choose which of two dataset images activates the neuron strongly

Raters and neurons are both samples: another study would have others of either. So intervals come from drawing raters
and neurons with replacement, independently of each other.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.errors import UserError
from pipeline.evaluation.human.agreement import krippendorff_alpha
from pipeline.evaluation.human.text_overlap import content_words, name_overlap, word_overlap
from pipeline.evaluation.metrics.bootstrap import mean_interval
from pipeline.evaluation.metrics.proportion import wilson_interval

TASKS: Final = ("class", "intermediate", "choice", "words")
RATED_TASKS: Final = ("class", "intermediate")
RATINGS: Final = (1, 2, 3, 4, 5)

# Metric → (range, meaning), in the order of a report.
METRICS: Final[dict[str, tuple[str, str]]] = {
    "median": ("1–5", "median rating"),
    "mean": ("1–5", "mean rating"),
    "agreement": ("≤ 1, chance 0", "Krippendorff's α (ordinal) between raters of the same visualization"),
    "accuracy": ("0–1, chance 0.5", "share of right choices between two dataset images"),
    "described": ("0–1", "share of visualizations that a rater described in at least one content word"),
    "rater_similarity": ("0–1", "overlap in words of two raters' descriptions of the same visualization"),
    "name_similarity": ("0–1", "overlap in words of a description with the class's name; classes only"),
    "seconds": ("s", "median time of an answer"),
}

_BLOCK_VALUES: Final = 4_000_000  # resampling weights that are held at once, 32 MB
_UNKNOWN: Final = (float("nan"), float("nan"))


@dataclass(frozen=True, kw_only=True)
class HumanAnswer:
    """One answer of one rater about one visualization."""

    rater: str
    task: str  # one of TASKS
    neuron: str  # id
    method: str
    seed: int
    answer: int | str  # a rating; the words; of a choice 1 if it was right, else 0
    name: str  # of the class; "" of an intermediate neuron
    seconds: float


@dataclass(frozen=True, kw_only=True)
class HumanScore:
    """One metric of one method in one task; method "" is all of them together."""

    task: str
    method: str
    metric: str  # one of METRICS
    value: float
    low: float  # 95 % interval, NaN without one
    high: float
    num_answers: int
    num_raters: int
    num_neurons: int


def human_scores(
    answers: Sequence[HumanAnswer], methods: Sequence[str], *, resamples: int = 10_000, seed: int = 0
) -> list[HumanScore]:
    """All scores of a study, by task and method.

    Args:
        answers: at most one per rater, task and visualization.
        methods: in the order of the atlas; those without answers are left out.
        resamples: of the intervals.
        seed: of the resampling.
    """
    scores: list[HumanScore] = []
    for task in TASKS:
        asked = [answer for answer in answers if answer.task == task]
        for method in methods:
            of_method = [answer for answer in asked if answer.method == method]
            if of_method:
                scores += _scores_of(task, method, of_method, resamples, seed)
        if task in RATED_TASKS and asked:
            scores.append(_score(task, "", "agreement", asked, (rating_agreement(asked), *_UNKNOWN)))
    return scores


def crossed_interval(
    values: Sequence[float] | np.ndarray,
    raters: Sequence[Hashable],
    neurons: Sequence[Hashable],
    *,
    statistic: str = "mean",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The mean or median of answers with its interval over raters and neurons, both drawn with replacement.

    An answer counts as often as its rater was drawn times as often as its neuron was (the pigeonhole bootstrap). It
    errs on the side of wide intervals. A draw without any answer is left out.
    `scipy.stats.bootstrap` cannot draw two crossed factors.

    Args:
        values: one per answer.
        raters: who gave each.
        neurons: what each is about.
        statistic: mean or median.
        confidence: of the interval, in (0, 1).
        resamples: how often raters and neurons are drawn.
        seed: of the draws.

    Returns:
        (value, low, high); three NaN without answers. With one rater the interval is over neurons alone.

    Raises:
        UserError: an unknown statistic.

    Reference: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007.
    """
    weighted = {"mean": _weighted_means, "median": _weighted_medians}.get(statistic)
    if weighted is None:
        raise UserError(f"statistic {statistic!r}: expected mean or median")
    given = np.asarray(values, dtype=np.float64)
    if not len(given):
        return float("nan"), *_UNKNOWN
    rater, neuron = (np.unique([str(name) for name in names], return_inverse=True)[1] for names in (raters, neurons))
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK_VALUES // len(given))
    drawn = []
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        weights = _draws(rng, size, rater.max() + 1)[:, rater] * _draws(rng, size, neuron.max() + 1)[:, neuron]
        drawn.append(weighted(given, weights[weights.any(axis=1)]))
    low, high = np.quantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(weighted(given, np.ones((1, len(given))))[0]), float(low), float(high)


def rating_agreement(answers: Sequence[HumanAnswer]) -> float:
    """Krippendorff's α over the visualizations that several raters rated; NaN if there is none.

    Raises:
        UserError: a rater rated a visualization twice.
    """
    raters = {name: row for row, name in enumerate(sorted({answer.rater for answer in answers}))}
    visualizations = {key: column for column, key in enumerate(sorted({_visualization(answer) for answer in answers}))}
    ratings = np.full((len(raters), len(visualizations)), np.nan)
    for answer in answers:
        place = raters[answer.rater], visualizations[_visualization(answer)]
        if not np.isnan(ratings[place]):
            raise UserError(f"rater {answer.rater!r} rated {_visualization(answer)} twice, expected once")
        ratings[place] = float(answer.answer)
    return krippendorff_alpha(ratings)


def rater_similarity(answers: Sequence[HumanAnswer], **options: int) -> tuple[float, float, float]:
    """Word overlap of two raters' descriptions of a visualization, averaged over pairs, then over neurons.

    The interval is over neurons alone: pairs of raters are not a sample that can be drawn from.

    Args:
        answers: of the task `words`.
        options: resamples and seed of `mean_interval`.
    """
    by_visualization: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for answer in answers:
        by_visualization[_visualization(answer)].append(str(answer.answer))
    by_neuron: dict[str, list[float]] = defaultdict(list)
    for (neuron, _, _), texts in by_visualization.items():
        by_neuron[neuron] += [word_overlap(one, other) for one, other in itertools.combinations(texts, 2)]
    return mean_interval([float(np.mean(pairs)) for _, pairs in sorted(by_neuron.items()) if pairs], **options)


def _scores_of(task: str, method: str, some: Sequence[HumanAnswer], resamples: int, seed: int) -> Iterator[HumanScore]:
    options = {"resamples": resamples, "seed": seed}

    def crossed(
        metric: str, of: Callable[[HumanAnswer], float], statistic: str = "mean", among: Sequence[HumanAnswer] = some
    ) -> HumanScore:
        raters, neurons = [answer.rater for answer in among], [answer.neuron for answer in among]
        interval = crossed_interval([of(a) for a in among], raters, neurons, statistic=statistic, **options)
        return _score(task, method, metric, among, interval)

    if task in RATED_TASKS:
        yield crossed("median", lambda answer: float(answer.answer), "median")
        yield crossed("mean", lambda answer: float(answer.answer))
        yield _score(task, method, "agreement", some, (rating_agreement(some), *_UNKNOWN))
    elif task == "choice":
        right = sum(int(answer.answer) for answer in some)
        yield _score(task, method, "accuracy", some, wilson_interval(right, len(some)))
    else:
        yield crossed("described", lambda answer: float(bool(content_words(str(answer.answer)))))
        yield _score(task, method, "rater_similarity", some, rater_similarity(some, **options))
        named = [answer for answer in some if answer.name]
        if named:
            yield crossed("name_similarity", lambda answer: name_overlap(str(answer.answer), answer.name), among=named)
    yield crossed("seconds", lambda answer: answer.seconds, "median")


def _score(
    task: str, method: str, metric: str, some: Sequence[HumanAnswer], interval: tuple[float, float, float]
) -> HumanScore:
    value, low, high = interval
    return HumanScore(
        task=task,
        method=method,
        metric=metric,
        value=value,
        low=low,
        high=high,
        num_answers=len(some),
        num_raters=len({answer.rater for answer in some}),
        num_neurons=len({answer.neuron for answer in some}),
    )


def _visualization(answer: HumanAnswer) -> tuple[str, str, int]:
    return answer.neuron, answer.method, answer.seed


def _draws(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """How often each of `count` items is drawn in `count` draws with replacement: [size, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), size=size)


def _weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[n] values under [B, n] weights → [B]."""
    return weights @ values / weights.sum(axis=1)


def _weighted_medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[n] values under [B, n] whole weights → [B]: the median of the values, each repeated by its weight."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[:, order], axis=1)
    half = reached[:, -1:] / 2
    lower, upper = (values[order][np.argmax(past, axis=1)] for past in (reached >= half, reached > half))
    return (lower + upper) / 2
