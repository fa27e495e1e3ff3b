"""Stage 2: tasks choose the reference images of some units each and write what their visualizations are aligned to."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from jobs.engine.work import PAUSE, RunStoppedError, Work
from jobs.engine.worker import Shared, allocator_for_models, model_on
from jobs.run.resolved import ResolvedRecipe, recipe_errors
from jobs.run.run_folder import read_log
from jobs.run.session import Session, StageReport, isolate
from jobs.run.work_plan import chunk
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.models import Model
    from pipeline.references.user_chosen import Chosen

STAGE: Final = "targets"
# Units of one task: enough that opening the statistics is nothing, few enough that a lost task costs a minute.
UNITS_PER_TASK: Final = 16


def plan_targets_todo(
    requested: Mapping[str, Sequence[int]], committed: Mapping[str, Collection[int]]
) -> list[tuple[str, tuple[int, ...]]]:
    """(layer, units) of each task that is left. Pure. Cut from what is wanted: a resumed run has the same tasks."""
    todo = []
    for layer, units in requested.items():
        for members in chunk(units, UNITS_PER_TASK):
            left = tuple(unit for unit in members if unit not in committed.get(layer, ()))
            if left:
                todo.append((layer, left))
    return todo


def read_committed(root: Root, layers: Sequence[str]) -> dict[str, set[int]]:
    """Layer → units whose targets are in storage."""
    from pipeline.references.store import committed_targets

    return {layer: committed_targets(root, layer) for layer in layers}


@dataclass(frozen=True, kw_only=True)
class TargetState:
    """Which targets there are; `make` keeps it up to date, so that a stage beside it need not ask the storage.

    Attributes:
        committed: layer → units whose targets are in storage.
        open: layer → units whose targets are still to be made, or to fail.
    """

    committed: dict[str, set[int]]
    open: dict[str, set[int]]

    def settle(self, layer: str, units: Collection[int], *, ok: bool) -> None:
        """Note how the targets of some units ended."""
        if ok:
            self.committed[layer].update(units)
        self.open[layer].difference_update(units)


def read_state(resolved: ResolvedRecipe) -> TargetState:
    """The state in storage; what a recipe wants and is not committed is open."""
    requested = resolved.units
    committed = read_committed(resolved.root, list(requested))
    return TargetState(
        committed=committed, open={layer: set(units) - committed[layer] for layer, units in requested.items()}
    )


def read_failures(root: Root) -> dict[tuple[str, int], str]:
    """(layer, unit) → the last error that making its target alone ended with, by the log."""
    failures = {}
    for entry in read_log(root):
        if entry.get("stage") == STAGE and entry.get("status") == "failed":
            layer, first, count = entry["work"].rsplit("-", 2)
            if count == "1":
                failures[layer, int(first)] = entry["error"]
    return failures


def run(session: Session) -> StageReport:
    """Make the targets that are left.

    Raises:
        RunStoppedError: the statistics are not there yet.
    """
    *_, report = make(session, read_state(session.resolved))
    assert report is not None
    return report


def make(session: Session, state: TargetState) -> Iterator[StageReport | None]:
    """Make the targets that are open and keep `state` up to date: None at every turn, and the report at the end.

    Raises:
        RunStoppedError: the statistics are not there yet.
    """
    resolved, started = session.resolved, time.perf_counter()
    requested = resolved.units
    todo = plan_targets_todo(requested, state.committed)
    already = sum(len(set(units) & state.committed[layer]) for layer, units in requested.items())
    if not todo:
        yield StageReport(stage=STAGE, noun="neurons", done=0, already=already)
        return
    require_statistics(resolved.root)
    plans = _prepare(session, [layer for layer, _ in todo])
    chosen = _chosen_references(session)
    task = partial(
        make_targets, session.shared_model, session.task_resources.device, resolved.root, resolved.recipe, chosen
    )
    works = [_work(plans[layer], layer, units) for layer, units in todo]
    outcomes = isolate(
        lambda some, resources: session.engine.run_tasks(task, some, resources),
        works,
        session.task_resources,
        split=lambda work: [
            _work(work.arguments["plan"], work.arguments["layer"], [unit]) for unit in work.arguments["units"]
        ],
        on_split=lambda outcome: session.note(STAGE, outcome, count=0),
        failure_limit=session.failure_limit(already),
    )
    total = sum(len(units) for _, units in todo)
    done = failed = 0
    for outcome in session.follow(STAGE, outcomes, total=total, noun="neurons", size=num_units):
        if outcome is PAUSE:
            yield None
            continue
        if outcome.ok:
            done += num_units(outcome.work)
            session.confirm([outcome.attempt.result["committed"]])  # whoever hears of it may read it
        else:
            failed += num_units(outcome.work)
        state.settle(outcome.work.arguments["layer"], outcome.work.arguments["units"], ok=outcome.ok)
        yield None
    yield StageReport(
        stage=STAGE,
        noun="neurons",
        done=done,
        already=already,
        failed=failed,
        seconds=time.perf_counter() - started,
    )


def make_targets(
    shared_model: "Shared[Model]",
    device: str,
    root: Root,
    recipe: Recipe,
    chosen: "Chosen",
    *,
    plan: Any,
    layer: str,
    units: Sequence[int],
) -> dict[str, Any]:
    """The task: write the targets of some units of one layer. Returns how many facets of theirs have one."""
    from pipeline.activations.store import StatisticsStore
    from pipeline.references.build import build_targets
    from pipeline.references.store import references_path

    model = model_on(shared_model, device)
    with allocator_for_models(device):
        rows = build_targets(root, recipe, model, StatisticsStore.open(root), plan, units, chosen)
    num_ok = sum(row["status"] == "ok" for row in rows)
    return {"ok": num_ok, "skipped": len(rows) - num_ok, "committed": references_path(layer, units)}


def _work(plan: Any, layer: str, units: Sequence[int]) -> Work:
    return Work(
        name=f"{layer}-{units[0]:05d}-{len(units)}",
        arguments={"plan": plan, "layer": layer, "units": tuple(units)},
    )


def num_units(work: Work) -> int:
    """How many units a work is for."""
    return len(work.arguments["units"])


def require_statistics(root: Root) -> None:
    """Raise RunStoppedError if `collect` has not finished."""
    from pipeline.activations.store import committed_statistics

    if committed_statistics(root) is None:
        raise RunStoppedError(f"{root.url} has no statistics yet: run `neuron-atlas collect RECIPE` first")


def _prepare(session: Session, layers: Sequence[str]) -> dict[str, Any]:
    """Plan each layer once, and make its arrays before any worker writes into them."""
    from pipeline.references.build import plan_targets, prepare_targets

    resolved = session.resolved
    plans = {}
    for layer in dict.fromkeys(layers):
        plans[layer] = plan_targets(resolved.recipe, resolved.model, layer)
        prepare_targets(resolved.root, resolved.model, plans[layer])
    return plans


def _chosen_references(session: Session) -> "Chosen":
    """The references that the recipe names itself, found before any work starts: a mistake there is the user's."""
    from pipeline.activations.store import StatisticsStore
    from pipeline.references.user_chosen import find_chosen

    resolved = session.resolved
    with recipe_errors():
        return find_chosen(resolved.recipe, resolved.model, StatisticsStore.open(resolved.root))
