"""Whole runs with their shards and their output on a real S3 server: to the bytes of a local run, whatever fails."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter

import fsspec
import pytest

from jobs.cli import DONE, FAILED, main
from jobs.run.run_folder import STAGES, read_log
from jobs.runner import run_stages
from pipeline.io import remote
from pipeline.io.root import Root
from tests.integration.test_killed import published
from tests.support.paths import ROOT
from tests.support.s3_server import Fault, Request, S3Server, every, no_faults
from tests.support.tiny_run import recipe_toml, tiny_recipe, write_data

NUM_SHARDS = 3
FAULTS = ("500", "drop-request", "503", "drop-response", "refuse", "stall")
FAULT_EVERY = 17
READ_TIMEOUT_S = 0.7


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Tries follow each other at once, and a request is given up after a second."""
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(remote, "MAX_WAIT_S", 0.01)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": READ_TIMEOUT_S}})


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The folder of the shards on this machine, and what an unbroken run on it publishes."""
    folder = tmp_path_factory.mktemp("local")
    shards = write_data(folder / "data", num_shards=NUM_SHARDS)
    run_stages(tiny_recipe(shards, folder / "out"), STAGES, address="inline", echo=lambda line: None)
    return folder / "data", published(folder / "out")


@pytest.fixture
def recipe(s3_server, s3_url, local, tmp_path):
    """The path of a recipe that reads and writes S3."""
    data = Root.open(f"{s3_url}/data")
    for shard in local[0].iterdir():
        data.write_bytes(shard.name, shard.read_bytes())
    path = tmp_path / "tiny.toml"
    path.write_text(recipe_toml(f"{s3_url}/data/tiny-{{000000..{NUM_SHARDS - 1:06d}}}.tar", f"{s3_url}/out"))
    s3_server.requests.clear()
    return str(path)


def published_on(root: Root) -> dict[str, bytes]:
    """As `published`, of any root."""
    tables = {"index.parquet", "scores.parquet", "scores.md"}
    paths = [path for path in root.walk() if path in tables or path.endswith(".webp")]
    return {path: root.read_bytes(path) for path in paths}


def test_a_run_on_a_failing_store_gives_the_bytes_of_a_local_one(s3_server, s3_url, recipe, local, tmp_path, capsys):
    out = Root.open(f"{s3_url}/out")
    s3_server.stall_s = 1.5 * READ_TIMEOUT_S
    for stage in STAGES:
        s3_server.choose = every(FAULT_EVERY, *FAULTS)
        before = len(s3_server.requests)
        assert main([stage, recipe, "--address", "inline"]) == DONE
        assert len(s3_server.requests) - before > FAULT_EVERY * len(FAULTS)  # each fault was met in each stage
    s3_server.reset()
    assert published_on(out) == local[1]
    assert "failed" not in {entry["status"] for entry in read_log(out)}

    capsys.readouterr()
    assert main(["status", recipe]) == DONE
    assert f"{s3_url}/out" in capsys.readouterr().out
    assert main(["validate", out.url]) == DONE
    assert main(["site", str(tmp_path / "site"), out.url]) == DONE
    assert list((tmp_path / "site").rglob("*.webp"))


def commits(s3_server: S3Server) -> Counter[str]:
    """How often each marker of a partial and each fragment was uploaded."""
    puts = [request.path for request in s3_server.requests if request.method == "PUT"]
    return Counter(path for path in puts if re.search(r"/run/(shard_statistics/\d+\.json|fragments/)", path))


def run_and_kill(recipe: str, fragment: str, s3_server: S3Server) -> int:
    """Run a driver that is killed in the middle of its first upload of `fragment`; returns what it ended with."""
    command = "import sys; from jobs.cli import main; sys.exit(main(sys.argv[1:]))"
    driver = subprocess.Popen(
        [sys.executable, "-c", command, "run", recipe, "--address", "inline"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def choose(request: Request) -> Fault | None:
        if request.method != "PUT" or fragment not in request.path:
            return None
        os.kill(driver.pid, signal.SIGKILL)
        s3_server.requests.remove(request)  # nothing was written by it
        return "drop-request"

    s3_server.choose = choose
    return driver.wait(timeout=280)


def run_until_down(recipe: str, fragment: str, s3_server: S3Server) -> int:
    """Run in this process, on a store that goes away at the first upload of `fragment`; returns the exit code."""
    down = []

    def choose(request: Request) -> Fault | None:
        if request.method == "PUT" and fragment in request.path:
            down.append(request)
            s3_server.requests.remove(request)
        return "refuse" if down else None

    s3_server.choose = choose
    return main(["run", recipe, "--address", "inline"])


def test_a_run_that_loses_its_store_and_its_driver_resumes_and_does_nothing_twice(
    s3_server, s3_url, recipe, local, capsys
):
    out = Root.open(f"{s3_url}/out")
    for fragment in ("shard_statistics/000001.json", "targets.zarr/fc", "evaluation/scores.md", "/index.parquet"):
        assert run_until_down(recipe, fragment, s3_server) == FAILED
        message = capsys.readouterr().err
        assert f"cannot write {out.url}/" in message
        assert fragment in message
        assert "8 tries in" in message
        assert "Traceback" not in message
        if fragment == "targets.zarr/fc":
            assert run_and_kill(recipe, "fragments/stage2", s3_server) == -signal.SIGKILL
            assert not [path for path in out.walk() if "fragments/stage2" in path]
    s3_server.choose = no_faults
    assert main(["run", recipe, "--address", "inline"]) == DONE
    written = commits(s3_server)
    assert len(written) == NUM_SHARDS + len(out.list("run/fragments"))
    assert set(written.values()) == {1}
    assert published_on(out) == local[1]
    assert "failed" not in {entry["status"] for entry in read_log(out)}
