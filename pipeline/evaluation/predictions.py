"""Looks: what each evaluator saw, in storage. Numbers that visualizations and dataset images are compared by, not yet scores.

run/evaluation/EVALUATOR/evaluator.json              which network it is; written when it was first loaded
run/evaluation/EVALUATOR/comparison_images/NAME.parquet      embedding and logits of some dataset images of the panel
run/evaluation/EVALUATOR/top_images/NAME.parquet  of top-activating images that are not on the panel
run/evaluation/EVALUATOR/visualizations/NAME.parquet   of some visualizations
                         .../NAME.json       which of them there are; written last, the commit

EVALUATOR is `model` for the atlas's own model, whose looks hold more: see `pipeline.evaluation.predict`. A held-out
evaluator's folder is named after its name and weights, so that evaluators can be added and taken away, and each looks
once.
"""

import hashlib
import json
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from pipeline.io.parquet import read_table, write_table
from pipeline.io.root import Root
from pipeline.recipe.evaluate import ClipChoice, EvaluatorChoice
from pipeline.recipe.recipe import Recipe

FOLDER: Final = "run/evaluation"
MODEL: Final = "model"  # key and slug of the atlas's own model as an evaluator
_MAX_KEY_LENGTH = 48

Kind = Literal["comparison_images", "top_images", "visualizations"]
Id = int | tuple[str, int, str, int]  # sample, or (layer, unit, method, seed)


@dataclass(frozen=True, kw_only=True)
class EvaluatorRecord:
    """An evaluator as atlases name it.

    Attributes:
        key: its folder.
        slug: its part of column names; `model` for the atlas's own model.
        role: `model`, `held-out` or `clip`.
        name, weights: as in the recipe.
        weights_sha256: hash of all parameters and buffers.
        num_classes: 0 of one that does not classify.
    """

    key: str
    slug: str
    role: str
    name: str
    weights: str
    weights_sha256: str
    num_classes: int

    def published(self) -> dict[str, Any]:
        """What `provenance.evaluators` of atlas.json says of it."""
        return {name: value for name, value in asdict(self).items() if name != "key"}


def evaluator_key(evaluator: EvaluatorChoice) -> str:
    """The folder of a held-out evaluator: its slug and a hash of what it is."""
    digest = hashlib.sha256(json.dumps([evaluator.name, evaluator.weights]).encode()).hexdigest()[:8]
    return f"{evaluator.slug[:_MAX_KEY_LENGTH]}-{digest}"


def evaluator_keys(recipe: Recipe) -> list[str]:
    """The folders of all evaluators of a recipe: the model's, then those of the others in order."""
    return [MODEL, *(evaluator_key(evaluator) for evaluator in recipe.evaluate.evaluators)]


def read_evaluator(root: Root, key: str) -> EvaluatorRecord | None:
    """The record of an evaluator that was loaded before, or None."""
    path = f"{FOLDER}/{key}/evaluator.json"
    return EvaluatorRecord(**root.read_json(path)) if root.exists(path) else None


def write_evaluator(root: Root, record: EvaluatorRecord) -> None:
    """Keep the record of an evaluator."""
    root.write_json(f"{FOLDER}/{record.key}/evaluator.json", asdict(record))


def role_of(evaluator: EvaluatorChoice) -> str:
    """`clip` or `held-out`."""
    return "clip" if isinstance(evaluator, ClipChoice) else "held-out"


def activation_column(layer: str) -> str:
    """The column of the model's panel that holds the activation of each unit of a layer."""
    return f"activation/{layer}"


class PredictionFolder:
    """The looks of one evaluator at things of one kind."""

    def __init__(self, root: Root, key: str, kind: Kind) -> None:
        self._root = root
        self._path = f"{FOLDER}/{key}/{kind}"
        self._is_visualizations = kind == "visualizations"

    def commit(self, name: str, rows: Sequence[Mapping[str, Any]], problems: Mapping[int, str] | None = None) -> str:
        """Commit the looks at some things; the same things have the same name. Returns the path of the commit.

        Args:
            name: of the file.
            rows: `id` and float arrays, the same ones in each row.
            problems: sample → why it could not be looked at.
        """
        vectors = [column for column in rows[0] if column != "id"] if rows else []
        if rows:
            write_table(
                self._root,
                f"{self._path}/{name}.parquet",
                {column: [np.atleast_1d(row[column]) for row in rows] for column in vectors},
                dict.fromkeys(vectors, "list<float32>"),
            )
        entry = {
            "ids": [row["id"] for row in rows],
            "problems": [list(item) for item in (problems or {}).items()],
            "columns": vectors,
        }
        path = f"{self._path}/{name}.json"
        self._root.write_json(path, entry)
        return path

    def committed(self, columns: Collection[str] = ()) -> set[Hashable]:
        """What was looked at and has these columns; dataset images that could not be read are among it."""
        found: set[Hashable] = set()
        for _, entry in self._entries():
            found.update(dict(entry["problems"]))
            if set(columns) <= set(entry.get("columns", ())):  # earlier versions did not say them
                found.update(self._ids(entry))
        return found

    def problems(self) -> dict[int, str]:
        """Sample → why it could not be looked at."""
        return {sample: reason for _, entry in self._entries() for sample, reason in entry["problems"]}

    def names(self) -> list[str]:
        """The names of what is committed, sorted; they depend on the things looked at alone."""
        return [name.removesuffix(".json") for name in self._root.list(self._path) if name.endswith(".json")]

    def read(self, columns: Sequence[str], requested: Collection[Any]) -> dict[Any, dict[str, np.ndarray]]:
        """Id → column → float32 array, of those of `requested` that were looked at; file by file, so little is held."""
        requested = set(requested)
        found: dict[Any, dict[str, np.ndarray]] = {}
        for name, entry in self._entries():
            places = {found_id: place for place, found_id in enumerate(self._ids(entry)) if found_id in requested}
            if not places:
                continue
            table = read_table(self._root, f"{self._path}/{name}.parquet", columns)
            for found_id, place in places.items():
                found[found_id] = {column: np.array(table[column][place], np.float32) for column in columns}
        return found

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in self.names():
            yield name, self._root.read_json(f"{self._path}/{name}.json")

    def _ids(self, entry: Mapping[str, Any]) -> list[Any]:
        return [tuple(found) for found in entry["ids"]] if self._is_visualizations else entry["ids"]


def read_dataset_images(
    root: Root, key: str, columns: Sequence[str], samples: Collection[int]
) -> dict[int, dict[str, np.ndarray]]:
    """Sample → column → what an evaluator saw of it, float32, ascending; of the samples that were looked at.

    Those of the panel are taken from there, since its looks hold all that the others do.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for kind in ("top_images", "comparison_images"):
        found |= PredictionFolder(root, key, kind).read(columns, samples)
    return dict(sorted(found.items()))
