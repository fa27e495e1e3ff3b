"""Stage 3: actors load the model once and optimize the visualizations of a batch of neurons together.

A batch is committed whole: its visualizations first, then its fragment. A batch that keeps failing is done again one
neuron at a time; what fails alone gets a row of status "failed" with the reason, and the run goes on.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from jobs.engine.work import PAUSE, RunStoppedError, Work
from jobs.run.session import Session, StageReport, isolate
from jobs.run.work_plan import Batch, batch_sizes, facet_of, num_seeds, part_missing, part_settled, plan_batches
from jobs.stages.targets import TargetState, read_committed, read_failures, require_statistics
from jobs.stages.visualize_actor import Visualizer, base_row, reference_columns

STAGE: Final = "visualize"
MAX_REASON_LENGTH: Final = 500


def run(session: Session, targets: TargetState | None = None, meanwhile: Iterable[object] = ()) -> StageReport:
    """Make the visualizations that are left; neurons that failed in an earlier run are tried again.

    Args:
        session: of the run.
        targets: of the neurons; None are those in storage. While any is open, its batch waits.
        meanwhile: settles open targets; it is advanced between the works of this stage.

    Raises:
        RunStoppedError: statistics or targets are not there yet, or nothing at all succeeds.
    """
    from pipeline.atlas.format.fragments import read_statuses

    resolved, started = session.resolved, time.perf_counter()
    recipe, root = resolved.recipe, resolved.root
    statuses = read_statuses(root)
    done_before = {key for key in resolved.keys if statuses.get(key, "failed") != "failed"}
    if len(done_before) == len(resolved.keys):
        return StageReport(stage=STAGE, noun="visualizations", done=0, already=len(done_before))
    require_statistics(root)
    batches = plan_batches(
        resolved.visualizations,
        num_seeds=num_seeds(recipe),
        batch_sizes=batch_sizes(recipe, session.resources.device),
        done=done_before,
    )
    if targets is None:
        layers = list(dict.fromkeys(batch.layer for batch in batches))
        targets = TargetState(committed=read_committed(root, layers), open={})
    settled, waiting = part_settled(batches, targets.open)
    ready, without_target = part_missing(settled, targets.committed)
    if without_target and not ready and not waiting and not done_before:
        raise RunStoppedError(f"{root.url} has no targets yet: run `neuron-atlas targets RECIPE` first")
    _commit_without_target(session, without_target)

    resources = replace(session.resources, reserves_cpus=not waiting)
    plans = _plans(session, [*ready, *waiting])
    num_visualizations = Counter[tuple[str, str]]()
    for batch in [*ready, *waiting]:
        num_visualizations[batch.layer, batch.method] += len(batch.units)
    factory = partial(Visualizer, session.shared_model, resources, root, recipe, plans, num_visualizations)
    failed_later: list[Batch] = []
    outcomes = isolate(
        lambda some, resources: session.engine.run_actors(factory, some, resources),
        visualization_works(ready, waiting, targets, meanwhile, failed_later),
        resources,
        split=lambda work: [_work(batch) for batch in work.arguments["batch"].split()],
        on_split=lambda outcome: session.note(STAGE, outcome, count=0),
        failure_limit=session.failure_limit(len(done_before)),
    )
    done, failures = 0, sum(len(batch.units) for batch in without_target)
    total = sum(len(batch.units) for batch in [*ready, *waiting])
    for outcome in session.follow(STAGE, outcomes, total=total, noun="visualizations", size=num_neurons):
        if outcome is PAUSE:
            continue
        if outcome.ok:
            done += num_neurons(outcome.work)
            continue
        failures += num_neurons(outcome.work)
        commit_failure(session, outcome.work.arguments["batch"], _reason(outcome.attempt.error))
    _commit_without_target(session, failed_later)
    failures += sum(len(batch.units) for batch in failed_later)
    return StageReport(
        stage=STAGE,
        noun="visualizations",
        done=done,
        already=len(done_before),
        failed=failures,
        seconds=time.perf_counter() - started,
    )


def visualization_works(
    ready: Sequence[Batch],
    waiting: Sequence[Batch],
    targets: TargetState,
    meanwhile: Iterable[object],
    failed_later: list[Batch],
) -> Iterator[Work | None]:
    """The batches that are ready, and each that waits once its targets are settled; None while there is none.

    Members whose targets failed are left out of their batch and added to `failed_later`.
    """
    yield from map(_work, ready)
    turns = iter(meanwhile)
    while waiting:
        next(turns)
        settled, waiting = part_settled(waiting, targets.open)
        ready, without_target = part_missing(settled, targets.committed)
        failed_later.extend(without_target)
        yield from map(_work, ready)
        yield None


def _work(batch: Batch) -> Work:
    return Work(name=batch.name, arguments={"batch": batch})


def num_neurons(work: Work) -> int:
    """How many neurons a work is for."""
    return len(work.arguments["batch"].units)


def commit_failure(session: Session, batch: Batch, reason: str) -> None:
    """Give every member of a batch a row of status "failed"; its real images, if they are known, stay with it."""
    from pipeline.atlas.format.fragments import write_fragment
    from pipeline.references.store import read_references

    resolved = session.resolved
    references = read_references(resolved.root, batch.layer, facet_of(resolved.recipe, batch.seed))
    committed = []
    for single in batch.split():
        (unit,) = single.units
        row = base_row(resolved.model, resolved.recipe, single, unit) | reference_columns(references.get(unit, {}))
        row |= {"status": "failed", "status_reason": reason}
        committed.append(write_fragment(resolved.root, f"{single.name}-failed", [row]))
    session.confirm(committed)


def _reason(error: str) -> str:
    text = " ".join(error.split())
    return text if len(text) <= MAX_REASON_LENGTH else text[: MAX_REASON_LENGTH - 1] + "…"


def _commit_without_target(session: Session, batches: Sequence[Batch]) -> None:
    """Give neurons that have no target a row that says why."""
    if not batches:
        return
    session.log.flush()  # it is asked for the reasons
    reasons = read_failures(session.resolved.root)
    for batch in batches:
        for single in batch.split():
            error = reasons.get((single.layer, single.units[0]))
            remedy = "run `neuron-atlas targets RECIPE`"
            reason = f"its target could not be made: {error}" if error else f"it has no target yet: {remedy}"
            commit_failure(session, single, _reason(reason))


def _plans(session: Session, batches: Sequence[Batch]) -> dict[str, Any]:
    """Layer → how its targets lie in the store."""
    from pipeline.references.build import plan_targets

    resolved = session.resolved
    layers = dict.fromkeys(batch.layer for batch in batches)
    return {layer: plan_targets(resolved.recipe, resolved.model, layer) for layer in layers}
