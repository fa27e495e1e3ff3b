"""Peak memory of a `collect` worker over tar shards of N and of 10 N photographs, and over one shard and ten.

    python benchmarks/collect_memory.py [--images 200]

Each case is a process of its own, as a Ray worker is one, that surveys its shards as the task of `collect` does: stem,
stages and classes of `--model` with random weights, photographs of 224 px drawn at random.
"""

import argparse
import io
import multiprocessing
import os
import resource
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.models import Model, load_model
from pipeline.neurons import match_layers
from pipeline.shards import ErrorBudget, iterate_samples
from pipeline.statistics.store import write_partial
from pipeline.statistics.survey import survey
from pipeline.storage import Root

PHOTOGRAPH_PX = 224
TIMES = 10
BATCH_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="N")
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--layers", nargs="*", default=["conv_stem", "blocks.?"])
    arguments = parser.parse_args()
    few, many = arguments.images, TIMES * arguments.images
    print(
        f"{arguments.model}, batches of {BATCH_SIZE}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    )
    with tempfile.TemporaryDirectory() as folder:
        small = [write_shard(Path(folder, f"small-{index}.tar"), few, seed=index) for index in range(TIMES)]
        large = write_shard(Path(folder, "large.tar"), many, seed=TIMES)
        cases = {f"1 shard of {few}": small[:1], f"1 shard of {many}": [large], f"{TIMES} shards of {few}": small}
        peaks = {}
        for name, shards in cases.items():
            peaks[name] = peak_of_worker(shards, arguments.model, arguments.layers, f"{folder}/out")
            ratio = peaks[name] / next(iter(peaks.values()))
            print(f"{name + ' photographs':<32}{peaks[name] / 1e6:8.1f} MB{ratio:8.3f}", flush=True)


def write_shard(path: Path, count: int, *, seed: int) -> str:
    """A tar shard of `count` labeled JPEGs; returns its path."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for index in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            coarse.resize((PHOTOGRAPH_PX, PHOTOGRAPH_PX), Image.Resampling.BILINEAR).save(buffer, "JPEG")
            members = {"jpg": buffer.getvalue(), "cls": str(index % 1000).encode()}
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{path.stem}-{index:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(path)


def peak_of_worker(shards: Sequence[str], model: str, layers: Sequence[str], root: str) -> int:
    """Peak resident bytes of a fresh process that surveys some shards."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_survey, args=(sender, list(shards), model, list(layers), root))
    worker.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        worker.join()


def _survey(sender: Any, shards: list[str], name: str, patterns: list[str], root: str) -> None:
    torch.set_num_threads(1)
    model = load_model(name, "random")
    layers = match_layers(patterns, model.layers())
    for index, url in enumerate(shards):
        _survey_one(model, layers, index, url, Root.open(root))
    sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _survey_one(model: Model, layers: Sequence[str], index: int, url: str, root: Root) -> None:
    """As a task does, which keeps nothing when it returns."""
    budget = ErrorBudget(0.0)
    samples = iterate_samples(url, num_classes=model.num_classes, on_skip=budget.add_skip)
    partial = survey(model, samples, shard_index=index, layers=layers, batch_size=BATCH_SIZE, budget=budget)
    write_partial(root, index, partial, recipe_fingerprint="memory", shard_url=url)


if __name__ == "__main__":
    main()
