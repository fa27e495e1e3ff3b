"""What is left to evaluate: visualizations to score, dataset images and visualizations to predict. Pure planning.

Every evaluator predicts every dataset image and every visualization once. What follows from predictions is arithmetic
and made anew when there are more of them.
"""

import hashlib
import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from jobs.engine.tasks import Task
from jobs.run.resolved import ResolvedRecipe
from jobs.run.work_plan import Batch, Key, RequestedUnits, chunk, num_seeds, plan_batches, requested_keys
from pipeline.activations.store import StatisticsStore, committed_statistics
from pipeline.atlas.format.fragments import committed_scores, read_statuses
from pipeline.evaluation.comparison_images import ComparisonImages, choose_comparison_images
from pipeline.evaluation.predictions import MODEL, Kind, PredictionFolder, activation_column, evaluator_keys
from pipeline.evaluation.summary import SUMMARY_MARKER
from pipeline.synthesis.methods.vital_target import AlignmentPlan

VISUALIZATIONS_PER_TASK: Final = 32  # one forward pass, whose features take about 1 GB at 224 px
DATASET_IMAGES_PER_TASK: Final = 64  # some seconds on a CPU core, so that a lost task costs little
SUMMARY_VERSION: Final = 1  # of what follows from predictions: another one makes derived scores and summaries anew
KINDS: Final[tuple[Kind, ...]] = ("random_sample", "top_images", "visualizations")


@dataclass(frozen=True, kw_only=True, order=True)
class DatasetImageChunk:
    """Dataset images that one evaluator predicts in one task."""

    evaluator: str
    kind: Kind  # comparison images or top-activating images
    samples: tuple[int, ...]

    @property
    def name(self) -> str:
        """FIRST-COUNT-HASH: depends on the members alone, so predicting twice writes one file."""
        digest = hashlib.sha256(repr(self.samples).encode()).hexdigest()[:8]
        return f"{self.samples[0]}-{len(self.samples)}-{digest}"

    @property
    def task(self) -> "Task[DatasetImageChunk]":
        """The task that predicts them."""
        return Task(name=f"{self.evaluator}/{self.kind}/{self.name}", argument=self, count=len(self.samples))

    def split(self) -> "list[Task[DatasetImageChunk]]":
        """One task per dataset image, to tell one that an evaluator fails on from its neighbors."""
        return [
            DatasetImageChunk(evaluator=self.evaluator, kind=self.kind, samples=(sample,)).task
            for sample in self.samples
        ]


@dataclass(frozen=True, kw_only=True)
class VisualizationChunk:
    """Visualizations that one evaluator predicts in one task, and how they are aligned."""

    evaluator: str
    batch: Batch
    plan: AlignmentPlan

    @property
    def task(self) -> "Task[VisualizationChunk]":
        """The task that predicts them."""
        return Task(name=f"{self.evaluator}/{self.batch.name}", argument=self, count=len(self.batch.units))

    def split(self) -> "list[Task[VisualizationChunk]]":
        """One task per visualization."""
        return [
            VisualizationChunk(evaluator=self.evaluator, batch=batch, plan=self.plan).task
            for batch in self.batch.split()
        ]


def plan_visualizations(
    requested: RequestedUnits, *, num_seeds: int, statuses: Mapping[Key, str], done: Collection[Hashable]
) -> list[Batch]:
    """The visualizations that are left to score or to predict, in batches of one layer, method and seed. Pure."""
    no_visualization = {key for key, status in statuses.items() if status != "ok"}
    absent = set(requested_keys(requested, num_seeds=num_seeds)) - statuses.keys()
    return plan_batches(
        requested,
        num_seeds=num_seeds,
        batch_sizes={method: VISUALIZATIONS_PER_TASK for _, method in requested},
        done={*done, *no_visualization, *absent},
    )


