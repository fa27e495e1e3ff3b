"""Scores of a visualization that follow from predictions of it and of dataset images.

One small table per layer, `run/evaluation/derived/LAYER.parquet`, computed again whenever there are more predictions.
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
from pipeline.evaluation.metrics.two_afc import two_afc
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
from pipeline.neurons import layer_file_name, neuron_seed
from pipeline.recipe.recipe import Recipe

DERIVED: Final = f"{FOLDER}/derived"
# Dataset images of other units that path similarity is scaled by: their mean correlation is then known to about 0.02.
NUM_OTHERS: Final = 64
_KEY_SCHEMA: Final = {"layer": "string", "unit": "int32", "method": "string", "seed": "int32"}

Key = tuple[str, int, str, int]  # layer, unit, method, seed
Vectors = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPredictions:
    """The predictions of the visualizations of one layer and of the dataset images that they are compared with.

    Attributes:
        root: the atlas folder.
        recipe: of the run.
        statistics: of the run.
        dataset_images: that the visualizations are compared with.
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
    def random_sample_activations(self) -> dict[int, np.ndarray]:
        """Sample id → activation of each unit of the layer, [U], of the random sample."""
        column = activation_column(self.layer)
        folder = PredictionFolder(self.root, MODEL, "random_sample")
        predictions = folder.read([column], self.dataset_images.random_sample)
        return {sample: prediction[column] for sample, prediction in predictions.items()}

    def minimally_activating(self, unit: int) -> tuple[int, ...]:
        """The images of the random sample that activate a unit least, as many as top-activating images."""
        samples = list(self.random_sample_activations)
        activations = np.array([self.random_sample_activations[sample][unit] for sample in samples])
        # "quiet" only names a stream of random numbers.
        seed = neuron_seed(self.recipe.seed, "quiet", self.layer, unit, 0)
        return choose_minimally_activating(
            samples, activations, self._excluded(unit), self.recipe.evaluate.num_top_images, seed
        )

    def of_other_units(self, unit: int) -> list[int]:
        """Images of the random sample that represent other units: none is excluded or labeled with the class."""
        excluded = self._excluded(unit)
        samples = np.array([sample for sample in self.random_sample_activations if sample not in excluded], np.int64)
        if self.is_classes and len(samples):
            samples = samples[self.statistics.samples.labels(samples) != unit]
        seed = neuron_seed(self.recipe.seed, "others", self.layer, unit, 0)
        return [int(sample) for sample in np.random.default_rng(seed).permutation(samples)[:NUM_OTHERS]]

    def _excluded(self, unit: int) -> frozenset[int]:
        """The top-activating images and references of a unit."""
        return frozenset(self.dataset_images.top_images[self.layer][unit]) | self.references(unit)

    def references(self, unit: int) -> frozenset[int]:
        """The samples that a unit's visualizations were aligned with."""
        return self.dataset_images.references[self.layer].get(unit, frozenset())

    def of_dataset_images(
        self, evaluator: EvaluatorRecord, columns: Sequence[str], samples: set[int]
    ) -> Mapping[int, Vectors]:
        """Sample → the evaluator's prediction."""
        return read_dataset_images(self.root, evaluator.key, columns, samples)

    def of_visualizations(
        self, evaluator: EvaluatorRecord, columns: Sequence[str], keys: Sequence[Key]
    ) -> Mapping[Key, Vectors]:
        """Key → the evaluator's prediction."""
        return PredictionFolder(self.root, evaluator.key, "visualizations").read(columns, keys)


def derive_scores(predictions: LayerPredictions, keys: Sequence[Key]) -> list[dict[str, Any]]:
    """Write the scores of the visualizations of one layer that follow from predictions; see the module's text.

    Args:
        predictions: of the layer.
        keys: the visualizations.

    Returns:
        One row per visualization, `layer`, `unit`, `method`, `seed` and float columns, NaN where there is no value:
        `alignment_distance`, `path_similarity`, `two_afc` by the first evaluator that is not the model (by the model if
        there is none) and `two_afc_EVALUATOR` by the others, `accuracy_top1_EVALUATOR` and `accuracy_top5_EVALUATOR` of
        classes.
    """
    rows = {key: dict(zip(_KEY_SCHEMA, key, strict=True)) for key in keys}
    units = sorted({unit for _, unit, _, _ in keys})
    _add_model_scores(predictions, rows, units)
    _add_two_afc(predictions, rows, units)
    _add_held_out_accuracy(predictions, rows)
    columns = sorted({name for row in rows.values() for name in row} - _KEY_SCHEMA.keys())
    full = [dict.fromkeys(columns, float("nan")) | row for row in rows.values()]
    path = f"{DERIVED}/{layer_file_name(predictions.layer)}.parquet"
    write_table(predictions.root, path, full, _KEY_SCHEMA | dict.fromkeys(columns, "float32"))
    return full


