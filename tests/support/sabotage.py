"""A network whose workers die at planned writes: `python:tests.support.sabotage:net`.

The plan lies in files in $SABOTAGE_FOLDER:

    plan.json     [{"path": part of the path of a write, "victim": "worker" | "node" | "driver"}, …], each struck once
    driver.pid    the process to kill for "driver"
    struck-N      made when the N-th of the plan is struck
    commits.log   one line per commit that a worker or driver wrote, in order

Every process that loads the network takes part: Ray's workers load it with the model, before they write anything.
"""

import contextlib
import json
import os
import signal
from pathlib import Path

from pipeline.io.root import Root
from tests.support.tiny_networks import TinyResidualNet
from tests.support.tiny_run import SIZE_PX

COMMITS = ("run/shard_statistics/", "run/targets/", "run/fragments/", "run/scores/")


class Net(TinyResidualNet):
    """A class of this module, so that unpickling it imports this module."""

    input_size_px = SIZE_PX


net = Net


def watch_writes(folder: Path) -> None:
    """Let every write of this process go by the plan in `folder`; a strike comes before the write."""
    write = Root.write_bytes

    def write_or_die(root: Root, path: str, data: bytes) -> None:
        strike(folder, path)
        write(root, path, data)
        # The statistics of a shard are three files; the marker is the commit.
        if path.startswith(COMMITS) and path.endswith((".json", ".parquet")) and not _is_sample_table(path):
            with open(folder / "commits.log", "a", encoding="utf-8") as file:
                file.write(f"{path}\n")

    Root.write_bytes = write_or_die  # type: ignore[method-assign]


def strike(folder: Path, path: str) -> None:
    """Kill the victim that the plan names for this write, unless it was struck before."""
    plan = folder / "plan.json"
    for number, blow in enumerate(json.loads(plan.read_text()) if plan.exists() else ()):
        if blow["path"] not in path:
            continue
        with contextlib.suppress(FileExistsError):
            (folder / f"struck-{number}").touch(exist_ok=False)
            if blow["victim"] == "node":
                os.kill(os.getppid(), signal.SIGKILL)  # the raylet, whose child a worker is
            pid = int((folder / "driver.pid").read_text()) if blow["victim"] == "driver" else os.getpid()
            os.kill(pid, signal.SIGKILL)


def _is_sample_table(path: str) -> bool:
    return path.startswith("run/shard_statistics/") and path.endswith(".parquet")


if "SABOTAGE_FOLDER" in os.environ:
    watch_writes(Path(os.environ["SABOTAGE_FOLDER"]))
