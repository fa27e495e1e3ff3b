"""Visualizations begin while targets are still made, and come out as if one stage had followed the other."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.engine.inline import InlineEngine
from jobs.engine.ray_engine import RayEngine
from jobs.engine.ray_pools import ActorPool
from jobs.engine.work import Resources, RunStoppedError
from jobs.run.run_folder import STAGES, read_log
from jobs.run.work_plan import Batch, part_missing, part_settled
from jobs.runner import run_stages
from jobs.stages import pipelined, targets
from pipeline.atlas.validation.validate import validate
from pipeline.io.root import Root
from tests.integration.test_killed import published
from tests.support.tiny_networks import TinyResidualNet
from tests.support.tiny_run import NUM_NEURONS, SIZE_PX, tiny_recipe, write_data

# As on a machine with GPUs: targets on CPUs, and actors that take none.
ON_CPUS = ("compute.gpus_per_task=0", "compute.num_actors=1")
NETWORK = "model.name=python:tests.unit.jobs.test_pipelined:NetOfPatientTargets"
WAIT_S = 60.0


class TwoAtOnce(InlineEngine):
    """One process that takes turns; nothing here waits for anything else."""

    name = "turns"


@pytest.fixture
def overlapping(monkeypatch):
    """No GPU is needed to let the stages go side by side; a task for each target."""
    monkeypatch.setattr(pipelined, "has_own_processors", lambda session: session.engine.name != "inline")
    monkeypatch.setattr(targets, "UNITS_PER_TASK", 1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """What a run publishes whose stages follow one another."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_stages(tiny_recipe(shards, out, NETWORK), STAGES, address="inline", echo=lambda line: None)
    return published(out)


def ends(out: Path) -> list[str]:
    """The stages of works and of stages themselves, in the order in which they ended."""
    return [f"{e['stage']} ends" if e["work"] == "stage" else e["stage"] for e in read_log(Root.open(out))]


class NetOfPatientTargets(TinyResidualNet):
    """Workers that receive it commit the targets of a layer only once there is a visualization in $TINY_VISUALIZATIONS."""

    input_size_px = SIZE_PX

    def __init__(self) -> None:
        super().__init__()
        self.visualizations = Path(os.environ.get("TINY_VISUALIZATIONS", ""))
        self.driver = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if os.getpid() == self.driver:  # a copy, not sent anywhere
            return
        write = Root.write_bytes

        def wait_and_write(root: Root, path: str, data: bytes) -> None:
            deadline = time.monotonic() + WAIT_S
            while path.startswith("run/targets/stage2/") and not any(self.visualizations.glob("*.webp")):
                assert time.monotonic() < deadline, f"no visualization began before the last target: {path}"
                time.sleep(0.05)
            write(root, path, data)

        Root.write_bytes = wait_and_write  # type: ignore[method-assign]


def test_visualizations_are_made_while_targets_fill_the_cpus_and_their_bytes_are_the_same(
    shards, tmp_path, whole, ray_engine, monkeypatch, overlapping
):
    out = tmp_path / "out"
    monkeypatch.setenv("TINY_VISUALIZATIONS", str(out / "images" / "fc"))
    recipe = tiny_recipe(shards, out, NETWORK, *ON_CPUS)
    run_stages(recipe, STAGES[:1], address="inline", echo=lambda line: None)
    said: list[str] = []
    reports = run_stages(recipe, ("targets", "visualize"), engine=ray_engine, echo=said.append)
    assert [(r.stage, r.done, r.failed) for r in reports] == [
        ("targets", NUM_NEURONS, 0),
        ("visualize", NUM_NEURONS, 0),
    ]
    assert [line.partition(":")[0] for line in said] == ["targets", "visualize"]
    order = ends(out)
    assert order.index("visualize") < order.index("targets ends") < order.index("visualize ends")
    run_stages(recipe, STAGES[3:], address="inline", echo=lambda line: None)
    assert published(out) == whole
    assert validate(str(out)) == []


