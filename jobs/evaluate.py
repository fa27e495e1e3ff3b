"""Stage 4: tasks score the published pictures and decide which neurons are weak or dead."""

import time
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from jobs.schedule import RunStoppedError, Work
from jobs.session import Session, StageReport, isolate
from jobs.visualize import num_neurons
from jobs.wanted import Batch, Key, Pictures, num_seeds, plan_batches, wanted_keys
from jobs.worker import Shared, model_on
from pipeline.recipe import Recipe
from pipeline.storage import Root

if TYPE_CHECKING:
    from pipeline.models import Model

STAGE: Final = "evaluate"
PICTURES_PER_TASK: Final = 32  # one forward pass; 224 px pictures of this number take about 1 GB of features


def plan_scores(
    wanted: Pictures,
    *,
    num_seeds: int,
    statuses: Mapping[Key, str],
    scored: set[Key],
) -> list[Batch]:
    """The pictures that are left to score, in batches of one layer, method and seed. Pure."""
    no_picture = {key for key, status in statuses.items() if status != "ok"}
    absent = set(wanted_keys(wanted, num_seeds=num_seeds)) - statuses.keys()
    return plan_batches(
        wanted,
        num_seeds=num_seeds,
        batch_sizes={method: PICTURES_PER_TASK for _, method in wanted},
        done=scored | no_picture | absent,
    )


def run(session: Session) -> StageReport:
    """Score the pictures that have no scores yet.

    Raises:
        RunStoppedError: there are no pictures yet.
    """
    from pipeline.atlas.fragments import committed_scores, read_statuses

    resolved, started = session.resolved, time.perf_counter()
    recipe, root = resolved.recipe, resolved.root
    statuses, scored = read_statuses(root), committed_scores(root)
    if not statuses:
        raise RunStoppedError(f"{root.url} has no pictures yet: run `neuron-atlas visualize RECIPE` first")
    batches = plan_scores(
        resolved.pictures,
        num_seeds=num_seeds(recipe),
        statuses=statuses,
        scored=scored,
    )
    already = len(scored.intersection(resolved.keys))
    if not batches:
        return StageReport(stage=STAGE, noun="pictures", done=0, already=already)
    task = partial(score_batch, session.shared_model, session.resources.device, root, recipe)
    works = [Work(name=batch.name, arguments={"batch": batch}) for batch in batches]
    outcomes = isolate(
        lambda some, resources: session.engine.run_tasks(task, some, resources),
        works,
        session.resources,
        split=lambda work: [Work(name=b.name, arguments={"batch": b}) for b in work.arguments["batch"].split()],
        on_split=lambda outcome: session.note(STAGE, outcome, count=0),
        patience=session.patience(already),
    )
    done = failed = 0
    total = sum(len(batch.units) for batch in batches)
    for outcome in session.follow(STAGE, outcomes, total=total, noun="pictures", size=num_neurons):
        done += num_neurons(outcome.work) if outcome.ok else 0
        failed += 0 if outcome.ok else num_neurons(outcome.work)
    return StageReport(
        stage=STAGE,
        noun="pictures",
        done=done,
        already=already,
        failed=failed,
        seconds=time.perf_counter() - started,
    )


def score_batch(
    shared_model: "Shared[Model]", device: str, root: Root, recipe: Recipe, *, batch: Batch
) -> dict[str, int]:
    """The task: score the pictures of one batch and commit the scores. Returns how many got which status."""
    from pipeline.atlas.fragments import write_scores
    from pipeline.atlas.schema import image_path
    from pipeline.evaluation import judge_classes, score_pictures
    from pipeline.images import decode_webp
    from pipeline.statistics.store import StatisticsStore

    pictures = [
        decode_webp(root.read_bytes(image_path(batch.layer, unit, batch.method, batch.seed))) for unit in batch.units
    ]
    model = model_on(shared_model, device)
    scores = score_pictures(
        model,
        StatisticsStore.open(root),
        batch.layer,
        batch.units,
        pictures,
        reduction=recipe.statistics.activation,
        weak_percentile=recipe.evaluate.weak_percentile,
    )
    if batch.layer == model.classifier_layer:
        for name in recipe.evaluate.held_out_models:
            judged = judge_classes(_held_out(name, device), batch.units, pictures)
            scores = [score | more for score, more in zip(scores, judged, strict=True)]
    rows: list[dict[str, Any]] = [
        {"layer": layer, "unit": unit, "method": method, "seed": seed} | score
        for (layer, unit, method, seed), score in zip(batch.keys, scores, strict=True)
    ]
    write_scores(root, batch.name, rows)
    return {status: sum(row["status"] == status for row in rows) for status in {row["status"] for row in rows}}


@lru_cache(maxsize=2)
def _held_out(name: str, device: str) -> "Model":
    """A judge, loaded once per process: it is asked by few tasks, so the object store would gain nothing."""
    from pipeline.models import load_model

    return load_model(name, device=device)
