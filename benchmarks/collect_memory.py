"""Peak memory of a `collect` worker over tar shards of N and of 10 N dataset images, and over one shard and ten.

    python -m benchmarks.collect_memory [--images 200]
    python -m benchmarks.collect_memory --images 64 --settings MALLOC_MMAP_THRESHOLD_=4194304 "A=1 B=2" [--rounds 3]

Each case is a process of its own, as a Ray worker is one, in the environment of those on a cluster. It collects its
shards as the task of `collect` does: stem, stages and classes of `--model` with random weights, dataset images of 224
px drawn at random.

With `--settings`: what environments of a worker cost, in CPU seconds (its own and the kernel's) over one shard of N
after a first one, and its peak memory. Workers with none and with each take turns.
"""

import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.data import write_shard
from benchmarks.common.program import make_parser, print_header
from jobs.engine.ray_pools import TASK_ENVIRONMENT
from jobs.engine.worker import allocator_for_models
from pipeline.activations.collect import collect
from pipeline.activations.store import write_shard_statistics
from pipeline.data.shards import ErrorBudget, iterate_samples
from pipeline.io.root import Root
from pipeline.models import Model, load_model
from pipeline.neurons import match_layers

TIMES = 10
BATCH_SIZE = 32


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=200, help="N")
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--layers", nargs="*", default=["conv_stem", "blocks.?"])
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE…")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    few, many = arguments.images, TIMES * arguments.images
    print_header(arguments.model, f"batches of {BATCH_SIZE}")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.settings:
            shards = [write_shard(Path(folder, f"{index}.tar"), few, seed=index) for index in range(2)]
            compare(arguments.settings, arguments.rounds, shards, arguments.model, arguments.layers, f"{folder}/out")
            return
        small = [write_shard(Path(folder, f"small-{index}.tar"), few, seed=index) for index in range(TIMES)]
        large = write_shard(Path(folder, "large.tar"), many, seed=TIMES)
        cases = {f"1 shard of {few}": small[:1], f"1 shard of {many}": [large], f"{TIMES} shards of {few}": small}
        os.environ.update(TASK_ENVIRONMENT)  # as workers on a cluster have it; read when a process starts
        peaks = {}
        for name, shards in cases.items():
            peaks[name], _ = worker(shards, arguments.model, arguments.layers, f"{folder}/out")
            ratio = peaks[name] / next(iter(peaks.values()))
            print(f"{name + ' dataset images':<32}{peaks[name] / 1e6:8.1f} MB{ratio:8.3f}", flush=True)


def compare(
    settings: Sequence[str], rounds: int, shards: Sequence[str], model: str, layers: Sequence[str], root: str
) -> None:
    """Print CPU seconds for each dataset image of the last shard, and peak memory, without and with each setting."""
    found: dict[str, list[tuple[int, float]]] = {setting: [] for setting in ("", *settings)}
    for _ in range(rounds):
        for setting, results in found.items():
            variables = dict(variable.split("=", 1) for variable in setting.split())
            os.environ.update(variables)
            results.append(worker(shards, model, layers, root))
            for name in variables:
                del os.environ[name]
    usual = [cpu_s for _, cpu_s in found[""]]
    for setting, results in found.items():
        ratio = statistics.median(result[1] / base for result, base in zip(results, usual, strict=True))
        peak = statistics.median(peak for peak, _ in results)
        cpu_s = statistics.median(cpu_s for _, cpu_s in results)
        print(f"{cpu_s:8.2f} s CPU{ratio:8.3f}{peak / 1e6:9.1f} MB  {setting or 'as it is'}", flush=True)


def worker(shards: Sequence[str], model: str, layers: Sequence[str], root: str) -> tuple[int, float]:
    """Peak resident bytes of a fresh process that collects some shards, and its CPU seconds over the last of them."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_collect, args=(sender, list(shards), model, list(layers), root))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _collect(sender: Any, shards: list[str], name: str, patterns: list[str], root: str) -> None:
    torch.set_num_threads(1)
    model = load_model(name, "random")
    layers = match_layers(patterns, model.layers())
    for index, url in enumerate(shards):
        started = time.process_time()
        _collect_one(model, layers, index, url, Root.open(root))
    sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.process_time() - started))


def _collect_one(model: Model, layers: Sequence[str], index: int, url: str, root: Root) -> None:
    """As a task does, which keeps nothing when it returns."""
    budget = ErrorBudget(0.0)
    samples = iterate_samples(url, num_classes=model.num_classes, on_skip=budget.add_skip)
    with allocator_for_models("cpu"):
        shard_statistics = collect(
            model, samples, shard_index=index, layers=layers, batch_size=BATCH_SIZE, budget=budget
        )
    write_shard_statistics(root, index, shard_statistics, recipe_fingerprint="memory", shard_url=url)


if __name__ == "__main__":
    main()
