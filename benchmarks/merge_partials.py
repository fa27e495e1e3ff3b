"""Seconds and memory of the merge at the end of `collect`, at ImageNet's size: 1,024 shard statistics of 1,251 images.

    python benchmarks/merge_shard_statistics.py FOLDER [--layers stages|convolutions] [--shards 1024]

The shard statistics are drawn, not recorded: the units of ResNet-50 (its stage outputs and classes, 4,904; or all of
its convolutions and classes, 27,560), activations of a rectified normal distribution with a scale of its own for each
unit. What the merge costs depends on how often a shard's best images enter the best of all; the best of 1,251 images
are therefore drawn anew for every shard, from the exact distribution of order statistics. `FOLDER` keeps the shard
statistics.
"""

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch

from pipeline.activations.accumulators.class_topk import ClassTopK
from pipeline.activations.accumulators.histogram import Histogram
from pipeline.activations.accumulators.moments import Moments
from pipeline.activations.accumulators.shard_statistics import LayerStatistics, ShardStatistics
from pipeline.activations.accumulators.spectrum import MeanSpectrum
from pipeline.activations.accumulators.topk import TopK
from pipeline.activations.store import (
    committed_shards,
    merge_shard_statistics,
    write_shard_statistics,
    write_statistics,
)
from pipeline.io.root import Root

IMAGES: Final = 1251
TOP_K: Final = 64
NUM_CLASSES: Final = 1000
INPUT_PX: Final = 224
RECIPE: Final = "benchmark"
NUM_HISTOGRAMS: Final = 4  # drawn; every shard has one of them, shifted among the units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--layers", choices=("stages", "convolutions"), default="stages")
    parser.add_argument("--shards", type=int, default=1024)
    arguments = parser.parse_args()
    root = Root.open(os.path.join(arguments.folder, f"{arguments.layers}-{arguments.shards}"))
    urls = [f"s3://bucket/imagenet1k-train-{index:06d}.tar" for index in range(arguments.shards)]
    layers = {"stages": stage_units, "convolutions": convolution_units}[arguments.layers]()
    missing = set(range(len(urls))) - committed_shards(root, recipe_fingerprint=RECIPE, shard_urls=urls)
    if missing:
        # In a child, so that this process's peak memory is that of the merge.
        writer = multiprocessing.Process(target=write_all_shard_statistics, args=(root, urls, layers, sorted(missing)))
        writer.start()
        writer.join()

    before_bytes = peak_bytes()
    times = {}
    started = time.perf_counter(), time.process_time()
    merged = merge_shard_statistics(root, urls, recipe_fingerprint=RECIPE)
    times["merge_shard_statistics"] = time.perf_counter() - started[0], time.process_time() - started[1]
    started = time.perf_counter(), time.process_time()
    write_statistics(root, merged, {"recipe_fingerprint": RECIPE})
    times["write_statistics"] = time.perf_counter() - started[0], time.process_time() - started[1]
    files = [name for name in root.walk("run/shard_statistics") if not name.endswith((".json", ".parquet"))]
    stored_bytes = sum(root.size_bytes(f"run/shard_statistics/{name}") for name in files)
    print(
        f"{arguments.layers}: {len(layers)} layers, {sum(layers.values())} units, {len(urls)} shard statistics of {IMAGES} "
        f"images, top {TOP_K}; {stored_bytes / len(urls) / 1e6:.1f} MB stored for each; load {os.getloadavg()[0]:.1f}, "
        f"numpy {np.__version__}, {time.strftime('%Y-%m-%d')}"
    )
    for name, (wall_s, cpu_s) in times.items():
        print(f"{name:<18}{wall_s:8.1f} s, {cpu_s:.1f} s of CPU")
    print(f"{'peak memory':<18}{(peak_bytes() - before_bytes) / 1e6:8.0f} MB above the {before_bytes / 1e6:.0f} before")


def write_all_shard_statistics(
    root: Root, urls: Sequence[str], layers: Mapping[str, int], shards: Sequence[int]
) -> None:
    """Draw and commit the shard statistics of some shards."""
    for index, shard_statistics in draw_shard_statistics(layers, shards):
        write_shard_statistics(root, index, shard_statistics, recipe_fingerprint=RECIPE, shard_url=urls[index])


