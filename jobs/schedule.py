"""Where work runs: in this process (`inline`) or on Ray (`local`, `auto`, `ray://…`). The one module that imports ray.

A *work* is the unit that is retried, logged and lost at most: a tar shard, a batch of neurons. Its arguments
and its result are ids, counts and timings; pictures and arrays go to storage. Both engines give the outcomes as
they come; nothing that a work computes depends on which worker ran it.
"""

import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

from jobs.worker import Shared, deterministic, is_fatal

T = TypeVar("T")
# A task more per slot waits at its worker, so that no slot idles while the driver books results.
IN_FLIGHT_PER_SLOT: Final = 2
# Waiting tasks are what makes an autoscaler add nodes: never fewer than this, however small the cluster is now.
MIN_IN_FLIGHT: Final = 16
POLL_S: Final = 1.0  # how long one look for finished work blocks
CANCEL_ATTEMPTS: Final = 10  # of a task that is to stop; between two of them POLL_S at most
CAPACITY_REFRESH_S: Final = 10.0  # how often the cluster is asked for its size
# Waiting threads that spin would take the CPU from the other workers.
WORKER_ENVIRONMENT: Final = {"OMP_WAIT_POLICY": "passive"}


class RunStoppedError(RuntimeError):
    """An error that ends the run: going on could not help (full disk, too much bad data, no such cluster)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One unit of work: a name for the log, and keyword arguments for the stage's function (small, picklable)."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one try of one work gave: a result, or an error as text (exceptions do not always survive pickling)."""

    result: Any = None
    error: str = ""
    traceback: str = ""
    fatal: bool = False
    seconds: float = 0.0
    worker: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The last attempt of a work, and how many there were."""

    work: Work
    attempt: Attempt
    num_attempts: int

    @property
    def ok(self) -> bool:
        """Whether the work was done."""
        return not self.attempt.error


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker gets; decided once per run from the recipe's `[compute]` and what the engine has."""

    cpus: int = 1
    gpus: float = 0.0
    max_retries: int = 3
    num_actors: int | None = None  # None: as many as fit

    @property
    def device(self) -> str:
        """The torch device of a worker."""
        return "cuda" if self.gpus else "cpu"


