"""Stage 3: actors load the model once and optimize the visualizations of a batch of neurons together.

A batch is committed whole: its visualizations first, then its fragment. A batch that keeps failing is done again one
neuron at a time; what fails alone gets a row of status "failed" with the reason, and the run goes on.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from jobs.engine.tasks import RunStoppedError, Task
from jobs.run.session import Session
from jobs.run.stage import StageReport
from jobs.run.work_plan import Batch, Key, batch_sizes, facet_of, num_seeds, part_by_targets, plan_batches
from jobs.stages.targets import last_failure, read_committed, read_failures, require_statistics
from jobs.stages.visualize_actor import Visualizer, base_row, reference_columns
from pipeline.atlas.format.fragments import read_statuses, write_fragment
from pipeline.references.build import plan_targets
from pipeline.references.store import read_references

MAX_REASON_LENGTH: Final = 500


class Visualize:
    """The stage `visualize`."""

    name: Final = "visualize"
    noun: Final = "visualizations"

    def run(self, session: Session) -> StageReport:
        """Make the visualizations that are left; neurons that failed in an earlier run are tried again.

        Raises:
            RunStoppedError: statistics or targets are not there yet, or nothing at all succeeds.
        """
        resolved = session.resolved
        statuses = read_statuses(resolved.root)
        done_before = {key for key in resolved.keys if statuses.get(key, "failed") != "failed"}
        already = len(done_before)
        if already == len(resolved.keys):
            return StageReport(stage=self.name, noun=self.noun, already=already, nothing_to_do=True)
        require_statistics(resolved.root)
        ready, without_target = _plan(session, done_before)
        if without_target and not ready and not already:
            raise RunStoppedError(_why_no_targets(session))
        _commit_without_target(session, without_target)
        done, failed = self._visualize(session, ready, already)
        failed += sum(len(batch.units) for batch in without_target)
        return StageReport(stage=self.name, noun=self.noun, done=done, already=already, failed=failed)

    def _visualize(self, session: Session, batches: Sequence[Batch], already: int) -> tuple[int, int]:
        """Make the visualizations of batches. Returns how many were made and how many failed."""
        resources = session.actor_resources
        run = partial(session.engine.run_actors, _factory(session, batches))
        done = failed = 0
        for outcome in session.do(
            self.name,
            run,
            list(tasks_of(batches)),
            resources,
            noun=self.noun,
            already=already,
            split=lambda batch: list(tasks_of(batch.split())),
        ):
            if outcome.ok:
                done += outcome.task.count
            else:
                failed += outcome.task.count
                commit_failure(session, outcome.task.argument, _reason(outcome.attempt.error))
        return done, failed


def _why_no_targets(session: Session) -> str:
    """Why there is nothing to visualize: the targets could not be made, or nobody has tried yet."""
    session.log.flush()  # the reason is read from it
    root, num_neurons = session.resolved.root, sum(map(len, session.resolved.units.values()))
    if error := last_failure(root):
        return f"{root.url}: none of the {num_neurons} targets could be made, the last attempt ended with: {error}"
    return f"{root.url} has no targets yet: run `neuron-atlas targets RECIPE` first"


def tasks_of(batches: Sequence[Batch] | Iterator[Batch]) -> Iterator[Task[Batch]]:
    """A task for each batch."""
    return (Task(name=batch.name, argument=batch, count=len(batch.units)) for batch in batches)


def commit_failure(session: Session, batch: Batch, reason: str) -> None:
    """Give every member of a batch a row of status "failed"; its dataset images, if they are known, stay with it."""
    resolved = session.resolved
    references = read_references(resolved.root, batch.layer, facet_of(resolved.recipe, batch.seed))
    committed = []
    for single in batch.split():
        (unit,) = single.units
        row = base_row(resolved.model, resolved.recipe, single, unit) | reference_columns(references.get(unit, {}))
        row |= {"status": "failed", "status_reason": reason}
        committed.append(write_fragment(resolved.root, f"{single.name}-failed", [row]))
    session.confirm(committed)


def _plan(session: Session, done: set[Key]) -> tuple[list[Batch], list[Batch]]:
    """What is left: batches of neurons that have targets, and of those that have none."""
    resolved = session.resolved
    batches = plan_batches(
        resolved.visualizations,
        num_seeds=num_seeds(resolved.recipe),
        batch_sizes=batch_sizes(resolved.recipe, session.actor_resources.device),
        done=done,
    )
    layers = list(dict.fromkeys(batch.layer for batch in batches))
    return part_by_targets(batches, read_committed(resolved.root, layers))


def _factory(session: Session, batches: Sequence[Batch]) -> partial[Visualizer]:
    """What an actor makes its visualizer with."""
    resolved = session.resolved
    layers = dict.fromkeys(batch.layer for batch in batches)
    plans = {layer: plan_targets(resolved.recipe, resolved.model, layer) for layer in layers}
    num_visualizations = Counter[tuple[str, str]]()
    for batch in batches:
        num_visualizations[batch.layer, batch.method] += len(batch.units)
    return partial(
        Visualizer,
        session.shared_model,
        session.actor_resources,
        resolved.root,
        resolved.recipe,
        plans,
        num_visualizations,
    )


def _reason(error: str) -> str:
    text = " ".join(error.split())
    return text if len(text) <= MAX_REASON_LENGTH else text[: MAX_REASON_LENGTH - 1] + "…"


def _commit_without_target(session: Session, batches: Sequence[Batch]) -> None:
    """Give neurons that have no target a row with the reason."""
    if not batches:
        return
    session.log.flush()  # the reasons are read from it
    reasons = read_failures(session.resolved.root)
    for batch in batches:
        for single in batch.split():
            error = reasons.get((single.layer, single.units[0]))
            remedy = "run `neuron-atlas targets RECIPE`"
            reason = f"its target could not be made: {error}" if error else f"it has no target yet: {remedy}"
            commit_failure(session, single, _reason(reason))
