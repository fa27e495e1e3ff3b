"""What `neuron-atlas plan` expects: with how many workers, of which kind, and from which tasks of the log."""

import os

import pytest

from jobs.commands.plan import SECONDS_PER_REFERENCE, describe_plan, logged_rates, make_plan
from jobs.reporting.progress import format_duration
from tests.support.tiny_run import NUM_NEURONS, tiny_recipe, write_data


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), num_shards=4)


def worker_seconds(plan):
    return {estimate.stage: estimate.worker_seconds for estimate in plan.estimates}


def test_a_stage_takes_its_seconds_over_the_workers_that_have_a_task(shards, tmp_path):
    plan = make_plan(tiny_recipe(shards, tmp_path, "compute.gpus_per_actor=0"), num_workers=6)
    seconds = worker_seconds(plan)
    assert seconds["targets"] == SECONDS_PER_REFERENCE["cpu"] * 4 * NUM_NEURONS
    elapsed = (
        seconds["collect"] / 4
        + (seconds["targets"] + seconds["visualize"] + seconds["evaluate"]) / 6
        + seconds["build"]
    )
    assert describe_plan(plan).endswith(f" CPU-worker hours; with 6 CPU workers, {format_duration(elapsed)}")


def test_the_recipe_says_whether_workers_have_gpus_and_what_they_share(shards, tmp_path):
    whole = make_plan(tiny_recipe(shards, tmp_path, "compute.gpus_per_actor=1", "visualize.steps=90000"), num_workers=2)
    shared = make_plan(
        tiny_recipe(shards, tmp_path, "compute.gpus_per_actor=0.5", "visualize.steps=90000"), num_workers=2
    )
    assert worker_seconds(whole) == worker_seconds(shared)
    assert worker_seconds(whole)["targets"] == SECONDS_PER_REFERENCE["cuda"] * 4 * NUM_NEURONS
    assert "about 0.10 GPU-hours; with 2 GPU workers" in describe_plan(whole)
    assert "about 0.05 GPU-hours; with 2 GPU workers" in describe_plan(shared)


def test_without_a_number_the_workers_are_those_of_this_machine(shards, tmp_path):
    plan = make_plan(tiny_recipe(shards, tmp_path, "compute.gpus_per_actor=0", "compute.cpus_per_task=2"))
    assert plan.actors == plan.tasks
    assert plan.tasks.count == max(1, os.cpu_count() // 2)
    assert f"here, with {plan.tasks.count} CPU workers" in describe_plan(plan)


def test_tasks_without_gpus_are_planned_on_cpus(shards, tmp_path):
    recipe = tiny_recipe(shards, tmp_path, "compute.gpus_per_actor=1", "compute.gpus_per_task=0")
    plan = make_plan(recipe, num_workers=2, num_cpu_workers=3)
    seconds = worker_seconds(plan)
    assert seconds["targets"] == SECONDS_PER_REFERENCE["cpu"] * 4 * NUM_NEURONS
    assert {e.stage: (e.workers.kind, e.workers.count) for e in plan.estimates} == {
        "collect": ("CPU", 3), "targets": ("CPU", 3), "visualize": ("GPU", 2), "evaluate": ("CPU", 3),
        "build": ("CPU", 3),
    }  # fmt: skip
    on_three = (seconds["collect"] + seconds["targets"] + seconds["evaluate"]) / 3
    assert plan.elapsed_s == pytest.approx(on_three + seconds["visualize"] / 2 + seconds["build"])
    on_cpus = (seconds["collect"] + seconds["targets"] + seconds["evaluate"] + seconds["build"]) / 3600
    assert on_cpus > 0.01
    hours = f"less than 0.01 GPU-hours and about {on_cpus:.2f} CPU-worker hours"
    assert f"{hours}; with 2 GPU workers and 3 CPU workers, " in describe_plan(plan)
    shared = make_plan(tiny_recipe(shards, tmp_path, "compute.gpus_per_actor=1", "compute.gpus_per_task=0.25"))
    assert worker_seconds(shared)["targets"] == SECONDS_PER_REFERENCE["cuda"] * 4 * NUM_NEURONS


def test_rates_come_from_finished_tasks_on_the_same_kind_of_device():
    def entry(seconds, count, device="cpu", status="done"):
        return {"stage": "collect", "status": status, "seconds": seconds, "count": count, "device": device}

    entries = [entry(10.0, 1), entry(20.0, 2), entry(1.0, 1, "cuda"), entry(99.0, 0), entry(99.0, 1, status="failed")]
    assert logged_rates([*entries, {"stage": "collect", "status": "counted"}], "cpu") == {"collect": 10.0}
    assert logged_rates(entries, "cuda") == {"collect": 1.0}
