"""Seconds and memory of unit embeddings, neighbors and map by the number of neurons, on drawn top-activating images.

    python -m benchmarks.neighbors [--neurons 10000 100000] [--no-layout]

Top-activating images are as of ImageNet: 64 dataset images of 1,281,167 for each neuron. Every neuron belongs to one of
600 topics and takes 70 % of its top-activating images from the dataset images of its topic, the first of them more
often. `same topic` is the share of the neighbors found that are of the neuron's own topic. Each step runs in a process
of its own, so that its peak memory is its own; a process with numpy and torch alone has about 300 MiB.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.common.program import make_parser, print_header
from benchmarks.common.timing import in_process
from pipeline.atlas.neighbors.embeddings import TopImages, unit_embeddings
from pipeline.atlas.neighbors.nearest import nearest_neighbors
from pipeline.atlas.neighbors.projection import layout, layout_name

NUM_DATASET_IMAGES: Final = 1_281_167
NUM_TOPICS: Final = 600
TOP_K: Final = 64
SHARE_OF_TOPIC: Final = 0.7


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--neurons", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--no-layout", action="store_true")
    arguments = parser.parse_args()
    print_header(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')}")
    print(f"{'neurons':>8}  {'step':<28}{'seconds':>9}{'CPU s':>8}{'peak MiB':>10}  remark")
    steps: list[Callable[[Path, int], str]] = [make_unit_embeddings, find_neighbors]
    if layout_name() and not arguments.no_layout:
        steps.append(lay_out)
    for num_neurons in arguments.neurons:
        with tempfile.TemporaryDirectory() as folder:
            for step in steps:
                usage = in_process(step, Path(folder), num_neurons)
                print(
                    f"{num_neurons:>8}  {step.__name__:<28}{usage.wall_s:>9.1f}{usage.cpu_s:>8.1f}"
                    f"{usage.peak_mib:>10.0f}  {usage.result}",
                    flush=True,
                )


def drawn_top_images(num_neurons: int, seed: int = 0) -> tuple[TopImages, np.ndarray]:
    """Top-activating images [N, TOP_K] and the topic [N] of each neuron."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, NUM_TOPICS, num_neurons)
    shape = (num_neurons, TOP_K)
    per_topic = NUM_DATASET_IMAGES // NUM_TOPICS
    of_topic = topic[:, None] * per_topic + (per_topic * rng.random(shape) ** 3).astype(np.int64)
    sample = np.where(rng.random(shape) < SHARE_OF_TOPIC, of_topic, rng.integers(0, NUM_DATASET_IMAGES, shape))
    activation = 1 + np.sort(rng.exponential(1, shape), axis=1)[:, ::-1].astype(np.float32)
    return TopImages(activation=activation, sample=sample, mean=np.full(num_neurons, 0.5)), topic


def make_unit_embeddings(folder: Path, num_neurons: int) -> str:
    top_images, _ = drawn_top_images(num_neurons)
    found = unit_embeddings(top_images)
    np.save(folder / "unit_embeddings.npy", found)
    return f"{found.shape[1]} dimensions"


def find_neighbors(folder: Path, num_neurons: int) -> str:
    _, topic = drawn_top_images(num_neurons)
    index, _ = nearest_neighbors(np.load(folder / "unit_embeddings.npy"))
    return f"same topic {(topic[index] == topic[:, None]).mean():.3f}"


def lay_out(folder: Path, num_neurons: int) -> str:
    places = layout(np.load(folder / "unit_embeddings.npy"))
    return f"{layout_name()}, {len(places)} places, one thread"


if __name__ == "__main__":
    main()
