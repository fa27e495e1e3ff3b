"""Runs that lose their driver, a worker or a neuron: what is committed stays, the rest is made, to the same bytes."""

import os
import signal
import subprocess
import sys
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jobs.cli import DONE, DONE_WITH_FAILED_UNITS, FAILED, main
from jobs.run.run_folder import STAGES, read_log
from jobs.runner import run_stages
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows as read_table_rows
from pipeline.io.root import Root, is_temporary
from pipeline.io.zarr_arrays import open_group, read_rows, write_rows
from tests.support.paths import ROOT
from tests.support.tiny_run import NUM_NEURONS, recipe_toml, small_net, tiny_recipe, write_data


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """What one unbroken run publishes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_stages(tiny_recipe(shards, out), STAGES, address="inline", echo=lambda line: None)
    return published(out)


def published(out: Path) -> dict[str, bytes]:
    """The index, the scores and all visualizations; the tables of layers hold elapsed times."""
    tables = [out / name for name in ("index.parquet", "scores.parquet", "scores.md")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in (*tables, *out.rglob("*.webp"))}


def tasks_done(out: Path) -> list[tuple[str, str]]:
    """(stage, task) of all that was done; scores that follow from predictions are made anew until all are there."""
    done = [(entry["stage"], entry["task"]) for entry in read_log(Root.open(out)) if entry["status"] == "done"]
    return [(stage, task) for stage, task in done if not task.startswith("scores")]


def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_bytes_and_redoes_nothing(shards, whole, tmp_path):
    recipe, out = tmp_path / "tiny.toml", tmp_path / "out"
    recipe.write_text(recipe_toml(shards, out))
    for write, number, num_done in (
        ("run/samples.parquet", 1, 3),  # collect: all three shards, and the merge is nearly done
        ("run/fragments/", 2, 7),  # visualize: one of five batches
        ("run/evaluation/model/visualizations/", 1, 14),  # evaluate: all is scored, dataset images are predicted
        ("run/evaluation/scores.md", 1, 16),  # evaluate: all but the marker of the summary
    ):
        command = [sys.executable, "-m", "tests.support.killed_run", str(recipe), write, str(number)]
        killed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(tasks_done(out)) == num_done
        assert [path for path in out.rglob("*") if is_temporary(path.name)]
        assert not (out / "atlas.json").exists()

    assert main(["run", str(recipe), "--address", "inline"]) == DONE
    assert published(out) == whole
    assert validate(str(out)) == []
    assert not [path for path in out.rglob("*") if is_temporary(path.name)]
    done = tasks_done(out)
    assert len(done) == len(set(done)) == 18


def die_once(_module: nn.Module, inputs: tuple[torch.Tensor], *, driver: int, markers: Path) -> None:
    """Kill the worker at its first forward pass without gradients, and at the first with them."""
    marker = markers / ("with gradients" if inputs[0].requires_grad else "without")
    if os.getpid() != driver and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def net_that_kills_its_worker() -> nn.Module:
    module = small_net()
    module.register_forward_pre_hook(partial(die_once, driver=os.getpid(), markers=Path(os.environ["TINY_MARKERS"])))
    return module


def test_tasks_whose_worker_is_killed_are_done_by_another(shards, whole, tmp_path, monkeypatch, ray_engine):
    monkeypatch.setenv("TINY_MARKERS", str(tmp_path))
    recipe = tiny_recipe(
        shards, tmp_path / "out", "model.name=python:tests.integration.test_killed:net_that_kills_its_worker"
    )
    reports = run_stages(recipe, STAGES[:2], engine=ray_engine)
    assert [report.failed for report in reports] == [0, 0]
    assert len(list(tmp_path.glob("with*"))) == 2
    repeated = [entry for entry in read_log(Root.open(tmp_path / "out")) if entry.get("attempts", 1) > 1]
    # One task of each stage killed its worker; Ray may have sent the next one to that worker before it saw it die.
    assert [stage for stage, _ in groupby(entry["stage"] for entry in repeated)] == ["collect", "targets"]
    assert {(entry["status"], entry["attempts"]) for entry in repeated} == {("done", 2)}
    run_stages(recipe, STAGES, address="inline")
    # The text of the scores names the network, which is this one.
    assert published(tmp_path / "out") | {"scores.md": b""} == whole | {"scores.md": b""}


def test_a_poisoned_target_costs_its_neuron_only_and_is_repaired_when_it_is_good_again(
    shards, whole, tmp_path, ray_engine, capsys
):
    path, out = tmp_path / "tiny.toml", tmp_path / "out"
    path.write_text(recipe_toml(shards, out))
    recipe, root = tiny_recipe(shards, out), Root.open(out)
    run_stages(recipe, STAGES[:2], address="inline")
    group = open_group(root, "run/targets.zarr/fc", "r+")
    good = read_rows(group, "stage3/quantile", 3, 4)
    write_rows(group, "stage3/quantile", 3, np.full_like(good, np.nan))

    (report,) = run_stages(recipe, ("visualize",), engine=ray_engine)
    assert (report.done, report.failed) == (NUM_NEURONS - 1, 1)
    run_stages(recipe, STAGES[3:], address="inline")
    rows = {row["unit"]: row for row in read_table_rows(root, "layers/fc.parquet")}
    assert rows[3]["status"] == "failed"
    assert rows[3]["status_reason"].startswith('FloatingPointError: the loss of neuron 3 of layer "fc" is not finite')
    assert all(rows[unit]["image_path"] for unit in (0, 1, 2, 4))
    assert validate(str(out)) == []

    capsys.readouterr()
    assert main(["run", str(path), "--address", "inline"]) == DONE_WITH_FAILED_UNITS
    assert "visualize: 0 visualizations done, 7 already done, 1 failed" in capsys.readouterr().out
    assert main(["status", str(path)]) == DONE
    assert "failed  python:tests.support.tiny_run:small_net/fc/3: FloatingPointError" in capsys.readouterr().out

    write_rows(group, "stage3/quantile", 3, good)
    assert main(["run", str(path), "--address", "inline"]) == DONE
    assert "visualize: 1 visualizations done, 7 already done" in capsys.readouterr().out
    assert set(published(out)) == set(whole)
    assert validate(str(out)) == []


@pytest.mark.slow
def test_sigterm_stops_a_run_on_ray_cleanly(shards, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(shards, tmp_path / "out"))
    command = [sys.executable, "-m", "jobs.cli", "run", str(recipe), "--set", "visualize.steps=100000"]
    # As a user has it, with a home folder in which Ray could leave its token.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stderr is not None
        printed = []
        while b"visualize: 8 visualizations" not in (line := process.stderr.readline()):
            printed.append(line)
            assert process.poll() is None, printed
        process.terminate()
        _, error = process.communicate(timeout=240)
    assert process.returncode == FAILED
    assert b"Finished tasks are stored" in error
    assert b"Traceback" not in error
    assert (tmp_path / "out/run/statistics.json").exists()
    assert not (tmp_path / "home/.ray").exists()
    ours = (b"collect: ", b"targets: ", b"WARNING: labels agree")  # random weights name no class
    assert [line for line in printed if not line.startswith(ours)] == []  # nothing of Ray's, no warning either
