"""Both engines keep one contract: every task once, retries counted, errors as text, fatal ones raised."""

import os
from functools import partial

import pytest
import torch

from jobs.engine.inline import InlineEngine
from jobs.engine.tasks import (
    MAX_CRASHES,
    MAX_NODE_LOSSES,
    Attempt,
    Attempts,
    Resources,
    RunStoppedError,
    Task,
    conclude,
    resolve_resources,
)
from jobs.engine.worker import deterministic, threads_beside
from jobs.run.isolation import isolate
from jobs.runner import open_engine
from pipeline.data.shards import DamagedShardError, TooManyBadSamples
from pipeline.io.root import StorageError
from pipeline.recipe.sections import ComputeSection
from tests.support.tiny_tasks import ONE_RETRY, Counter, by_name, numbers, square


def fail_on_three(number: int) -> int:
    if number == 3:
        raise KeyError(f"no {number}")
    return number


def fail_once(marker: str) -> str:
    if not os.path.exists(marker):
        with open(marker, "w") as file:
            file.write("attempted")
        raise ConnectionError("first attempt")
    return "second attempt"


def settings(_: None = None) -> tuple[int, bool, bool]:
    fills = torch.utils.deterministic.fill_uninitialized_memory
    return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), fills


def succeed_or_raise(value):
    if isinstance(value, Exception):
        raise value
    return value


def raise_error(error: Exception) -> None:
    raise error


class Broken:
    def __init__(self) -> None:
        raise ValueError("cannot be made")


@pytest.fixture(params=["inline", "ray"])
def engine(request):
    if request.param == "inline":
        return InlineEngine()
    return request.getfixturevalue("ray_engine")


def test_every_task_is_done_once(engine):
    outcomes = by_name(engine.run_tasks(square, numbers(*range(40)), Resources()))
    assert {name: outcome.attempt.result for name, outcome in outcomes.items()} == {
        f"number {n}": n * n for n in range(40)
    }
    assert {outcome.num_attempts for outcome in outcomes.values()} == {1}


def test_no_tasks_no_outcomes(engine):
    assert list(engine.run_tasks(square, [], Resources())) == []
    assert list(engine.run_actors(Counter, [], Resources())) == []


def test_a_failing_task_is_retried_then_reported_with_its_traceback(engine):
    outcomes = by_name(engine.run_tasks(fail_on_three, numbers(1, 3, 5), ONE_RETRY))
    failed = outcomes.pop("number 3")
    assert not failed.ok
    assert failed.num_attempts == 2
    assert failed.attempt.error == "KeyError: 'no 3'"
    assert "in fail_on_three" in failed.attempt.traceback
    assert all(outcome.ok for outcome in outcomes.values())


def test_a_task_that_succeeds_at_the_second_attempt_is_done(engine, tmp_path):
    task = Task(name="flaky", argument=str(tmp_path / "marker"))
    (outcome,) = engine.run_tasks(fail_once, [task], ONE_RETRY)
    assert outcome.ok
    assert (outcome.attempt.result, outcome.num_attempts) == ("second attempt", 2)


@pytest.mark.parametrize("error", [StorageError(28, "disk full: free space"), TooManyBadSamples("3 of 4 are bad")])
def test_errors_that_end_the_run_are_raised_at_once(engine, error):
    tasks = [Task(name="write", argument=error)]
    with pytest.raises(RunStoppedError, match=r"write: .*(disk full|3 of 4)"):
        list(engine.run_tasks(raise_error, tasks, Resources(max_retries=3)))


def test_damaged_data_cost_one_attempt_and_no_other_task(engine):
    tasks = [Task(name="read", argument=DamagedShardError("a.tar is damaged")), *numbers(1)]
    outcomes = by_name(engine.run_tasks(succeed_or_raise, tasks, Resources(max_retries=3)))
    assert (outcomes["read"].num_attempts, outcomes["read"].attempt.is_final) == (1, True)
    assert outcomes["read"].attempt.error == "DamagedShardError: a.tar is damaged"
    assert outcomes["number 1"].ok


def test_workers_run_with_fixed_threads_and_deterministic_kernels(engine):
    (outcome,) = engine.run_tasks(settings, [Task(name="settings", argument=None)], Resources())
    assert tuple(outcome.attempt.result) == (1, True, False)


def test_an_actor_keeps_what_it_made(engine):
    outcomes = list(engine.run_actors(Counter, numbers(*range(6)), Resources(num_actors=2)))
    calls = sorted(outcome.attempt.result for outcome in outcomes)
    processes = {process for _, process in calls}
    assert len(processes) <= 2
    for process in processes:
        of_process = [call for call, where in calls if where == process]
        assert of_process == list(range(1, len(of_process) + 1))


def test_a_factory_that_fails_is_an_error_of_the_task(engine):
    (outcome,) = engine.run_actors(Broken, numbers(1), ONE_RETRY)
    assert outcome.attempt.error == "ValueError: cannot be made"
    assert outcome.num_attempts == 2


def test_shared_values_arrive(engine):
    shared = engine.share({"weights": torch.arange(3)})
    (outcome,) = engine.run_tasks(read_shared, [Task(name="read", argument=shared)], Resources())
    assert outcome.attempt.result == 3


