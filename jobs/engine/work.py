"""Work, its attempts and outcomes, what an engine is, and the engine that is this process.

A *work* is the unit that is retried, logged and lost at most: a tar shard, a batch of neurons. Its arguments
and its result are ids, counts and timings; visualizations and arrays go to storage. Both engines give the outcomes as
they come; nothing that a work computes depends on which worker ran it.
"""

import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol, TypeVar

from jobs.engine.worker import Shared, deterministic, is_fatal
from pipeline.errors import UserError
from pipeline.recipe.sections import ComputeSection

T = TypeVar("T")

# A work whose worker process dies twice has most likely killed it: more tries would only take more workers along.
MAX_CRASHES: Final = 2
# A node that goes is hardly ever the work's fault (spot instances), so it costs no retry; this bounds the rest.
MAX_NODE_LOSSES: Final = 10


class RunStoppedError(RuntimeError):
    """An error that ends the run: going on could not help (full disk, too much bad data, no such cluster)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One unit of work: a name for the log, and keyword arguments for the stage's function (small, picklable)."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one try of one work gave: a result, or an error as text (exceptions do not always survive pickling).

    `lost`: what died while the work was being done, if that is why there is no result.
    """

    result: Any = None
    error: str = ""
    traceback: str = ""
    fatal: bool = False
    seconds: float = 0.0
    worker: str = ""
    lost: Literal["", "worker", "node"] = ""


@dataclass(frozen=True, kw_only=True)
class Tries:
    """How often a work was tried, by how it ended."""

    errors: int = 0
    crashes: int = 0
    node_losses: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.errors + self.crashes + self.node_losses

    def after(self, tried: Attempt) -> "Tries":
        """With one more."""
        if tried.lost == "worker":
            return replace(self, crashes=self.crashes + 1)
        if tried.lost == "node":
            return replace(self, node_losses=self.node_losses + 1)
        return replace(self, errors=self.errors + 1)

    def may_go_on(self, max_retries: int) -> bool:
        """Whether the work is worth another try."""
        return (
            self.errors <= max_retries
            and self.crashes < min(MAX_CRASHES, max_retries + 1)
            and self.node_losses < MAX_NODE_LOSSES
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The last attempt of a work, how many there were, and how many of them ended with their worker or its node."""

    work: Work
    attempt: Attempt
    num_attempts: int
    num_lost: int = 0

    @property
    def ok(self) -> bool:
        """Whether the work was done."""
        return not self.attempt.error


# What a loop of an engine yields in between while another one goes on beside it: nothing ended here, look there.
PAUSE: Final = Outcome(work=Work(name="pause"), attempt=Attempt(), num_attempts=0)

# Works as they become known; None in it: no more for now, ask again soon.
Feed = Iterable[Work | None]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker gets; decided once per run from the recipe's `[compute]` and what the engine has.

    `reserves_cpus`: whether its CPUs are kept for it. Not beside a stage that fills the CPUs: workers that ask for a
    GPU alone and tasks that ask for CPUs alone never wait for each other.
    """

    cpus: int = 1
    gpus: float = 0.0
    max_retries: int = 3
    num_actors: int | None = None  # None: as many as fit
    reserves_cpus: bool = True

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

    def run_tasks(self, function: Callable[..., Any], works: Feed, resources: Resources) -> Iterator[Outcome]:
        """Run `function(**work.arguments)` for every work; outcomes in order of completion, PAUSE in between."""
        ...

    def run_actors(
        self, factory: Callable[[], Callable[..., Any]], works: Feed, resources: Resources
    ) -> Iterator[Outcome]:
        """As `run_tasks`, with `factory()(**work.arguments)`: each actor calls `factory` once and keeps the result."""
        ...

    def metrics_api(self) -> Any:
        """What `jobs.reporting.prometheus` makes its metrics with, a `MetricsApi`; None where nothing exports them."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


def resolve_resources(engine: Engine, compute: ComputeSection, *, of: Literal["actor", "task"] = "actor") -> Resources:
    """`[compute]` with its "auto" decided: one GPU per worker where there are GPUs, as many actors as fit.

    Args:
        engine: where the work will run.
        compute: of the recipe.
        of: an actor of `visualize`, or a task of another stage, which has the GPUs of an actor unless it is told.

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


def conclude(work: Work, tried: Attempt, tries: Tries, max_retries: int) -> Outcome | None:
    """The outcome of an attempt (the last one of `tries`), or None if the work is to be tried again.

    Raises:
        RunStoppedError: the error ends the run.
    """
    if tried.fatal:
        raise RunStoppedError(f"{work.name}: {tried.error.partition(': ')[2] or tried.error}")
    if tried.error and tries.may_go_on(max_retries):
        return None
    num_lost = tries.crashes + tries.node_losses
    return Outcome(work=work, attempt=tried, num_attempts=tries.total, num_lost=num_lost)


class LazyWorker:
    """A worker made on its first call, inside the attempt: a factory that fails is an error of the work."""

    def __init__(self, factory: Callable[[], Callable[..., Any]]) -> None:
        self._factory = factory
        self._worker: Callable[..., Any] | None = None

    def __call__(self, **arguments: Any) -> Any:
        """Do one work."""
        if self._worker is None:
            self._worker = self._factory()
        return self._worker(**arguments)
