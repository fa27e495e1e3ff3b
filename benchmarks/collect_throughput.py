"""Images per second of `collect` over a bare loop that decodes, preprocesses and runs the model.

    python -m benchmarks.collect_throughput [SHARD.tar …]

The default shards are those of the demo. Both loops run in one process, in turn; the median ratio is quoted.
`collect` keeps the statistics of the stem, of all blocks and of the classes at once, as the demo recipe does.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from benchmarks.common.data import DEMO_SHARDS, images_of
from benchmarks.common.program import make_parser, print_header
from benchmarks.common.timing import in_turn
from jobs.engine.allocator import freed_memory_kept
from pipeline.activations.collect import collect
from pipeline.data.sample_errors import ErrorBudget
from pipeline.data.shards import iterate_samples
from pipeline.models import Model, load_model
from pipeline.neurons import match_layers

MAX_PIXELS = 80_000_000


def main() -> None:
    parser = make_parser(__doc__, threads=True)
    parser.add_argument("shards", nargs="*", default=[str(path) for path in DEMO_SHARDS])
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--layers", nargs="*", default=["conv_stem", "blocks.?"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decode-threads", type=int, default=0, help="of collect, beside the model, as beside a GPU")
    parser.add_argument(
        "--allocator", choices=("worker", "torch"), default="worker", help="of both, see `jobs.engine.allocator`"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with freed_memory_kept() if arguments.allocator == "worker" else nullcontext():
        time_loops(arguments)


def time_loops(arguments: argparse.Namespace) -> None:
    """Print the images per second of both loops, which take turns, and their ratio."""
    model = load_model(arguments.model, "random")
    layers = match_layers(arguments.layers, model.layers())
    loops: dict[str, Callable[[], float]] = {
        "bare": lambda: images_per_s(lambda: bare_loop(model, arguments.shards, arguments.batch_size)),
        "collect": lambda: images_per_s(lambda: collect_loop(model, layers, arguments)),
    }
    print_header(
        arguments.model,
        f"{len(layers)} layers",
        f"batch {arguments.batch_size}",
        f"{arguments.decode_threads} threads that decode",
        f"allocator {arguments.allocator}",
    )
    rates = in_turn(loops, arguments.repeats)
    for name, values in rates.items():
        print(f"{name:<10}{statistics.median(values):8.1f} images/s")
    ratio = statistics.median(c / b for c, b in zip(rates["collect"], rates["bare"], strict=True))
    print(f"{'ratio':<10}{ratio:8.2f}")


def images_per_s(loop: Callable[[], int]) -> float:
    """The rate of a loop that returns how many images it took."""
    started = time.perf_counter()
    images = loop()
    return images / (time.perf_counter() - started)


@torch.inference_mode()
def bare_loop(model: Model, shards: Sequence[str], batch_size: int) -> int:
    """Decode, preprocess, run. Returns the number of images."""
    count, batch = 0, []
    for shard in shards:
        for image in images_of(shard):
            batch.append(model.preprocess(image))
            if len(batch) == batch_size:
                model.module(torch.stack(batch))
                count, batch = count + len(batch), []
    if batch:
        model.module(torch.stack(batch))
    return count + len(batch)


def collect_loop(model: Model, layers: Sequence[str], arguments: argparse.Namespace) -> int:
    """What one task of the collect stage does for each shard. Returns the number of images."""
    count = 0
    for index, shard in enumerate(arguments.shards):
        budget = ErrorBudget(max_error_fraction=0)
        samples = iterate_samples(shard, num_classes=model.num_classes, on_skip=budget.add_skip)
        shard_statistics = collect(
            model,
            samples,
            shard_index=index,
            layers=layers,
            feature_layers=[],
            top_k=64,
            batch_size=arguments.batch_size,
            activation="max",
            budget=budget,
            max_pixels=MAX_PIXELS,
            decode_threads=arguments.decode_threads,
        )
        count += shard_statistics.num_samples
    return count


if __name__ == "__main__":
    main()
