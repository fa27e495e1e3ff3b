"""What is left to evaluate: pictures to score, photographs and pictures for each judge to look at. Plans, does nothing.

Every judge looks once at every photograph and every picture. What follows from looks is arithmetic and made anew when
there are more of them.
"""

import hashlib
import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from jobs.run.resolved import ResolvedRecipe
from jobs.run.work_plan import Batch, Key, Pictures, chunk, num_seeds, plan_batches, wanted_keys

if TYPE_CHECKING:
    from pipeline.evaluation.comparison_images import Photographs

PICTURES_PER_TASK: Final = 32  # one forward pass; 224 px pictures of this number take about 1 GB of features
PHOTOGRAPHS_PER_TASK: Final = 64  # some seconds on a CPU core, so that a lost task costs little
SUMMARY_VERSION: Final = 1  # of what is made of looks: another one makes derived scores and summaries anew


@dataclass(frozen=True, kw_only=True, order=True)
class PhotographChunk:
    """Photographs that one judge looks at in one task."""

    judge: str
    kind: str  # panel or exemplars
    samples: tuple[int, ...]

    @property
    def name(self) -> str:
        """FIRST-COUNT-HASH: depends on the members alone, so looking twice writes one file."""
        digest = hashlib.sha256(repr(self.samples).encode()).hexdigest()[:8]
        return f"{self.samples[0]}-{len(self.samples)}-{digest}"

    def split(self) -> list["PhotographChunk"]:
        """One chunk per photograph, to tell one that a judge fails on from its neighbors."""
        return [PhotographChunk(judge=self.judge, kind=self.kind, samples=(sample,)) for sample in self.samples]


def plan_pictures(
    wanted: Pictures, *, num_seeds: int, statuses: Mapping[Key, str], done: Collection[Key]
) -> list[Batch]:
    """The pictures that are left to score or to look at, in batches of one layer, method and seed. Pure."""
    no_picture = {key for key, status in statuses.items() if status != "ok"}
    absent = set(wanted_keys(wanted, num_seeds=num_seeds)) - statuses.keys()
    return plan_batches(
        wanted,
        num_seeds=num_seeds,
        batch_sizes={method: PICTURES_PER_TASK for _, method in wanted},
        done={*done, *no_picture, *absent},
    )


