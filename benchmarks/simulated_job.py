"""The scheduler under the whole job: 1,024 tar shards, 26,560 neurons in 830 batches, 64 GPUs; the tasks sleep.

    RAY_worker_niceness=0 python -m benchmarks.simulated_job [--gpus 64] [--sleep 3]

A local Ray that pretends to have 64 CPUs and GPUs runs `collect` and `visualize` as they run on a cluster, by
`RayEngine`, `Session.do` and `RunLog`, but each task sleeps `--sleep` seconds and returns what the real one
returns. Sleeping 3 s instead of the 48 s of a batch asks 16 times as much of the driver as the real job does. Workers
import a stand-in for torch, so that 64 processes fit into a small machine.

Printed, for the first and the last quarter of each stage: the driver's CPU, its memory, the bytes in the object store,
the tasks in flight. And the overhead: the CPU seconds of the driver for each task, and how long a worker waits from one
task to the next, both against the seconds of the real task.
"""

import argparse
import io
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from jobs.engine.ray_engine import RayEngine
from jobs.engine.tasks import Resources, Task, TaskResult
from jobs.engine.worker import Shared
from jobs.run.isolation import Run
from jobs.run.run_folder import LOG_PATH, PART_BYTES, REMOTE_FLUSH_S, RunLog
from jobs.run.session import Session
from jobs.run.work_plan import chunk
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.recipe import Stage as StageName