class Engine(Protocol):
    """What the stages need from the place where they run."""

    name: str

    def share(self, value: T) -> Shared[T]:
        """Make a large value (the model) readable by all workers; it is sent once, not once per work."""
        ...

    def capacity(self) -> Mapping[str, float]:
        """How many `CPU` and `GPU` there are now."""
        ...

    def slots(self, resources: Resources) -> int:
        """How many workers of this size there is room for now, at least one."""
        ...

    def run_tasks(self, function: Callable[..., Any], works: Sequence[Work], resources: Resources) -> Iterator[Outcome]:
        """Run `function(**work.arguments)` for every work; outcomes in order of completion."""
        ...

    def run_actors(
        self, factory: Callable[[], Callable[..., Any]], works: Sequence[Work], resources: Resources
    ) -> Iterator[Outcome]:
        """As `run_tasks`, with `factory()(**work.arguments)`: each actor calls `factory` once and keeps the result."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


def resolve_resources(
    engine: Engine,
    *,
    cpus_per_task: int,
    gpus_per_actor: float | str,
    max_retries: int,
    num_actors: int | str,
) -> Resources:
    """`[compute]` with its "auto" decided: one GPU per worker where there are GPUs, as many actors as fit.

    Raises:
        ValueError: one worker needs more than a fixed machine has, so it would wait for ever.
    """
    capacity = engine.capacity()
    num_gpus = capacity.get("GPU", 0.0)
    gpus = (1.0 if num_gpus else 0.0) if gpus_per_actor == "auto" else float(gpus_per_actor)
    if engine.name in ("inline", "local"):
        if engine.name == "local" and cpus_per_task > capacity["CPU"]:
            raise ValueError(
                f"compute.cpus_per_task = {cpus_per_task}: this machine has {capacity['CPU']:.0f} CPUs; set it lower"
            )
        if gpus > num_gpus:
            raise ValueError(f"compute.gpus_per_actor = {gpus:g}: this machine has {num_gpus:.0f} GPUs; set it to 0")
    return Resources(
        cpus=cpus_per_task,
        gpus=gpus,
        max_retries=max_retries,
        num_actors=None if num_actors == "auto" else int(num_actors),
    )


def attempt(function: Callable[..., Any], arguments: Mapping[str, Any], resources: Resources) -> Attempt:
    """Run one work in this process with fixed threads; its exception becomes text, an interrupt passes."""
    worker = f"{socket.gethostname()}/{os.getpid()}"
    started = time.perf_counter()
    try:
        with deterministic(threads=resources.cpus, device=resources.device):
            result = function(**arguments)
    except Exception as error:
        return Attempt(
            error=f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
            fatal=is_fatal(error),
            seconds=time.perf_counter() - started,
            worker=worker,
        )
    return Attempt(result=result, seconds=time.perf_counter() - started, worker=worker)


def conclude(work: Work, tried: Attempt, num_attempts: int, max_retries: int) -> Outcome | None:
    """The outcome of an attempt, or None if the work is to be tried again.

    Raises:
        RunStoppedError: the error ends the run.
    """
    if tried.error and num_attempts <= max_retries and not tried.fatal:
        return None
    if tried.fatal:
        raise RunStoppedError(f"{work.name}: {tried.error.partition(': ')[2] or tried.error}")
    return Outcome(work=work, attempt=tried, num_attempts=num_attempts)


# --- in this process -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Here(Generic[T]):
    value: T

    def get(self) -> T:
        return self.value


class InlineEngine:
    """One work after the other in this process: for debuggers, tests and machines without Ray."""

    name = "inline"

    def share(self, value: T) -> Shared[T]:
        """The value itself."""
        return _Here(value)

    def capacity(self) -> Mapping[str, float]:
        """This process's CPUs, and one GPU if torch has any."""
        import torch

        return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.is_available())}

    def slots(self, resources: Resources) -> int:
        """One: this process."""
        return 1

    def run_tasks(self, function: Callable[..., Any], works: Sequence[Work], resources: Resources) -> Iterator[Outcome]:
        """See `Engine.run_tasks`; outcomes come in the order of the works."""
        for work in works:
            outcome, number = None, 0
            while outcome is None:
                number += 1
                tried = attempt(function, work.arguments, resources)
                outcome = conclude(work, tried, number, resources.max_retries)
            yield outcome

    def run_actors(
        self, factory: Callable[[], Callable[..., Any]], works: Sequence[Work], resources: Resources
    ) -> Iterator[Outcome]:
        """See `Engine.run_actors`; this process is the one actor."""
        return self.run_tasks(Kept(factory), works, resources)

    def close(self) -> None:
        """Nothing is held."""


class Kept:
    """A worker made on its first call, inside the attempt: a factory that fails is an error of the work."""

    def __init__(self, factory: Callable[[], Callable[..., Any]]) -> None:
        self._factory = factory
        self._worker: Callable[..., Any] | None = None

    def __call__(self, **arguments: Any) -> Any:
        """Do one work."""
        if self._worker is None:
            self._worker = self._factory()
        return self._worker(**arguments)


# --- on Ray ----------------------------------------------------------------------------------------------------------

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


def open_engine(address: str) -> Engine:
    """The engine of `--address`: `inline`, `local`, `auto` (the cluster this machine belongs to) or `ray://HOST:PORT`.

    Raises:
        ValueError: another address.
        RunStoppedError: Ray cannot be started or reached.
    """
    if address == "inline":
        return InlineEngine()
    if address in ("local", "auto") or address.startswith("ray://"):
        return RayEngine(address)
    raise ValueError(f"--address {address}: expected local, auto, ray://HOST:PORT or inline")
