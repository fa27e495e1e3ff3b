"""Work on Ray: tasks and actors, bounded in flight, retried by our own loop. The one module that imports ray."""

import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol

from jobs.schedule import Attempt, Kept, Outcome, Resources, RunStoppedError, T, Work, attempt, conclude
from jobs.worker import Shared

# A task more per slot waits at its worker, so that no slot idles while the driver books results.
IN_FLIGHT_PER_SLOT: Final = 2
# Waiting tasks are what makes an autoscaler add nodes: never fewer than this, however small the cluster is now.
MIN_IN_FLIGHT: Final = 16
POLL_S: Final = 1.0  # how long one look for finished work blocks
CANCEL_ATTEMPTS: Final = 10  # of a task that is to stop; between two of them POLL_S at most
CAPACITY_REFRESH_S: Final = 10.0  # how often the cluster is asked for its size
# Waiting threads that spin would take the CPU from the other workers.
WORKER_ENVIRONMENT: Final = {"OMP_WAIT_POLICY": "passive"}

_fetched: dict[str, Any] = {}  # what this worker process has read from the object store, by object id


@dataclass(frozen=True)
class _Stored(Generic[T]):
    reference: Any  # ray.ObjectRef; inside a container Ray passes it on without fetching

    def get(self) -> T:
        import ray

        key = self.reference.hex()
        if key not in _fetched:
            _fetched.clear()  # one model per process; an earlier run's would only take memory
            _fetched[key] = ray.get(self.reference)
        return _fetched[key]


def guard_with_token() -> None:
    """Let only this process's children join its Ray: a token that no file keeps and that ends with the process.

    Ray would do the same with a token in the home folder, and warn. Settings of the user's own are left alone; so is a
    Ray that was imported already, since it has read its settings.
    """
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


class _Pool(Protocol):
    """Where the Ray loop may put the next work."""

    def has_room(self, num_in_flight: int) -> bool: ...
    def submit(self, arguments: Mapping[str, Any]) -> Any: ...
    def finished(self, reference: Any, *, died: bool) -> None: ...
    def close(self, in_flight: Iterable[Any]) -> None: ...


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
        options: dict[str, Any] = {"address": address, "log_to_driver": False}
        if address == "local":
            # By inheritance: with a runtime environment Ray would not use the workers that it starts ahead.
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
        """CPUs and GPUs of all nodes, asked for at most every `CAPACITY_REFRESH_S`."""
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

    def run_tasks(self, function: Callable[..., Any], works: Sequence[Work], resources: Resources) -> Iterator[Outcome]:
        """See `Engine.run_tasks`."""
        return self._run(_TaskPool(self, function, resources), works, resources)

    def run_actors(
        self, factory: Callable[[], Callable[..., Any]], works: Sequence[Work], resources: Resources
    ) -> Iterator[Outcome]:
        """See `Engine.run_actors`."""
        return self._run(_ActorPool(self, factory, resources), works, resources)

    def close(self) -> None:
        """Stop the Ray that this engine started; leave one that was there before."""
        import ray

        if self._owns_ray:
            ray.shutdown()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, pool: _Pool, works: Sequence[Work], resources: Resources) -> Iterator[Outcome]:
        import ray

        queue = deque((work, 1) for work in works)
        in_flight: dict[Any, tuple[Work, int, float]] = {}
        try:
            while queue or in_flight:
                while queue and pool.has_room(len(in_flight)):
                    work, number = queue.popleft()
                    in_flight[pool.submit(work.arguments)] = (work, number, time.perf_counter())
                ready, _ = ray.wait(list(in_flight), num_returns=1, timeout=POLL_S)
                for reference in ready:
                    work, number, started = in_flight.pop(reference)
                    try:
                        tried = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:  # outside of the work: its arguments could not be read
                        tried = Attempt(error=f"{type(error.cause).__name__}: {error.cause}", traceback=str(error))
                        pool.finished(reference, died=False)
                    except ray.exceptions.RayError as error:  # the worker or its node is gone
                        tried = Attempt(error=f"worker lost: {error}", seconds=time.perf_counter() - started)
                        pool.finished(reference, died=True)
                    else:
                        pool.finished(reference, died=False)
                    outcome = conclude(work, tried, number, resources.max_retries)
                    if outcome is None:
                        queue.append((work, number + 1))
                    else:
                        yield outcome
        finally:  # done, stopped by an error, or the caller has had enough
            pool.close(in_flight)


class _TaskPool:
    def __init__(self, engine: RayEngine, function: Callable[..., Any], resources: Resources) -> None:
        import ray

        self._engine, self._function, self._resources = engine, function, resources
        # Retries are the loop's business, so that both engines count them alike.
        self._remote = ray.remote(attempt).options(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)

    def has_room(self, num_in_flight: int) -> bool:
        return num_in_flight < max(MIN_IN_FLIGHT, IN_FLIGHT_PER_SLOT * self._engine.slots(self._resources))

    def submit(self, arguments: Mapping[str, Any]) -> Any:
        return self._remote.remote(self._function, arguments, self._resources)

    def finished(self, reference: Any, *, died: bool) -> None:
        """A task leaves nothing behind."""

    def close(self, in_flight: Iterable[Any]) -> None:
        import ray

        # By force: a polite interrupt can be lost in a library's code. Writes are atomic, so nothing is torn. And
        # again while any is left: Ray loses a cancel that meets a task on its way to a worker.
        left = list(in_flight)
        for _ in range(CANCEL_ATTEMPTS):
            if not left:
                return
            for reference in left:
                ray.cancel(reference, force=True)
            _, left = ray.wait(left, num_returns=len(left), timeout=POLL_S)


class _Actor:
    def __init__(self, factory: Callable[[], Callable[..., Any]], resources: Resources) -> None:
        self._kept = Kept(factory)
        self._resources = resources

    def call(self, arguments: Mapping[str, Any]) -> Attempt:
        return attempt(self._kept, arguments, self._resources)


class _ActorPool:
    def __init__(self, engine: RayEngine, factory: Callable[[], Callable[..., Any]], resources: Resources) -> None:
        import ray

        self._engine, self._factory, self._resources = engine, factory, resources
        self._class = ray.remote(_Actor).options(num_cpus=resources.cpus, num_gpus=resources.gpus, max_restarts=0)
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}  # reference → actor

    def has_room(self, num_in_flight: int) -> bool:
        limit = self._resources.num_actors or self._engine.slots(self._resources)
        return bool(self._idle) or len(self._busy) < limit

    def submit(self, arguments: Mapping[str, Any]) -> Any:
        actor = self._idle.pop() if self._idle else self._class.remote(self._factory, self._resources)
        reference = actor.call.remote(arguments)
        self._busy[reference] = actor
        return reference

    def finished(self, reference: Any, *, died: bool) -> None:
        actor = self._busy.pop(reference)
        if not died:
            self._idle.append(actor)  # a dead one is replaced when there is work for it

    def close(self, in_flight: Iterable[Any]) -> None:
        import ray

        for actor in (*self._idle, *self._busy.values()):
            ray.kill(actor)
