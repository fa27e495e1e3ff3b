"""Time of an optimization step over the bare forward and backward pass of the same model, batch and size.

    python benchmarks/step_time.py [--model timm:tf_efficientnet_lite0] [--batch-size 8] [--size 224]

Prints one line per kind of neuron and preset. Both sides are timed in turn in one process, so that the ratio holds on a
machine whose speed drifts; the median of the ratios is quoted. Both have the heap of a worker (`jobs.engine.malloc`),
unless `--heap torch` leaves it as it is. `bare` runs the module as far as the last feature layer and back to the image,
with the sum of its features as the loss. A step is timed from the end of the first to the end of the last: what is done
once for a visualization, such as looking at it when it is finished, is `once`, in steps.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from jobs.engine.malloc import freed_memory_kept
from pipeline.models import features_of, load_model
from pipeline.synthesis.methods.options import VitalOptions
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.optimize import synthesize
from pipeline.synthesis.step import EXECUTION_MODES

LITE0 = "timm:tf_efficientnet_lite0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=LITE0)
    parser.add_argument("--weights", default="random", help="the time does not depend on them")
    parser.add_argument(
        "--layer", default="", help="of the intermediate neurons; default: the last but one feature layer"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--steps", type=int, default=10, help="steps in one timed run; relevance comes every fifth")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--way", choices=EXECUTION_MODES, default="traced", help="of the intermediate neurons; classes gain nothing"
    )
    parser.add_argument("--heap", choices=("worker", "torch"), default="worker")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with freed_memory_kept() if arguments.heap == "worker" else nullcontext(False) as is_kept:
        time_cases(arguments, heap="worker" if is_kept else "torch")


def time_cases(arguments: argparse.Namespace, *, heap: str) -> None:
    """Print a line for each kind of neuron and preset."""
    model = load_model(arguments.model, arguments.weights)
    intermediate = arguments.layer or model.default_feature_layers()[-2].layer
    print(
        f"{arguments.model}, batch {arguments.batch_size} at {arguments.size} px, torch {torch.__version__}, "
        f"{arguments.threads} threads, heap {heap}, inner {arguments.way}, {time.strftime('%Y-%m-%d')}"
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
        options = dataclasses.replace(preset(name), steps=arguments.steps + 1)
        way = arguments.way if rule == "lrp" else "plain"
        run_steps = batched_steps(model, layer, rule, options, references, arguments.batch_size, way)
        run_bare = bare_steps(model, layer, references, arguments.batch_size, arguments.steps)
        times = time_in_turn(run_bare, run_steps, arguments.repeats)
        ratio = statistics.median(step.each_s / bare.each_s for bare, step in times)
        once = statistics.median(step.once_s / step.each_s for _, step in times)
        milliseconds = [1000 * statistics.median(timed.each_s for timed in side) for side in zip(*times, strict=True)]
        print(
            f"{layer:<28}{name:<12}{rule:<12}{milliseconds[0]:>9.0f}{milliseconds[1]:>9.0f}{ratio:>8.2f}{once:>8.1f}",
            flush=True,
        )


@dataclass(frozen=True)
class Timed:
    """Wall seconds of a run: of each step, and of all that is no step."""

    each_s: float
    once_s: float


def batched_steps(
    model, layer: str, rule: str, options: VitalOptions, references: torch.Tensor, batch_size: int, way: str
) -> Callable[[], Timed]:  # fmt: skip
    """A run of `options.steps` steps of a batch of neurons of one layer, through the public function."""
    plan = plan_alignment(model, layer, options, rule=rule, image_size_px=references.shape[-1])
    target = reference_target(model, plan, 0, references)

    def run() -> Timed:
        ends: list[float] = []
        started = time.perf_counter()
        synthesize(
            model,
            [(layer, unit) for unit in range(batch_size)],
            [target] * batch_size,
            options=options,
            image_size_px=plan.image_size_px,
            seeds=list(range(batch_size)),
            execution_mode=way,
            on_step=lambda _done, _steps: ends.append(time.perf_counter()),
        )
        in_all, each_s = time.perf_counter() - started, (ends[-1] - ends[0]) / (len(ends) - 1)
        return Timed(each_s=each_s, once_s=in_all - len(ends) * each_s)

    return run


def bare_steps(model, layer: str, references: torch.Tensor, batch_size: int, steps: int) -> Callable[[], Timed]:
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


def time_in_turn(first: Callable[[], Timed], second: Callable[[], Timed], repeats: int) -> list[tuple[Timed, Timed]]:
    """Both in turn, after one warm-up of each."""
    first(), second()
    return [(first(), second()) for _ in range(repeats)]


if __name__ == "__main__":
    main()
