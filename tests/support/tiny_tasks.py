"""Small tasks for tests of engines, and their outcomes by name."""

import os

from jobs.engine.tasks import Outcome, Resources, Task

ONE_RETRY = Resources(max_retries=1)


def square(number: int) -> int:
    return number * number


class Counter:
    """Counts its calls: an actor keeps it from task to task."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, number: int) -> tuple[int, int]:
        self.calls += 1
        return self.calls, os.getpid()


def numbers(*values: int) -> list[Task[int]]:
    return [Task(name=f"number {value}", argument=value) for value in values]


def by_name(outcomes) -> dict[str, Outcome]:
    listed = list(outcomes)
    assert len({outcome.task.name for outcome in listed}) == len(listed)
    return {outcome.task.name: outcome for outcome in listed}
