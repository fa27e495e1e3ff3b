"""The tasks of `evaluate`: score visualizations, let an evaluator look, derive scores from looks, sum up."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jobs.engine.worker import Shared, allocator_for_models, model_on
from jobs.run.work_plan import Batch, Key, facet_of
from jobs.stages.evaluate_plan import DatasetImageChunk
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from pipeline.evaluation.comparison_images import ComparisonImages
    from pipeline.evaluation.derived import LayerPredictions
    from pipeline.evaluation.evaluators.base import Evaluator
    from pipeline.evaluation.predictions import EvaluatorRecord
    from pipeline.models import Model


def score_batch(
    shared_model: "Shared[Model]", device: str, root: Root, recipe: Recipe, *, batch: Batch
) -> dict[str, Any]:
    """Score the visualizations of one batch and commit the scores. Returns how many got which status."""
    from pipeline.activations.store import StatisticsStore
    from pipeline.atlas.format.fragments import write_scores
    from pipeline.evaluation.scores import score_visualizations

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
    rows: list[dict[str, Any]] = [
        {"layer": layer, "unit": unit, "method": method, "seed": seed} | score
        for (layer, unit, method, seed), score in zip(batch.keys, scores, strict=True)
    ]
    committed = write_scores(root, batch.name, rows)
    counts = {status: sum(row["status"] == status for row in rows) for status in {row["status"] for row in rows}}
    return {**counts, "committed": committed}


def predict_dataset_images(
    shared_model: "Shared[Model]", device: str, root: Root, recipe: Recipe, *, dataset_images: DatasetImageChunk
) -> dict[str, Any]:
    """Let an evaluator look at some dataset images. Returns how many it saw, and how many are no images (any more)."""
    from pipeline.activations.store import StatisticsStore
    from pipeline.evaluation import predict as predict
    from pipeline.evaluation.predictions import MODEL

    evaluator, model = _evaluator(shared_model, device, recipe, dataset_images.evaluator)
    with allocator_for_models(device):
        return predict.predict_dataset_images(
            root,
            recipe,
            StatisticsStore.open(root),
            evaluator,
            dataset_images.evaluator,
            kind=dataset_images.kind,  # type: ignore[arg-type]
            name=dataset_images.name,
            samples=dataset_images.samples,
            model=model if dataset_images.evaluator == MODEL else None,
        )


def predict_visualizations(
    shared_model: "Shared[Model]", device: str, root: Root, recipe: Recipe, *, evaluator: str, batch: Batch, plan: Any
) -> dict[str, Any]:
    """Let an evaluator look at the visualizations of one batch; `plan` says where they are aligned. Returns how many it saw."""
    from pipeline.evaluation import predict as predict
    from pipeline.evaluation.predictions import MODEL
    from pipeline.references.store import read_targets

    network, model = _evaluator(shared_model, device, recipe, evaluator)
    own: dict[str, Any] = {}
    if evaluator == MODEL:
        found = read_targets(root, plan, batch.units, facet_of(recipe, batch.seed))
        targets = [found[unit][0] for unit in batch.units]
        own = {"model": model, "recipe": recipe, "plan": plan, "units": batch.units, "targets": targets}
    with allocator_for_models(device):
        committed = predict.predict_visualizations(
            root,
            network,
            evaluator,
            name=batch.name,
            keys=batch.keys,
            visualizations=_read_visualizations(root, batch),
            **own,
        )
    return {"ok": len(batch.units), "committed": committed}


def derive_layer(predictions: "LayerPredictions", *, keys: Sequence[Key]) -> int:
    """Write the scores of the visualizations of a layer that follow from looks. Returns how many visualizations."""
    from pipeline.evaluation.derived import derive_scores

    return len(derive_scores(predictions, keys))


def sum_up(
    root: Root,
    recipe: Recipe,
    dataset_images: "ComparisonImages",
    evaluators: "Sequence[EvaluatorRecord]",
    keys: Sequence[Key],
    class_layer: str | None,
    sources: str,
) -> list[str]:
    """Write the scores of the methods. Returns what could not be measured, in words."""
    from pipeline.activations.store import StatisticsStore
    from pipeline.atlas.format.fragments import join_rows, read_fragments, read_scores, row_key
    from pipeline.evaluation.derived import read_derived
    from pipeline.evaluation.summary import Summarizer, write_summary

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


def _read_visualizations(root: Root, batch: Batch) -> "list[np.ndarray]":
    from pipeline.atlas.format.schema import image_path
    from pipeline.io.images import decode_webp

    paths = [image_path(batch.layer, unit, batch.method, batch.seed) for unit in batch.units]
    return [decode_webp(root.read_bytes(path)) for path in paths]


def _evaluator(
    shared_model: "Shared[Model]", device: str, recipe: Recipe, key: str
) -> "tuple[Evaluator, Model | None]":
    """The evaluator of that key; and the atlas's own model, if it is that."""
    from pipeline.evaluation.evaluators.network import model_evaluator
    from pipeline.evaluation.predictions import MODEL, evaluator_key

    if key == MODEL:
        model = model_on(shared_model, device)
        return model_evaluator(model), model
    (choice,) = [choice for choice in recipe.evaluate.evaluators if evaluator_key(choice) == key]
    names = model_on(shared_model, device).class_names
    return _load(choice.name, choice.weights, device, tuple(names)), None


@lru_cache(maxsize=2)
def _load(name: str, weights: str, device: str, class_names: tuple[str, ...]) -> "Evaluator":
    """An evaluator, loaded once per process: it is asked by few tasks, so the object store would gain nothing."""
    from pipeline.evaluation.evaluators.load import load_evaluator

    return load_evaluator(name, weights, device=device, class_names=class_names or None)
