"""Scores of a visualization that follow from what evaluators saw of it and of dataset images.

One small table per layer, `run/evaluation/derived/LAYER.parquet`: arithmetic on looks, made anew whenever there are
more of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from pipeline.activations.store import StatisticsStore
from pipeline.evaluation.comparison_images import ComparisonImages, choose_minimally_activating
from pipeline.evaluation.metrics.accuracy import class_rank
from pipeline.evaluation.metrics.path_similarity import PathCorrelations, path_correlations, shared_scale_similarities
from pipeline.evaluation.metrics.two_afc import machine_interpretability
from pipeline.evaluation.predictions import (
    FOLDER,
    MODEL,
    EvaluatorRecord,
    PredictionFolder,
    activation_column,
    read_dataset_images,
)
from pipeline.io.parquet import read_rows, write_table
from pipeline.io.root import Root
from pipeline.neurons import check_layer_name, neuron_seed
from pipeline.recipe.recipe import Recipe

DERIVED: Final = f"{FOLDER}/derived"
# Dataset images of other units that path similarity is scaled by: their mean correlation is then known to about 0.02,
# and ranking a thousand dataset images again for every visualization would take longer than making looks of them.
NUM_OTHERS: Final = 64
_KEY_SCHEMA: Final = {"layer": "string", "unit": "int32", "method": "string", "seed": "int32"}

Key = tuple[str, int, str, int]  # layer, unit, method, seed
Vectors = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPredictions:
    """All that is known of the visualizations of one layer and the dataset images that they are compared with.

    Attributes:
        root: the atlas folder.
        recipe: of the run.
        statistics: of the run.
        dataset_images: of the run.
        evaluators: the model's record first.
        layer: of the visualizations.
        is_classes: whether its units are the classes.
        path_layers: feature layers up to the layer, for path similarity.
    """

    root: Root
    recipe: Recipe
    statistics: StatisticsStore
    dataset_images: ComparisonImages
    evaluators: Sequence[EvaluatorRecord]
    layer: str
    is_classes: bool
    path_layers: Sequence[str]

    @cached_property
    def comparison_images_activations(self) -> dict[int, np.ndarray]:
        """Sample of the panel → activation of each unit of the layer, [U]."""
        column = activation_column(self.layer)
        predictions = PredictionFolder(self.root, MODEL, "comparison_images").read(
            [column], self.dataset_images.comparison_images
        )
        return {sample: predict[column] for sample, predict in predictions.items()}

    def quiet(self, unit: int) -> tuple[int, ...]:
        """As many dataset images of the panel as there are top-activating images, those that activate a unit least."""
        own = frozenset(self.dataset_images.top_images[self.layer][unit]) | self.references(unit)
        comparison_images = list(self.comparison_images_activations)
        activations = np.array([self.comparison_images_activations[sample][unit] for sample in comparison_images])
        seed = neuron_seed(self.recipe.seed, "quiet", self.layer, unit, 0)
        return choose_minimally_activating(
            comparison_images, activations, own, self.recipe.evaluate.num_top_images, seed
        )

    def others(self, unit: int) -> list[int]:
        """Some dataset images of the panel that stand for other units: no top-activating images, references or labeled samples."""
        own = frozenset(self.dataset_images.top_images[self.layer][unit]) | self.references(unit)
        comparison_images = np.array(
            [sample for sample in self.comparison_images_activations if sample not in own], np.int64
        )
        if self.is_classes and len(comparison_images):
            comparison_images = comparison_images[labels_of(self.statistics, comparison_images) != unit]
        seed = neuron_seed(self.recipe.seed, "others", self.layer, unit, 0)
        return [int(sample) for sample in np.random.default_rng(seed).permutation(comparison_images)[:NUM_OTHERS]]

    def references(self, unit: int) -> frozenset[int]:
        """The samples that a unit's visualizations were aligned with."""
        return self.dataset_images.references[self.layer].get(unit, frozenset())

    def of_dataset_images(
        self, evaluator: EvaluatorRecord, columns: Sequence[str], samples: set[int]
    ) -> Mapping[int, Vectors]:
        """Sample → what an evaluator saw of it."""
        return read_dataset_images(self.root, evaluator.key, columns, samples)


