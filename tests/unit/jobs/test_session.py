"""What the stages share: reports in words, parts of what failed, and an end when nothing succeeds."""

from collections.abc import Iterator, Sequence

import pytest

from jobs.engine.tasks import Attempt, Outcome, Resources, RunStoppedError, Task
from jobs.run.isolation import isolate, stop_if_all_fail
from jobs.run.session import GIVE_UP_AFTER
from jobs.run.stage import StageReport


def outcome(name: str, *, ok: bool) -> Outcome:
    attempt = (
        Attempt() if ok else Attempt(error="TypeError: a bug", traceback="Traceback …\n  in the_line\nTypeError: a bug")
    )
    return Outcome(task=Task(name=name, argument=name), attempt=attempt, num_attempts=1)


def outcomes(pattern: str) -> Iterator[Outcome]:
    """One per character: "+" is a success, "-" a failure."""
    return (outcome(str(number), ok=sign == "+") for number, sign in enumerate(pattern))


@pytest.mark.parametrize(("pattern", "failure_limit"), [("-----", 3), ("---", 3), ("----+", 4), ("--", 1)])
def test_a_run_is_stopped_if_the_first_tasks_all_fail(pattern, failure_limit):
    passed = []
    with pytest.raises(RunStoppedError) as stopped:
        passed.extend(one.task.name for one in stop_if_all_fail(outcomes(pattern), failure_limit))
    assert f"the first {failure_limit} tasks all failed, the last ({failure_limit - 1}) with:" in str(stopped.value)
    assert "in the_line" in str(stopped.value)


def test_what_stops_the_run_is_passed_on_first_to_be_logged():
    stream = stop_if_all_fail(outcomes("----"), 2)
    assert [next(stream).ok, next(stream).ok] == [False, False]
    with pytest.raises(RunStoppedError):
        next(stream)


@pytest.mark.parametrize(
    ("pattern", "failure_limit"), [("--+------", 3), ("+----", 1), ("--", 3), ("----", None), ("", 3)]
)
def test_one_success_or_few_failures_or_an_earlier_run_let_it_go_on(pattern, failure_limit):
    assert len(list(stop_if_all_fail(outcomes(pattern), failure_limit))) == len(pattern)


class Scripted:
    """Stands in for an engine's `run_tasks`: tasks whose names hold a bad letter fail."""

    def __init__(self, bad: str) -> None:
        self.bad, self.rounds = set(bad), []

    def __call__(self, tasks: Sequence[Task], resources: Resources) -> Iterator[Outcome]:
        self.rounds.append(([task.name for task in tasks], resources.max_retries))
        return (outcome(task.name, ok=not self.bad & set(task.name)) for task in tasks)


def isolated(run: Scripted, names: str, failure_limit: int | None) -> Iterator[Outcome]:
    return isolate(
        run,
        [Task(name=name, argument=name) for name in names.split()],
        Resources(max_retries=3),
        split=lambda name: [Task(name=letter, argument=letter) for letter in name],
        on_split=lambda outcome: None,
        failure_limit=failure_limit,
    )


def test_a_bad_member_costs_only_itself():
    run = Scripted("d")
    found = {one.task.name: one.ok for one in isolated(run, "ab cd e", GIVE_UP_AFTER)}
    assert found == {"ab": True, "e": True, "c": True, "d": False}
    assert run.rounds == [(["ab", "cd", "e"], 3), (["c", "d"], 0)]


def test_wholes_that_all_fail_stop_before_the_rest_is_tried():
    run = Scripted("abcdefgh")
    with pytest.raises(RunStoppedError, match="the first 3 tasks all failed"):
        list(isolated(run, "ab cd ef gh", 3))
    assert len(run.rounds) == 1


def test_few_wholes_that_all_fail_are_told_apart_by_their_parts():
    assert [one.ok for one in isolated(Scripted("a"), "ab", 3)] == [False, True]
    with pytest.raises(RunStoppedError, match="the first 3 tasks all failed"):
        list(isolated(Scripted("abcd"), "ab cd", 3))
    assert [one.ok for one in isolated(Scripted("abcd"), "ab cd", None)] == [False] * 4


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ({"already": 3, "nothing_to_do": True}, "nothing to do, 3 neurons already done"),
        ({"already": 7, "failed": 1, "nothing_to_do": True}, "nothing to do, 7 neurons already done, 1 failed"),
        ({"done": 5, "seconds": 3.14}, "5 neurons done (3.1 s)"),
        ({"done": 2, "already": 1, "failed": 1, "seconds": 61}, "2 neurons done, 1 already done, 1 failed (1 min 1 s)"),
        ({"done": 2, "seconds": 42, "remark": "9 images"}, "2 neurons done (42 s); 9 images"),
    ],
)
def test_a_report_in_words(report, text):
    assert str(StageReport(stage="visualize", noun="neurons", **report)) == f"visualize: {text}"
