"""Both engines keep one contract: every work once, retries counted, errors as text, fatal ones raised."""

import os
import re
import signal
import sys
import time
from functools import partial

import pytest
import torch

from jobs.ray_engine import RayEngine, guard_with_token
from jobs.ray_pools import ActorPool, TaskPool, attempt_lost_with, name_of
from jobs.schedule import (
    MAX_CRASHES,
    MAX_NODE_LOSSES,
    Attempt,
    InlineEngine,
    Outcome,
    Resources,
    RunStoppedError,
    Tries,
    Work,
    conclude,
    resolve_resources,
)
from jobs.session import isolate, open_engine
from jobs.worker import deterministic
from pipeline.recipe_sections import ComputeSection
from pipeline.shards import TooManyBadSamples
from pipeline.storage import StorageError

ONE_RETRY = Resources(max_retries=1)


def square(*, number: int) -> int:
    return number * number


def fail_on_three(*, number: int) -> int:
    if number == 3:
        raise KeyError(f"no {number}")
    return number


def fail_once(*, marker: str) -> str:
    if not os.path.exists(marker):
        with open(marker, "w") as file:
            file.write("tried")
        raise ConnectionError("first try")
    return "second try"


def settings() -> tuple[int, bool, bool]:
    fills = torch.utils.deterministic.fill_uninitialized_memory
    return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), fills


def raise_error(*, error: Exception) -> None:
    raise error