def read_derived(root: Root, layer: str | None = None) -> list[dict[str, Any]]:
    """The rows of all layers, or of one; a score that is NaN is left out."""
    found = []
    for name in root.list(DERIVED):
        if layer is not None and name != f"{layer_file_name(layer)}.parquet":
            continue
        for row in read_rows(root, f"{DERIVED}/{name}"):
            found.append({column: value for column, value in row.items() if value is not None and value == value})
    return found


def held_out_classifiers(evaluators: Sequence[EvaluatorRecord]) -> list[EvaluatorRecord]:
    """The evaluators other than the model that have the model's classes."""
    model = next(evaluator for evaluator in evaluators if evaluator.role == "model")
    return [
        evaluator
        for evaluator in evaluators
        if evaluator.role != "model" and 0 < evaluator.num_classes == model.num_classes
    ]


def two_afc_columns(evaluators: Sequence[EvaluatorRecord]) -> dict[str, EvaluatorRecord]:
    """Column → the evaluator of its `two_afc` score: those that are not the model, or else the model."""
    chosen = [evaluator for evaluator in evaluators if evaluator.role != "model"] or list(evaluators)
    return {"two_afc" if i == 0 else f"two_afc_{evaluator.slug}": evaluator for i, evaluator in enumerate(chosen)}


def _add_two_afc(predictions: LayerPredictions, rows: Mapping[Key, dict[str, Any]], units: Sequence[int]) -> None:
    """Add `two_afc` and `two_afc_EVALUATOR`, NaN for a unit without top-activating images."""
    top_images = predictions.dataset_images.top_images[predictions.layer]
    low: dict[int, tuple[int, ...]] = {}
    if predictions.random_sample_activations:
        low = {unit: predictions.minimally_activating(unit) for unit in units}
    requested = {sample for unit in low for sample in (*top_images[unit], *low[unit])}
    for column, evaluator in two_afc_columns(predictions.evaluators).items():
        images = predictions.of_dataset_images(evaluator, ["embedding"], requested)
        for key, prediction in predictions.of_visualizations(evaluator, ["embedding"], list(rows)).items():
            high_low = (_embeddings(images, samples) for samples in (top_images[key[1]], low.get(key[1], ())))
            rows[key][column] = two_afc(prediction["embedding"][None], *high_low)


def _embeddings(images: Mapping[int, Vectors], samples: Sequence[int]) -> np.ndarray:
    found = [images[sample]["embedding"] for sample in samples if sample in images]
    return np.stack(found) if found else np.empty((0, 0), np.float32)


def _add_held_out_accuracy(predictions: LayerPredictions, rows: Mapping[Key, dict[str, Any]]) -> None:
    """Add `accuracy_top1_EVALUATOR` and `accuracy_top5_EVALUATOR` if the units are classes."""
    for evaluator in held_out_classifiers(predictions.evaluators) if predictions.is_classes else ():
        for key, prediction in predictions.of_visualizations(evaluator, ["logits"], list(rows)).items():
            rank = class_rank(prediction["logits"], key[1])
            rows[key] |= {f"accuracy_top{k}_{evaluator.slug}": float(rank < k) for k in (1, 5)}


def _add_model_scores(predictions: LayerPredictions, rows: Mapping[Key, dict[str, Any]], units: Sequence[int]) -> None:
    """Add `alignment_distance` and `path_similarity`, which the atlas's own model gives."""
    (model,) = [evaluator for evaluator in predictions.evaluators if evaluator.role == "model"]
    means = [f"means/{layer}" for layer in predictions.path_layers]
    top_images = predictions.dataset_images.top_images[predictions.layer]
    others = {unit: predictions.of_other_units(unit) for unit in units}
    requested = {sample for unit in units for sample in (*top_images[unit], *others[unit])}
    images = predictions.of_dataset_images(model, means, requested)

    def stacked(samples: Sequence[int]) -> dict[str, np.ndarray]:
        found = [images[sample] for sample in samples if sample in images]
        return {name: np.array([prediction[name] for prediction in found], np.float32) for name in means}

    paths: dict[Key, PathCorrelations] = {}
    visualizations = predictions.of_visualizations(model, ["alignment_distance", *means], list(rows))
    for key, prediction in visualizations.items():
        rows[key]["alignment_distance"] = float(prediction["alignment_distance"][0])
        same, other = stacked(top_images[key[1]]), stacked(others[key[1]])
        if means and all(len(same[name]) > 1 and len(other[name]) for name in means):
            paths[key] = path_correlations({name: prediction[name] for name in means}, same, other)
    of_units = {unit: correlations for (_, unit, _, _), correlations in paths.items()}
    similarities = shared_scale_similarities(list(paths.values()), list(of_units.values()))
    for key, similarity in zip(paths, similarities.tolist(), strict=True):
        rows[key]["path_similarity"] = similarity