def plan_photographs(
    judges: Sequence[str], photographs: "Photographs", done: Mapping[tuple[str, str], Collection[Hashable]]
) -> list[PhotographChunk]:
    """The photographs that are left to look at, judge by judge. Pure.

    Args:
        judges: their keys.
        photographs: of the run.
        done: (judge, kind) → samples that were looked at. What was seen of the panel serves for exemplars too, not the
            other way round: of the panel more is kept.
    """
    chunks = []
    for judge in judges:
        panel = set(done[judge, "panel"])
        for kind, samples, seen in (
            ("panel", photographs.panel, panel),
            ("exemplars", photographs.further, panel.union(done[judge, "exemplars"])),
        ):
            for members in chunk(samples, PHOTOGRAPHS_PER_TASK):
                left = tuple(sample for sample in members if sample not in seen)
                if left:
                    chunks.append(PhotographChunk(judge=judge, kind=kind, samples=left))
    return chunks


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationState:
    """What is in storage now, and what is therefore left."""

    resolved: ResolvedRecipe

    @cached_property
    def judges(self) -> list[str]:
        """Keys of all judges, the model's first."""
        from pipeline.evaluation.predictions import judge_keys

        return judge_keys(self.resolved.recipe)

    @cached_property
    def statuses(self) -> dict[Key, str]:
        """What `visualize` says of each picture."""
        from pipeline.atlas.format.fragments import read_statuses

        return read_statuses(self.resolved.root)

    @cached_property
    def scored(self) -> set[Key]:
        """Pictures that were scored by the model."""
        from pipeline.atlas.format.fragments import committed_scores

        return committed_scores(self.resolved.root)

    @cached_property
    def looked(self) -> dict[tuple[str, str], set[Any]]:
        """(judge, kind) → what it looked at."""
        from pipeline.evaluation.predictions import MODEL, LookFolder, activation_column

        # Layers that were added after the panel was looked at are to be seen, too.
        layers = {(MODEL, "panel"): [activation_column(layer) for layer in self.resolved.layers]}
        return {
            (judge, kind): LookFolder(self.resolved.root, judge, kind).committed(layers.get((judge, kind), ()))
            for judge in self.judges
            for kind in ("panel", "exemplars", "pictures")
        }

    @cached_property
    def photographs(self) -> "Photographs":
        """Those that pictures are compared with; statistics and targets are there."""
        from pipeline.activations.store import StatisticsStore
        from pipeline.evaluation.comparison_images import choose_photographs

        resolved = self.resolved
        return choose_photographs(resolved.root, resolved.recipe, StatisticsStore.open(resolved.root), resolved.units)

    @cached_property
    def pictured(self) -> set[Key]:
        """The wanted pictures that are there."""
        return {key for key in self.resolved.keys if self.statuses.get(key) == "ok"}

    @property
    def finished(self) -> set[Key]:
        """Of those, the ones that are scored and that every judge looked at."""
        return self.pictured.intersection(self.scored, *(self.looked[judge, "pictures"] for judge in self.judges))

    def score_batches(self) -> list[Batch]:
        """Pictures left to score."""
        return self._batches(self.scored)

    def look_batches(self) -> list[tuple[str, Batch]]:
        """(judge, pictures) left to look at."""
        return [(judge, batch) for judge in self.judges for batch in self._batches(self.looked[judge, "pictures"])]

    def photograph_chunks(self) -> list[PhotographChunk]:
        """Photographs left to look at."""
        return plan_photographs(self.judges, self.photographs, self.looked)

    def _batches(self, done: Collection[Key]) -> list[Batch]:
        resolved = self.resolved
        return plan_pictures(resolved.pictures, num_seeds=num_seeds(resolved.recipe), statuses=self.statuses, done=done)


def count_looks(resolved: ResolvedRecipe) -> int:
    """How many times the model or a judge is still to look at something: what `evaluate` takes its time for.

    Before statistics and targets are there it is the most that can come: a panel, and exemplars that are all different.
    """
    from pipeline.activations.store import committed_statistics

    state, section = EvaluationState(resolved=resolved), resolved.recipe.evaluate
    wanted = set(resolved.keys) - {key for key, status in state.statuses.items() if status != "ok"}
    num_pictures = len(wanted - state.scored) + sum(len(wanted - state.looked[j, "pictures"]) for j in state.judges)
    if committed_statistics(resolved.root) is not None:
        num_photographs = sum(len(chunk.samples) for chunk in state.photograph_chunks())
    else:
        exemplars = section.num_exemplars * sum(map(len, resolved.units.values()))
        num_photographs = (section.num_photographs + exemplars) * len(state.judges)
    return num_pictures + num_photographs


def summary_sources(resolved: ResolvedRecipe) -> str:
    """Hash of all that derived scores and summary are made of, by names, which depend on what is in the files."""
    from pipeline.evaluation.predictions import LookFolder, judge_keys

    root, judges = resolved.root, judge_keys(resolved.recipe)
    section = resolved.recipe.evaluate
    made_of = {
        "version": SUMMARY_VERSION,
        "settings": [section.num_photographs, section.num_exemplars, section.weak_percentile, resolved.recipe.seed],
        "methods": resolved.recipe.visualize.methods,
        "keys": resolved.keys,
        "rows": [root.list(folder) for folder in ("run/fragments", "run/scores")],
        "looks": [
            [judge, kind, LookFolder(root, judge, kind).names()]
            for judge in judges
            for kind in ("panel", "exemplars", "pictures")
        ],
    }
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def summary_is_current(resolved: ResolvedRecipe) -> bool:
    """Whether the summary in storage was made of what is there now."""
    from pipeline.evaluation.summary import SUMMARY_MARKER

    root = resolved.root
    return root.exists(SUMMARY_MARKER) and root.read_json(SUMMARY_MARKER)["sources"] == summary_sources(resolved)
