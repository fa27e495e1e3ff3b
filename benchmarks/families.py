"""One small run of every family of models: classes and intermediate neurons, in a batch and alone, resumed.

    python -m benchmarks.families [PATTERN …] [--weights NAME=PATH …] [--steps 60] [--out FILE]

For each model the whole pipeline runs in one process on the first tar shard of the demo, at a small input size. Weights
are random unless `--weights` names a file or package for the model. Columns:

    class, intermediate
              best activation of a visualization over the maximum of the dataset, over the visualized units (median
              in brackets): above 1 the visualization activates the unit more than any dataset image does
    alone     largest difference of a visualization made alone from the same one made in a batch, in 8-bit levels, after
              5 steps: kernels for other batch sizes round otherwise, and an optimization amplifies that
    resume    visualizations made by the second of two runs; the first was asked for the first units only
    relevance the rule that intermediate neurons ran with

A model that cannot do a part says which and why, in a line below its own. Where the median is below 1, the same units
are made again with activation_weight = 2 in place of the preset's. If that lifts them, it was the alignment that kept
the activation down.
"""

import fnmatch
import statistics
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.data import DEMO_SHARDS
from benchmarks.common.program import make_parser
from jobs.run.resolved import resolve
from jobs.runner import run_stages
from pipeline.activations.store import StatisticsStore
from pipeline.alignment.losses import NeuronTarget
from pipeline.atlas.format.fragments import join_rows, read_fragments, read_scores
from pipeline.evaluation.scores import data_columns
from pipeline.io.root import Root
from pipeline.models import Model, load_model
from pipeline.neurons import neuron_seed
from pipeline.recipe.recipe import Recipe
from pipeline.references.build import options_for, plan_targets
from pipeline.references.store import read_targets
from pipeline.synthesis.optimize import Visualization, synthesize

