"""The scheduler under the whole job: 1,024 tar shards, 26,560 neurons in 830 batches, 64 GPUs; the work is asleep.

    RAY_worker_niceness=0 python -m benchmarks.simulated_job [--gpus 64] [--sleep 3]
    RAY_worker_niceness=0 python -m benchmarks.simulated_job --overlap [--gpus 4] [--sleep 0.75]

A local Ray that pretends to have 64 CPUs and GPUs runs `collect` and `visualize` as they run on a cluster, by
`RayEngine`, `Session.follow` and `RunLog`, but each work sleeps `--sleep` seconds and returns what the real one
returns. Sleeping 3 s instead of the 48 s of a batch asks 16 times as much of the driver as the real job does. Workers
import a stand-in for torch, so that 64 processes fit into a small machine.

Printed, for the first and the last quarter of each stage: the driver's CPU, its memory, the bytes in the object store,
the works in flight. And the overhead: the CPU seconds of the driver for each work, and how long a worker waits from one
work to the next, both against the seconds of the real work.

With `--overlap`: how long `targets` on CPUs and `visualize` on GPUs take, one after the other and side by side as
`jobs.stages.pipelined` runs them, for `BATCHES_PER_GPU` batches on each GPU. Both kinds of work are shortened alike.
"""

import argparse
import io
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from jobs.engine.ray_engine import RayEngine
from jobs.engine.work import PAUSE, Outcome, Resources, Work
from jobs.engine.worker import Shared
from jobs.run.run_folder import LOG_PATH, PART_BYTES, REMOTE_FLUSH_S, RunLog
from jobs.run.session import Session
from jobs.run.work_plan import Batch, chunk
from jobs.stages.targets import UNITS_PER_TASK, TargetState
from jobs.stages.visualize import visualization_works
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe

NUM_SHARDS: Final = 1024
IMAGES_PER_SHARD: Final = 1251
NUM_NEURONS: Final = 26_560
BATCH: Final = 32
MODEL_BYTES: Final = 100 << 20  # the weights of ResNet-50, once in the object store
# What the real works take on one GPU: 1.5 s for a neuron, of which 32 are optimized together; 60 images a second for
# the activation pass, which waits for one CPU to decode.
REAL_S: Final = {"visualize": BATCH * 1.5, "collect": IMAGES_PER_SHARD / 60}
SAMPLE_EVERY_S: Final = 1.0
BATCHES_PER_GPU: Final = 40
# Targets of 16 neurons with 50 references each take a CPU 128 s (`neuron-atlas plan`: 0.16 s for each); with 6 CPUs
# beside each GPU both stages take about as long.
REAL_TARGETS_S: Final = 128.0
CPUS_PER_GPU: Final = 6
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
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--sleep", type=float, metavar="SECONDS", help="of each work, of a batch of visualizations")
    parser.add_argument("--overlap", action="store_true")
    arguments = parser.parse_args()
    gpus = arguments.gpus or (4 if arguments.overlap else 64)
    sleep_s = arguments.sleep or (0.75 if arguments.overlap else 3.0)
    with tempfile.TemporaryDirectory(prefix="na-", dir="/tmp") as folder:
        Path(folder, "torch.py").write_text(STAND_IN)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.getcwd(), os.environ.get("PYTHONPATH", "")])
        import ray

        ray.init(
            address="local", num_cpus=CPUS_PER_GPU * gpus if arguments.overlap else gpus, num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False, logging_level="warning", object_store_memory=512 << 20, _temp_dir=f"{folder}/ray",
        )  # fmt: skip
        try:
            if arguments.overlap:
                simulate_overlap(gpus, sleep_s)
            else:
                simulate(Root.open(f"{folder}/out"), gpus, sleep_s)
        finally:
            ray.shutdown()


