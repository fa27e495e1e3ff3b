"""The engine that is this process: for debuggers, tests and machines without Ray."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import torch

from jobs.engine.tasks import A, Attempts, LazyWorker, Outcome, R, Resources, T, Task, conclude, run_attempt
from jobs.engine.worker import Shared


@dataclass(frozen=True)
class _Here(Generic[T]):
    value: T

    def get(self) -> T:
        return self.value


class InlineEngine:
    """One task after the other in this process."""

    name = "inline"

    def share(self, value: T) -> Shared[T]:
        """The value itself."""
        return _Here(value)

    def capacity(self) -> Mapping[str, float]:
        """This process's CPUs, and one GPU if torch has any."""
        return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.is_available())}

    def slots(self, resources: Resources) -> int:
        """One: this process."""
        return 1

    def run_tasks(
        self, function: Callable[[A], R], tasks: Sequence[Task[A]], resources: Resources
    ) -> Iterator[Outcome[A, R]]:
        """See `Engine.run_tasks`; outcomes come in the order of the tasks."""
        for task in tasks:
            outcome, attempts = None, Attempts()
            while outcome is None:
                attempt = run_attempt(function, task.argument, resources)
                attempts = attempts.after(attempt)
                outcome = conclude(task, attempt, attempts, resources.max_retries)
            yield outcome

    def run_actors(
        self, factory: Callable[[], Callable[[A], R]], tasks: Sequence[Task[A]], resources: Resources
    ) -> Iterator[Outcome[A, R]]:
        """See `Engine.run_actors`; this process is the one actor."""
        return self.run_tasks(LazyWorker(factory), tasks, resources)

    def metrics_api(self) -> None:
        """None: no one exports metrics of this process."""

    def close(self) -> None:
        """Nothing is held."""