NUM_UNITS = 4  # of each kind, in two batches
STEPS_ALONE = 5
PUSHING = 2.0  # activation_weight of the second trial


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model of a family, and how it is made small enough for two CPU cores."""

    name: str
    size_px: int
    options: dict[str, Any] = field(default_factory=dict)
    intermediate: str = ""  # layer of the intermediate neurons; default: the last but one feature layer


FAMILIES = [
    Family(name="torchvision:resnet18", size_px=64),
    Family(name="torchvision:resnet50", size_px=64),
    Family(name="torchvision:densenet121", size_px=64),
    Family(name="torchvision:vgg16", size_px=64),
    Family(name="torchvision:squeezenet1_1", size_px=64),
    Family(name="torchvision:mobilenet_v3_large", size_px=64),
    Family(name="torchvision:efficientnet_b0", size_px=64),
    Family(name="torchvision:regnet_y_400mf", size_px=64),
    Family(name="torchvision:convnext_base", size_px=64),
    Family(name="torchvision:swin_t", size_px=64),
    Family(name="torchvision:vit_b_16", size_px=64),
    Family(name="torchvision:vit_l_16", size_px=64),
    Family(name="torchvision:vit_l_32", size_px=96),
    Family(name="timm:resnet50", size_px=64),
    Family(name="timm:resnetv2_50", size_px=64),
    Family(name="timm:regnety_004", size_px=64),
    Family(name="timm:mobilenetv3_large_100", size_px=64),
    Family(name="timm:efficientnet_b0", size_px=64),
    Family(name="timm:tf_efficientnet_lite0", size_px=64),
    Family(name="timm:tf_efficientnet_lite1", size_px=64),
    Family(name="timm:tf_efficientnet_lite2", size_px=64),
    Family(name="timm:convnext_tiny", size_px=64),
    Family(name="timm:convnextv2_nano", size_px=64),
    Family(name="timm:swin_tiny_patch4_window7_224", size_px=112),
    Family(name="timm:vit_small_patch16_224", size_px=64),
    Family(name="timm:deit_small_patch16_224", size_px=64),
    Family(name="timm:vit_small_patch14_dinov2", size_px=70),
    Family(name="timm:vit_small_patch14_reg4_dinov2", size_px=70),
    Family(name="timm:vit_base_patch16_clip_224", size_px=64),
    Family(name="timm:vit_base_patch16_siglip_224", size_px=64),
]


@dataclass(kw_only=True)
class Line:
    """One row of the table."""

    name: str
    rule: str = "-"
    ratios: dict[str, list[float]] = field(default_factory=dict)
    alone: int | None = None
    resumed: str = "-"
    seconds: float = 0.0
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        alone = "-" if self.alone is None else str(self.alone)
        cells = [f"{self._ratio(kind):>14}" for kind in ("class", "intermediate")]
        text = f"{self.name:<40}{''.join(cells)}{alone:>7}{self.resumed:>8}  {self.rule:<10}{self.seconds:>6.0f}"
        return "\n".join([text, *(f"    {remark}" for remark in self.remarks)])

    def _ratio(self, kind: str) -> str:
        ratios = self.ratios.get(kind)
        return f"{max(ratios):.2f} ({statistics.median(ratios):.2f})" if ratios else "-"


def main() -> None:
    parser = make_parser(__doc__, threads=True)
    parser.add_argument("patterns", nargs="*", default=["*"], help="which models, e.g. 'timm:vit*'")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=WEIGHTS", help="real weights of a model")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--size", type=int, default=0, help="input size in pixels, for all; default: see FAMILIES")
    parser.add_argument("--out", type=Path, help="append the table to this file as well")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    weights = dict(item.split("=", 1) for item in arguments.weights)

    def echo(text: str) -> None:
        print(text, flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(text + "\n")

    echo(
        f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, timm {version('timm')}, "
        f"{torch.get_num_threads()} threads, {arguments.steps} steps of `fast`, "
        f"{NUM_UNITS} classes and {NUM_UNITS} intermediate neurons each"
    )
    echo(f"{'model':<40}{'class':>14}{'intermediate':>14}{'alone':>7}{'resume':>8}  {'relevance':<10}{'s':>6}")
    for family in FAMILIES:
        if any(fnmatch.fnmatch(family.name, pattern) for pattern in arguments.patterns):
            echo(str(run_family(family, weights.get(family.name, "random"), arguments.steps, arguments.size)))


def run_family(family: Family, weights: str, steps: int, size_px: int) -> Line:
    """Everything the table says of one family."""
    line = Line(name=family.name + ("" if weights == "random" else " (real)"))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            measure(line, family, weights, steps, size_px or family.size_px, Path(folder) / "atlas")
        except Exception as error:  # the table goes on, and shows what stopped this model
            place = traceback.extract_tb(error.__traceback__)[-1]
            line.remarks.append(f"FAILED: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")
    line.seconds = time.perf_counter() - started
    return line


def measure(line: Line, family: Family, weights: str, steps: int, size_px: int, out: Path) -> None:
    """Run the pipeline in two parts, then read its tables."""
    model = load_model(family.name, weights, input_size_px=size_px, options=family.options)
    feature_layers = [entry.layer for entry in model.default_feature_layers()]
    intermediate = family.intermediate or feature_layers[-2]
    asked = {"layers": [intermediate], "intermediate": intermediate, "has_classifier": model.has_classifier}
    quiet: dict[str, Any] = {"address": "inline", "echo": lambda line: None}
    first = make_recipe(family, weights, steps, size_px, out, num_units=NUM_UNITS // 2, **asked)
    run_stages(first, ("collect", "targets", "visualize"), **quiet)
    recipe = make_recipe(family, weights, steps, size_px, out, num_units=NUM_UNITS, **asked)
    reports = run_stages(recipe, ("collect", "targets", "visualize", "evaluate", "build"), **quiet)
    made = reports[2]
    line.resumed = f"{made.done}/{made.done + made.already}"
    resolved = resolve(recipe)
    root = resolved.root
    if not model.has_classifier:
        line.remarks.append("a backbone without class logits: intermediate neurons only")
    for row in join_rows(read_fragments(root), read_scores(root)):
        kind = "class" if model.has_classifier and row["layer"] == model.classifier_layer else "intermediate"
        if row["status"] in ("failed", "dead", "skipped"):
            line.remarks.append(f"{kind} {row['unit']}: {row['status']}, {row['status_reason']}")
        elif row.get("max_activation") is not None:
            line.ratios.setdefault(kind, []).append(exceeds(row))
    for kind, layer in (("class", model.classifier_layer), ("intermediate", intermediate)):
        ratios = line.ratios.get(kind, [])
        if ratios and statistics.median(ratios) < 1 and layer is not None:
            pushed = push(resolved.model, recipe, root, layer)
            line.remarks.append(
                f"{kind} with activation_weight {PUSHING:g}: {max(pushed):.2f} ({statistics.median(pushed):.2f})"
            )
    line.rule = plan_targets(recipe, model, intermediate).rule
    line.alone = difference_alone(resolved.model, recipe, root, intermediate)


def exceeds(row: dict[str, Any]) -> float:
    """Activation over the best dataset image's; measured from the unit's mean, as logits may be negative."""
    return (row["activation"] - row["mean_activation"]) / max(row["max_activation"] - row["mean_activation"], 1e-12)


def push(model: Model, recipe: Recipe, root: Root, layer: str) -> list[float]:
    """`exceeds` of the units of a layer, made with the activation weighted more."""
    targets = targets_of(model, recipe, root, layer, range(NUM_UNITS))
    made = make(model, recipe, layer, targets, activation_weight=PUSHING)
    store = StatisticsStore.open(root)
    rows = [data_columns(store, layer, v.neuron[1]) | {"activation": v.activation} for v in made]
    return [exceeds(row) for row in rows]


def targets_of(model: Model, recipe: Recipe, root: Root, layer: str, units: Sequence[int]) -> dict[int, NeuronTarget]:
    """The targets in the store; units that have none are left out."""
    found = read_targets(root, plan_targets(recipe, model, layer), units)
    return {unit: target for unit, (target, _) in found.items() if target is not None}


def make(
    model: Model, recipe: Recipe, layer: str, targets: dict[int, NeuronTarget], **overrides: Any
) -> list[Visualization]:
    """Visualizations of units of a layer, as the recipe has them but for some options."""
    return synthesize(
        model,
        [(layer, unit) for unit in targets],
        list(targets.values()),
        options=replace(options_for(recipe), **overrides),
        image_size_px=plan_targets(recipe, model, layer).image_size_px,
        seeds=[neuron_seed(0, "vital", layer, unit, 0) for unit in targets],
    )


def difference_alone(model: Model, recipe: Recipe, root: Root, layer: str) -> int:
    """Largest difference in 8-bit levels of the visualizations of two neurons, each made alone and both in a batch."""
    targets = targets_of(model, recipe, root, layer, (0, 1))
    together = make(model, recipe, layer, targets, steps=STEPS_ALONE)
    alone = [make(model, recipe, layer, {unit: target}, steps=STEPS_ALONE)[0] for unit, target in targets.items()]
    differences = [np.abs(a.image.astype(int) - b.image).max() for a, b in zip(together, alone, strict=True)]
    return int(max(differences))


def make_recipe(
    family: Family,
    weights: str,
    steps: int,
    size_px: int,
    out: Path,
    *,
    layers: list[str],
    intermediate: str,
    num_units: int,
    has_classifier: bool,
) -> Recipe:
    """The recipe of one family, as a user would write it."""
    blocks: list[dict[str, Any]] = []
    if has_classifier:
        blocks.append({"layer": "classifier", "units": f"0:{num_units}"})
    blocks.append({"layer": intermediate, "units": f"0:{num_units}"})
    return Recipe.from_table(
        {
            "name": "family",
            "model": {"name": family.name, "weights": weights, "input_size_px": size_px, "options": family.options},
            "data": {"shards": [str(DEMO_SHARDS[0])]},
            "output": {"root": str(out)},
            "statistics": {"layers": layers, "top_k": 16, "batch_size": 16},
            "neurons": blocks,
            "targets": {"num_references": 4, "min_references": 2},
            "visualize": {"preset": "fast", "steps": steps, "batch_size": 2},
            "atlas": {"title": family.name},
        }
    )


if __name__ == "__main__":
    main()
