"""Works of no consequence, for tests of engines, and their outcomes by name."""

import os

from jobs.engine.work import Outcome, Resources, Work

ONE_RETRY = Resources(max_retries=1)


def square(*, number: int) -> int:
    return number * number


class Counter:
    """Counts its calls: an actor keeps it from work to work."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *, number: int) -> tuple[int, int]:
        self.calls += 1
        return self.calls, os.getpid()


def numbers(*values: int) -> list[Work]:
    return [Work(name=f"number {value}", arguments={"number": value}) for value in values]


def by_name(outcomes) -> dict[str, Outcome]:
    listed = list(outcomes)
    assert len({outcome.work.name for outcome in listed}) == len(listed)
    return {outcome.work.name: outcome for outcome in listed}
