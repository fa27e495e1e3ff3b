"""Where Ray runs tasks: Ray tasks, or actors that keep a model. And how the loss of a worker or a node is recognized.

Ray reads its environment when it is imported and takes a second to do so: `RayEngine` sets the one, and a run inline
needs no Ray. So ray is imported inside functions here and in `ray_engine`, and nowhere else.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol

from jobs.engine.tasks import A, Attempt, LazyWorker, R, Resources, RunStoppedError, Task, run_attempt

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

# A task more per slot waits at its worker, so that no slot idles while the driver books results.
IN_FLIGHT_PER_SLOT: Final = 2
# Waiting tasks and actors are what makes an autoscaler add nodes: so many wait on a cluster, however small it is now.
WAITING_ON_CLUSTER: Final = 16
CANCEL_ATTEMPTS: Final = 10  # of a task that has to stop
CANCEL_POLL_S: Final = 1.0  # between two of them, at most
# Of tasks on CPUs, on a cluster: glibc keeps blocks of a few megabytes that it cannot use again, so a worker grows with
# the images it has seen. Mapped one by one, in huge pages so that mapping is cheap, they are given back
# (benchmarks/collect_memory.py). Actors optimize visualizations, whose steps this would slow down.
TASK_ENVIRONMENT: Final = {"MALLOC_MMAP_THRESHOLD_": "4194304", "THP_MEM_ALLOC_ENABLE": "1"}
# Actors that die one after the other before they do anything: it is not the nodes, it is what is installed on them.
MAX_FAILED_STARTS: Final = 10

Slots = Callable[[], int]


class Pool(Protocol[A]):
    """Where the loop of the engine puts tasks."""

    def make_room(self, num_queued: int) -> None:
        """Note how many tasks wait, before `has_room`; a pool may start workers for them, or let some go."""
        ...

    def has_room(self, num_in_flight: int) -> bool:
        """Whether another task may be submitted."""
        ...

    def submit(self, task: Task[A], *, alone: bool) -> "ObjectRef":
        """Start a task; `alone`: in a process of its own. Returns its reference."""
        ...

    def starting(self) -> "Sequence[ObjectRef]":
        """References of workers that are not there yet."""
        ...

    def finished(self, reference: "ObjectRef", *, died: bool) -> None:
        """Note that a task or the start of a worker is over, and whether its process is gone."""
        ...

    def close(self, in_flight: "Iterable[ObjectRef]") -> None:
        """Stop everything that still runs."""
        ...


def attempt_lost_with(error: Exception, seconds: float) -> Attempt[Any]:
    """The attempt that a `ray.exceptions.RayError` ended: did the worker's process die, or its node go?

    An actor that is "unavailable" sat on a node that does not answer; its task may have been done all the same, and
    doing it twice gives the same files.
    """
    from ray import exceptions

    text = str(error)
    node = isinstance(error, (exceptions.NodeDiedError, exceptions.ActorUnavailableError)) or (
        isinstance(error, exceptions.ActorDiedError) and (error.preempted or "node has died" in text)
    )
    return Attempt(
        error=f"{'node' if node else 'worker'} lost: {text}", seconds=seconds, lost="node" if node else "worker"
    )


class TaskPool(Generic[A, R]):
    """Tasks without a GPU as Ray tasks; one whose worker died runs in a process that is not used again."""

    def __init__(
        self, function: Callable[[A], R], resources: Resources, *, name: str, slots: Slots, is_cluster: bool
    ) -> None:
        import ray

        self._function, self._resources, self._slots = function, resources, slots
        self._label = name
        self._min_in_flight = WAITING_ON_CLUSTER if is_cluster else 0
        # Retries are the loop's business, so that both engines count them alike. Spread: a shard's bytes come over
        # its node's network.
        options: dict[str, object] = {
            "num_cpus": resources.cpus,
            "max_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        if is_cluster:
            options["runtime_env"] = {"env_vars": TASK_ENVIRONMENT}
        self._remote = ray.remote(**options)(run_attempt)
        self._remote_alone = ray.remote(max_calls=1, **options)(run_attempt)

    def make_room(self, num_queued: int) -> None:
        """Tasks need nothing but slots."""

    def has_room(self, num_in_flight: int) -> bool:
        """See `Pool.has_room`."""
        return num_in_flight < max(self._min_in_flight, IN_FLIGHT_PER_SLOT * self._slots())

    def submit(self, task: Task[A], *, alone: bool) -> "ObjectRef":
        """See `Pool.submit`."""
        remote = self._remote_alone if alone else self._remote
        return remote.options(name=f"{self._label}: {task.name}").remote(self._function, task.argument, self._resources)

    def starting(self) -> "Sequence[ObjectRef]":
        """None: Ray starts workers by itself."""
        return ()

    def finished(self, reference: "ObjectRef", *, died: bool) -> None:
        """A task leaves nothing behind."""

    def close(self, in_flight: "Iterable[ObjectRef]") -> None:
        """Cancel what runs."""
        import ray

        # By force: a polite interrupt can be lost in a library's code. Writes are atomic, so nothing is torn. And
        # again while any is left: Ray loses a cancel that meets a task on its way to a worker.
        left = list(in_flight)
        for _ in range(CANCEL_ATTEMPTS):
            if not left:
                return
            for reference in left:
                ray.cancel(reference, force=True)
            _, left = ray.wait(left, num_returns=len(left), timeout=CANCEL_POLL_S)


class ActorWorker(Generic[A, R]):
    """The process of one actor: makes its worker at the first task and keeps it."""

    def __init__(self, factory: Callable[[], Callable[[A], R]], resources: Resources) -> None:
        self._worker = LazyWorker(factory)
        self._resources = resources

    def ready(self) -> None:
        """Answers once the actor has a place to run."""

    def call(self, argument: A) -> Attempt[R]:
        """Do one task."""
        return run_attempt(self._worker, argument, self._resources)


class ActorPool(Generic[A, R]):
    """Tasks in actors, one at a time each. No task is given to an actor before it runs.

    On a cluster some more actors are requested than fit: waiting for a place is what makes an autoscaler add nodes.
    """

    def __init__(
        self,
        factory: Callable[[], Callable[[A], R]],
        resources: Resources,
        *,
        name: str,
        slots: Slots,
        is_cluster: bool,
    ) -> None:
        import ray

        self._factory, self._resources, self._slots = factory, resources, slots
        self._label = name
        self._num_extra = WAITING_ON_CLUSTER if is_cluster else 0
        self._class = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_restarts=0)(ActorWorker)
        self._starting: dict[ObjectRef, ActorHandle] = {}  # by reference of `ready`
        self._idle: list[ActorHandle] = []
        self._busy: dict[ObjectRef, ActorHandle] = {}  # by reference of a task
        self._failed_starts = 0

    def make_room(self, num_queued: int) -> None:
        """Start actors for the tasks that wait, and let those go that no task is left for.

        One idle actor is held per task in flight: the task may need another attempt.
        """
        import ray

        limit = self._resources.num_actors or self._slots() + self._num_extra
        num_requested = min(limit - len(self._busy), num_queued) - len(self._idle)
        for _ in range(num_requested - len(self._starting)):
            # Names are one per cluster; the dashboard shows them.
            actor = self._class.options(name=f"{self._label}-{secrets.token_hex(4)}").remote(
                self._factory, self._resources
            )
            self._starting[actor.ready.remote()] = actor
        if not num_queued:
            for reference in [*self._starting]:
                ray.kill(self._starting.pop(reference))
            while len(self._idle) > len(self._busy):
                ray.kill(self._idle.pop())

    def has_room(self, num_in_flight: int) -> bool:
        """See `Pool.has_room`."""
        return bool(self._idle)

    def submit(self, task: Task[A], *, alone: bool) -> "ObjectRef":
        """See `Pool.submit`; an actor is alone with its task anyway."""
        actor = self._idle.pop()
        reference = actor.call.options(name=f"{self._label}: {task.name}").remote(task.argument)
        self._busy[reference] = actor
        return reference

    def starting(self) -> "Sequence[ObjectRef]":
        """See `Pool.starting`."""
        return list(self._starting)

    def finished(self, reference: "ObjectRef", *, died: bool) -> None:
        """See `Pool.finished`.

        Raises:
            RunStoppedError: actors cannot be started.
        """
        import ray

        is_start = reference in self._starting
        actor = (self._starting if is_start else self._busy).pop(reference)
        if died:
            ray.kill(actor)  # one that is only out of reach would come back with its GPU taken; the next is a new one
        else:
            self._idle.append(actor)
        if is_start:
            self._failed_starts = self._failed_starts + 1 if died else 0
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise RunStoppedError(
                    f"{self._failed_starts} actors in a row died before their first task: look at Ray's worker logs; "
                    "the same versions of neuron-atlas and its packages must be on all nodes"
                )

    def close(self, in_flight: "Iterable[ObjectRef]") -> None:
        """Kill the actors; what they were doing goes with them."""
        import ray

        for actor in (*self._starting.values(), *self._idle, *self._busy.values()):
            ray.kill(actor)


def name_of(function: Callable[..., Any]) -> str:
    """The name of a task's function or an actor's class, for Ray's dashboard."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
