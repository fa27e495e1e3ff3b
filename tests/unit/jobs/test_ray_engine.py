"""Tasks on Ray: lost workers are told from lost nodes, tasks show by name, nothing is left running, a token guards."""

import os
import re
import signal
import sys
import time
from functools import partial

import pytest

from jobs.engine.ray_engine import RayEngine, guard_with_token
from jobs.engine.ray_pools import ActorPool, TaskPool, attempt_lost_with, name_of
from jobs.engine.tasks import Resources, Task
from tests.support.tiny_tasks import ONE_RETRY, Counter, by_name, numbers, square


def die_on_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("as_actors", [False, True])
def test_a_task_that_kills_its_worker_twice_is_set_aside_and_costs_no_other(ray_engine, as_actors):
    resources = Resources(max_retries=5)
    if as_actors:
        outcomes = ray_engine.run_actors(lambda: die_on_two, numbers(1, 2, 3, 4), resources)
    else:
        outcomes = ray_engine.run_tasks(die_on_two, numbers(1, 2, 3, 4), resources)
    found = by_name(outcomes)
    dead = found.pop("number 2")
    assert dead.attempt.error.startswith("worker lost:")
    assert (dead.attempt.lost, dead.num_attempts) == ("worker", 2)
    assert sorted(outcome.attempt.result for outcome in found.values()) == [1, 3, 4]


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
    assert {name for name, attempt in lost.items() if attempt.lost == "node"} == {
        "node", "actor's node", "spot", "unreachable",
    }  # fmt: skip
    assert {name for name, attempt in lost.items() if attempt.lost == "worker"} == {"crash", "memory", "actor"}
    assert lost["node"].error.startswith("node lost: gone")
    assert lost["crash"].seconds == 1.5


def test_ray_shows_tasks_by_name(ray_engine):
    assert name_of(partial(partial(square, 1))) == "square"
    assert name_of(partial(Counter)) == "Counter"
    (task,) = ray_engine.run_tasks(own_name, [Task(name="shard 000007", argument=None)], Resources())
    assert task.attempt.result == "own_name: shard 000007"
    (call,) = ray_engine.run_actors(partial(Named), [Task(name="fc-00001", argument=None)], Resources())
    name, actor = call.attempt.result
    assert name == "Named: fc-00001"
    assert re.fullmatch(r"Named-[0-9a-f]{8}", actor)


def test_tasks_on_gpus_are_done_by_actors_that_keep_their_process(ray_engine, monkeypatch):
    monkeypatch.setattr(ray_engine, "_run", lambda pool, tasks, resources: pool)
    pool = ray_engine.run_tasks(square, [], Resources(gpus=0.5, num_actors=1))
    assert isinstance(pool, ActorPool)
    assert pool._label == "square"
    assert pool._resources.num_actors is None  # a bound for `visualize`
    assert pool._factory()(3) == 9
    assert isinstance(ray_engine.run_tasks(square, [], Resources()), TaskPool)


def own_name(_: None = None) -> str:
    import ray

    return ray.get_runtime_context().get_task_name()


class Named:
    def __call__(self, _: None) -> tuple[str, str]:
        import ray

        return own_name(), ray.get_runtime_context().get_actor_name()


def test_arguments_that_cannot_be_read_by_a_worker_are_no_lost_worker(ray_engine):
    (outcome,) = ray_engine.run_tasks(square, [Task(name="odd", argument=Unreadable())], ONE_RETRY)
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

    tasks = [Task(name=f"sleep {n}", argument=60) for n in range(6)]
    outcomes = ray_engine.run_tasks(sleep, [Task(name="short", argument=0), *tasks], Resources())
    assert next(outcomes).task.name == "short"
    outcomes.close()
    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 2


def sleep(seconds: float) -> None:
    for _ in range(int(seconds * 10)):
        time.sleep(0.1)


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
