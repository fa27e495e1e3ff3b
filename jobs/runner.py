"""Runs stages in order: the one module that knows all stages."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, TextIO

from jobs.engine.inline import InlineEngine
from jobs.engine.ray_engine import RayEngine
from jobs.engine.tasks import Engine, resolve_resources
from jobs.run.requirements import check_requirements
from jobs.run.resolved import resolve
from jobs.run.run_folder import RunLog, claim
from jobs.run.session import Session
from jobs.run.stage import Stage, StageReport
from jobs.stages.build import Build
from jobs.stages.collect import Collect
from jobs.stages.evaluate import Evaluate
from jobs.stages.evaluators import require_evaluators
from jobs.stages.label_notes import label_notes
from jobs.stages.targets import Targets
from jobs.stages.visualize import Visualize
from pipeline.errors import UserError
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.recipe import Stage as StageName

STAGES: Final[Mapping[StageName, Stage]] = {
    stage.name: stage for stage in (Collect(), Targets(), Visualize(), Evaluate(), Build())
}


def run_stages(
    recipe: Recipe,
    stages: Sequence[StageName],
    *,
    address: str = "local",
    engine: Engine | None = None,
    stream: TextIO | None = None,
    echo: Callable[[str], None] = print,
) -> list[StageReport]:
    """Run `stages` in order and return what each did; results of earlier runs are not made again.

    Args:
        recipe: what to do.
        stages: of STAGES, in order.
        address: where, see `open_engine`.
        engine: an engine that is open already; it stays open.
        stream: where progress and warnings go; None is stderr.
        echo: receives what is to know of the model's weights, and one line per stage.

    Raises:
        RecipeError, StorageError, RunStoppedError: see `resolve` and `open_engine`.
        UserError: a stage needs an earlier one that is not finished.
    """
    resolved = resolve(recipe)
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(resolved.root))

        def start() -> Engine:
            started = engine or open_engine(address)
            if engine is None:
                stack.callback(started.close)
            if "visualize" in stages:  # before the stages that come before it
                resolve_resources(started, recipe.compute)
            return started

        if set(stages) != {"build"}:  # which runs no network
            check_requirements(resolved)
        if "evaluate" in stages:
            require_evaluators(resolved)
        session = Session(resolved=resolved, start_engine=start, log=log, stream=stream)
        for remark in resolved.model.remarks:
            echo(remark)
        resolved.root.sweep()  # temporaries of writers that were killed
        return [run_stage(session, STAGES[name], echo) for name in stages]


def run_stage(session: Session, stage: Stage, echo: Callable[[str], None]) -> StageReport:
    """Run one stage to its end, and echo and log what it did."""
    claim(session.resolved.root, session.resolved.recipe, stage.name)
    started = time.perf_counter()
    report = stage.run(session)
    seconds = time.perf_counter() - started
    if not report.nothing_to_do:
        report = replace(report, seconds=seconds)
    echo(str(report))
    notes = label_notes(session.resolved) if stage.name in ("collect", "build") else []
    for note in notes:
        print(note, file=session.stream or sys.stderr)
    session.log.append(
        stage=report.stage,
        task="stage",
        status="finished",
        done=report.done,
        already=report.already,
        failed=report.failed,
        seconds=round(seconds, 3),
        **({"notes": notes} if notes else {}),
    )
    return report


def open_engine(address: str) -> Engine:
    """The engine of `--address`: `inline`, `local`, `auto` (the cluster this machine belongs to) or `ray://HOST:PORT`.

    Raises:
        UserError: another address.
        RunStoppedError: Ray cannot be started or reached.
    """
    if address == "inline":
        return InlineEngine()
    if address in ("local", "auto") or address.startswith("ray://"):
        return RayEngine(address)
    raise UserError(f"--address {address}: expected local, auto, ray://HOST:PORT or inline")
