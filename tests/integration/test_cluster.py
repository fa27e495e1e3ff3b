"""A cluster of three nodes on one machine loses workers, nodes and drivers in every stage: the atlas stays the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

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

# Generous: on a busy machine each driver takes half a minute to start.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NETWORK = "model.name=python:tests.support.sabotage:net"
NUM_WORKERS = 2  # of one CPU each, beside a head that runs no task
# What may be lost and made again at one blow: what runs, and what waits at a worker's side.
IN_FLIGHT = 2 * NUM_WORKERS

# Writes at which a blow falls: a tar shard, the targets of a layer, visualizations, scores, dataset images. Every stage
# loses a worker or a node; the one with actors loses both.
OF_WORKERS = ("run/shard_statistics/000002.", "images/fc/00002-vital-s0.webp", "run/scores/fc")
OF_NODES = ("run/targets/stage2/", "images/stage2/00001-vital-s0.webp", "examples/stage2/")
OF_DRIVERS = ("run/targets/fc/", "images/fc/00003-vital-s0.webp", "layers/stage2.parquet")
# A node that is gone refuses connections and is given up after a few of them; one that is only slow has ten seconds for
# each answer, as ever.
HEALTH_CHECKS = {"RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500"}


class Nodes:
    """A cluster whose workers and nodes are struck by the plan of a folder, see `tests.support.sabotage`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan: list[dict[str, str]] = []
        self._num_replaced = 0
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(NUM_WORKERS):
            self.add()

    def add(self) -> None:
        self._cluster.add_node(num_cpus=1)

    def close(self) -> None:
        self._cluster.shutdown()

    def plan(self, **blows: Sequence[str]) -> None:
        """Forget earlier blows, and strike these: victim → parts of paths."""
        for file in self.folder.iterdir():
            file.unlink()
        self._plan = [{"victim": victim, "path": path} for victim, paths in blows.items() for path in paths]
        self._num_replaced = 0
        (self.folder / "plan.json").write_text(json.dumps(self._plan))

    def struck(self, victim: str) -> int:
        return sum(
            blow["victim"] == victim and (self.folder / f"struck-{number}").exists()
            for number, blow in enumerate(self._plan)
        )

    def commits(self) -> Counter[str]:
        log = self.folder / "commits.log"
        return Counter(log.read_text().splitlines() if log.exists() else ())

    def start(self, recipe: Path) -> subprocess.Popen[bytes]:
        """A driver of its own process."""
        environment = os.environ | {"RAY_ADDRESS": self._cluster.address}
        command = [sys.executable, "-m", "jobs.cli", "run", str(recipe), "--address", "auto", "--set", NETWORK]
        with open(self.folder / "driver.err", "wb") as errors:
            driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        (self.folder / "driver.pid").write_text(str(driver.pid))
        return driver

    def wait(self, driver: subprocess.Popen[bytes]) -> int:
        """The driver's exit code; while it runs, a node joins for each one that goes."""
        while driver.poll() is None:
            if self.struck("node") > self._num_replaced:
                self.add()
                self._num_replaced += 1
            time.sleep(0.1)
        return driver.returncode


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, s3_server_of_session) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("sabotage")
        patch.setenv("SABOTAGE_FOLDER", str(folder))
        for name, value in environment_of(s3_server_of_session).items():
            patch.setenv(name, value)  # workers have what their node was started with
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name, value in HEALTH_CHECKS.items():
            patch.setenv(name, value)
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


def finish(nodes: Nodes, recipe: Path) -> None:
    code = nodes.wait(nodes.start(recipe))
    assert code == DONE, (nodes.folder / "driver.err").read_text()


def check(out: Path | str, whole: dict[str, bytes], commits: Counter[str], *, blows: int) -> None:
    """The atlas is that of an unbroken run, no neuron is lost, none is there twice, little was made twice."""
    root = Root.open(out)
    assert published_on(root) == whole
    assert validate(root.url) == []
    keys = [row_key(row) for name in root.list("run/fragments") for row in read_rows(root, f"run/fragments/{name}")]
    assert len(keys) == len(set(keys)) == NUM_NEURONS == len(read_fragments(root))
    again = {path: times - 1 for path, times in commits.items() if times > 1}
    assert sum(again.values()) <= blows * IN_FLIGHT, again


def test_workers_are_killed_and_nodes_go_in_every_stage_while_others_join(nodes, shards, tmp_path, whole):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(shards, tmp_path / "out"))
    nodes.plan(worker=OF_WORKERS, node=OF_NODES)
    finish(nodes, recipe)
    assert (nodes.struck("worker"), nodes.struck("node")) == (len(OF_WORKERS), len(OF_NODES))
    check(tmp_path / "out", whole, nodes.commits(), blows=len(OF_WORKERS) + len(OF_NODES))
    lost = [entry for entry in read_log(Root.open(tmp_path / "out")) if entry.get("attempts", 1) > 1]
    assert {entry["stage"] for entry in lost} == set(STAGES)
    assert {entry["status"] for entry in lost} == {"done"}


def test_drivers_are_killed_again_and_again_on_a_failing_store(nodes, s3_server, s3_url, shards, whole, tmp_path):
    data, out = Root.open(f"{s3_url}/data"), f"{s3_url}/out"
    for shard in Path(shards).parent.iterdir():
        data.write_bytes(shard.name, shard.read_bytes())
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(f"{data.url}/{Path(shards).name}", out))
    nodes.plan(driver=OF_DRIVERS, node=OF_NODES[1:2])
    s3_server.stall_s = 0.3  # slow answers
    s3_server.choose = every(61, "500", "drop-request", "503", "drop-response", "refuse", "stall")
    for number in range(len(OF_DRIVERS)):
        assert nodes.wait(nodes.start(recipe)) == -signal.SIGKILL
        assert nodes.struck("driver") == number + 1
    finish(nodes, recipe)
    s3_server.choose = no_faults
    assert nodes.struck("node") == 1
    check(out, whole, nodes.commits(), blows=len(OF_DRIVERS) + 1)
    assert len(s3_server.requests) > 10 * 61
