"""A disk that is really full, then really read-only: the run stops with a clear message, and resumes when mended."""

import shutil
import subprocess
import sys

import pytest

from jobs.cli import DONE, FAILED
from jobs.run.run_folder import STAGES, read_log
from jobs.runner import run_stages
from pipeline.atlas.validation.validate import validate
from pipeline.io.root import Root
from tests.integration.test_killed import published
from tests.support.paths import ROOT
from tests.support.tiny_run import recipe_toml, tiny_recipe, write_data


def why_not() -> str:
    """Why this machine lets no test mount a file system of its own; empty if it does."""
    if shutil.which("unshare") is None:
        return "no `unshare` here (Linux, util-linux)"
    tried = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False
    )
    return f"no mounts in a name space of one's own here: {tried.stderr.strip()}" if tried.returncode else ""


def test_a_run_on_a_full_and_then_read_only_disk_resumes_to_the_same_bytes(tmp_path):
    if reason := why_not():
        pytest.skip(reason)
    shards = write_data(tmp_path / "data")
    recipe, disk, copy = tmp_path / "tiny.toml", tmp_path / "disk", tmp_path / "copy"
    recipe.write_text(recipe_toml(shards, disk / "out"))
    disk.mkdir()
    command = [
        "unshare",
        "-rm",
        sys.executable,
        "-m",
        "tests.support.failing_disk_run",
        *map(str, (recipe, disk, copy)),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr

    codes = [line.split()[-1] for line in run.stdout.splitlines() if line.startswith(("size", "remount"))]
    assert codes == [str(code) for code in (FAILED, DONE, FAILED, DONE)]
    full, read_only = (line for line in run.stderr.splitlines() if line.startswith("neuron-atlas run: "))
    assert f"cannot write {disk}/out/" in full
    assert "No space left on device" in full
    assert "free space there or choose another output.root" in full
    assert f"cannot write {disk}/out/" in read_only
    assert "mounted read-only: choose another output.root" in read_only
    assert run.stdout.count("left over: []") == 4
    assert "Traceback" not in run.stderr

    run_stages(tiny_recipe(shards, tmp_path / "whole"), STAGES, address="inline", echo=lambda line: None)
    assert published(copy) == published(tmp_path / "whole")
    assert validate(str(copy)) == []
    done = [(entry["stage"], entry["task"]) for entry in read_log(Root.open(copy)) if entry["status"] == "done"]
    assert len(done) == len(set(done))
    assert "failed" not in {entry["status"] for entry in read_log(Root.open(copy))}
