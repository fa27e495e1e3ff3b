"""Images per second of `collect` over a bare loop that decodes, preprocesses and runs the model.

    python benchmarks/collect_throughput.py [SHARD.tar …]

The default shards are those of the demo. Both loops run in one process, in turn; the median ratio is quoted.
`collect` keeps the statistics of the stem, of all blocks and of the classes at once, as the demo recipe does.
"""

import argparse
import io
import statistics
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from PIL import Image

from jobs.engine.allocator import freed_memory_kept
from pipeline.activations.collect import collect
from pipeline.data.sample_errors import ErrorBudget
from pipeline.data.shards import iterate_samples
from pipeline.models import Model, load_model
from pipeline.neurons import match_layers

DEMO_SHARDS = sorted((Path(__file__).parent.parent / "jobs" / "demo_data" / "shards").glob("*.tar"))
MAX_PIXELS = 80_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="*", default=[str(path) for path in DEMO_SHARDS])
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--layers", nargs="*", default=["conv_stem", "blocks.?"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="as a worker of the pipeline has")
    parser.add_argument("--decode-threads", type=int, default=0, help="of collect, beside the model, as beside a GPU")
    parser.add_argument(
        "--heap", choices=("worker", "torch"), default="worker", help="of both, see `jobs.engine.allocator`"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with freed_memory_kept() if arguments.heap == "worker" else nullcontext():
        time_loops(arguments)


def time_loops(arguments: argparse.Namespace) -> None:
    """Print the images per second of both loops, which take turns, and their ratio."""
    model = load_model(arguments.model, "random")
    layers = match_layers(arguments.layers, model.layers())
    loops: dict[str, Callable[[], int]] = {
        "bare": lambda: bare_loop(model, arguments.shards, arguments.batch_size),
        "collect": lambda: collect_loop(model, layers, arguments),
    }
    for loop in loops.values():
        loop()  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(arguments.repeats):
        for name, loop in loops.items():
            started = time.perf_counter()
            images = loop()
            rates[name].append(images / (time.perf_counter() - started))
    ratio = statistics.median(c / b for c, b in zip(rates["collect"], rates["bare"], strict=True))
    print(
        f"{arguments.model}, {len(layers)} layers, batch {arguments.batch_size}, torch {torch.__version__}, "
        f"{arguments.threads} threads, {arguments.decode_threads} that decode, heap {arguments.heap}, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    for name, values in rates.items():
        print(f"{name:<10}{statistics.median(values):8.1f} images/s")
    print(f"{'ratio':<10}{ratio:8.2f}")


@torch.inference_mode()
def bare_loop(model: Model, shards: Sequence[str], batch_size: int) -> int:
    """Decode, preprocess, run. Returns the number of images."""
    count, batch = 0, []
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    data = tar.extractfile(member).read()  # type: ignore[union-attr]
                    batch.append(model.preprocess(Image.open(io.BytesIO(data)).convert("RGB")))
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
