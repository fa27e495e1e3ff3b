"""What a run exports to Prometheus, read where Prometheus reads it: at the metrics port of a Ray node."""

import re
import time
import urllib.request

import ray

from jobs.engine.inline import InlineEngine
from jobs.engine.tasks import Attempt, Outcome, Task
from jobs.reporting.prometheus import RunMetrics
from jobs.runner import run_stages
from tests.support.tiny_run import tiny_recipe, write_data

TIMEOUT_S = 240  # Ray exports every ten seconds, in the fixture every second


def exported(run: str) -> dict[str, float]:
    """`metric{stage[,status|le]}` → value, of the metrics of one run; empty as long as none are there."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups() if line[:1] != "#" else ("",) * 3
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels or ""))
        if tags.get("run") == run:
            kept = ",".join(tags[tag] for tag in ("stage", "status", "le") if tag in tags)
            found[f"{name.removeprefix('ray_neuron_atlas_')}{{{kept}}}"] = float(value)
    return found


def wait_for(run: str, expected: dict[str, float]) -> None:
    """Wait until a run exports all of these values: each metric is sent on its own, and one may come before another."""
    deadline = time.monotonic() + TIMEOUT_S
    while not expected.items() <= (found := exported(run)).items():
        assert time.monotonic() < deadline, (expected, found)
        time.sleep(0.2)


def outcome(*, ok: bool, seconds: float, attempts: int, lost: int = 0) -> Outcome:
    attempt = Attempt(error="" if ok else "E", seconds=seconds)
    return Outcome(task=Task(name="t", argument=None), attempt=attempt, num_attempts=attempts, num_lost=lost)


def test_a_run_on_ray_is_seen_at_the_metrics_port_of_its_node(tmp_path, ray_engine):
    recipe = tiny_recipe(write_data(tmp_path / "data"), tmp_path / "out", 'name="seen-by-prometheus"')
    run_stages(recipe, ["collect"], engine=ray_engine, echo=lambda _: None)
    by_hand = RunMetrics(ray_engine.metrics_api(), run="by-hand")  # what a healthy tiny run does not show
    by_hand.left("visualize", 7)
    by_hand.finished("visualize", outcome(ok=True, seconds=20, attempts=1))
    by_hand.finished("visualize", outcome(ok=False, seconds=200, attempts=4, lost=2))

    # Three tar shards and the merge.
    wait_for(
        "seen-by-prometheus", {"tasks_total{collect,done}": 4, "left{collect}": 0, "task_seconds_count{collect}": 4}
    )
    seconds = {
        f"task_seconds_bucket{{visualize,{le}}}": count for le, count in (("10.0", 0), ("30.0", 1), ("300.0", 2))
    }
    counts = {"tasks_total{visualize,failed}": 1, "tasks_total{visualize,done}": 1, "retries_total{visualize}": 3}
    wait_for("by-hand", {**seconds, **counts, "lost_total{visualize}": 2, "left{visualize}": 7})


def test_one_process_exports_nothing():
    assert InlineEngine().metrics_api() is None