def simulate(root: Root, gpus: int, sleep_s: float) -> None:
    """Run both stages and print what they took."""
    print(
        f"{gpus} slots, works of {sleep_s:g} s; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
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
            Work(name=f"shard {i:06d}", arguments={"index": i, "url": f"s3://bucket/imagenet1k-train-{i:06d}.tar"})
            for i in range(NUM_SHARDS)
        ]
        task = partial(collect_asleep, model, sleep_s)
        # On CPUs: a task that holds a GPU gets a new process from Ray each time (its `max_calls` is 1).
        on_cpu = replace(session.resources, gpus=0)
        collect = partial(session.engine.run_tasks, task, shards, on_cpu)
        run_stage(session, "collect", collect, shards, lambda _: 1, gpus, sleep_s)
        batches = [
            Work(name=f"layer4.2.conv3 {some[0]}", arguments={"batch": batch_of(some)})
            for some in chunk(range(NUM_NEURONS), BATCH)
        ]
        factory = partial(SleepingVisualizer, model, sleep_s)
        visualize = partial(session.engine.run_actors, factory, batches, session.resources)
        run_stage(session, "visualize", visualize, batches, lambda _: BATCH, gpus, sleep_s)
    size = root.size_bytes(LOG_PATH)
    lines = root.read_text(LOG_PATH).count("\n")
    print_log_cost(size / lines)


