"""What is left to evaluate: visualizations to score, dataset images and visualizations for each evaluator to look at. Plans, does nothing.

Every evaluator looks once at every dataset image and every visualization. What follows from looks is arithmetic and
made anew when there are more of them.
"""

import hashlib
import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from jobs.run.resolved import ResolvedRecipe
from jobs.run.work_plan import Batch, Key, RequestedUnits, chunk, num_seeds, plan_batches, requested_keys

if TYPE_CHECKING:
    from pipeline.evaluation.comparison_images import ComparisonImages

VISUALIZATIONS_PER_TASK: Final = (
    32  # one forward pass; 224 px visualizations of this number take about 1 GB of features
)
DATASET_IMAGES_PER_TASK: Final = 64  # some seconds on a CPU core, so that a lost task costs little
SUMMARY_VERSION: Final = 1  # of what is made of looks: another one makes derived scores and summaries anew


@dataclass(frozen=True, kw_only=True, order=True)
class DatasetImageChunk:
    """Dataset images that one evaluator looks at in one task."""

    evaluator: str
    kind: str  # panel or top-activating images
    samples: tuple[int, ...]

    @property
    def name(self) -> str:
        """FIRST-COUNT-HASH: depends on the members alone, so looking twice writes one file."""
        digest = hashlib.sha256(repr(self.samples).encode()).hexdigest()[:8]
        return f"{self.samples[0]}-{len(self.samples)}-{digest}"

    def split(self) -> list["DatasetImageChunk"]:
        """One chunk per dataset image, to tell one that an evaluator fails on from its neighbors."""
        return [
            DatasetImageChunk(evaluator=self.evaluator, kind=self.kind, samples=(sample,)) for sample in self.samples
        ]


def plan_visualizations(
    requested: RequestedUnits, *, num_seeds: int, statuses: Mapping[Key, str], done: Collection[Key]
) -> list[Batch]:
    """The visualizations that are left to score or to look at, in batches of one layer, method and seed. Pure."""
    no_visualization = {key for key, status in statuses.items() if status != "ok"}
    absent = set(requested_keys(requested, num_seeds=num_seeds)) - statuses.keys()
    return plan_batches(
        requested,
        num_seeds=num_seeds,
        batch_sizes={method: VISUALIZATIONS_PER_TASK for _, method in requested},
        done={*done, *no_visualization, *absent},
    )


def plan_dataset_images(
    evaluators: Sequence[str], dataset_images: "ComparisonImages", done: Mapping[tuple[str, str], Collection[Hashable]]
) -> list[DatasetImageChunk]:
    """The dataset images that are left to look at, evaluator by evaluator. Pure.

    Args:
        evaluators: their keys.
        dataset_images: of the run.
        done: (evaluator, kind) → samples that were looked at. What was seen of the panel serves for top-activating
            images too, not the other way round: of the panel more is kept.
    """
    chunks = []
    for evaluator in evaluators:
        random_sample = set(done[evaluator, "random_sample"])
        for kind, samples, seen in (
            ("random_sample", dataset_images.random_sample, random_sample),
            ("top_images", dataset_images.remaining_top_images, random_sample.union(done[evaluator, "top_images"])),
        ):
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
        from pipeline.evaluation.predictions import evaluator_keys

        return evaluator_keys(self.resolved.recipe)

    @cached_property
    def statuses(self) -> dict[Key, str]:
        """What `visualize` says of each visualization."""
        from pipeline.atlas.format.fragments import read_statuses

        return read_statuses(self.resolved.root)

    @cached_property
    def scored(self) -> set[Key]:
        """Visualizations that were scored by the model."""
        from pipeline.atlas.format.fragments import committed_scores

        return committed_scores(self.resolved.root)

    @cached_property
    def looked(self) -> dict[tuple[str, str], set[Any]]:
        """(evaluator, kind) → what it looked at."""
        from pipeline.evaluation.predictions import MODEL, PredictionFolder, activation_column

        # Layers that were added after the panel was looked at are to be seen, too.
        layers = {(MODEL, "random_sample"): [activation_column(layer) for layer in self.resolved.layers]}
        return {
            (evaluator, kind): PredictionFolder(self.resolved.root, evaluator, kind).committed(
                layers.get((evaluator, kind), ())
            )
            for evaluator in self.evaluators
            for kind in ("random_sample", "top_images", "visualizations")
        }

    @cached_property
    def dataset_images(self) -> "ComparisonImages":
        """Those that visualizations are compared with; statistics and targets are there."""
        from pipeline.activations.store import StatisticsStore
        from pipeline.evaluation.comparison_images import choose_comparison_images

        resolved = self.resolved
        return choose_comparison_images(
            resolved.root, resolved.recipe, StatisticsStore.open(resolved.root), resolved.units
        )

    @cached_property
    def visualized(self) -> set[Key]:
        """The wanted visualizations that are there."""
        return {key for key in self.resolved.keys if self.statuses.get(key) == "ok"}

    @property
    def finished(self) -> set[Key]:
        """Of those, the ones that are scored and that every evaluator looked at."""
        return self.visualized.intersection(
            self.scored, *(self.looked[evaluator, "visualizations"] for evaluator in self.evaluators)
        )

    def score_batches(self) -> list[Batch]:
        """Visualizations left to score."""
        return self._batches(self.scored)

    def prediction_batches(self) -> list[tuple[str, Batch]]:
        """(evaluator, visualizations) left to look at."""
        return [
            (evaluator, batch)
            for evaluator in self.evaluators
            for batch in self._batches(self.looked[evaluator, "visualizations"])
        ]

    def dataset_image_chunks(self) -> list[DatasetImageChunk]:
        """Dataset images left to look at."""
        return plan_dataset_images(self.evaluators, self.dataset_images, self.looked)

    def _batches(self, done: Collection[Key]) -> list[Batch]:
        resolved = self.resolved
        return plan_visualizations(
            resolved.visualizations, num_seeds=num_seeds(resolved.recipe), statuses=self.statuses, done=done
        )


def count_predictions(resolved: ResolvedRecipe) -> int:
    """How many times the model or an evaluator is still to look at something: what `evaluate` takes its time for.

    Before statistics and targets are there it is the most that can come: a panel, and top-activating images that are
    all different.
    """
    from pipeline.activations.store import committed_statistics

    state, section = EvaluationState(resolved=resolved), resolved.recipe.evaluate
    requested = set(resolved.keys) - {key for key, status in state.statuses.items() if status != "ok"}
    num_visualizations = len(requested - state.scored) + sum(
        len(requested - state.looked[j, "visualizations"]) for j in state.evaluators
    )
    if committed_statistics(resolved.root) is not None:
        num_dataset_images = sum(len(chunk.samples) for chunk in state.dataset_image_chunks())
    else:
        top_images = section.num_top_images * sum(map(len, resolved.units.values()))
        num_dataset_images = (section.num_dataset_images + top_images) * len(state.evaluators)
    return num_visualizations + num_dataset_images


def summary_sources(resolved: ResolvedRecipe) -> str:
    """Hash of all that derived scores and summary are made of, by names, which depend on what is in the files."""
    from pipeline.evaluation.predictions import PredictionFolder, evaluator_keys

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
            for kind in ("random_sample", "top_images", "visualizations")
        ],
    }
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def summary_is_current(resolved: ResolvedRecipe) -> bool:
    """Whether the summary in storage was made of what is there now."""
    from pipeline.evaluation.summary import SUMMARY_MARKER

    root = resolved.root
    return root.exists(SUMMARY_MARKER) and root.read_json(SUMMARY_MARKER)["sources"] == summary_sources(resolved)
