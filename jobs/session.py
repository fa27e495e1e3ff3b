"""One run of one recipe: what the stages share while they run, and the loop over them."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO

from jobs.progress import Progress, format_duration
from jobs.resolved import ResolvedRecipe, resolve
from jobs.runfolder import RunLog, claim
from jobs.schedule import Engine, Outcome, Resources, Work, open_engine, resolve_resources
from jobs.worker import Shared
from pipeline.recipe import Recipe, Stage

if TYPE_CHECKING:
    from pipeline.models import Model


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """What a stage did."""

    stage: str
    noun: str  # what is counted, in the plural
    done: int  # now
    already: int  # by earlier runs
    failed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        if not self.done and not self.failed:
            return f"{self.stage}: nothing to do, {self.already} {self.noun} already done"
        parts = [f"{self.done} {self.noun} done"]
        if self.already:
            parts.append(f"{self.already} already done")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return f"{self.stage}: {', '.join(parts)} ({format_duration(self.seconds)})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """What a stage works with.

    Attributes:
        resolved: the recipe, its output folder, its model.
        engine: where work runs.
        resources: what one worker gets.
        shared_model: the model as workers read it.
        log: run/log.jsonl.
        stream: where progress goes; None is stderr.
    """

    resolved: ResolvedRecipe
    engine: Engine
    resources: Resources
    shared_model: "Shared[Model]"
    log: RunLog
    stream: TextIO | None = None

    def follow(
        self, stage: str, outcomes: Iterator[Outcome], *, total: int, noun: str, size: Callable[[Work], int]
    ) -> Iterator[Outcome]:
        """Pass outcomes on while showing progress and logging each; `size` is how many things a work counts for."""
        with Progress(stage, total=total, noun=noun, stream=self.stream) as progress, closing(outcomes):  # type: ignore[type-var]
            for outcome in outcomes:
                count = size(outcome.work)
                self.note(stage, outcome, count=count)
                yield outcome
                progress.advance(count, failed=0 if outcome.ok else count)

    def note(self, stage: str, outcome: Outcome, *, count: int) -> None:
        """Write the log line of one finished work."""
        tried = outcome.attempt
        entry: dict[str, Any] = {
            "stage": stage,
            "work": outcome.work.name,
            "status": "done" if outcome.ok else "failed",
            "count": count,
            "seconds": round(tried.seconds, 3),
            "attempts": outcome.num_attempts,
            "worker": tried.worker,
            "device": self.resources.device,
        }
        if tried.error:
            entry |= {"error": tried.error, "traceback": tried.traceback}
        self.log.append(**entry)


def run_stages(
    recipe: Recipe,
    stages: Sequence[Stage],
    *,
    address: str = "local",
    engine: Engine | None = None,
    stream: TextIO | None = None,
    say: Callable[[str], None] = print,
) -> list[StageReport]:
    """Run `stages` in order and return what each did; results of earlier runs are kept and not made again.

    Args:
        recipe: what to do.
        stages: of STAGES, in order.
        address: where, see `open_engine`.
        engine: an engine that is open already; it stays open.
        stream: where progress goes; None is stderr.
        say: receives one line per stage.

    Raises:
        RecipeError, StorageError, RunStoppedError: see `resolve` and `open_engine`.
        ValueError: a stage needs an earlier one that is not finished.
    """
    resolved = resolve(recipe)
    running = engine if engine is not None else open_engine(address)
    try:
        return list(_run_each(resolved, stages, running, stream, say))
    finally:
        if engine is None:
            running.close()


def _run_each(
    resolved: ResolvedRecipe,
    stages: Iterable[Stage],
    engine: Engine,
    stream: TextIO | None,
    say: Callable[[str], None],
) -> Iterator[StageReport]:
    compute = resolved.recipe.compute
    resources = resolve_resources(
        engine,
        cpus_per_task=compute.cpus_per_task,
        gpus_per_actor=compute.gpus_per_actor,
        max_retries=compute.max_retries,
        num_actors=compute.num_actors,
    )
    resolved.root.sweep()  # temporaries of writers that were killed
    _ = resolved.model.weights_sha256  # hashed once here, not once per worker
    with RunLog(resolved.root) as log:
        session = Session(
            resolved=resolved,
            engine=engine,
            resources=resources,
            shared_model=engine.share(resolved.model),
            log=log,
            stream=stream,
        )
        for stage in stages:
            claim(resolved.root, resolved.recipe, stage)
            started = time.perf_counter()
            report: StageReport = import_module(f"jobs.{stage}").run(session)
            say(str(report))
            log.append(
                stage=stage,
                work="stage",
                status="finished",
                done=report.done,
                already=report.already,
                failed=report.failed,
                seconds=round(time.perf_counter() - started, 3),
            )
            yield report


def isolate(
    run: Callable[[Sequence[Work], Resources], Iterator[Outcome]],
    works: Sequence[Work],
    resources: Resources,
    *,
    split: Callable[[Work], Sequence[Work]],
    on_split: Callable[[Outcome], None],
) -> Iterator[Outcome]:
    """Outcomes of `works`, where one that failed is done again in its parts, so that a bad member costs only itself.

    A part gets one attempt: the whole has had all of its retries. `on_split` hears of the failed wholes, which
    are not yielded.
    """
    parts: list[Work] = []
    for outcome in run(works, resources):
        own = [] if outcome.ok else split(outcome.work)
        if len(own) > 1:
            on_split(outcome)
            parts.extend(own)
        else:
            yield outcome
    if parts:
        yield from run(parts, replace(resources, max_retries=0))
