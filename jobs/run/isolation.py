"""A task that failed is split, so that a bad member costs only itself; a run in which nothing succeeds stops."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from jobs.engine.tasks import A, Outcome, R, Resources, RunStoppedError, Task

# `Engine.run_tasks` or `run_actors` with its function.
Run: TypeAlias = Callable[[Sequence[Task[A]], Resources], Iterator[Outcome[A, R]]]


def isolate(
    run: Run[A, R],
    tasks: Sequence[Task[A]],
    resources: Resources,
    *,
    split: Callable[[A], Sequence[Task[A]]],
    on_split: Callable[[Outcome[A, R]], None],
    failure_limit: int | None = None,
) -> Generator[Outcome[A, R], None, None]:
    """Outcomes of `tasks`, where one that failed is done again in its parts.

    A part gets one attempt: the whole has had all of its retries. `on_split` gets the outcomes of the failed wholes,
    which are not yielded.

    Raises:
        RunStoppedError: see `stop_if_all_fail`.
    """
    parts: list[Task[A]] = []
    for outcome in stop_if_all_fail(run(tasks, resources), failure_limit):
        if outcome.ok:
            failure_limit = None
        members = [] if outcome.ok else split(outcome.task.argument)
        if len(members) > 1:
            on_split(outcome)
            parts.extend(members)
        else:
            yield outcome
    if parts:
        yield from stop_if_all_fail(run(parts, replace(resources, max_retries=0)), failure_limit)


def stop_if_all_fail(outcomes: Iterator[Outcome[A, R]], failure_limit: int | None) -> Iterator[Outcome[A, R]]:
    """Pass outcomes on, unless the first `failure_limit` of them all failed (None: whatever comes).

    Raises:
        RunStoppedError: with the traceback of the last one; all have been passed on before.
    """
    for number, outcome in enumerate(outcomes, start=1):
        yield outcome
        if outcome.ok:
            failure_limit = None
        elif number == failure_limit:
            last = outcome.attempt
            raise RunStoppedError(
                f"the first {number} tasks all failed, the last ({outcome.task.name}) with:\n"
                f"{(not last.is_final and last.traceback) or last.error}"
            )
