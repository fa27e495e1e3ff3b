"""Time of an optimization step over the bare forward and backward pass of the same model, batch and size.

    python -m benchmarks.step_time [--model timm:tf_efficientnet_lite0] [--batch-size 8] [--size 224]

Prints one line per kind of neuron and preset. Both sides take turns in one process, and the median of the ratios is
printed. Both have the allocator of a worker (`jobs.engine.allocator`), unless `--allocator torch` leaves it as it is.
`bare` runs the module as far as the last feature layer and back to the image; its loss is the sum of the features.
Steps are timed from the end of the first to the end of the last. What is done once for a visualization, such as scoring
it when it is finished, is `once`, in steps.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from benchmarks.common.program import make_parser, print_header
from benchmarks.common.steps import BatchOfNeurons
from benchmarks.common.timing import in_turn
from jobs.engine.allocator import freed_memory_kept
from pipeline.models import Model, features_of, load_model
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.step import EXECUTION_MODES


def main() -> None:
    parser = make_parser(__doc__, threads=True)
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--weights", default="random", help="the time does not depend on them")
    parser.add_argument(
        "--layer", default="", help="of the intermediate neurons; default: the last but one feature layer"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--steps", type=int, default=10, help="steps in one timed run; relevance comes every fifth")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--execution-mode", choices=EXECUTION_MODES, default="traced", help="of neurons with relevance")
    parser.add_argument("--allocator", choices=("worker", "torch"), default="worker")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with freed_memory_kept() if arguments.allocator == "worker" else nullcontext(False) as is_kept:
        time_cases(arguments, allocator="worker" if is_kept else "torch")


def time_cases(arguments: argparse.Namespace, *, allocator: str) -> None:
    """Print a line for each kind of neuron and preset."""
    model = load_model(arguments.model, arguments.weights)
    intermediate = arguments.layer or model.default_feature_layers()[-2].layer
    print_header(
        arguments.model,
        f"batch {arguments.batch_size} at {arguments.size} px",
        f"allocator {allocator}",
        f"steps with relevance {arguments.execution_mode}",
    )
    print(f"{'neurons':<28}{'preset':<12}{'relevance':<12}{'bare ms':>9}{'step ms':>9}{'ratio':>8}{'once':>8}")
    cases = [
        (model.classifier_layer, "published", "none"),
        (model.classifier_layer, "fast", "none"),
        (intermediate, "published", "lrp"),
        (intermediate, "fast", "lrp"),
        (intermediate, "fast", "none"),
    ]
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(4, 3, arguments.size, arguments.size, generator=generator)
    for layer, name, rule in cases:
        batch = BatchOfNeurons(
            model,
            layer,
            references,
            dataclasses.replace(preset(name), steps=arguments.steps + 1),
            size=arguments.batch_size,
            rule=rule,
            execution_mode=arguments.execution_mode if rule == "lrp" else "plain",
        )
        bare = bare_steps(model, layer, references, arguments.batch_size, arguments.steps)
        times = in_turn({"bare": bare, "step": lambda batch=batch: timed(batch)}, arguments.repeats)
        ratio = statistics.median(s.each_s / b.each_s for b, s in zip(times["bare"], times["step"], strict=True))
        once = statistics.median(step.once_s / step.each_s for step in times["step"])
        bare_ms, step_ms = (1000 * statistics.median(run.each_s for run in runs) for runs in times.values())
        print(f"{layer:<28}{name:<12}{rule:<12}{bare_ms:>9.0f}{step_ms:>9.0f}{ratio:>8.2f}{once:>8.1f}", flush=True)


@dataclass(frozen=True)
class Timed:
    """Wall seconds of a run: of each step, and of all that is no step."""

    each_s: float
    once_s: float


def timed(batch: BatchOfNeurons) -> Timed:
    """A run of a batch, from the end of the first step to the end of the last."""
    times = batch.run()
    each_s = (times.ends_s[-1] - times.ends_s[0]) / (len(times.ends_s) - 1)
    return Timed(each_s=each_s, once_s=times.total_s - len(times.ends_s) * each_s)


def bare_steps(model: Model, layer: str, references: torch.Tensor, batch_size: int, steps: int) -> Callable[[], Timed]:
    """The same number of forward and backward passes and nothing else."""
    images = references[:1].repeat(batch_size, 1, 1, 1).requires_grad_()
    last = model.default_feature_layers()[-1].layer if layer == model.classifier_layer else layer

    def run() -> Timed:
        started = time.perf_counter()
        for _ in range(steps):
            features = features_of(model.module, images, [last])[last]
            torch.autograd.grad(features.sum(), images)
        return Timed(each_s=(time.perf_counter() - started) / steps, once_s=0.0)

    return run


if __name__ == "__main__":
    main()