NUM_SHARDS: Final = 1024
IMAGES_PER_SHARD: Final = 1251
NUM_NEURONS: Final = 26_560
BATCH: Final = 32
MODEL_BYTES: Final = 100 << 20  # the weights of ResNet-50, once in the object store
# What the real tasks take on one GPU: 1.5 s for a neuron, of which 32 are optimized together; 60 images a second for
# the activation pass, which waits for one CPU to decode.
REAL_S: Final = {"visualize": BATCH * 1.5, "collect": IMAGES_PER_SHARD / 60}
SAMPLE_EVERY_S: Final = 1.0
STAND_IN: Final = """
from types import SimpleNamespace
backends = SimpleNamespace(cudnn=SimpleNamespace(benchmark=False))
utils = SimpleNamespace(deterministic=SimpleNamespace(fill_uninitialized_memory=True))
def get_num_threads(): return 1
def set_num_threads(count): pass
def are_deterministic_algorithms_enabled(): return False
def use_deterministic_algorithms(mode): pass
"""
RECIPE: Final = """
name = "simulated"
[model]
name = "torchvision:resnet50"
[data]
shards = ["simulated.tar"]
[output]
root = "simulated"
[[neurons]]
layer = "fc"
[compute]
gpus_per_actor = 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--sleep", type=float, default=3.0, metavar="SECONDS", help="of each task")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="na-", dir="/tmp") as folder:
        Path(folder, "torch.py").write_text(STAND_IN)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.getcwd(), os.environ.get("PYTHONPATH", "")])
        import ray

        ray.init(
            address="local", num_cpus=arguments.gpus, num_gpus=arguments.gpus, include_dashboard=False,
            log_to_driver=False, logging_level="warning", object_store_memory=512 << 20, _temp_dir=f"{folder}/ray",
        )  # fmt: skip
        try:
            simulate(Root.open(f"{folder}/out"), arguments.gpus, arguments.sleep)
        finally:
            ray.shutdown()


def simulate(root: Root, gpus: int, sleep_s: float) -> None:
    """Run both stages and print what they took."""
    print(
        f"{gpus} slots, tasks of {sleep_s:g} s; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}"
    )
    resolved = SimpleNamespace(recipe=Recipe.from_toml(RECIPE))
    with RunLog(root) as log:
        session = Session(
            resolved=resolved,  # type: ignore[arg-type]
            start_engine=lambda: RayEngine("local"),
            log=log,
            stream=io.StringIO(),
        )
        model = session.engine.share(np.zeros(MODEL_BYTES, np.uint8))
        shards = [
            Task(name=f"shard {i:06d}", argument=f"s3://bucket/imagenet1k-train-{i:06d}.tar") for i in range(NUM_SHARDS)
        ]
        # On CPUs: a task that holds a GPU gets a new process from Ray each time (its `max_calls` is 1).
        on_cpu = replace(session.actor_resources, gpus=0)
        collect = partial(session.engine.run_tasks, partial(collect_asleep, model, sleep_s))
        run_stage(session, "collect", collect, shards, on_cpu, gpus, sleep_s)
        batches = [
            Task(name=f"layer4.2.conv3 {units[0]}", argument=units, count=BATCH)
            for units in chunk(range(NUM_NEURONS), BATCH)
        ]
        visualize = partial(session.engine.run_actors, partial(SleepingVisualizer, model, sleep_s))
        run_stage(session, "visualize", visualize, batches, session.actor_resources, gpus, sleep_s)
    size = root.size_bytes(LOG_PATH)
    lines = root.read_text(LOG_PATH).count("\n")
    print_log_cost(size / lines)


def collect_asleep(model: Shared[np.ndarray], sleep_s: float, url: str) -> TaskResult:
    """Stands for `jobs.stages.collect.collect_shard`."""
    assert len(model.get()) == MODEL_BYTES
    time.sleep(sleep_s)
    return TaskResult()


class SleepingVisualizer:
    """Stands for `jobs.stages.visualize_actor.Visualizer`."""

    def __init__(self, model: Shared[np.ndarray], sleep_s: float) -> None:
        assert len(model.get()) == MODEL_BYTES
        self._sleep_s = sleep_s

    def __call__(self, units: tuple[int, ...]) -> TaskResult:
        time.sleep(self._sleep_s)
        return TaskResult(at_once=len(units))


@dataclass
class Watch:
    """What the driver uses, looked at every `SAMPLE_EVERY_S` by a thread of its own."""

    rows: list[dict[str, float]] = field(default_factory=list)
    in_flight: int = 0

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        clock, cpu = time.perf_counter(), time.process_time()
        while not stop.wait(SAMPLE_EVERY_S):
            now, cpu_now = time.perf_counter(), time.process_time()
            self.rows.append(
                {
                    "driver CPU, % of one": 100 * (cpu_now - cpu) / (now - clock),
                    "driver memory, MB": resident_bytes() / 1e6,
                    "object store, MB": stored_bytes() / 1e6,
                    "tasks in flight": self.in_flight,
                }
            )
            clock, cpu = now, time.process_time()  # without what looking cost


def run_stage(
    session: Session,
    stage: StageName,
    run: Run,
    tasks: Sequence[Task],
    resources: Resources,
    slots: int,
    sleep_s: float,
) -> None:
    """Run one stage under watch and print what it took."""
    import ray

    watch, stop = Watch(), threading.Event()
    wait = ray.wait

    def counted(references: list[Any], **options: Any) -> Any:
        watch.in_flight = len(references)
        return wait(references, **options)

    ray.wait = counted
    watcher = threading.Thread(target=watch.run, args=(stop,))
    watcher.start()
    finished: list[float] = []
    cpu = time.process_time()
    try:
        outcomes = session.do(stage, run, tasks, resources, noun="items", already=0)
        for outcome in outcomes:
            assert outcome.ok, outcome.attempt.error
            finished.append(time.perf_counter())
    finally:
        ray.wait = wait
        stop.set()
        watcher.join()
    cpu = time.process_time() - cpu
    report(stage, watch.rows, finished, cpu, slots, sleep_s)


def report(
    stage: str, rows: Sequence[Mapping[str, float]], finished: Sequence[float], cpu_s: float, slots: int, sleep_s: float
) -> None:
    """Print one stage's numbers."""
    print(f"\n{stage}: {len(finished)} tasks in {finished[-1] - finished[0] + sleep_s:.0f} s")
    # Steady: all slots busy, which they are not while workers start nor when the queue is empty.
    steady = [row for row in rows if row["tasks in flight"] >= slots]
    quarter = max(1, len(steady) // 4)
    for name in rows[0]:
        first, last = (np.median([row[name] for row in part]) for part in (steady[:quarter], steady[-quarter:]))
        print(f"  {name:<24}{first:8.1f} in the first quarter, {last:8.1f} in the last")
    real_s = REAL_S[stage]
    first, last = len(finished) // 4, 3 * len(finished) // 4
    waiting_s = slots * (finished[last] - finished[first]) / (last - first) - sleep_s
    per_task_s = cpu_s / len(finished)
    real = f"of the {real_s:.0f} s of a real task"
    print(f"  driver CPU              {1e3 * per_task_s:8.1f} ms for each task, {per_task_s / real_s:.3%} {real}")
    print(f"  a worker waits          {1e3 * waiting_s:8.1f} ms between two tasks, {waiting_s / real_s:.2%} {real}")


def print_log_cost(line_bytes: float) -> None:
    """What it costs to send the last part of the log again every `REMOTE_FLUSH_S`, for a run of 28,000 tasks."""
    num_tasks = 28_000
    whole = num_tasks * line_bytes
    for hours in (1, 10):
        flushes = int(hours * 3600 / REMOTE_FLUSH_S)
        part = sent = 0.0
        for _ in range(flushes):
            part += whole / flushes
            sent += part
            part = 0.0 if part >= PART_BYTES else part
        print(
            f"\nrun/log.jsonl: {line_bytes:.0f} bytes a line, {whole / 1e6:.1f} MB for {num_tasks} tasks; on object "
            f"storage {sent / 1e6:.0f} MB are sent in {hours} h ({flushes / 2 * whole / 1e6:.0f} MB were it one file)"
        )


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stored_bytes() -> float:
    """Bytes in Ray's object store, as Ray counts them."""
    import ray
    from ray._private.internal_api import memory_summary

    found = re.search(
        r"Plasma memory usage (\d+) MiB", memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    )
    return float(found[1]) * (1 << 20) if found else float("nan")


if __name__ == "__main__":
    main()