def die_on_two(*, number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class Counter:
    """Counts its calls: an actor keeps it from work to work."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *, number: int) -> tuple[int, int]:
        self.calls += 1
        return self.calls, os.getpid()


class Broken:
    def __init__(self) -> None:
        raise ValueError("cannot be made")


@pytest.fixture(params=["inline", "ray"])
def engine(request):
    if request.param == "inline":
        return InlineEngine()
    return request.getfixturevalue("ray_engine")


def numbers(*values: int) -> list[Work]:
    return [Work(name=f"number {value}", arguments={"number": value}) for value in values]


def by_name(outcomes) -> dict[str, Outcome]:
    listed = list(outcomes)
    assert len({outcome.work.name for outcome in listed}) == len(listed)
    return {outcome.work.name: outcome for outcome in listed}


def test_every_work_is_done_once(engine):
    outcomes = by_name(engine.run_tasks(square, numbers(*range(40)), Resources()))
    assert {name: outcome.attempt.result for name, outcome in outcomes.items()} == {
        f"number {n}": n * n for n in range(40)
    }
    assert {outcome.num_attempts for outcome in outcomes.values()} == {1}


def test_no_work_no_outcomes(engine):
    assert list(engine.run_tasks(square, [], Resources())) == []
    assert list(engine.run_actors(Counter, [], Resources())) == []


def test_a_failing_work_is_retried_then_told_with_its_traceback(engine):
    outcomes = by_name(engine.run_tasks(fail_on_three, numbers(1, 3, 5), ONE_RETRY))
    failed = outcomes.pop("number 3")
    assert not failed.ok
    assert failed.num_attempts == 2
    assert failed.attempt.error == "KeyError: 'no 3'"
    assert "in fail_on_three" in failed.attempt.traceback
    assert all(outcome.ok for outcome in outcomes.values())


def test_a_work_that_succeeds_at_the_second_try_is_done(engine, tmp_path):
    work = Work(name="flaky", arguments={"marker": str(tmp_path / "marker")})
    (outcome,) = engine.run_tasks(fail_once, [work], ONE_RETRY)
    assert outcome.ok
    assert (outcome.attempt.result, outcome.num_attempts) == ("second try", 2)


@pytest.mark.parametrize("error", [StorageError(28, "disk full: free space"), TooManyBadSamples("3 of 4 are bad")])
def test_errors_that_end_the_run_are_raised_at_once(engine, error):
    works = [Work(name="write", arguments={"error": error})]
    with pytest.raises(RunStoppedError, match=r"write: .*(disk full|3 of 4)"):
        list(engine.run_tasks(raise_error, works, Resources(max_retries=3)))


def test_workers_run_with_fixed_threads_and_deterministic_kernels(engine):
    (outcome,) = engine.run_tasks(settings, [Work(name="settings")], Resources())
    assert tuple(outcome.attempt.result) == (1, True, False)


def test_an_actor_keeps_what_it_made(engine):
    outcomes = list(engine.run_actors(Counter, numbers(*range(6)), Resources(num_actors=2)))
    calls = sorted(outcome.attempt.result for outcome in outcomes)
    processes = {process for _, process in calls}
    assert len(processes) <= 2
    for process in processes:
        own = [call for call, where in calls if where == process]
        assert own == list(range(1, len(own) + 1))


def test_a_factory_that_fails_is_an_error_of_the_work(engine):
    (outcome,) = engine.run_actors(Broken, numbers(1), ONE_RETRY)
    assert outcome.attempt.error == "ValueError: cannot be made"
    assert outcome.num_attempts == 2


def test_shared_values_arrive(engine):
    shared = engine.share({"weights": torch.arange(3)})
    (outcome,) = engine.run_tasks(read_shared, [Work(name="read", arguments={"shared": shared})], Resources())
    assert outcome.attempt.result == 3


def read_shared(*, shared) -> int:
    assert shared.get() is shared.get()
    return int(shared.get()["weights"].sum())


def test_a_failed_whole_is_done_again_in_parts(engine):
    told = []
    works = [Work(name="1 2", arguments={"number": 1}), Work(name="3 4", arguments={"number": 3})]

    def split(work):
        return numbers(*map(int, work.name.split())) if " " in work.name else [work]

    outcomes = by_name(
        isolate(
            lambda some, resources: engine.run_tasks(fail_on_three, some, resources),
            works,
            ONE_RETRY,
            split=split,
            on_split=told.append,
        )
    )
    assert {name: outcome.ok for name, outcome in outcomes.items()} == {
        "1 2": True,
        "number 3": False,
        "number 4": True,
    }
    assert [outcome.work.name for outcome in told] == ["3 4"]
    assert outcomes["number 3"].num_attempts == 1


@pytest.mark.parametrize("as_actors", [False, True])
def test_a_work_that_kills_its_worker_twice_is_set_aside_and_costs_no_other(ray_engine, as_actors):
    patient = Resources(max_retries=5)
    if as_actors:
        outcomes = ray_engine.run_actors(lambda: die_on_two, numbers(1, 2, 3, 4), patient)
    else:
        outcomes = ray_engine.run_tasks(die_on_two, numbers(1, 2, 3, 4), patient)
    found = by_name(outcomes)
    dead = found.pop("number 2")
    assert dead.attempt.error.startswith("worker lost:")
    assert (dead.attempt.lost, dead.num_attempts) == ("worker", 2)
    assert sorted(outcome.attempt.result for outcome in found.values()) == [1, 3, 4]


ERROR, CRASH, LOSS = Attempt(error="bug"), Attempt(error="x", lost="worker"), Attempt(error="x", lost="node")


@pytest.mark.parametrize(
    ("attempts", "max_retries", "gives_up"),
    [
        ([ERROR] * 3, 3, False),
        ([ERROR] * 4, 3, True),
        ([ERROR], 0, True),
        ([CRASH] * (MAX_CRASHES - 1), 3, False),
        ([CRASH] * MAX_CRASHES, 3, True),
        ([CRASH], 0, True),
        ([LOSS] * (MAX_NODE_LOSSES - 1), 0, False),  # nodes that go are no fault of the work
        ([LOSS] * MAX_NODE_LOSSES, 9, True),
        ([ERROR, CRASH, LOSS, LOSS], 1, False),
        ([LOSS, ERROR, LOSS, ERROR], 1, True),
    ],
)
def test_how_often_a_work_is_tried(attempts, max_retries, gives_up):
    tries = Tries()
    for tried in attempts:
        tries = tries.after(tried)
    outcome = conclude(Work(name="one"), attempts[-1], tries, max_retries)
    assert (outcome is not None) == gives_up
    assert tries.total == len(attempts)
    if outcome is not None:
        assert outcome.num_attempts == len(attempts)


def test_a_node_that_goes_is_told_from_a_worker_that_dies():
    from ray import exceptions
    from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo

    def died(**context: object) -> exceptions.ActorDiedError:
        return exceptions.ActorDiedError(ActorDiedErrorContext(actor_id=b"a" * 16, **context))

    drained = NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
    found = {
        "crash": exceptions.WorkerCrashedError(),
        "memory": exceptions.OutOfMemoryError("killed by the memory monitor"),
        "actor": died(error_message="The actor is dead because its worker process has died."),
        "node": exceptions.NodeDiedError("gone"),
        "actor's node": died(error_message="The actor is dead because its node has died."),
        "spot": died(error_message="its node was drained", node_death_info=drained),
        "unreachable": exceptions.ActorUnavailableError("no answer", b"a" * 16),
    }
    lost = {name: attempt_lost_with(error, 1.5) for name, error in found.items()}
    assert {name for name, tried in lost.items() if tried.lost == "node"} == {
        "node", "actor's node", "spot", "unreachable",
    }  # fmt: skip
    assert {name for name, tried in lost.items() if tried.lost == "worker"} == {"crash", "memory", "actor"}
    assert lost["node"].error.startswith("node lost: gone")
    assert lost["crash"].seconds == 1.5


def test_ray_shows_works_by_name(ray_engine):
    assert name_of(partial(partial(square, number=1))) == "square"
    assert name_of(partial(Counter)) == "Counter"
    (task,) = ray_engine.run_tasks(own_name, [Work(name="shard 000007")], Resources())
    assert task.attempt.result == "own_name: shard 000007"
    (call,) = ray_engine.run_actors(partial(Named), [Work(name="fc-00001")], Resources())
    name, actor = call.attempt.result
    assert name == "Named: fc-00001"
    assert re.fullmatch(r"Named-[0-9a-f]{8}", actor)


def test_tasks_on_gpus_are_done_by_actors_that_keep_their_process(ray_engine, monkeypatch):
    monkeypatch.setattr(ray_engine, "_run", lambda pool, works, resources: pool)
    pool = ray_engine.run_tasks(partial(square, number=1), [], Resources(gpus=0.5, num_actors=1))
    assert isinstance(pool, ActorPool)
    assert pool._label == "square"
    assert pool._resources.num_actors is None  # a bound for `visualize`
    assert pool._factory()() == 1
    assert isinstance(ray_engine.run_tasks(square, [], Resources()), TaskPool)


def own_name() -> str:
    import ray

    return ray.get_runtime_context().get_task_name()


class Named:
    def __call__(self) -> tuple[str, str]:
        import ray

        return own_name(), ray.get_runtime_context().get_actor_name()


def test_arguments_that_cannot_be_read_by_a_worker_are_no_lost_worker(ray_engine):
    (outcome,) = ray_engine.run_tasks(square, [Work(name="odd", arguments={"number": Unreadable()})], ONE_RETRY)
    assert not outcome.ok
    assert not outcome.attempt.error.startswith("worker lost")
    assert "only the sender understands" in outcome.attempt.traceback


class Unreadable:
    def __reduce__(self):
        return refuse, ()


def refuse() -> None:
    raise ModuleNotFoundError("only the sender understands")


def test_leaving_early_leaves_nothing_running(ray_engine):
    import ray

    works = [Work(name=f"sleep {n}", arguments={"seconds": 60}) for n in range(6)]
    outcomes = ray_engine.run_tasks(sleep, [Work(name="short", arguments={"seconds": 0}), *works], Resources())
    assert next(outcomes).work.name == "short"
    outcomes.close()
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 2


def sleep(*, seconds: float) -> None:
    for _ in range(int(seconds * 10)):
        time.sleep(0.1)


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


def test_tasks_have_the_gpus_of_actors_unless_they_are_told():
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


def test_an_engine_leaves_a_ray_that_was_there_before(ray_engine):
    import ray

    second = RayEngine("local")
    second.close()
    assert ray.is_initialized()


@pytest.fixture
def before_ray(monkeypatch):
    """The environment of a process that has not imported Ray."""
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back whatever the test does
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_local_ray_is_guarded_by_a_token_of_its_own(before_ray):
    guard_with_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_TOKEN", "mine"), ("RAY_AUTH_TOKEN_PATH", "/my/token")])
def test_a_token_of_the_user_s_own_is_kept(before_ray, name, value):
    before_ray.setenv(name, value)
    guard_with_token()
    assert {key: os.environ[key] for key in os.environ if key.startswith("RAY_AUTH")} == {
        "RAY_AUTH_MODE": "token",
        name: value,
    }


def test_what_the_user_decided_and_a_ray_that_runs_already_are_left_alone(before_ray):
    before_ray.setenv("RAY_AUTH_MODE", "disabled")
    guard_with_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    before_ray.delenv("RAY_AUTH_MODE")
    before_ray.setitem(sys.modules, "ray", object())
    guard_with_token()
    assert not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