def derive_scores(predictions: LayerPredictions, keys: Sequence[Key]) -> list[dict[str, Any]]:
    """Write the scores of the visualizations of one layer that follow from looks; see the module's text.

    Args:
        predictions: of the layer.
        keys: the visualizations.

    Returns:
        One row per visualization, `layer`, `unit`, `method`, `seed` and float columns, NaN where there is nothing to
        given: `alignment_distance`, `path_similarity`, `two_afc` by the first evaluator that is not the model (by the
        model if there is none) and `two_afc_EVALUATOR` by further ones, `accuracy_top1_EVALUATOR` and `accuracy_top5_EVALUATOR` of
        classes.
    """
    rows = {key: dict(zip(_KEY_SCHEMA, key, strict=True)) for key in keys}
    units = sorted({unit for _, unit, _, _ in keys})
    quiet = {unit: predictions.quiet(unit) for unit in units} if predictions.comparison_images_activations else {}
    _add_own_scores(predictions, rows, units)
    for place, evaluator in enumerate(interpreters(predictions.evaluators)):
        scores = _interpretability(predictions, evaluator, keys, quiet)
        for key, score in scores.items():
            rows[key]["two_afc" if place == 0 else f"mis_{evaluator.slug}"] = score
    if predictions.is_classes:
        for evaluator in held_out_classifiers(predictions.evaluators):
            for key, predict in (
                PredictionFolder(predictions.root, evaluator.key, "visualizations").read(["logits"], keys).items()
            ):
                rank = class_rank(predict["logits"], key[1])
                rows[key] |= {f"accuracy_top{k}_{evaluator.slug}": float(rank < k) for k in (1, 5)}
    columns = sorted({name for row in rows.values() for name in row} - _KEY_SCHEMA.keys())
    full = [dict.fromkeys(columns, float("nan")) | row for row in rows.values()]
    path = f"{DERIVED}/{check_layer_name(predictions.layer)}.parquet"
    write_table(predictions.root, path, full, _KEY_SCHEMA | dict.fromkeys(columns, "float32"))
    return full


def read_derived(root: Root, layer: str | None = None) -> list[dict[str, Any]]:
    """The rows of all layers, or of one; a score that is NaN is left out."""
    found = []
    for name in root.list(DERIVED):
        if layer is not None and name != f"{layer}.parquet":
            continue
        for row in read_rows(root, f"{DERIVED}/{name}"):
            found.append({column: value for column, value in row.items() if value is not None and value == value})
    return found


def interpreters(evaluators: Sequence[EvaluatorRecord]) -> list[EvaluatorRecord]:
    """Those in whose space top-activating images are told apart: the evaluators that are not the model, or else the model."""
    return [evaluator for evaluator in evaluators if evaluator.role != "model"] or list(evaluators)


def held_out_classifiers(evaluators: Sequence[EvaluatorRecord]) -> list[EvaluatorRecord]:
    """The evaluators beside the model that have its classes, so that they can name a visualization's class."""
    own = next(evaluator for evaluator in evaluators if evaluator.role == "model")
    return [
        evaluator
        for evaluator in evaluators
        if evaluator.role != "model" and 0 < evaluator.num_classes == own.num_classes
    ]


def labels_of(statistics: StatisticsStore, samples: np.ndarray) -> np.ndarray:
    """The label of each sample, −1 without one."""
    return statistics.samples.labels(samples)


def _interpretability(
    predictions: LayerPredictions, evaluator: EvaluatorRecord, keys: Sequence[Key], quiet: Mapping[int, Sequence[int]]
) -> dict[Key, float]:
    """Key → two-alternative score of one visualization, NaN for a unit without top-activating images."""
    top_images = predictions.dataset_images.top_images[predictions.layer]
    requested = {sample for unit in quiet for sample in (*top_images[unit], *quiet[unit])}
    dataset_images = predictions.of_dataset_images(evaluator, ["embedding"], requested)

    def embeddings(samples: Sequence[int]) -> np.ndarray:
        found = [dataset_images[sample]["embedding"] for sample in samples if sample in dataset_images]
        return np.stack(found) if found else np.empty((0, 0), np.float32)

    visualizations = PredictionFolder(predictions.root, evaluator.key, "visualizations").read(["embedding"], keys)
    return {
        key: machine_interpretability(
            predict["embedding"][None], embeddings(top_images[key[1]]), embeddings(quiet.get(key[1], ()))
        )
        for key, predict in visualizations.items()
    }


def _add_own_scores(predictions: LayerPredictions, rows: Mapping[Key, dict[str, Any]], units: Sequence[int]) -> None:
    """Add `alignment_distance` and `path_similarity`, which the atlas's own model tells."""
    (own,) = [evaluator for evaluator in predictions.evaluators if evaluator.role == "model"]
    means = [f"means/{layer}" for layer in predictions.path_layers]
    top_images = predictions.dataset_images.top_images[predictions.layer]
    others = {unit: predictions.others(unit) for unit in units}
    requested = {sample for unit in units for sample in (*top_images[unit], *others[unit])}
    dataset_images = predictions.of_dataset_images(own, means, requested)

    def stacked(samples: Sequence[int]) -> dict[str, np.ndarray]:
        found = [dataset_images[sample] for sample in samples if sample in dataset_images]
        return {name: np.array([predict[name] for predict in found], np.float32) for name in means}

    visualizations = PredictionFolder(predictions.root, own.key, "visualizations").read(
        ["alignment_distance", *means], list(rows)
    )
    paths: dict[Key, PathCorrelations] = {}
    for key, predict in visualizations.items():
        rows[key]["alignment_distance"] = float(predict["alignment_distance"][0])
        same, other = stacked(top_images[key[1]]), stacked(others[key[1]])
        if means and all(len(same[name]) > 1 and len(other[name]) for name in means):
            paths[key] = path_correlations({name: predict[name] for name in means}, same, other)
    of_units = {unit: correlations for (_, unit, _, _), correlations in paths.items()}
    similarities = shared_scale_similarities(list(paths.values()), list(of_units.values()))
    for key, similarity in zip(paths, similarities.tolist(), strict=True):
        rows[key]["path_similarity"] = similarity
