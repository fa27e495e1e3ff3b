"""Tasks, their attempts and outcomes, and what an engine is.

A task is the unit that is retried, logged and lost at most: a tar shard, a batch of neurons. Its argument and result
are ids, counts and timings; visualizations and arrays go to storage. Engines give outcomes in the order of completion;
nothing that a task computes depends on which worker ran it.
"""

import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, Protocol, TypeVar

from jobs.engine.worker import Shared, deterministic, is_fatal, is_final
from pipeline.errors import UserError
from pipeline.recipe.sections import ComputeSection

T = TypeVar("T")
A = TypeVar("A")  # the argument of a task
R = TypeVar("R")  # its result

# A task whose worker process dies twice has most likely killed it: more attempts would only take more workers along.
MAX_CRASHES: Final = 2
# A node that goes is hardly ever the task's fault (spot instances), so it costs no retry; this bounds the rest.
MAX_NODE_LOSSES: Final = 10


class RunStoppedError(RuntimeError):
    """An error that ends the run: going on could not help (full disk, too much bad data, no such cluster)."""


@dataclass(frozen=True, kw_only=True)
class Task(Generic[A]):
    """One unit of work.

    Attributes:
        name: for the log and Ray's dashboard.
        argument: of the stage's function; small and picklable.
        count: for how many items it counts in progress, rates and limits (neurons, images).
    """

    name: str
    argument: A
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What a task of a stage reports.

    Attributes:
        committed: path of the file that it committed; the session waits until the storage lists it. "" waits for none.
        at_once: how many visualizations were optimized together; 0 where none were.
        untraced: why the steps of an optimization could not be traced or compiled, if that was tried.
    """

    committed: str = ""
    at_once: int = 0
    untraced: str = ""


@dataclass(frozen=True, kw_only=True)
class Attempt(Generic[R]):
    """What one attempt gave: a result, or an error as text (exceptions do not always survive pickling).

    `lost`: what died while the task ran, if that is why there is no result. `is_final`: the data are at fault, and are
    not tried again in this run.
    """

    result: R | None = None
    error: str = ""
    traceback: str = ""
    fatal: bool = False
    is_final: bool = False
    seconds: float = 0.0
    worker: str = ""
    lost: Literal["", "worker", "node"] = ""


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How many attempts a task had, by how they ended."""

    errors: int = 0
    crashes: int = 0
    node_losses: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.errors + self.crashes + self.node_losses

    def after(self, attempt: Attempt[R]) -> "Attempts":
        """With one more."""
        if attempt.lost == "worker":
            return replace(self, crashes=self.crashes + 1)
        if attempt.lost == "node":
            return replace(self, node_losses=self.node_losses + 1)
        return replace(self, errors=self.errors + 1)

    def allow_another(self, max_retries: int) -> bool:
        """Whether the task gets another attempt."""
        return (
            self.errors <= max_retries
            and self.crashes < min(MAX_CRASHES, max_retries + 1)
            and self.node_losses < MAX_NODE_LOSSES
        )


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[A, R]):
    """The last attempt of a task, how many there were, and how many of them ended with their worker or its node."""

    task: Task[A]
    attempt: Attempt[R]
    num_attempts: int
    num_lost: int = 0

    @property
    def ok(self) -> bool:
        """Whether the task was done."""
        return not self.attempt.error

    @property
    def result(self) -> R:
        """The result of a task that was done."""
        assert self.ok
        return self.attempt.result  # type: ignore[return-value]


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


