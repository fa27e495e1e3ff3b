"""Scores of a picture that follow from what judges saw of it and of photographs.

One small table per layer, `run/evaluation/derived/LAYER.parquet`: arithmetic on looks, made anew whenever there are
more of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from pipeline.activations.store import StatisticsStore
from pipeline.evaluation.comparison_images import Photographs, choose_quiet
from pipeline.evaluation.metrics.accuracy import class_rank
from pipeline.evaluation.metrics.path_similarity import PathCorrelations, path_correlations, shared_scale_similarities
from pipeline.evaluation.metrics.two_afc import machine_interpretability
from pipeline.evaluation.predictions import FOLDER, MODEL, JudgeRecord, LookFolder, activation_column, read_photographs
from pipeline.io.parquet import read_rows, write_table
from pipeline.io.root import Root
from pipeline.neurons import check_layer_name, neuron_seed
from pipeline.recipe.recipe import Recipe

DERIVED: Final = f"{FOLDER}/derived"
# Photographs of other units that path similarity is scaled by: their mean correlation is then known to about 0.02,
# and ranking a thousand photographs again for every picture would take longer than making looks of them.
NUM_OTHERS: Final = 64
_KEY_SCHEMA: Final = {"layer": "string", "unit": "int32", "method": "string", "seed": "int32"}

Key = tuple[str, int, str, int]  # layer, unit, method, seed
Vectors = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerLooks:
    """All that is known of the pictures of one layer and the photographs that they are compared with.

    Attributes:
        root: the atlas folder.
        recipe: of the run.
        statistics: of the run.
        photographs: of the run.
        judges: the model's record first.
        layer: of the pictures.
        is_classes: whether its units are the classes.
        path_layers: feature layers up to the layer, for path similarity.
    """

    root: Root
    recipe: Recipe
    statistics: StatisticsStore
    photographs: Photographs
    judges: Sequence[JudgeRecord]
    layer: str
    is_classes: bool
    path_layers: Sequence[str]

    @cached_property
    def panel_activations(self) -> dict[int, np.ndarray]:
        """Sample of the panel → activation of each unit of the layer, [U]."""
        column = activation_column(self.layer)
        looks = LookFolder(self.root, MODEL, "panel").read([column], self.photographs.panel)
        return {sample: look[column] for sample, look in looks.items()}

    def quiet(self, unit: int) -> tuple[int, ...]:
        """As many photographs of the panel as there are exemplars, those that excite a unit least."""
        own = frozenset(self.photographs.exemplars[self.layer][unit]) | self.references(unit)
        panel = list(self.panel_activations)
        activations = np.array([self.panel_activations[sample][unit] for sample in panel])
        seed = neuron_seed(self.recipe.seed, "quiet", self.layer, unit, 0)
        return choose_quiet(panel, activations, own, self.recipe.evaluate.num_exemplars, seed)

    def others(self, unit: int) -> list[int]:
        """Some photographs of the panel that stand for other units: no exemplars, references or labeled samples."""
        own = frozenset(self.photographs.exemplars[self.layer][unit]) | self.references(unit)
        panel = np.array([sample for sample in self.panel_activations if sample not in own], np.int64)
        if self.is_classes and len(panel):
            panel = panel[labels_of(self.statistics, panel) != unit]
        seed = neuron_seed(self.recipe.seed, "others", self.layer, unit, 0)
        return [int(sample) for sample in np.random.default_rng(seed).permutation(panel)[:NUM_OTHERS]]

    def references(self, unit: int) -> frozenset[int]:
        """The samples that a unit's pictures were aligned with."""
        return self.photographs.references[self.layer].get(unit, frozenset())

    def of_photographs(self, judge: JudgeRecord, columns: Sequence[str], samples: set[int]) -> Mapping[int, Vectors]:
        """Sample → what a judge saw of it."""
        return read_photographs(self.root, judge.key, columns, samples)


