"""What kills its workers is set aside and named, within bounds, and the run goes on."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jobs.commands.status import read_status
from jobs.engine.tasks import Attempt, RunStoppedError
from jobs.run.run_folder import STAGES, read_log
from jobs.runner import run_stages
from jobs.stages.collect_plan import check_failures
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from tests.support.tiny_networks import TinyResidualNet
from tests.support.tiny_run import NUM_NEURONS, SIZE_PX, small_net, tiny_recipe, write_data

KILLED = Attempt(error="worker lost: it died", lost="worker")
BROKEN = Attempt(error="KeyError: 'bug'")
URLS = [f"shard-{number}.tar" for number in range(10)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_so_many_shards_may_be_set_aside(number):
    failed = dict.fromkeys(range(number), KILLED)
    assert check_failures(failed, URLS, 0.2, log="log") == dict.fromkeys(range(number), "worker lost: it died")


@pytest.mark.parametrize(
    ("failed", "message"),
    [
        ({1: KILLED, 2: KILLED, 3: KILLED}, r"3 of 10 .*shard-1.tar: worker lost[\s\S]*= 0.2 allows 2 such shards"),
        ({1: KILLED, 2: BROKEN}, "2 of 10 tar shards could not be recorded, the first is shard-2.tar: KeyError"),
    ],
)
def test_more_or_other_failures_stop_the_run(failed, message):
    with pytest.raises(RunStoppedError, match=message):
        check_failures(failed, URLS, 0.2, log="log")


def die_of_poison(_module: nn.Module, inputs: tuple[torch.Tensor], *, driver: int, victim: Path) -> None:
    """Kill the worker that sees the image whose mean is in the file; the driver never sees images."""
    means = inputs[0].mean(dim=(1, 2, 3))
    if os.getpid() != driver and victim.exists() and (means - float(victim.read_text())).abs().min() < 1e-6:
        os.kill(os.getpid(), signal.SIGKILL)


def net_that_an_image_kills() -> nn.Module:
    module = small_net()
    victim = Path(os.environ["TINY_VICTIM"])
    module.stem.register_forward_pre_hook(partial(die_of_poison, driver=os.getpid(), victim=victim))
    return module


def mean_of_one(shards: str, index: int) -> float:
    """The mean input of the first image of a shard."""
    import io

    from PIL import Image

    from pipeline.data.shards import iterate_samples
    from pipeline.models import load_model

    model = load_model("python:tests.support.tiny_run:small_net", "random")
    url = shards.replace("{000000..000003}", f"{index:06d}")
    sample = next(iterate_samples(url, num_classes=None, on_skip=pytest.fail))
    return float(model.preprocess(Image.open(io.BytesIO(sample.image))).mean())


def test_a_shard_that_kills_its_workers_is_left_out_and_named(tmp_path, monkeypatch, ray_engine):
    shards, out = write_data(tmp_path / "data", num_shards=4, per_shard=4), tmp_path / "out"
    monkeypatch.setenv("TINY_VICTIM", str(tmp_path / "victim"))
    (tmp_path / "victim").write_text(str(mean_of_one(shards, 2)))
    network = "model.name=python:tests.integration.test_poison:net_that_an_image_kills"
    with pytest.raises(RunStoppedError, match=r"1 of 4 tar shards[\s\S]*tiny-000002.tar: worker lost"):
        run_stages(tiny_recipe(shards, out, network), STAGES[:1], engine=ray_engine)

    recipe = tiny_recipe(shards, out, network, "data.max_error_fraction=0.25")
    echoed: list[str] = []
    (collect, *_) = run_stages(recipe, STAGES[:1], engine=ray_engine, echo=echoed.append)
    assert (collect.done, collect.already, collect.failed) == (0, 3, 1)
    assert "1 failed" in echoed[0]
    reports = run_stages(recipe, STAGES, address="inline")
    assert (reports[0].already, reports[0].failed) == (3, 1)
    status = read_status(recipe)
    assert next((s.done, s.failed, s.todo) for s in status.stages) == (3, 1, 0)
    assert any("tiny-000002.tar" in name and "worker lost" in reason for name, reason in status.failures)
    root = Root.open(out)
    assert root.read_json("atlas.json")["provenance"]["num_shards_set_aside"] == 1
    assert root.read_json("atlas.json")["provenance"]["num_samples"] == 12
    lost = [e for e in read_log(root) if e.get("lost") == "worker" and e["status"] == "failed"]
    assert {(entry["task"], entry["attempts"]) for entry in lost} == {("shard 000002", 2)}
    assert validate(str(out)) == []


class NetOfAPoisonedNeuron(TinyResidualNet):
    """Lets every process that receives it die at the visualization of one neuron, while a file is there."""

    input_size_px = SIZE_PX

    def __init__(self) -> None:
        super().__init__()
        self.victim = Path(os.environ["TINY_VICTIM"])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        write = Root.write_bytes

        def write_or_die(root: Root, path: str, data: bytes) -> None:
            if path.startswith("images/fc/00003") and self.victim.exists():
                os.kill(os.getpid(), signal.SIGKILL)
            write(root, path, data)

        Root.write_bytes = write_or_die  # type: ignore[method-assign]


def test_a_neuron_that_kills_its_workers_costs_only_itself(tmp_path, ray_engine, monkeypatch):
    shards, out = write_data(tmp_path / "data"), tmp_path / "out"
    monkeypatch.setenv("TINY_VICTIM", str(tmp_path / "victim"))
    network = "model.name=python:tests.integration.test_poison:NetOfAPoisonedNeuron"
    recipe = tiny_recipe(shards, out, network)
    run_stages(recipe, STAGES[:2], address="inline")
    (tmp_path / "victim").touch()
    (report,) = run_stages(recipe, STAGES[2:3], engine=ray_engine)
    (tmp_path / "victim").unlink()
    assert (report.done, report.failed) == (NUM_NEURONS - 1, 1)
    run_stages(recipe, STAGES[3:], address="inline")
    rows = {row["unit"]: row for row in read_rows(Root.open(out), "layers/fc.parquet")}
    assert rows[3]["status"] == "failed"
    assert rows[3]["status_reason"].startswith("worker lost:")
    assert [unit for unit, row in rows.items() if row["image_path"]] == [0, 1, 2, 4]
    lost = [entry for entry in read_log(Root.open(out)) if entry.get("lost")]
    assert [(entry["count"], entry["attempts"]) for entry in lost] == [(0, 2), (1, 1)]  # its batch of two, then itself