def test_taking_turns_gives_the_same_bytes_and_a_second_run_does_nothing(shards, tmp_path, whole, overlapping):
    recipe = tiny_recipe(shards, tmp_path / "out", NETWORK, *ON_CPUS)
    run_stages(recipe, STAGES, engine=TwoAtOnce(), echo=lambda line: None)
    assert published(tmp_path / "out") == whole
    order = ends(tmp_path / "out")
    assert order.index("visualize") < order.index("targets ends")
    again = run_stages(recipe, ("targets", "visualize"), engine=TwoAtOnce(), echo=lambda line: None)
    assert [(report.done, report.already) for report in again] == [(0, NUM_NEURONS)] * 2


@pytest.mark.parametrize("engine", [InlineEngine(), TwoAtOnce()], ids=["in turn", "side by side"])
def test_a_target_that_fails_costs_one_visualization(shards, tmp_path, monkeypatch, overlapping, engine):
    from pipeline.references import build

    make = build.build_targets

    def make_or_fail(root, recipe, model, store, plan, units, chosen):
        if (plan.layer, *units) == ("fc", 3):
            raise KeyError("this one")
        return make(root, recipe, model, store, plan, units, chosen)

    monkeypatch.setattr(build, "build_targets", make_or_fail)
    recipe = tiny_recipe(shards, tmp_path / "out", *ON_CPUS)
    reports = run_stages(recipe, STAGES[:3], engine=engine, echo=lambda line: None)
    assert [(report.done, report.failed) for report in reports[1:]] == [(NUM_NEURONS - 1, 1)] * 2
    monkeypatch.undo()
    # The next run makes what is missing; its neighbor in the batch of two has its visualization already.
    reports = run_stages(recipe, STAGES[:3], address="inline", echo=lambda line: None)
    assert [(report.done, report.already) for report in reports[1:]] == [(1, NUM_NEURONS - 1)] * 2


def test_an_error_that_ends_one_stage_ends_the_other(shards, tmp_path, monkeypatch, overlapping):
    from pipeline.references import build

    def fail(*arguments: object) -> None:
        raise KeyError("all of them")

    monkeypatch.setattr(build, "build_targets", fail)
    with pytest.raises(RunStoppedError, match="the first 3 tasks all failed"):
        run_stages(tiny_recipe(shards, tmp_path / "out", *ON_CPUS), STAGES[:3], engine=TwoAtOnce(), echo=print)
    assert "visualize" not in ends(tmp_path / "out")


def test_actors_beside_tasks_ask_for_gpus_alone(ray_engine, monkeypatch):
    monkeypatch.setattr(RayEngine, "capacity", lambda self: {"CPU": 2.0, "GPU": 4.0})
    beside, alone = Resources(gpus=0.5, reserves_cpus=False), Resources(gpus=0.5)
    assert (ray_engine.slots(beside), ray_engine.slots(alone)) == (8, 2)
    pools = [ActorPool(TwoAtOnce, some, name="x", slots=lambda: 1, is_cluster=False) for some in (beside, alone)]
    assert [pool._class._default_options["num_cpus"] for pool in pools] == [0, 1]


def test_actors_are_kept_while_works_may_come(ray_engine):
    pool = ActorPool(TwoAtOnce, Resources(reserves_cpus=False), name="x", slots=lambda: 1, is_cluster=False)
    pool.make_room(0, more=True)
    assert not pool.starting()  # none before there is work for it
    pool.make_room(1, more=True)
    (starting,) = pool.starting()
    pool.make_room(0, more=True)
    assert pool.starting() == [starting]
    pool.make_room(0, more=False)
    assert not pool.starting()


def batch(*units: int, layer: str = "fc") -> Batch:
    return Batch(layer=layer, method="vital", seed=0, units=units)


def test_a_batch_waits_for_all_of_its_targets():
    batches = [batch(0, 1), batch(2, 3), batch(0, 1, layer="stage2")]
    assert part_settled(batches, {"fc": {3, 4}, "stage2": {0}}) == ([batch(0, 1)], batches[1:])
    assert part_settled(batches, {"fc": set()}) == (batches, [])


def test_members_without_targets_are_parted_from_their_batch():
    batches = [batch(0, 1), batch(2, 3), batch(4)]
    assert part_missing(batches, {"fc": {0, 1, 3}}) == ([batch(0, 1), batch(3)], [batch(2), batch(4)])
