"""Runs stages in order: the one module that knows all stages."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Final, TextIO

from jobs.engine.inline import InlineEngine
from jobs.engine.ray_engine import RayEngine
from jobs.engine.work import Engine
from jobs.run.resolved import resolve
from jobs.run.run_folder import RunLog, claim
from jobs.run.session import Session, StageReport, tell
from jobs.stages.evaluators import require_evaluators
from pipeline.errors import UserError
from pipeline.recipe.recipe import Recipe, Stage

if TYPE_CHECKING:
    pass


# Stages that may go on side by side, see `jobs.stages.pipelined`.
OVERLAPPING: Final[tuple[Stage, ...]] = ("targets", "visualize")


def run_stages(
    recipe: Recipe,
    stages: Sequence[Stage],
    *,
    address: str = "local",
    engine: Engine | None = None,
    stream: TextIO | None = None,
    echo: Callable[[str], None] = print,
) -> list[StageReport]:
    """Run `stages` in order and return what each did; results of earlier runs are kept and not made again.

    Args:
        recipe: what to do.
        stages: of STAGES, in order.
        address: where, see `open_engine`.
        engine: an engine that is open already; it stays open.
        stream: where progress goes; None is stderr.
        echo: receives one line per stage.

    Raises:
        RecipeError, StorageError, RunStoppedError: see `resolve` and `open_engine`.
        UserError: a stage needs an earlier one that is not finished.
    """
    resolved = resolve(recipe)
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(resolved.root))

        def start() -> Engine:
            if engine is not None:
                return engine
            started = open_engine(address)
            stack.callback(started.close)
            return started

        if "evaluate" in stages:
            require_evaluators(resolved)
        session = Session(resolved=resolved, start_engine=start, log=log, stream=stream)
        resolved.root.sweep()  # temporaries of writers that were killed
        return _run_all(session, stages, echo)


def _run_all(session: Session, stages: Sequence[Stage], echo: Callable[[str], None]) -> list[StageReport]:
    reports: list[StageReport] = []
    left = list(stages)
    while left:
        if tuple(left[:2]) == OVERLAPPING and session.resolved.recipe.compute.gpus_per_task == 0:
            reports += import_module("jobs.stages.pipelined").run(session, echo)
            del left[:2]
        else:
            reports.append(run_stage(session, left.pop(0), echo))
    return reports


def run_stage(session: Session, stage: Stage, echo: Callable[[str], None]) -> StageReport:
    """Run one stage to its end."""
    claim(session.resolved.root, session.resolved.recipe, stage)
    started = time.perf_counter()
    report: StageReport = import_module(f"jobs.stages.{stage}").run(session)
    return tell(session, report, started, echo)


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