def plan_dataset_images(
    evaluators: Sequence[str], dataset_images: ComparisonImages, done: Mapping[tuple[str, Kind], Collection[Hashable]]
) -> list[DatasetImageChunk]:
    """The dataset images that are left to predict, evaluator by evaluator. Pure.

    Args:
        evaluators: their keys.
        dataset_images: of the run.
        done: (evaluator, kind) → samples that were predicted. Predictions of the random sample serve as those of
            top-activating images too, not the other way round: of the random sample more is stored.
    """
    chunks = []
    for evaluator in evaluators:
        random_sample = set(done[evaluator, "random_sample"])
        kinds: tuple[tuple[Kind, Sequence[int], Collection[Hashable]], ...] = (
            ("random_sample", dataset_images.random_sample, random_sample),
            ("top_images", dataset_images.remaining_top_images, random_sample.union(done[evaluator, "top_images"])),
        )
        for kind, samples, seen in kinds:
            for members in chunk(samples, DATASET_IMAGES_PER_TASK):
                left = tuple(sample for sample in members if sample not in seen)
                if left:
                    chunks.append(DatasetImageChunk(evaluator=evaluator, kind=kind, samples=left))
    return chunks


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationState:
    """What is in storage now, and what is therefore left."""

    resolved: ResolvedRecipe

    @cached_property
    def evaluators(self) -> list[str]:
        """Keys of all evaluators, the model's first."""
        return evaluator_keys(self.resolved.recipe)

    @cached_property
    def statuses(self) -> dict[Key, str]:
        """The status that `visualize` gave each visualization."""
        return read_statuses(self.resolved.root)

    @cached_property
    def scored(self) -> set[Key]:
        """Visualizations that were scored by the model."""
        return committed_scores(self.resolved.root)

    @cached_property
    def predicted(self) -> dict[tuple[str, Kind], set[Hashable]]:
        """(evaluator, kind) → what it predicted."""
        # The random sample is predicted again for layers that were added later.
        layers: dict[tuple[str, Kind], list[str]] = {
            (MODEL, "random_sample"): [activation_column(layer) for layer in self.resolved.layers]
        }
        return {
            (evaluator, kind): PredictionFolder(self.resolved.root, evaluator, kind).committed(
                layers.get((evaluator, kind), ())
            )
            for evaluator in self.evaluators
            for kind in KINDS
        }

    @cached_property
    def dataset_images(self) -> ComparisonImages:
        """Those that visualizations are compared with; statistics and targets are there."""
        resolved = self.resolved
        return choose_comparison_images(
            resolved.root, resolved.recipe, StatisticsStore.open(resolved.root), resolved.units
        )

    @cached_property
    def visualized(self) -> set[Key]:
        """The requested visualizations that are there."""
        return {key for key in self.resolved.keys if self.statuses.get(key) == "ok"}

    @property
    def finished(self) -> set[Key]:
        """Of those, the ones that are scored and that every evaluator predicted."""
        return self.visualized.intersection(
            self.scored, *(self.predicted[evaluator, "visualizations"] for evaluator in self.evaluators)
        )

    def score_batches(self) -> list[Batch]:
        """Visualizations left to score."""
        return self._batches(self.scored)

    def prediction_batches(self) -> list[tuple[str, Batch]]:
        """(evaluator, visualizations) left to predict."""
        return [
            (evaluator, batch)
            for evaluator in self.evaluators
            for batch in self._batches(self.predicted[evaluator, "visualizations"])
        ]

    def dataset_image_chunks(self) -> list[DatasetImageChunk]:
        """Dataset images left to predict."""
        return plan_dataset_images(self.evaluators, self.dataset_images, self.predicted)

    def _batches(self, done: Collection[Hashable]) -> list[Batch]:
        resolved = self.resolved
        return plan_visualizations(
            resolved.visualizations, num_seeds=num_seeds(resolved.recipe), statuses=self.statuses, done=done
        )


def count_predictions(resolved: ResolvedRecipe) -> int:
    """How many scores and predictions are left: what `evaluate` takes its time for.

    Before statistics and targets are there it is the most that can come: all comparison images, and top-activating
    images that are all different.
    """
    state, section = EvaluationState(resolved=resolved), resolved.recipe.evaluate
    requested = set(resolved.keys) - {key for key, status in state.statuses.items() if status != "ok"}
    num_visualizations = len(requested - state.scored) + sum(
        len(requested - state.predicted[evaluator, "visualizations"]) for evaluator in state.evaluators
    )
    if committed_statistics(resolved.root) is not None:
        num_dataset_images = sum(len(chunk.samples) for chunk in state.dataset_image_chunks())
    else:
        top_images = section.num_top_images * sum(map(len, resolved.units.values()))
        num_dataset_images = (section.num_dataset_images + top_images) * len(state.evaluators)
    return num_visualizations + num_dataset_images


def summary_sources(resolved: ResolvedRecipe) -> str:
    """Hash of all that derived scores and summary are made of, by names, which depend on the content of the files."""
    root, evaluators = resolved.root, evaluator_keys(resolved.recipe)
    section = resolved.recipe.evaluate
    made_of = {
        "version": SUMMARY_VERSION,
        "settings": [section.num_dataset_images, section.num_top_images, section.weak_percentile, resolved.recipe.seed],
        "methods": resolved.recipe.visualize.methods,
        "keys": resolved.keys,
        "rows": [root.list(folder) for folder in ("run/fragments", "run/scores")],
        "predictions": [
            [evaluator, kind, PredictionFolder(root, evaluator, kind).names()]
            for evaluator in evaluators
            for kind in KINDS
        ],
    }
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def summary_is_current(resolved: ResolvedRecipe) -> bool:
    """Whether the summary in storage was made of what is there now."""
    root = resolved.root
    return root.exists(SUMMARY_MARKER) and root.read_json(SUMMARY_MARKER)["sources"] == summary_sources(resolved)
