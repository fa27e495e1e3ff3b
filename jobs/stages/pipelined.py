"""Stages 2 and 3 side by side: a batch of visualizations begins when the targets of its neurons are there.

Only where the two do not share processors: visualizations on GPUs, targets on CPUs (`compute.gpus_per_task = 0`). On
the same ones neither would be done sooner. Nothing else differs from one stage after the other: the same batches, so
the same bytes; each stage with its own retries, progress and report.
"""

import time
from collections.abc import Callable, Generator
from contextlib import closing

from jobs.run.run_folder import claim
from jobs.run.session import Session, StageReport, tell
from jobs.runner import OVERLAPPING, run_stage
from jobs.stages import targets, visualize
from jobs.stages.targets import TargetState


def run(session: Session, echo: Callable[[str], None]) -> list[StageReport]:
    """Run both stages and return their reports, of `targets` first.

    Raises:
        RunStoppedError: one of them stopped, which ends the other, too.
    """
    state = targets.read_state(session.resolved)
    if not (any(state.open.values()) and has_own_processors(session)):
        return [run_stage(session, stage, echo) for stage in OVERLAPPING]
    for stage in OVERLAPPING:
        claim(session.resolved.root, session.resolved.recipe, stage)
    started = time.perf_counter()
    reports: list[StageReport] = []
    with closing(_make_targets(session, state, started, echo, reports)) as making:
        visualizations = visualize.run(session, state, meanwhile=making)
        for _ in making:  # targets that no visualization waited for
            pass
    return [*reports, tell(session, visualizations, started, echo)]


def has_own_processors(session: Session) -> bool:
    """Whether the engine makes visualizations on GPUs and targets on CPUs, and can do two things at once."""
    return session.engine.name != "inline" and bool(session.resources.gpus) and not session.task_resources.gpus


def _make_targets(
    session: Session, state: TargetState, started: float, echo: Callable[[str], None], reports: list[StageReport]
) -> Generator[None, None, None]:
    """Make targets, a turn at a time; the report is said when it is there and added to `reports`."""
    for report in targets.make(session, state):
        if report is not None:
            reports.append(tell(session, report, started, echo))
        yield
