"""What a run exports to Prometheus: finished tasks, their seconds, retries, lost workers and what is left, by stage.

The engine exports them beside its own metrics; on Ray they are `ray_neuron_atlas_…` at every node's metrics port, the
counters with `_total` behind. Labels are the run's name, the stage and the status, never a task: each value of a label
is a time series of its own, and a run has thousands of tasks.
"""

from typing import Final

from jobs.engine.tasks import A, MetricsApi, Outcome, R

# A task takes from a second (a tiny network) to an hour (a batch of visualizations on a CPU). For quantiles: Ray
# exports counts of buckets and makes the histogram's `_sum` from their middles, so a mean of it is rough.
SECONDS_BOUNDARIES: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)


class RunMetrics:
    """The metrics of one run, fed by its driver.

    Args:
        api: what the metrics are made with, see `Engine.metrics_api`.
        run: the recipe's name.
    """

    def __init__(self, api: MetricsApi, *, run: str) -> None:
        by_stage = ("run", "stage")
        self._tasks = api.Counter("neuron_atlas_tasks", "finished tasks, by status", (*by_stage, "status"))
        self._retries = api.Counter("neuron_atlas_retries", "attempts beyond the first of finished tasks", by_stage)
        self._lost = api.Counter("neuron_atlas_lost", "attempts that ended with their worker or its node", by_stage)
        self._left = api.Gauge("neuron_atlas_left", "what the stage has still to do, in its own units", by_stage)
        self._seconds = api.Histogram(
            "neuron_atlas_task_seconds", "last attempt of finished tasks", list(SECONDS_BOUNDARIES), by_stage
        )
        for metric in (self._tasks, self._retries, self._lost, self._left, self._seconds):
            metric.set_default_tags({"run": run})

    def left(self, stage: str, count: int) -> None:
        """A stage has `count` items to do."""
        self._left.set(count, {"stage": stage})

    def finished(self, stage: str, outcome: Outcome[A, R]) -> None:
        """A task ended, with or without success."""
        self._tasks.inc(1, {"stage": stage, "status": "done" if outcome.ok else "failed"})
        self._seconds.observe(outcome.attempt.seconds, {"stage": stage})
        for counter, count in ((self._retries, outcome.num_attempts - 1), (self._lost, outcome.num_lost)):
            if count:
                counter.inc(count, {"stage": stage})