class Metric(Protocol):
    """The part of Ray's counters, gauges and histograms that is used."""

    def set_default_tags(self, tags: dict[str, str]) -> None:
        """Labels that each value has."""
        ...

    def inc(self, value: float, tags: dict[str, str]) -> None:
        """Add to a counter."""
        ...

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Set a gauge."""
        ...

    def observe(self, value: float, tags: dict[str, str]) -> None:
        """Add a value to a histogram."""
        ...


class MetricsApi(Protocol):
    """The part of `ray.util.metrics` that is used: three classes, made by name."""

    @property
    def Counter(self) -> Callable[..., Metric]: ...  # noqa: N802
    @property
    def Gauge(self) -> Callable[..., Metric]: ...  # noqa: N802
    @property
    def Histogram(self) -> Callable[..., Metric]: ...  # noqa: N802


class Engine(Protocol):
    """What the stages need from the place where they run."""

    name: str

    def share(self, value: T) -> Shared[T]:
        """Make a large value (the model) readable by all workers; it is sent once, not once per task."""
        ...

    def capacity(self) -> Mapping[str, float]:
        """How many `CPU` and `GPU` there are now."""
        ...

    def slots(self, resources: Resources) -> int:
        """How many workers of this size there is room for now, at least one."""
        ...

    def run_tasks(
        self, function: Callable[[A], R], tasks: Sequence[Task[A]], resources: Resources
    ) -> Iterator[Outcome[A, R]]:
        """Run `function(task.argument)` for every task; outcomes in order of completion."""
        ...

    def run_actors(
        self, factory: Callable[[], Callable[[A], R]], tasks: Sequence[Task[A]], resources: Resources
    ) -> Iterator[Outcome[A, R]]:
        """As `run_tasks`, with `factory()(task.argument)`: each actor calls `factory` once and keeps the result."""
        ...

    def metrics_api(self) -> MetricsApi | None:
        """What `jobs.reporting.prometheus` makes its metrics with; None where nothing exports them."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


def resolve_resources(engine: Engine, compute: ComputeSection, *, of: Literal["actor", "task"] = "actor") -> Resources:
    """`[compute]` with its "auto" decided: one GPU per worker where there are GPUs, as many actors as fit.

    Args:
        engine: where the tasks will run.
        compute: of the recipe.
        of: an actor of `visualize`, or a task of another stage, which by default has the GPUs of an actor.

    Raises:
        UserError: one worker needs more than a fixed machine has, so it would wait for ever.
    """
    capacity, cpus_per_task = engine.capacity(), compute.cpus_per_task
    num_gpus = capacity.get("GPU", 0.0)
    key = "gpus_per_actor" if of == "actor" or compute.gpus_per_task == "auto" else "gpus_per_task"
    requested = getattr(compute, key)
    gpus = (1.0 if num_gpus else 0.0) if requested == "auto" else float(requested)
    if engine.name in ("inline", "local"):
        if engine.name == "local" and cpus_per_task > capacity["CPU"]:
            raise UserError(
                f"compute.cpus_per_task = {cpus_per_task}: this machine has {capacity['CPU']:.0f} CPUs; set it lower"
            )
        if gpus > num_gpus:
            raise UserError(f"compute.{key} = {gpus:g}: this machine has {num_gpus:.0f} GPUs; set it to 0")
    return Resources(
        cpus=cpus_per_task,
        gpus=gpus,
        max_retries=compute.max_retries,
        num_actors=None if compute.num_actors == "auto" else int(compute.num_actors),
    )


def run_attempt(function: Callable[[A], R], argument: A, resources: Resources) -> Attempt[R]:
    """Run one task in this process with fixed threads; its exception becomes text, an interrupt passes."""
    worker = f"{socket.gethostname()}/{os.getpid()}"
    started = time.perf_counter()
    try:
        with deterministic(threads=resources.cpus, device=resources.device):
            result = function(argument)
    except Exception as error:
        return Attempt(
            error=f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
            fatal=is_fatal(error),
            is_final=is_final(error),
            seconds=time.perf_counter() - started,
            worker=worker,
        )
    return Attempt(result=result, seconds=time.perf_counter() - started, worker=worker)


def conclude(task: Task[A], attempt: Attempt[R], attempts: Attempts, max_retries: int) -> Outcome[A, R] | None:
    """The outcome of an attempt (the last one of `attempts`), or None if the task gets another.

    Raises:
        RunStoppedError: the error ends the run.
    """
    if attempt.fatal:
        raise RunStoppedError(f"{task.name}: {attempt.error.partition(': ')[2] or attempt.error}")
    if attempt.error and not attempt.is_final and attempts.allow_another(max_retries):
        return None
    num_lost = attempts.crashes + attempts.node_losses
    return Outcome(task=task, attempt=attempt, num_attempts=attempts.total, num_lost=num_lost)


class LazyWorker(Generic[A, R]):
    """A worker made on its first call, inside the attempt: a factory that fails is an error of the task."""

    def __init__(self, factory: Callable[[], Callable[[A], R]]) -> None:
        self._factory = factory
        self._worker: Callable[[A], R] | None = None

    def __call__(self, argument: A) -> R:
        """Do one task."""
        if self._worker is None:
            self._worker = self._factory()
        return self._worker(argument)