def simulate_overlap(gpus: int, sleep_s: float) -> None:
    """Run both stages one after the other and side by side, and print what they took."""
    targets_s = sleep_s * REAL_TARGETS_S / REAL_S["visualize"]
    print(
        f"{gpus} GPUs and {CPUS_PER_GPU * gpus} CPUs, batches of {sleep_s:g} s, targets of {targets_s:g} s; "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    engine = RayEngine("local")
    units = range(BATCHES_PER_GPU * gpus * BATCH)
    batches = [batch_of(some) for some in chunk(units, BATCH)]
    works = [Work(name=f"fc {some[0]}", arguments={"units": some}) for some in chunk(units, UNITS_PER_TASK)]
    on_cpu, on_gpu = Resources(), Resources(gpus=1)
    model = engine.share(np.zeros(MODEL_BYTES, np.uint8))
    # Workers start and read the model before anything is timed.
    list(engine.run_tasks(partial(targets_asleep, 0.1), works[: 4 * CPUS_PER_GPU * gpus], on_cpu))
    for name, resources in (("one after the other", on_gpu), ("side by side", replace(on_gpu, reserves_cpus=False))):
        state = TargetState(committed={"fc": set()}, open={"fc": set(units)})
        making = settle(engine.run_tasks(partial(targets_asleep, targets_s), works, on_cpu), state)
        started = time.perf_counter()
        if resources.reserves_cpus:
            for _ in making:
                pass
            feed = visualization_works(batches, [], state, (), [])
        else:
            feed = visualization_works([], batches, state, making, [])
        first, count = 0.0, 0
        for outcome in engine.run_actors(partial(SleepingVisualizer, model, sleep_s), feed, resources):
            if outcome is not PAUSE:
                assert outcome.ok, outcome.attempt.error
                first = first or time.perf_counter() - started
                count += 1
        assert count == len(batches)
        print(f"  {name:<20}{time.perf_counter() - started:8.1f} s; the first batch after {first:.1f} s", flush=True)
    least = max(len(works) * targets_s / CPUS_PER_GPU, len(batches) * sleep_s) / gpus
    print(f"  {'the slower stage':<20}{least:8.1f} s, were it alone and nothing ever waited")


def batch_of(units: tuple[int, ...]) -> Batch:
    """A batch of visualizations."""
    return Batch(layer="fc", method="vital", seed=0, units=units)


def settle(outcomes: Iterator[Outcome], state: TargetState) -> Iterator[None]:
    """Stands for `jobs.stages.targets.make`."""
    for outcome in outcomes:
        if outcome is not PAUSE:
            assert outcome.ok, outcome.attempt.error
            state.settle("fc", outcome.work.arguments["units"], ok=True)
        yield


def targets_asleep(sleep_s: float, *, units: Sequence[int]) -> None:
    """Stands for `jobs.stages.targets.make_targets`."""
    time.sleep(sleep_s)


def collect_asleep(model: Shared[np.ndarray], sleep_s: float, *, index: int, url: str) -> dict[str, Any]:
    """Stands for `jobs.stages.collect.collect_shard`."""
    assert len(model.get()) == MODEL_BYTES
    time.sleep(sleep_s)
    return {
        "num_samples": IMAGES_PER_SHARD - 1,
        "num_skipped": 1,
        "skipped_for": {"corrupt": 1},
        "skipped_examples": [f"corrupt (n01440764_{index} in {url}: image file is truncated)"],
    }


class SleepingVisualizer:
    """Stands for `jobs.stages.visualize_actor.Visualizer`."""

    def __init__(self, model: Shared[np.ndarray], sleep_s: float) -> None:
        assert len(model.get()) == MODEL_BYTES
        self._sleep_s = sleep_s

    def __call__(self, *, batch: Batch) -> dict[str, int]:
        time.sleep(self._sleep_s)
        return {"ok": len(batch.units), "skipped": 0}


@dataclass
class Watch:
    """What the driver uses, looked at every `SAMPLE_EVERY_S` by a thread of its own."""

    rows: list[dict[str, float]] = field(default_factory=list)
    in_flight: int = 0

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop."""
        gallery, cpu = time.perf_counter(), time.process_time()
        while not stop.wait(SAMPLE_EVERY_S):
            now, cpu_now = time.perf_counter(), time.process_time()
            self.rows.append(
                {
                    "driver CPU, % of one": 100 * (cpu_now - cpu) / (now - gallery),
                    "driver memory, MB": resident_bytes() / 1e6,
                    "object store, MB": stored_bytes() / 1e6,
                    "works in flight": self.in_flight,
                }
            )
            gallery, cpu = now, time.process_time()  # without what looking cost


def run_stage(
    session: Session,
    stage: str,
    run: Callable[[], Iterator[Outcome]],
    works: Sequence[Work],
    size: Callable[[Work], int],
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
        outcomes = session.follow(stage, run(), total=sum(map(size, works)), noun="things", size=size)
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
    print(f"\n{stage}: {len(finished)} works in {finished[-1] - finished[0] + sleep_s:.0f} s")
    # Steady: all slots busy, which they are not while workers start nor when the queue is empty.
    steady = [row for row in rows if row["works in flight"] >= slots]
    quarter = max(1, len(steady) // 4)
    for name in rows[0]:
        first, last = (np.median([row[name] for row in part]) for part in (steady[:quarter], steady[-quarter:]))
        print(f"  {name:<24}{first:8.1f} in the first quarter, {last:8.1f} in the last")
    real_s = REAL_S[stage]
    first, last = len(finished) // 4, 3 * len(finished) // 4
    waiting_s = slots * (finished[last] - finished[first]) / (last - first) - sleep_s
    per_work_s = cpu_s / len(finished)
    real = f"of the {real_s:.0f} s of a real work"
    print(f"  driver CPU              {1e3 * per_work_s:8.1f} ms for each work, {per_work_s / real_s:.3%} {real}")
    print(f"  a worker waits          {1e3 * waiting_s:8.1f} ms between two works, {waiting_s / real_s:.2%} {real}")


def print_log_cost(line_bytes: float) -> None:
    """What it costs to send the last part of the log again every `REMOTE_FLUSH_S`, for a run of 28,000 works."""
    works = 28_000
    whole = works * line_bytes
    for hours in (1, 10):
        flushes = int(hours * 3600 / REMOTE_FLUSH_S)
        part = sent = 0.0
        for _ in range(flushes):
            part += whole / flushes
            sent += part
            part = 0.0 if part >= PART_BYTES else part
        print(
            f"\nrun/log.jsonl: {line_bytes:.0f} bytes a line, {whole / 1e6:.1f} MB for {works} works; on object "
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