def derive_scores(looks: LayerLooks, keys: Sequence[Key]) -> list[dict[str, Any]]:
    """Write the scores of the pictures of one layer that follow from looks; see the module's text.

    Args:
        looks: of the layer.
        keys: the pictures.

    Returns:
        One row per picture, `layer`, `unit`, `method`, `seed` and float columns, NaN where there is nothing to say:
        `alignment_distance`, `path_similarity`, `mis` by the first judge that is not the model (by the model if there
        is none) and `mis_JUDGE` by further ones, `accuracy_top1_JUDGE` and `accuracy_top5_JUDGE` of classes.
    """
    rows = {key: dict(zip(_KEY_SCHEMA, key, strict=True)) for key in keys}
    units = sorted({unit for _, unit, _, _ in keys})
    quiet = {unit: looks.quiet(unit) for unit in units} if looks.panel_activations else {}
    _add_own_scores(looks, rows, units)
    for place, judge in enumerate(interpreters(looks.judges)):
        scores = _interpretability(looks, judge, keys, quiet)
        for key, score in scores.items():
            rows[key]["mis" if place == 0 else f"mis_{judge.slug}"] = score
    if looks.is_classes:
        for judge in held_out_classifiers(looks.judges):
            for key, look in LookFolder(looks.root, judge.key, "pictures").read(["logits"], keys).items():
                rank = class_rank(look["logits"], key[1])
                rows[key] |= {f"accuracy_top{k}_{judge.slug}": float(rank < k) for k in (1, 5)}
    columns = sorted({name for row in rows.values() for name in row} - _KEY_SCHEMA.keys())
    full = [dict.fromkeys(columns, float("nan")) | row for row in rows.values()]
    path = f"{DERIVED}/{check_layer_name(looks.layer)}.parquet"
    write_table(looks.root, path, full, _KEY_SCHEMA | dict.fromkeys(columns, "float32"))
    return full


def read_derived(root: Root, layer: str | None = None) -> list[dict[str, Any]]:
    """The rows of all layers, or of one; a score that is NaN is left out."""
    found = []
    for name in root.list(DERIVED):
        if layer is not None and name != f"{layer}.parquet":
            continue
        for row in read_rows(root, f"{DERIVED}/{name}"):
            found.append({column: value for column, value in row.items() if value is not None and value == value})
    return found


def interpreters(judges: Sequence[JudgeRecord]) -> list[JudgeRecord]:
    """Those in whose space exemplars are told apart: the judges that are not the model, or else the model."""
    return [judge for judge in judges if judge.role != "model"] or list(judges)


def held_out_classifiers(judges: Sequence[JudgeRecord]) -> list[JudgeRecord]:
    """The judges beside the model that have its classes, so that they can name a picture's class."""
    own = next(judge for judge in judges if judge.role == "model")
    return [judge for judge in judges if judge.role != "model" and 0 < judge.num_classes == own.num_classes]


def labels_of(statistics: StatisticsStore, samples: np.ndarray) -> np.ndarray:
    """The label of each sample, −1 without one."""
    return statistics.samples.labels(samples)


def _interpretability(
    looks: LayerLooks, judge: JudgeRecord, keys: Sequence[Key], quiet: Mapping[int, Sequence[int]]
) -> dict[Key, float]:
    """Key → Machine Interpretability Score of one picture, NaN for a unit without exemplars."""
    exemplars = looks.photographs.exemplars[looks.layer]
    wanted = {sample for unit in quiet for sample in (*exemplars[unit], *quiet[unit])}
    photographs = looks.of_photographs(judge, ["embedding"], wanted)

    def embeddings(samples: Sequence[int]) -> np.ndarray:
        found = [photographs[sample]["embedding"] for sample in samples if sample in photographs]
        return np.stack(found) if found else np.empty((0, 0), np.float32)

    pictures = LookFolder(looks.root, judge.key, "pictures").read(["embedding"], keys)
    return {
        key: machine_interpretability(
            look["embedding"][None], embeddings(exemplars[key[1]]), embeddings(quiet.get(key[1], ()))
        )
        for key, look in pictures.items()
    }


def _add_own_scores(looks: LayerLooks, rows: Mapping[Key, dict[str, Any]], units: Sequence[int]) -> None:
    """Add `alignment_distance` and `path_similarity`, which the atlas's own model tells."""
    (own,) = [judge for judge in looks.judges if judge.role == "model"]
    means = [f"means/{layer}" for layer in looks.path_layers]
    exemplars = looks.photographs.exemplars[looks.layer]
    others = {unit: looks.others(unit) for unit in units}
    wanted = {sample for unit in units for sample in (*exemplars[unit], *others[unit])}
    photographs = looks.of_photographs(own, means, wanted)

    def stacked(samples: Sequence[int]) -> dict[str, np.ndarray]:
        found = [photographs[sample] for sample in samples if sample in photographs]
        return {name: np.array([look[name] for look in found], np.float32) for name in means}

    pictures = LookFolder(looks.root, own.key, "pictures").read(["alignment_distance", *means], list(rows))
    paths: dict[Key, PathCorrelations] = {}
    for key, look in pictures.items():
        rows[key]["alignment_distance"] = float(look["alignment_distance"][0])
        same, other = stacked(exemplars[key[1]]), stacked(others[key[1]])
        if means and all(len(same[name]) > 1 and len(other[name]) for name in means):
            paths[key] = path_correlations({name: look[name] for name in means}, same, other)
    of_units = {unit: correlations for (_, unit, _, _), correlations in paths.items()}
    similarities = shared_scale_similarities(list(paths.values()), list(of_units.values()))
    for key, similarity in zip(paths, similarities.tolist(), strict=True):
        rows[key]["path_similarity"] = similarity
