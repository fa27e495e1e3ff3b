"""What a run tells Prometheus: finished works, their seconds, retries, lost workers and what is left, by stage.

The engine exports them beside its own metrics; on Ray they are `ray_neuron_atlas_…` at every node's metrics port, the
counters with `_total` behind. Labels are the run's name, the stage and the status, never a work: each value of a label
is a time series of its own, and a run has thousands of works.
"""

from typing import Any, Final, Protocol

from jobs.engine.work import Outcome

# A work takes from a second (a tiny network) to an hour (a batch of visualizations on a CPU). For quantiles: Ray
# exports counts of buckets and makes the histogram's `_sum` from their middles, so a mean of it is rough.
SECONDS_BOUNDARIES: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)


class MetricsApi(Protocol):
    """The part of `ray.util.metrics` that is used: three classes, made by name."""

    @property
    def Counter(self) -> Any: ...  # noqa: N802
    @property
    def Gauge(self) -> Any: ...  # noqa: N802
    @property
    def Histogram(self) -> Any: ...  # noqa: N802


class RunMetrics:
    """The metrics of one run, fed by its driver.

    Args:
        api: what the metrics are made with, see `Engine.metrics_api`.
        run: the recipe's name.
    """

    def __init__(self, api: MetricsApi, *, run: str) -> None:
        by_stage = ("run", "stage")
        self._works = api.Counter("neuron_atlas_works", "finished works, by status", (*by_stage, "status"))
        self._retries = api.Counter("neuron_atlas_retries", "attempts beyond the first of finished works", by_stage)
        self._lost = api.Counter("neuron_atlas_lost", "attempts that ended with their worker or its node", by_stage)
        self._left = api.Gauge("neuron_atlas_left", "what the stage has still to do, in its own units", by_stage)
        self._seconds = api.Histogram(
            "neuron_atlas_work_seconds", "last attempt of finished works", list(SECONDS_BOUNDARIES), by_stage
        )
        for metric in (self._works, self._retries, self._lost, self._left, self._seconds):
            metric.set_default_tags({"run": run})

    def left(self, stage: str, count: int) -> None:
        """A stage has `count` things to do."""
        self._left.set(count, {"stage": stage})

    def finished(self, stage: str, outcome: Outcome) -> None:
        """A work came to its end, with or without success."""
        self._works.inc(1, {"stage": stage, "status": "done" if outcome.ok else "failed"})
        self._seconds.observe(outcome.attempt.seconds, {"stage": stage})
        for counter, count in ((self._retries, outcome.num_attempts - 1), (self._lost, outcome.num_lost)):
            if count:
                counter.inc(count, {"stage": stage})
