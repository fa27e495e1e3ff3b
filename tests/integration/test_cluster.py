"""A cluster of three nodes on one machine loses workers, nodes and drivers: the atlas is that of a quiet run."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cli import DONE
from jobs.run.run_folder import STAGES, read_log
from jobs.runner import run_stages
from pipeline.atlas.format.fragments import read_fragments, row_key
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from tests.integration.test_killed import published
from tests.integration.test_s3 import published_on
from tests.support.paths import ROOT
from tests.support.s3_server import environment_of, every, no_faults
from tests.support.tiny_run import NUM_NEURONS, recipe_toml, tiny_recipe, write_data

pytestmark = pytest.mark.slow

NETWORK = "model.name=python:tests.support.sabotage:net"
NUM_WORKERS = 2  # of one CPU each, beside a head that takes no work
# What may be lost and made again at one blow: what runs, and what waits at a worker's side.
IN_FLIGHT = 2 * NUM_WORKERS

# The program that is told so does not ask for GPUs: actors take none, and no CPU.
SIDE_BY_SIDE = ("compute.gpus_per_task=0", f"compute.num_actors={NUM_WORKERS}")

# A write of each stage, at which a blow falls: the third tar shard, the targets of a layer, visualizations, dataset
# images.
POINTS = ("run/shard_statistics/000002.", "run/targets/stage2/", "images/fc/00002-vital-s0.webp", "examples/stage2/")


class Nodes:
    """A cluster whose workers and nodes are struck by the plan of a folder, see `tests.support.sabotage`."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(NUM_WORKERS):
            self.add()

    def add(self) -> None:
        self._cluster.add_node(num_cpus=1)

    def close(self) -> None:
        self._cluster.shutdown()

    def plan(self, *blows: tuple[str, str]) -> None:
        """Forget what was, and strike these (victim, part of a path)."""
        for file in self.folder.iterdir():
            file.unlink()
        (self.folder / "plan.json").write_text(json.dumps([{"victim": v, "path": path} for v, path in blows]))

    def struck(self) -> int:
        return len(list(self.folder.glob("struck-*")))

    def commits(self) -> Counter[str]:
        log = self.folder / "commits.log"
        return Counter(log.read_text().splitlines() if log.exists() else ())

    def start(self, recipe: Path, *settings: str, program: str = "jobs.cli") -> subprocess.Popen[bytes]:
        """A driver of its own process."""
        environment = os.environ | {"RAY_ADDRESS": self._cluster.address}
        command = [sys.executable, "-m", program, "run", str(recipe), "--address", "auto"]
        command += [part for setting in (NETWORK, *settings) for part in ("--set", setting)]
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        (self.folder / "driver.pid").write_text(str(driver.pid))
        return driver


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, s3_server_of_session) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("sabotage")
        patch.setenv("SABOTAGE_FOLDER", str(folder))
        for name, value in environment_of(s3_server_of_session).items():
            patch.setenv(name, value)  # workers have what their node was started with
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Nodes(folder)
        yield made
        made.close()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), num_shards=6, per_shard=4)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """What one unbroken run publishes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_stages(tiny_recipe(shards, out, NETWORK), STAGES, address="inline", echo=lambda line: None)
    return published(out)


@pytest.fixture
def recipe(shards, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(recipe_toml(shards, tmp_path / "out"))
    return path


def finish(driver: subprocess.Popen[bytes]) -> None:
    _, errors = driver.communicate(timeout=90)
    assert driver.returncode == DONE, errors.decode()


def check(out: Path | str, whole: dict[str, bytes], commits: Counter[str], *, blows: int) -> None:
    """The atlas is that of an unbroken run, no neuron is lost, none is there twice, little was made twice."""
    root = Root.open(out)
    assert published_on(root) == whole
    assert validate(root.url) == []
    keys = [row_key(row) for name in root.list("run/fragments") for row in read_rows(root, f"run/fragments/{name}")]
    assert len(keys) == len(set(keys)) == NUM_NEURONS == len(read_fragments(root))
    again = {path: times - 1 for path, times in commits.items() if times > 1}
    assert sum(again.values()) <= blows * IN_FLIGHT, again


def test_workers_that_are_killed_in_every_stage_while_visualizations_are_made_beside_targets(
    nodes, recipe, tmp_path, whole
):
    nodes.plan(*(("worker", point) for point in POINTS))
    finish(nodes.start(recipe, *SIDE_BY_SIDE, program="tests.support.side_by_side"))
    assert nodes.struck() == len(POINTS)
    check(tmp_path / "out", whole, nodes.commits(), blows=len(POINTS))
    lost = [entry for entry in read_log(Root.open(tmp_path / "out")) if entry.get("attempts", 1) > 1]
    assert {entry["stage"] for entry in lost} == {"collect", "targets", "visualize", "build"}
    assert {entry["status"] for entry in lost} == {"done"}


def test_nodes_that_go_in_every_stage_while_others_join(nodes, recipe, tmp_path, whole):
    nodes.plan(*(("node", point) for point in POINTS))
    driver, replaced = nodes.start(recipe), 0
    while driver.poll() is None:
        if nodes.struck() > replaced:
            nodes.add()
            replaced += 1
        time.sleep(0.1)
    finish(driver)
    assert nodes.struck() == len(POINTS)
    check(tmp_path / "out", whole, nodes.commits(), blows=len(POINTS))


def test_a_driver_that_is_killed_in_every_stage(nodes, recipe, tmp_path, whole):
    # Of build, what the driver itself writes. In visualize it is killed below, on S3: each start takes ten seconds.
    points = (*POINTS[:2], "layers/stage2.parquet")
    nodes.plan(*(("driver", point) for point in points))
    for number in range(len(points)):
        driver = nodes.start(recipe)
        driver.communicate(timeout=90)
        assert driver.returncode == -9
        assert nodes.struck() == number + 1
    finish(nodes.start(recipe))
    check(tmp_path / "out", whole, nodes.commits(), blows=len(points))


def test_a_failing_store_under_workers_nodes_and_a_driver_that_go(nodes, s3_server, s3_url, shards, whole, tmp_path):
    data, out = Root.open(f"{s3_url}/data"), f"{s3_url}/out"
    for shard in Path(shards).parent.iterdir():
        data.write_bytes(shard.name, shard.read_bytes())
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(f"{data.url}/{Path(shards).name}", out))
    victims = ("worker", "node", "driver", "worker")
    nodes.plan(*zip(victims, POINTS, strict=True))
    s3_server.stall_s = 0.3  # slow answers
    s3_server.choose = every(61, "500", "drop-request", "503", "drop-response", "refuse", "stall")

    driver = nodes.start(recipe)
    while driver.poll() is None:
        if (nodes.folder / "struck-1").exists() and not (nodes.folder / "replaced").exists():
            nodes.add()
            (nodes.folder / "replaced").touch()
        time.sleep(0.1)
    driver.communicate()
    assert driver.returncode == -9
    finish(nodes.start(recipe))
    s3_server.choose = no_faults
    assert nodes.struck() == len(POINTS)
    check(out, whole, nodes.commits(), blows=len(POINTS))
    assert len(s3_server.requests) > 10 * 61