def read_shared(shared) -> int:
    assert shared.get() is shared.get()
    return int(shared.get()["weights"].sum())


def test_a_failed_whole_is_done_again_in_parts(engine):
    noted = []
    tasks = [Task(name="1 2", argument=1), Task(name="3 4", argument=3)]
    outcomes = by_name(
        isolate(
            partial(engine.run_tasks, fail_on_three),
            tasks,
            ONE_RETRY,
            split=lambda first: numbers(first, first + 1),
            on_split=noted.append,
        )
    )
    assert {name: outcome.ok for name, outcome in outcomes.items()} == {
        "1 2": True,
        "number 3": False,
        "number 4": True,
    }
    assert [outcome.task.name for outcome in noted] == ["3 4"]
    assert outcomes["number 3"].num_attempts == 1


ERROR, CRASH, LOSS = Attempt(error="bug"), Attempt(error="x", lost="worker"), Attempt(error="x", lost="node")


@pytest.mark.parametrize(
    ("history", "max_retries", "gives_up"),
    [
        ([ERROR] * 3, 3, False),
        ([ERROR] * 4, 3, True),
        ([ERROR], 0, True),
        ([CRASH] * (MAX_CRASHES - 1), 3, False),
        ([CRASH] * MAX_CRASHES, 3, True),
        ([CRASH], 0, True),
        ([LOSS] * (MAX_NODE_LOSSES - 1), 0, False),  # nodes that go are no fault of the task
        ([LOSS] * MAX_NODE_LOSSES, 9, True),
        ([ERROR, CRASH, LOSS, LOSS], 1, False),
        ([LOSS, ERROR, LOSS, ERROR], 1, True),
    ],
)
def test_how_many_attempts_a_task_gets(history, max_retries, gives_up):
    attempts = Attempts()
    for attempt in history:
        attempts = attempts.after(attempt)
    outcome = conclude(Task(name="one", argument=None), history[-1], attempts, max_retries)
    assert (outcome is not None) == gives_up
    assert attempts.total == len(history)
    if outcome is not None:
        assert outcome.num_attempts == len(history)


def test_beside_a_gpu_the_cpus_of_a_worker_work_each_by_itself():
    with deterministic(threads=3, device="cuda"):
        with threads_beside("cpu") as threads:
            assert (threads, torch.get_num_threads()) == (0, 3)
        with threads_beside("cuda") as threads:
            assert (threads, torch.get_num_threads()) == (3, 1)
        assert torch.get_num_threads() == 3


def test_deterministic_settings_are_put_back():
    before = settings()
    with deterministic(threads=before[0] + 1, device="cpu"):
        assert settings() == (before[0] + 1, True, False)
    assert settings() == before
    with deterministic(threads=1, device="cuda"):
        assert settings() == (1, False, False)
    with pytest.raises(KeyError), deterministic(threads=before[0] + 1, device="cpu"):
        raise KeyError
    assert settings() == before


class Fixed(InlineEngine):
    """An engine of a given size."""

    def __init__(self, name: str, cpus: float, gpus: float) -> None:
        self.name = name
        self._size = {"CPU": cpus, "GPU": gpus}

    def capacity(self):
        return self._size


def resolve(engine: InlineEngine, **compute: object) -> Resources:
    return resolve_resources(engine, ComputeSection(**compute))


def test_auto_takes_a_gpu_where_there_are_gpus():
    assert resolve(Fixed("cluster", 8, 4)) == Resources(cpus=1, gpus=1.0, num_actors=None)
    assert resolve(Fixed("cluster", 8, 4)).device == "cuda"
    assert resolve(Fixed("local", 8, 0)).device == "cpu"
    assert resolve(Fixed("local", 8, 1), gpus_per_actor=0.25, num_actors=3) == Resources(gpus=0.25, num_actors=3)


def test_tasks_have_the_gpus_of_actors_by_default():
    engine = Fixed("cluster", 8, 4)

    def task(**compute: object) -> Resources:
        return resolve_resources(engine, ComputeSection(**compute), of="task")

    assert task() == Resources(gpus=1.0)
    assert task(gpus_per_actor=0.5) == Resources(gpus=0.5)
    assert task(gpus_per_task=0.25) == Resources(gpus=0.25)
    assert task(gpus_per_task=0) == Resources(gpus=0.0)
    assert task(gpus_per_task=0).device == "cpu"
    assert resolve(engine, gpus_per_task=0).device == "cuda"
    with pytest.raises(ValueError, match=r"compute.gpus_per_task = 2: this machine has 1 GPUs"):
        resolve_resources(Fixed("local", 8, 1), ComputeSection(gpus_per_task=2), of="task")


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"cpus_per_task": 9}, "compute.cpus_per_task = 9: this machine has 8 CPUs"),
        ({"gpus_per_actor": 1.0}, "compute.gpus_per_actor = 1: this machine has 0 GPUs"),
    ],
)
def test_what_would_wait_for_ever_is_refused(compute, message):
    with pytest.raises(ValueError, match=message):
        resolve(Fixed("local", 8, 0), **compute)


def test_addresses():
    assert isinstance(open_engine("inline"), InlineEngine)
    with pytest.raises(ValueError, match="expected local, auto, ray://HOST:PORT or inline"):
        open_engine("http://head")
