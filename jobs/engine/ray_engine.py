"""Tasks on Ray: Ray tasks and actors, bounded in flight, retried by our own loop; `ray_pools` says why ray is lazy."""

import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypedDict, cast

from jobs.engine.ray_pools import ActorPool, Pool, Slots, TaskPool, attempt_lost_with, name_of
from jobs.engine.tasks import (
    A,
    Attempt,
    Attempts,
    MetricsApi,
    Outcome,
    R,
    Resources,
    RunStoppedError,
    T,
    Task,
    conclude,
)
from jobs.engine.worker import Shared

if TYPE_CHECKING:
    from ray import ObjectRef

POLL_S: Final = 1.0  # how long one wait for finished tasks blocks
CAPACITY_REFRESH_S: Final = 10.0  # how often the size of the cluster is read
# Waiting threads that spin would take the CPU from the other workers.
WORKER_ENVIRONMENT: Final = {"OMP_WAIT_POLICY": "passive"}

_fetched: dict[str, object] = {}  # what this worker process has read from the object store, by object id


class _Place(TypedDict):
    """What a pool has to know of the cluster."""

    slots: Slots
    is_cluster: bool


@dataclass(frozen=True)
class _Stored(Generic[T]):
    reference: "ObjectRef"  # inside a container Ray passes it on without fetching

    def get(self) -> T:
        import ray

        key = self.reference.hex()
        if key not in _fetched:
            _fetched.clear()  # one model per process; an earlier run's would only take memory
            _fetched[key] = ray.get(self.reference)
        return cast(T, _fetched[key])


def guard_with_token() -> None:
    """Let only this process's children join its Ray: a token that is in no file and ends with the process.

    Ray would do the same with a token in the home folder, and warn. Settings of the user's own are left alone; so is a
    Ray that was imported already, since it has read its settings.
    """
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


