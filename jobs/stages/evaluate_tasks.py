"""The tasks of `evaluate`: score visualizations, let an evaluator predict, derive scores from predictions, sum up."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from jobs.engine.tasks import TaskResult
from jobs.engine.worker import Shared, allocator_for_models
from jobs.run.work_plan import Batch, Key, facet_of
from jobs.stages.evaluate_plan import DatasetImageChunk, VisualizationChunk
from jobs.stages.worker_model import model_on
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.format.fragments import join_rows, read_fragments, read_scores, row_key, write_scores
from pipeline.atlas.format.schema import image_path
from pipeline.evaluation import predict
from pipeline.evaluation.comparison_images import ComparisonImages
from pipeline.evaluation.derived import LayerPredictions, derive_scores, read_derived
from pipeline.evaluation.evaluators.base import Evaluator
from pipeline.evaluation.evaluators.load import load_evaluator
from pipeline.evaluation.evaluators.network import model_evaluator
from pipeline.evaluation.predictions import MODEL, EvaluatorRecord, evaluator_key
from pipeline.evaluation.scores import score_visualizations
from pipeline.evaluation.summary import Summarizer, write_summary
from pipeline.io.images import decode_webp
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.recipe.recipe import Recipe
from pipeline.references.store import read_targets


def score_batch(shared_model: Shared[Model], device: str, root: Root, recipe: Recipe, batch: Batch) -> TaskResult:
    """Score the visualizations of one batch and commit the scores."""
    with allocator_for_models(device):
        scores = score_visualizations(
            model_on(shared_model, device),
            StatisticsStore.open(root),
            batch.layer,
            batch.units,
            _read_visualizations(root, batch),
            reduction=recipe.statistics.activation,
            weak_percentile=recipe.evaluate.weak_percentile,
            num_references=recipe.targets.num_references,
        )
    rows = [
        {"layer": layer, "unit": unit, "method": method, "seed": seed, **score}
        for (layer, unit, method, seed), score in zip(batch.keys, scores, strict=True)
    ]
    return TaskResult(committed=write_scores(root, batch.name, rows))


def predict_dataset_images(
    shared_model: Shared[Model], device: str, root: Root, recipe: Recipe, chunk: DatasetImageChunk
) -> TaskResult:
    """Let an evaluator predict some dataset images and commit the predictions."""
    evaluator, model = _evaluator(shared_model, device, recipe, chunk.evaluator)
    with allocator_for_models(device):
        report = predict.predict_dataset_images(
            root,
            recipe,
            StatisticsStore.open(root),
            evaluator,
            chunk.evaluator,
            kind=chunk.kind,
            name=chunk.name,
            samples=chunk.samples,
            model=model,
        )
    return TaskResult(committed=report["committed"])


def predict_visualizations(
    shared_model: Shared[Model], device: str, root: Root, recipe: Recipe, chunk: VisualizationChunk
) -> TaskResult:
    """Let an evaluator predict the visualizations of one batch and commit the predictions."""
    evaluator, model = _evaluator(shared_model, device, recipe, chunk.evaluator)
    batch, of_model = chunk.batch, {}
    if model is not None:
        found = read_targets(root, chunk.plan, batch.units, facet_of(recipe, batch.seed))
        targets = [found[unit][0] for unit in batch.units]
        of_model = {"model": model, "recipe": recipe, "plan": chunk.plan, "units": batch.units, "targets": targets}
    with allocator_for_models(device):
        committed = predict.predict_visualizations(
            root,
            evaluator,
            chunk.evaluator,
            name=batch.name,
            keys=batch.keys,
            visualizations=_read_visualizations(root, batch),
            **of_model,
        )
    return TaskResult(committed=committed)


def derive_layer(predictions: LayerPredictions, keys: Sequence[Key]) -> None:
    """Write the scores of the visualizations of a layer that follow from predictions."""
    derive_scores(predictions, keys)


def sum_up(
    root: Root,
    recipe: Recipe,
    dataset_images: ComparisonImages,
    evaluators: Sequence[EvaluatorRecord],
    keys: Sequence[Key],
    class_layer: str | None,
    sources: str,
) -> list[str]:
    """Write the scores of the methods. Returns what could not be measured, in words."""
    requested = set(keys)
    rows = join_rows(join_rows(read_fragments(root), read_scores(root)), read_derived(root))
    summarizer = Summarizer(
        root=root,
        recipe=recipe,
        statistics=StatisticsStore.open(root),
        dataset_images=dataset_images,
        evaluators=evaluators,
        rows=[row for row in rows if row_key(row) in requested],
        class_layer=class_layer,
    )
    marker = write_summary(summarizer, sources=sources)
    return list(marker["left_out"])


def _read_visualizations(root: Root, batch: Batch) -> list[np.ndarray]:
    paths = [image_path(batch.layer, unit, batch.method, batch.seed) for unit in batch.units]
    return [decode_webp(root.read_bytes(path)) for path in paths]


def _evaluator(shared_model: Shared[Model], device: str, recipe: Recipe, key: str) -> tuple[Evaluator, Model | None]:
    """The evaluator of that key; and the atlas's own model, if it is that."""
    if key == MODEL:
        model = model_on(shared_model, device)
        return model_evaluator(model), model
    (choice,) = [choice for choice in recipe.evaluate.evaluators if evaluator_key(choice) == key]
    names = model_on(shared_model, device).class_names
    return _load(choice.name, choice.weights, device, tuple(names)), None


@lru_cache(maxsize=2)
def _load(name: str, weights: str, device: str, class_names: tuple[str, ...]) -> Evaluator:
    """An evaluator, loaded once per process: few tasks need it, so the object store would gain nothing."""
    return load_evaluator(name, weights, device=device, class_names=class_names or None)
