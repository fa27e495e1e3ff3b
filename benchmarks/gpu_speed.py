"""Speed on a GPU: seconds per neuron, step over bare pass, memory and use of the device, by preset and precision.

    python -m benchmarks.gpu_speed [--layers class intermediate] [--presets published fast] …

Needs neither Ray nor Zarr. For the neurons of each layer (`class`, `intermediate`, which is the last feature layer but
one, or one by its name), of each preset and precision, plain and compiled, it optimizes `--neurons` neurons through
`synthesize` in batches as a run does, for `--steps` steps each, and times what a batch takes in the steady state (after
its first steps) by the device's own clock. `s/neuron` is that times the preset's steps; nothing else of a run depends
on the steps. `bare` is a forward and backward pass of the module as far as the neurons' layer in the same precision and
batch; `busy` is the share of wall time in which kernels run. The lines below the table
say how long all units of the layers together would take. The weights are random: the time does not depend on them.
"""

import argparse
import collections
import dataclasses
import itertools
import statistics
import time

import torch

from benchmarks.common.program import make_parser, print_header
from pipeline.models import Model, features_of, load_model
from pipeline.synthesis.methods.options import VitalOptions
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.optimize import synthesize
from pipeline.synthesis.step import TracingError

_WARM_STEPS = 12


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--neurons", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60, help="measured per batch, after the warm-up")
    parser.add_argument("--presets", nargs="+", default=["published", "fast"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--execution-modes", nargs="+", default=["plain", "compiled"])
    parser.add_argument("--layers", nargs="+", default=["class", "intermediate"])
    arguments = parser.parse_args()

    model = load_model(arguments.model, "random", device="cuda")
    layers = [layer_named(model, name) for name in arguments.layers]
    units = {layer: model.units(layer) for layer in layers}
    print_header(
        f"{arguments.model}, 224 px",
        f"batches of {arguments.batch_size}",
        f"{arguments.neurons} neurons",
        torch.cuda.get_device_name(),
    )
    heads = (
        "neurons",
        "preset",
        "precision",
        "execution mode",
        "bare ms",
        "step ms",
        "ratio",
        "s/neuron",
        "MB/neuron",
        "busy",
    )
    print("| " + " | ".join([*heads, "first s"]) + " |\n" + "|---" * 4 + "|---:" * 7 + "|", flush=True)
    seconds: dict[tuple[str, str, str], float] = collections.defaultdict(float)
    for layer, precision in itertools.product(layers, arguments.precisions):
        bare_ms = bare(model.in_precision(precision), layer, arguments.batch_size)
        for name, mode in itertools.product(arguments.presets, arguments.execution_modes):
            place = [layer, name, precision, mode]
            try:
                step_ms, megabytes, busy, first_s = measure(model, layer, preset(name), precision, mode, arguments)
            except (TracingError, torch.OutOfMemoryError) as error:
                print(table_line([*place, f"{type(error).__name__}: {error}".splitlines()[0]]), flush=True)
                seconds[name, precision, mode] = float("nan")
                continue
            neuron_s = step_ms * preset(name).steps / 1000
            seconds[name, precision, mode] += units[layer] * neuron_s
            numbers = [
                *(f"{bare_ms:.3f}", f"{step_ms:.3f}", f"{step_ms / bare_ms:.2f}"),
                *(f"{neuron_s:.3f}", f"{megabytes:.0f}"),
                *(f"{busy:.0%}", f"{first_s:.0f}"),
            ]
            print(table_line([*place, *numbers]), flush=True)
    print(f"\nAll {sum(units.values()):,} units of {', '.join(f'{layer} ({n:,})' for layer, n in units.items())}:")
    for place, total_s in seconds.items():
        print(f"{' '.join(place)}: {total_s / 60:.1f} minutes")


def layer_named(model: Model, name: str) -> str:
    """`class` → the classifier, `intermediate` → the last feature layer but one; another name → that layer."""
    if name == "class":
        return model.classifier_layer
    if name == "intermediate":
        return model.default_feature_layers()[-2].layer
    return model.resolve_layer(name)


def table_line(cells: list[str]) -> str:
    """Cells as a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def bare(model: Model, layer: str, batch_size: int) -> float:
    """Milliseconds per image of a forward and backward pass."""
    images = torch.randn(batch_size, 3, 224, 224, device="cuda", requires_grad=True)

    def run() -> None:
        torch.autograd.grad(features_of(model.module, images, [layer])[layer].sum(), images)

    times = []
    for _ in range(12):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        run()
        ended.record()
        torch.cuda.synchronize()
        times.append(started.elapsed_time(ended))
    return statistics.median(times[4:]) / batch_size


def measure(
    model: Model,
    layer: str,
    options: VitalOptions,
    precision: str,
    mode: str,
    arguments: argparse.Namespace,
) -> tuple[float, float, float, float]:
    """Milliseconds per step and image, megabytes per neuron, share of time in kernels, seconds until the first step."""
    torch.cuda.empty_cache()  # what the row before kept
    plan = plan_alignment(model, layer, options, image_size_px=224)
    references = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    target = reference_target(model, plan, 0, references)
    options = dataclasses.replace(options, steps=_WARM_STEPS + arguments.steps)
    per_step: list[float] = []
    first_s, busy = 0.0, 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for start in range(0, arguments.neurons, arguments.batch_size):
        places = range(start, min(start + arguments.batch_size, arguments.neurons))
        marks: list[torch.cuda.Event] = []
        walls_s: list[float] = []

        def mark(step: int, _total: int, marks: list = marks, walls_s: list = walls_s) -> None:
            if step == 1 or step >= _WARM_STEPS:
                if step in (1, _WARM_STEPS):
                    torch.cuda.synchronize()
                marks.append(torch.cuda.Event(enable_timing=True))
                marks[-1].record()
                walls_s.append(time.perf_counter())

        started_s = time.perf_counter()
        synthesize(
            model,
            [(layer, place % model.units(layer)) for place in places],
            [target] * len(places),
            options=options,
            image_size_px=224,
            seeds=list(places),
            precision=precision,
            execution_mode=mode,
            on_step=mark,
        )
        first_s = max(first_s, walls_s[0] - started_s)
        per_step.append(marks[1].elapsed_time(marks[-1]) / (len(marks) - 2) / len(places))
    megabytes = (torch.cuda.max_memory_allocated() - before) / arguments.batch_size / 1e6
    busy = share_in_kernels(model, layer, target, options, precision, mode, arguments.batch_size)
    return statistics.median(per_step), megabytes, busy, first_s


def share_in_kernels(model, layer, target, options, precision, mode, batch_size) -> float:  # type: ignore[no-untyped-def]
    """Kernel time over wall time in the steady state of one batch."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    walls_s: list[float] = []

    def mark(step: int, _total: int) -> None:
        if step in (4, 12):
            torch.cuda.synchronize()
            walls_s.append(time.perf_counter())
            profiler.start() if step == 4 else profiler.stop()

    synthesize(
        model,
        [(layer, place % model.units(layer)) for place in range(batch_size)],
        [target] * batch_size,
        options=dataclasses.replace(options, steps=12),
        image_size_px=224,
        seeds=list(range(batch_size)),
        precision=precision,
        execution_mode=mode,
        on_step=mark,
    )
    events = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    return sum(event.self_device_time_total for event in events) / 1e6 / (walls_s[1] - walls_s[0])


if __name__ == "__main__":
    main()