def stage_units() -> dict[str, int]:
    """The outputs of ResNet-50's stem and stages, and its classes: layer → units."""
    return {"maxpool": 64, "layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048, "fc": NUM_CLASSES}


def convolution_units() -> dict[str, int]:
    """All convolutions of ResNet-50, and its classes: layer → units."""
    units = {"conv1": 64}
    for stage, (width, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), start=1):
        for block in range(blocks):
            for conv, channels in enumerate((width, width, 4 * width), start=1):
                units[f"layer{stage}.{block}.conv{conv}"] = channels
            if block == 0:
                units[f"layer{stage}.0.downsample.0"] = 4 * width
    return units | {"fc": NUM_CLASSES}


def draw_shard_statistics(layers: Mapping[str, int], shards: Sequence[int]) -> Iterator[tuple[int, ShardStatistics]]:
    """(shard index, its partial) for some shards; the same for every call."""
    rng = np.random.default_rng(0)
    scales = {name: (rng.uniform(0, 2, units), rng.uniform(0.1, 1, units)) for name, units in layers.items()}
    histograms = {name: [_histogram(*scale, rng) for _ in range(NUM_HISTOGRAMS)] for name, scale in scales.items()}
    for shard in shards:
        own = np.random.default_rng(shard)
        yield (
            shard,
            ShardStatistics(
                shards=frozenset({shard}),
                num_samples=IMAGES,
                num_skipped=0,
                digest=shard,
                layers={
                    name: LayerStatistics(
                        moments=_moments(*scale, 784 * IMAGES, own),
                        activation_moments=_moments(*scale, IMAGES, own),
                        histogram=histograms[name][own.integers(NUM_HISTOGRAMS)],
                        topk=_topk(*scale, shard, own),
                        comoments={},
                    )
                    for name, scale in scales.items()
                },
                classes=_classes(shard, own),
                spectrum=MeanSpectrum(count=IMAGES, magnitude=own.random((3, INPUT_PX, INPUT_PX // 2 + 1))),
                samples=_samples(shard, own),
            ),
        )


def _histogram(mean: np.ndarray, std: np.ndarray, rng: np.random.Generator) -> Histogram:
    return Histogram.of(np.maximum(rng.normal(mean, std, (IMAGES, len(mean))), 0).astype(np.float32))


def _moments(mean: np.ndarray, std: np.ndarray, count: int, rng: np.random.Generator) -> Moments:
    jitter = rng.normal(0, 0.01, len(mean))
    return Moments(
        count=count,
        mean=mean + jitter,
        m2=count * np.square(std) + jitter,
        minimum=np.zeros(len(mean), np.float32),
        maximum=(mean + 3 * std + jitter).astype(np.float32),
    )


def _topk(mean: np.ndarray, std: np.ndarray, shard: int, rng: np.random.Generator) -> TopK:
    # The r-th largest of n uniform numbers is exp(−Σ E_i / (n − i)), i < r, with exponential E_i (Rényi 1953).
    spacings = rng.exponential(size=(len(mean), TOP_K)) / (IMAGES - np.arange(TOP_K))
    uniform = torch.from_numpy(np.exp(-spacings.cumsum(axis=1)))
    activation = mean[:, None] + std[:, None] * torch.special.ndtri(uniform).numpy()
    first = rng.integers(0, IMAGES, len(mean))[:, None]
    step = rng.choice([d for d in range(1, IMAGES) if np.gcd(d, IMAGES) == 1], len(mean))[:, None]
    return TopK(
        activation=activation.astype(np.float32),
        sample=(shard << 24) + (first + step * np.arange(TOP_K)) % IMAGES,
        position=rng.integers(0, 56, (len(mean), TOP_K, 2), dtype=np.int32),
    )


def _classes(shard: int, rng: np.random.Generator) -> ClassTopK:
    logits = rng.normal(8, 3, (IMAGES, NUM_CLASSES)).astype(np.float32)
    sample = (shard << 24) + np.arange(IMAGES)
    return ClassTopK.of(logits, rng.integers(0, NUM_CLASSES, IMAGES), sample, TOP_K)


def _samples(shard: int, rng: np.random.Generator) -> list[dict[str, object]]:
    size = rng.integers(50_000, 200_000, IMAGES)
    offset = np.cumsum(size)
    return [
        {
            "sample": (shard << 24) + i,
            "key": f"n{rng.integers(10**7, 2 * 10**7)}_{i}",
            "tar_shard": f"s3://bucket/imagenet1k-train-{shard:06d}.tar",
            "offset": int(offset[i]),
            "size": int(size[i]),
            "label": int(rng.integers(0, NUM_CLASSES)),
            "top1": int(rng.integers(0, NUM_CLASSES)),
            "top1_logit": float(rng.normal(8, 3)),
        }
        for i in range(IMAGES)
    ]


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