class RayEngine:
    """Tasks and actors on Ray, bounded in flight; a worker that dies costs the attempt it was in."""

    name: str

    def __init__(self, address: str, *, num_cpus: int | None = None) -> None:
        # Read by Ray when it is imported. Nothing of a run is reported to anybody; a local Ray listens on
        # 127.0.0.1 only.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if address == "local":
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            guard_with_token()
        import ray

        self.name = "local" if address == "local" else "cluster"
        self._folder = ""
        self._capacity: Mapping[str, float] = {}
        self._capacity_at = float("-inf")
        self._owns_ray = not ray.is_initialized()
        if not self._owns_ray:
            return
        options: dict[str, object] = {"address": address, "log_to_driver": False}
        if address == "local":
            # By inheritance: with a runtime environment Ray would not use the workers that it has started already.
            for name, value in WORKER_ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            # A folder of our own: the usual /tmp/ray may belong to another user. Short: socket paths end at 107 bytes.
            self._folder = tempfile.mkdtemp(prefix="na-", dir="/tmp" if os.path.isdir("/tmp") else None)
            options |= {"include_dashboard": False, "num_cpus": num_cpus, "_temp_dir": self._folder}
        else:
            options["runtime_env"] = {"env_vars": WORKER_ENVIRONMENT}
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(logging_level="warning", **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            self._remove_folder()
            raise RunStoppedError(
                f'--address {address}: cannot start or reach Ray ({error}); "inline" runs without Ray in one process'
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray's own handler would skip our clean stop

    def share(self, value: T) -> Shared[T]:
        """Once into the object store; each worker process fetches it once."""
        import ray

        return _Stored(ray.put(value))

    def capacity(self) -> Mapping[str, float]:
        """CPUs and GPUs of all nodes, read at most every `CAPACITY_REFRESH_S`."""
        import ray

        if time.monotonic() - self._capacity_at > CAPACITY_REFRESH_S:
            self._capacity, self._capacity_at = ray.cluster_resources(), time.monotonic()
        return {"CPU": self._capacity.get("CPU", 1.0), "GPU": self._capacity.get("GPU", 0.0)}

    def slots(self, resources: Resources) -> int:
        """See `Engine.slots`."""
        capacity = self.capacity()
        fits = [capacity["CPU"] / resources.cpus]
        if resources.gpus:
            fits.append(capacity["GPU"] / resources.gpus)
        return max(1, int(min(fits)))

    def run_tasks(
        self, function: Callable[[A], R], tasks: Sequence[Task[A]], resources: Resources
    ) -> Iterator[Outcome[A, R]]:
        """See `Engine.run_tasks`.

        Ray gives every task that holds a GPU a process of its own, which would import, start CUDA and load the model
        each time: there the tasks are done by actors, which end with the stage and free their memory.
        """
        name, place = name_of(function), self._place(resources)
        if resources.gpus:
            as_many_as_fit = replace(resources, num_actors=None)  # the bound is for actors of `visualize`
            pool = ActorPool(partial(_itself, function), as_many_as_fit, name=name, **place)
            return self._run(pool, tasks, resources)
        return self._run(TaskPool(function, resources, name=name, **place), tasks, resources)

    def run_actors(
        self, factory: Callable[[], Callable[[A], R]], tasks: Sequence[Task[A]], resources: Resources
    ) -> Iterator[Outcome[A, R]]:
        """See `Engine.run_actors`."""
        pool = ActorPool(factory, resources, name=name_of(factory), **self._place(resources))
        return self._run(pool, tasks, resources)

    def metrics_api(self) -> MetricsApi:
        """See `Engine.metrics_api`."""
        import ray.util.metrics

        return cast(MetricsApi, ray.util.metrics)

    def close(self) -> None:
        """Stop the Ray that this engine started; leave one that was there before."""
        import ray

        if self._owns_ray:
            ray.shutdown()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, resources: Resources) -> _Place:
        return {"slots": partial(self.slots, resources), "is_cluster": self.name == "cluster"}

    def _run(self, pool: Pool[A], tasks: Sequence[Task[A]], resources: Resources) -> Iterator[Outcome[A, Any]]:
        import ray

        queue = deque((task, Attempts()) for task in tasks)
        in_flight: dict[ObjectRef, tuple[Task[A], Attempts, float]] = {}
        try:
            while queue or in_flight:
                pool.make_room(len(queue))
                while queue and pool.has_room(len(in_flight)):
                    task, attempts = queue.popleft()
                    reference = pool.submit(task, alone=attempts.crashes > 0)
                    in_flight[reference] = (task, attempts, time.perf_counter())
                ready, _ = ray.wait([*in_flight, *pool.starting()], num_returns=1, timeout=POLL_S)
                for reference in ready:
                    if reference not in in_flight:
                        pool.finished(reference, died=_died(reference))
                        continue
                    task, attempts, started = in_flight.pop(reference)
                    attempt = _result(reference, time.perf_counter() - started)
                    pool.finished(reference, died=bool(attempt.lost))
                    attempts = attempts.after(attempt)
                    outcome = conclude(task, attempt, attempts, resources.max_retries)
                    if outcome is None:
                        queue.append((task, attempts))
                    else:
                        yield outcome
        finally:  # done, stopped by an error, or the caller has had enough
            pool.close(in_flight)


def _itself(function: Callable[[A], R]) -> Callable[[A], R]:
    return function


def _result(reference: "ObjectRef", seconds: float) -> Attempt[Any]:
    """What a finished task gave."""
    import ray

    try:
        attempt: Attempt[Any] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # outside of the task: its argument could not be read
        return Attempt(error=f"{type(error.cause).__name__}: {error.cause}", traceback=str(error))
    except ray.exceptions.RayError as error:  # the worker or its node is gone
        return attempt_lost_with(error, seconds)
    return attempt


def _died(reference: "ObjectRef") -> bool:
    """Whether an actor died at its start."""
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayError:
        return True
    return False
