"""The tasks of `evaluate`: score pictures, let a judge look, derive scores from looks, sum up."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jobs.engine.worker import Shared, heap_for_models, model_on
from jobs.run.work_plan import Batch, Key, facet_of
from jobs.stages.evaluate_plan import PhotographChunk
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from pipeline.evaluation.comparison_images import Photographs
    from pipeline.evaluation.derived import LayerLooks
    from pipeline.evaluation.evaluators.base import Judge
    from pipeline.evaluation.predictions import JudgeRecord
    from pipeline.models import Model


def score_batch(
    shared_model: "Shared[Model]", device: str, root: Root, recipe: Recipe, *, batch: Batch
) -> dict[str, Any]:
    """Score the pictures of one batch and commit the scores. Returns how many got which status."""
    from pipeline.activations.store import StatisticsStore
    from pipeline.atlas.format.fragments import write_scores
    from pipeline.evaluation.scores import score_pictures

    with heap_for_models(device):
        scores = score_pictures(
            model_on(shared_model, device),
            StatisticsStore.open(root),
            batch.layer,
            batch.units,
            _read_pictures(root, batch),
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


def look_at_photographs(
    shared_model: "Shared[Model]", device: str, root: Root, recipe: Recipe, *, photographs: PhotographChunk
) -> dict[str, Any]:
    """Let a judge look at some photographs. Returns how many it saw, and how many are no images (any more)."""
    from pipeline.activations.store import StatisticsStore
    from pipeline.evaluation import predict as looking
    from pipeline.evaluation.predictions import MODEL

    judge, model = _judge(shared_model, device, recipe, photographs.judge)
    with heap_for_models(device):
        return looking.look_at_photographs(
            root,
            recipe,
            StatisticsStore.open(root),
            judge,
            photographs.judge,
            kind=photographs.kind,  # type: ignore[arg-type]
            name=photographs.name,
            samples=photographs.samples,
            model=model if photographs.judge == MODEL else None,
        )


def look_at_pictures(
    shared_model: "Shared[Model]", device: str, root: Root, recipe: Recipe, *, judge: str, batch: Batch, plan: Any
) -> dict[str, Any]:
    """Let a judge look at the pictures of one batch; `plan` says where they are aligned. Returns how many it saw."""
    from pipeline.evaluation import predict as looking
    from pipeline.evaluation.predictions import MODEL
    from pipeline.references.store import read_targets

    network, model = _judge(shared_model, device, recipe, judge)
    own: dict[str, Any] = {}
    if judge == MODEL:
        found = read_targets(root, plan, batch.units, facet_of(recipe, batch.seed))
        targets = [found[unit][0] for unit in batch.units]
        own = {"model": model, "recipe": recipe, "plan": plan, "units": batch.units, "targets": targets}
    with heap_for_models(device):
        committed = looking.look_at_pictures(
            root, network, judge, name=batch.name, keys=batch.keys, pictures=_read_pictures(root, batch), **own
        )
    return {"ok": len(batch.units), "committed": committed}


def derive_layer(looks: "LayerLooks", *, keys: Sequence[Key]) -> int:
    """Write the scores of the pictures of a layer that follow from looks. Returns how many pictures."""
    from pipeline.evaluation.derived import derive_scores

    return len(derive_scores(looks, keys))


def sum_up(
    root: Root,
    recipe: Recipe,
    photographs: "Photographs",
    judges: "Sequence[JudgeRecord]",
    keys: Sequence[Key],
    class_layer: str | None,
    sources: str,
) -> list[str]:
    """Write the scores of the methods. Returns what could not be measured, in words."""
    from pipeline.activations.store import StatisticsStore
    from pipeline.atlas.format.fragments import join_rows, read_fragments, read_scores, row_key
    from pipeline.evaluation.derived import read_derived
    from pipeline.evaluation.summary import Summarizer, write_summary

    wanted = set(keys)
    rows = join_rows(join_rows(read_fragments(root), read_scores(root)), read_derived(root))
    summarizer = Summarizer(
        root=root,
        recipe=recipe,
        statistics=StatisticsStore.open(root),
        photographs=photographs,
        judges=judges,
        rows=[row for row in rows if row_key(row) in wanted],
        class_layer=class_layer,
    )
    marker = write_summary(summarizer, sources=sources)
    return list(marker["left_out"])


def _read_pictures(root: Root, batch: Batch) -> "list[np.ndarray]":
    from pipeline.atlas.format.schema import image_path
    from pipeline.io.images import decode_webp

    paths = [image_path(batch.layer, unit, batch.method, batch.seed) for unit in batch.units]
    return [decode_webp(root.read_bytes(path)) for path in paths]


def _judge(shared_model: "Shared[Model]", device: str, recipe: Recipe, key: str) -> "tuple[Judge, Model | None]":
    """The judge of that key; and the atlas's own model, if it is that."""
    from pipeline.evaluation.evaluators.network import model_judge
    from pipeline.evaluation.predictions import MODEL, judge_key

    if key == MODEL:
        model = model_on(shared_model, device)
        return model_judge(model), model
    (choice,) = [choice for choice in recipe.evaluate.judges if judge_key(choice) == key]
    names = model_on(shared_model, device).class_names
    return _load(choice.name, choice.weights, device, tuple(names)), None


@lru_cache(maxsize=2)
def _load(name: str, weights: str, device: str, class_names: tuple[str, ...]) -> "Judge":
    """A judge, loaded once per process: it is asked by few tasks, so the object store would gain nothing."""
    from pipeline.evaluation.evaluators.load import load_judge

    return load_judge(name, weights, device=device, class_names=class_names or None)
