"""Stage 2: tasks choose the reference images of some units each and write what their visualizations are aligned to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from jobs.engine.tasks import RunStoppedError, Task, TaskResult
from jobs.engine.worker import Shared, allocator_for_models
from jobs.run.resolved import recipe_errors
from jobs.run.run_folder import read_log
from jobs.run.session import Session
from jobs.run.stage import StageReport
from jobs.run.work_plan import chunk
from jobs.stages.worker_model import model_on
from pipeline.activations.store import StatisticsStore, committed_statistics
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.recipe.recipe import Recipe
from pipeline.references.build import build_targets, plan_targets, prepare_targets
from pipeline.references.store import committed_targets, references_path
from pipeline.references.user_chosen import Chosen, find_chosen
from pipeline.synthesis.methods.vital_target import AlignmentPlan

# Units of one task: enough that opening the statistics is nothing, few enough that a lost task costs a minute.
UNITS_PER_TASK: Final = 16


@dataclass(frozen=True, kw_only=True)
class TargetChunk:
    """Units of one layer whose targets are made in one task."""

    plan: AlignmentPlan
    layer: str
    units: tuple[int, ...]

    @property
    def task(self) -> "Task[TargetChunk]":
        """The task that makes them."""
        return Task(name=f"{self.layer}-{self.units[0]:05d}-{len(self.units)}", argument=self, count=len(self.units))

    def split(self) -> "list[Task[TargetChunk]]":
        """One task per unit, to tell a unit that fails from its neighbors."""
        return [TargetChunk(plan=self.plan, layer=self.layer, units=(unit,)).task for unit in self.units]


def plan_targets_todo(
    requested: Mapping[str, Sequence[int]], committed: Mapping[str, Collection[int]]
) -> list[tuple[str, tuple[int, ...]]]:
    """(layer, units) of each task that is left. Pure. Cut from what is requested: a resumed run has the same tasks."""
    todo = []
    for layer, units in requested.items():
        for members in chunk(units, UNITS_PER_TASK):
            left = tuple(unit for unit in members if unit not in committed.get(layer, ()))
            if left:
                todo.append((layer, left))
    return todo


def read_committed(root: Root, layers: Sequence[str]) -> dict[str, set[int]]:
    """Layer → units whose targets are in storage."""
    return {layer: committed_targets(root, layer) for layer in layers}


def read_failures(root: Root) -> dict[tuple[str, int], str]:
    """(layer, unit) → the last error that making its target alone ended with, by the log."""
    failures = {}
    for entry in read_log(root):
        if entry.get("stage") == "targets" and entry.get("status") == "failed":
            layer, first, count = entry["task"].rsplit("-", 2)
            if count == "1":
                failures[layer, int(first)] = entry["error"]
    return failures


def last_failure(root: Root) -> str:
    """The last error that a task of this stage ended with, by the log; empty if none did."""
    failed = (entry for entry in read_log(root) if entry.get("stage") == "targets" and entry.get("status") == "failed")
    return max(failed, key=lambda entry: str(entry["time"]), default={"error": ""})["error"]


class Targets:
    """The stage `targets`."""

    name: Final = "targets"
    noun: Final = "neurons"

    def run(self, session: Session) -> StageReport:
        """Make the targets that are left.

        Raises:
            RunStoppedError: the statistics are not there yet.
        """
        resolved = session.resolved
        committed = read_committed(resolved.root, list(resolved.units))
        todo = plan_targets_todo(resolved.units, committed)
        already = sum(len(set(units) & committed[layer]) for layer, units in resolved.units.items())
        if not todo:
            return StageReport(stage=self.name, noun=self.noun, already=already, nothing_to_do=True)
        require_statistics(resolved.root)
        plans = _prepare(session, [layer for layer, _ in todo])
        tasks = [TargetChunk(plan=plans[layer], layer=layer, units=units).task for layer, units in todo]
        chosen, resources = _chosen_references(session), session.task_resources
        function = partial(make_targets, session.shared_model, resources.device, resolved.root, resolved.recipe, chosen)
        run = partial(session.engine.run_tasks, function)
        done = failed = 0
        for outcome in session.do(
            self.name, run, tasks, resources, noun=self.noun, already=already, split=TargetChunk.split
        ):
            if outcome.ok:
                done += outcome.task.count
            else:
                failed += outcome.task.count
        return StageReport(stage=self.name, noun=self.noun, done=done, already=already, failed=failed)


def make_targets(
    shared_model: Shared[Model], device: str, root: Root, recipe: Recipe, chosen: Chosen, targets: TargetChunk
) -> TaskResult:
    """The task: write the targets of some units of one layer."""
    model = model_on(shared_model, device)
    with allocator_for_models(device):
        build_targets(root, recipe, model, StatisticsStore.open(root), targets.plan, targets.units, chosen)
    return TaskResult(committed=references_path(targets.layer, targets.units))


def require_statistics(root: Root) -> None:
    """Raise RunStoppedError if `collect` has not finished."""
    if committed_statistics(root) is None:
        raise RunStoppedError(f"{root.url} has no statistics yet: run `neuron-atlas collect RECIPE` first")


def _prepare(session: Session, layers: Sequence[str]) -> dict[str, AlignmentPlan]:
    """Plan each layer once, and make its arrays before any worker writes into them."""
    resolved = session.resolved
    plans = {}
    for layer in dict.fromkeys(layers):
        plans[layer] = plan_targets(resolved.recipe, resolved.model, layer)
        prepare_targets(resolved.root, resolved.model, plans[layer])
    return plans


def _chosen_references(session: Session) -> Chosen:
    """The references that the recipe names itself, found before any task starts: a mistake there is the user's."""
    resolved = session.resolved
    with recipe_errors():
        return find_chosen(resolved.recipe, resolved.model, StatisticsStore.open(resolved.root))
