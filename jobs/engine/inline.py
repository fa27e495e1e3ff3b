"""The engine that is this process: for debuggers, tests and machines without Ray."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from jobs.engine.work import Feed, LazyWorker, Outcome, Resources, T, Tries, attempt, conclude
from jobs.engine.worker import Shared


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

    def run_tasks(self, function: Callable[..., Any], works: Feed, resources: Resources) -> Iterator[Outcome]:
        """See `Engine.run_tasks`; outcomes come in the order of the works."""
        for work in works:
            if work is None:
                continue
            outcome, tries = None, Tries()
            while outcome is None:
                tried = attempt(function, work.arguments, resources)
                tries = tries.after(tried)
                outcome = conclude(work, tried, tries, resources.max_retries)
            yield outcome

    def run_actors(
        self, factory: Callable[[], Callable[..., Any]], works: Feed, resources: Resources
    ) -> Iterator[Outcome]:
        """See `Engine.run_actors`; this process is the one actor."""
        return self.run_tasks(LazyWorker(factory), works, resources)

    def metrics_api(self) -> None:
        """None: no one exports metrics of this process."""

    def close(self) -> None:
        """Nothing is held."""
