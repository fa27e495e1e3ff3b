"""`neuron-atlas demo`: the whole pipeline on dataset images and weights that ship with the package."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jobs.reporting.progress import format_duration
from jobs.run.run_folder import STAGES, Json
from jobs.runner import run_stages
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe

PACKAGE: Final = Path(__file__).resolve().parent.parent
RECIPE: Final = "recipes/demo.toml"
SHARDS: Final = "demo_data/shards/neuron-atlas-demo-{000000..000003}.tar"


def demo_recipe(out: str, overrides: Sequence[str] = ()) -> Recipe:
    """The demo's recipe, reading the shipped shards and writing to `out`."""
    # JSON strings are TOML.
    places = [f"data.shards={json.dumps(str(PACKAGE / SHARDS))}", f"output.root={json.dumps(out)}"]
    text = (PACKAGE / RECIPE).read_text(encoding="utf-8")
    return Recipe.from_toml(text, overrides=[*places, *overrides], source=RECIPE)


def run_demo(out: str, *, address: str, overrides: Sequence[str]) -> int:
    """Run all stages of the demo into `out` and print a summary. Returns the number of failed units."""
    recipe = demo_recipe(out, overrides)
    reports = run_stages(recipe, STAGES, address=address)
    root = Root.open(recipe.output.root)
    print(describe(root.read_json("atlas.json"), read_rows(root, "index.parquet"), out))
    worked = [report for report in reports if report.seconds]
    if worked:
        print("time: " + ", ".join(f"{report.stage} {format_duration(report.seconds)}" for report in worked))
    return sum(report.failed for report in reports)


def describe(atlas: Json, index: Sequence[Json], out: str) -> str:
    """What the demo made, and how to look at it."""
    class_layers = {layer["name"] for layer in atlas["layers"] if layer["is_classes"]}
    classes = [row for row in index if row["layer"] in class_layers]
    intermediate = [row for row in index if row["layer"] not in class_layers]
    accuracy = sum(row["accuracy_top1"] or 0 for row in classes) / max(1, len(classes))
    layers = sorted({row["layer"] for row in intermediate})
    above = sum((row["activation_percentile"] or 0) >= 99 for row in intermediate)
    lines = [
        "",
        f"{atlas['title']}: {len(index)} neurons in {out}",
        f"  {len(classes)} classes, of which the model names {accuracy:.0%} by their visualization",
        f"  {len(intermediate)} intermediate neurons of {', '.join(layers)}; {above} of their visualizations activate "
        "them more than 99 % of the dataset images do",
    ]
    lines += [
        f"  {row['status']}: {row['layer']}:{row['unit']} {row['label']}"
        + ("" if row["activation_percentile"] is None else f" (percentile {row['activation_percentile']:.1f})")
        for row in index
        if row["status"] != "ok"
    ]
    serve = "make serve" if out == "demo-atlas" else shlex.join(["neuron-atlas", "serve", out])
    return "\n".join([*lines, "", f"Look at it: {serve}"])
