"""One run of one recipe: what the stages share while they run, and the loop over them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TextIO

from jobs.engine.work import PAUSE, Engine, Feed, Outcome, Resources, RunStoppedError, Work, resolve_resources
from jobs.engine.worker import Shared
from jobs.reporting.progress import Progress, format_duration
from jobs.reporting.prometheus import RunMetrics
from jobs.run.resolved import ResolvedRecipe
from jobs.run.run_folder import RunLog

if TYPE_CHECKING:
    from pipeline.models import Model

# If so many works fail from the start and none succeeds, the fault is not in the works.
GIVE_UP_AFTER: Final = 3


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """What a stage did."""

    stage: str
    noun: str  # what is counted, in the plural
    done: int  # now
    already: int  # by earlier runs
    failed: int = 0
    seconds: float = 0.0  # 0: there was nothing to do
    remark: str = ""

    def __str__(self) -> str:
        if not self.seconds:
            failed = f", {self.failed} failed" if self.failed else ""
            return f"{self.stage}: nothing to do, {self.already} {self.noun} already done{failed}"
        parts = [f"{self.done} {self.noun} done"]
        if self.already:
            parts.append(f"{self.already} already done")
        if self.failed:
            parts.append(f"{self.failed} failed")
        text = f"{self.stage}: {', '.join(parts)} ({format_duration(self.seconds)})"
        return f"{text}; {self.remark}" if self.remark else text


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """What a stage works with. The engine is started when a stage first has work for it.

    Attributes:
        resolved: the recipe, its output folder, its model.
        start_engine: opens the place where work runs.
        log: run/log.jsonl.
        stream: where progress goes; None is stderr.
    """

    resolved: ResolvedRecipe
    start_engine: Callable[[], Engine]
    log: RunLog
    stream: TextIO | None = None

    @cached_property
    def engine(self) -> Engine:
        """Where work runs."""
        return self.start_engine()

    @cached_property
    def resources(self) -> Resources:
        """What an actor of `visualize` gets."""
        return resolve_resources(self.engine, self.resolved.recipe.compute)

    @cached_property
    def task_resources(self) -> Resources:
        """What a task of the other stages gets."""
        return resolve_resources(self.engine, self.resolved.recipe.compute, of="task")

    @property
    def cpu_resources(self) -> Resources:
        """What a task gets that runs no network."""
        return replace(self.task_resources, gpus=0.0)

    @cached_property
    def shared_model(self) -> "Shared[Model]":
        """The model as workers read it: sent once."""
        _ = self.resolved.model.weights_sha256  # hashed here, not once per worker
        return self.engine.share(self.resolved.model)

    @cached_property
    def metrics(self) -> RunMetrics | None:
        """What the run tells Prometheus, where the engine exports it."""
        api = self.engine.metrics_api()
        return RunMetrics(api, run=self.resolved.recipe.name) if api is not None else None

    def failure_limit(self, already: int) -> int | None:
        """How many works may fail from the start; None (any number) if earlier runs had success.

        Not fewer than work at once: what fails may fail at the first step, what succeeds takes all of them.
        """
        return None if already else max(GIVE_UP_AFTER, self.engine.slots(self.resources))

    def follow(
        self, stage: str, outcomes: Iterator[Outcome], *, total: int, noun: str, size: Callable[[Work], int]
    ) -> Iterator[Outcome]:
        """Pass outcomes on while showing progress and logging each; `size` is how many things a work counts for."""
        with Progress(stage, total=total, noun=noun, stream=self.stream) as progress, closing(outcomes):  # type: ignore[type-var]
            self._tell_left(stage, total)
            committed = []
            for outcome in outcomes:
                if outcome is PAUSE:
                    yield outcome
                    continue
                if isinstance(outcome.attempt.result, Mapping) and "committed" in outcome.attempt.result:
                    committed.append(outcome.attempt.result["committed"])
                count = size(outcome.work)
                self.note(stage, outcome, count=count)
                yield outcome
                progress.advance(count, failed=0 if outcome.ok else count)
                self._tell_left(stage, total - progress.done)
            self.confirm(committed)

    def confirm(self, paths: Sequence[str]) -> None:
        """Wait until the storage lists files that were committed: what comes next trusts its listings."""
        names = defaultdict(list)
        for path in paths:
            folder, _, name = path.rpartition("/")
            names[folder].append(name)
        for folder, some in names.items():
            self.resolved.root.wait_until_listed(folder, some)

    def note(self, stage: str, outcome: Outcome, *, count: int) -> None:
        """Write the log line of one finished work, and count it."""
        if self.metrics is not None:
            self.metrics.finished(stage, outcome)
        tried = outcome.attempt
        entry: dict[str, Any] = {
            "stage": stage,
            "work": outcome.work.name,
            "status": "done" if outcome.ok else "failed",
            "count": count,
            "seconds": round(tried.seconds, 3),
            "attempts": outcome.num_attempts,
            "worker": tried.worker,
            "device": (self.resources if stage == "visualize" else self.task_resources).device,
        }
        if isinstance(tried.result, Mapping):
            entry |= {name: tried.result[name] for name in ("at_once", "untraced") if name in tried.result}
        if tried.error:
            entry |= {"error": tried.error, "traceback": tried.traceback, "lost": tried.lost}
        self.log.append(**entry)

    def _tell_left(self, stage: str, count: int) -> None:
        if self.metrics is not None:
            self.metrics.left(stage, count)


def tell(session: Session, report: StageReport, started: float, echo: Callable[[str], None]) -> StageReport:
    """Say and log what a stage did that was started at a time of `time.perf_counter`."""
    echo(str(report))
    session.log.append(
        stage=report.stage,
        work="stage",
        status="finished",
        done=report.done,
        already=report.already,
        failed=report.failed,
        seconds=round(time.perf_counter() - started, 3),
    )
    return report


def isolate(
    run: Callable[[Feed, Resources], Iterator[Outcome]],
    works: Feed,
    resources: Resources,
    *,
    split: Callable[[Work], Sequence[Work]],
    on_split: Callable[[Outcome], None],
    failure_limit: int | None = None,
) -> Iterator[Outcome]:
    """Outcomes of `works`, where one that failed is done again in its parts, so that a bad member costs only itself.

    A part gets one attempt: the whole has had all of its retries. `on_split` hears of the failed wholes, which
    are not yielded.

    Raises:
        RunStoppedError: see `stop_if_all_fail`.
    """
    parts: list[Work] = []
    for outcome in stop_if_all_fail(run(works, resources), failure_limit):
        if outcome.ok and outcome is not PAUSE:
            failure_limit = None
        own = [] if outcome.ok else split(outcome.work)
        if len(own) > 1:
            on_split(outcome)
            parts.extend(own)
        else:
            yield outcome
    if parts:
        yield from stop_if_all_fail(run(parts, replace(resources, max_retries=0)), failure_limit)


def stop_if_all_fail(outcomes: Iterator[Outcome], failure_limit: int | None) -> Iterator[Outcome]:
    """Pass outcomes on, unless the first `failure_limit` of them all failed (None: whatever comes).

    Raises:
        RunStoppedError: with the traceback of the last one; all have been passed on before.
    """
    number = 0
    for outcome in outcomes:
        yield outcome
        if outcome is PAUSE:
            continue
        number += 1
        if outcome.ok:
            failure_limit = None
        elif number == failure_limit:
            tried = outcome.attempt
            raise RunStoppedError(
                f"the first {number} tasks all failed, the last ({outcome.work.name}) with:\n"
                f"{tried.traceback or tried.error}"
            )
