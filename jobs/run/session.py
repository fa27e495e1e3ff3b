"""One run of one recipe: what the stages share, and how each of them does its tasks."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TextIO

from jobs.engine.tasks import A, Engine, Outcome, R, Resources, Task, TaskResult, resolve_resources
from jobs.engine.worker import Shared
from jobs.reporting.progress import Progress
from jobs.reporting.prometheus import RunMetrics
from jobs.run.isolation import Run, isolate
from jobs.run.resolved import ResolvedRecipe
from jobs.run.run_folder import RunLog
from pipeline.models import Model
from pipeline.recipe.recipe import Stage as StageName

# If so many tasks fail from the start and none succeeds, the fault is not in the tasks.
GIVE_UP_AFTER: Final = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """What a stage works with. The engine is started when a stage first has tasks for it.

    Attributes:
        resolved: the recipe, its output folder, its model.
        start_engine: opens the place where tasks run.
        log: run/log.jsonl.
        stream: where progress goes; None is stderr.
    """

    resolved: ResolvedRecipe
    start_engine: Callable[[], Engine]
    log: RunLog
    stream: TextIO | None = None

    @cached_property
    def engine(self) -> Engine:
        """Where tasks run."""
        return self.start_engine()

    @cached_property
    def actor_resources(self) -> Resources:
        """What an actor of `visualize` gets."""
        return resolve_resources(self.engine, self.resolved.recipe.compute)

    @cached_property
    def task_resources(self) -> Resources:
        """What a task of the other stages gets."""
        return resolve_resources(self.engine, self.resolved.recipe.compute, of="task")

    @property
    def cpu_resources(self) -> Resources:
        """What a task gets that runs no network."""
        return replace(self.task_resources, gpus=0.0)

    @cached_property
    def shared_model(self) -> Shared[Model]:
        """The model as workers read it: sent once."""
        _ = self.resolved.model.weights_sha256  # hashed here, not once per worker
        return self.engine.share(self.resolved.model)

    @cached_property
    def metrics(self) -> RunMetrics | None:
        """What the run exports to Prometheus, where the engine can."""
        api = self.engine.metrics_api()
        return RunMetrics(api, run=self.resolved.recipe.name) if api is not None else None

    def do(
        self,
        stage: StageName,
        run: Run[A, R],
        tasks: Sequence[Task[A]],
        resources: Resources,
        *,
        noun: str,
        already: int,
        split: Callable[[A], Sequence[Task[A]]] = lambda argument: (),
    ) -> Iterator[Outcome[A, R]]:
        """Do the tasks of a stage with progress, log and metrics; the stage counts the outcomes.

        Args:
            stage: for the log.
            run: a method of the engine with its function.
            tasks: to do; none starts no engine.
            resources: of each worker.
            noun: what the tasks count, in the plural.
            already: how much earlier runs did; with it, any number of tasks may fail.
            split: the parts of a task that failed, done again one by one; by default a task has none.

        Raises:
            RunStoppedError: see `stop_if_all_fail`.
        """
        if not tasks:
            return
        # Not fewer than run at once: what fails may fail at its first step, what succeeds takes all of them.
        failure_limit = None if already else max(GIVE_UP_AFTER, self.engine.slots(resources))
        outcomes = isolate(
            run,
            tasks,
            resources,
            split=split,
            on_split=lambda outcome: self.note(stage, outcome, resources, count=0),
            failure_limit=failure_limit,
        )
        total = sum(task.count for task in tasks)
        committed = []
        with Progress(stage, total=total, noun=noun, stream=self.stream) as progress, closing(outcomes):
            self._note_left(stage, total)
            for outcome in outcomes:
                count = outcome.task.count
                if isinstance(outcome.attempt.result, TaskResult) and outcome.attempt.result.committed:
                    committed.append(outcome.attempt.result.committed)
                self.note(stage, outcome, resources, count=count)
                yield outcome
                progress.advance(count, failed=0 if outcome.ok else count)
                self._note_left(stage, total - progress.done)
            self.confirm(committed)

    def do_one(
        self, stage: StageName, function: Callable[[A], R], task: Task[A], resources: Resources
    ) -> Outcome[A, R]:
        """Do one task that counts for no item."""
        (outcome,) = self.engine.run_tasks(function, [task], resources)
        self.note(stage, outcome, resources, count=0)
        return outcome

    def confirm(self, paths: Sequence[str]) -> None:
        """Wait until the storage lists files that were committed: what comes next trusts its listings."""
        names = defaultdict(list)
        for path in paths:
            folder, _, name = path.rpartition("/")
            names[folder].append(name)
        for folder, of_folder in names.items():
            self.resolved.root.wait_until_listed(folder, of_folder)

    def note(self, stage: StageName, outcome: Outcome[A, R], resources: Resources, *, count: int) -> None:
        """Write the log line of one finished task, and count it."""
        if self.metrics is not None:
            self.metrics.finished(stage, outcome)
        last = outcome.attempt
        entry: dict[str, object] = {
            "stage": stage,
            "task": outcome.task.name,
            "status": "done" if outcome.ok else "failed",
            "count": count,
            "seconds": round(last.seconds, 3),
            "attempts": outcome.num_attempts,
            "worker": last.worker,
            "device": resources.device,
        }
        if isinstance(last.result, TaskResult):
            entry |= {"at_once": last.result.at_once} if last.result.at_once else {}
            entry |= {"untraced": last.result.untraced} if last.result.untraced else {}
        if last.error:
            entry |= {"error": last.error, "traceback": last.traceback, "lost": last.lost}
        self.log.append(**entry)

    def _note_left(self, stage: StageName, count: int) -> None:
        if self.metrics is not None:
            self.metrics.left(stage, count)
