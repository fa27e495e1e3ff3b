"""Predictions of each evaluator in storage: the embeddings and logits that scores are computed from.

run/evaluation/EVALUATOR/evaluator.json               the network and its weights; written when it was first loaded
run/evaluation/EVALUATOR/random_sample/NAME.parquet   predictions of dataset images of the random sample
run/evaluation/EVALUATOR/top_images/NAME.parquet      of top-activating images that are not in the random sample
run/evaluation/EVALUATOR/visualizations/NAME.parquet  of visualizations
                         .../NAME.json                the images in NAME.parquet; written last, the commit

EVALUATOR is `model` for the atlas's own model, whose predictions have more columns: see `pipeline.evaluation.predict`.
A held-out evaluator's folder is named after its name and weights, so that evaluators can be added and removed, and each
predicts an image once.
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

Kind = Literal["random_sample", "top_images", "visualizations"]
Id = int | tuple[str, int, str, int]  # sample, or (layer, unit, method, seed)


@dataclass(frozen=True, kw_only=True)
class EvaluatorRecord:
    """An evaluator as an atlas records it.

    Attributes:
        key: its folder.
        slug: its part of column names; `model` for the atlas's own model.
        role: `model`, `held-out` or `clip`.
        name, weights: as in the recipe.
        weights_sha256: hash of all parameters and buffers.
        num_classes: 0 for one that does not classify.
    """

    key: str
    slug: str
    role: str
    name: str
    weights: str
    weights_sha256: str
    num_classes: int

    def published(self) -> dict[str, Any]:
        """Its entry in `provenance.evaluators` of atlas.json."""
        return {name: value for name, value in asdict(self).items() if name != "key"}


def evaluator_key(evaluator: EvaluatorChoice) -> str:
    """The folder of a held-out evaluator: its slug and a hash of its name and weights."""
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
    """The column of the model's predictions with the activation of each unit of a layer; of the random sample only."""
    return f"activation/{layer}"


class PredictionFolder:
    """The predictions of one evaluator for images of one kind."""

    def __init__(self, root: Root, key: str, kind: Kind) -> None:
        self._root = root
        self._path = f"{FOLDER}/{key}/{kind}"
        self._is_visualizations = kind == "visualizations"

    def commit(self, name: str, rows: Sequence[Mapping[str, Any]], problems: Mapping[int, str] | None = None) -> str:
        """Commit the predictions of some images; the same images have the same name. Returns the path of the commit.

        Args:
            name: of the file.
            rows: `id` and float arrays, the same ones in each row.
            problems: sample → why it could not be predicted.
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
        """Ids of the predictions that have these columns, and of dataset images that could not be read."""
        found: set[Hashable] = set()
        for _, entry in self._entries():
            found.update(dict(entry["problems"]))
            if set(columns) <= set(entry["columns"]):
                found.update(self._ids(entry))
        return found

    def problems(self) -> dict[int, str]:
        """Sample → why it could not be predicted."""
        return {sample: reason for _, entry in self._entries() for sample, reason in entry["problems"]}

    def names(self) -> list[str]:
        """The names of the commits, sorted; they depend on the ids alone."""
        return [name.removesuffix(".json") for name in self._root.list(self._path) if name.endswith(".json")]

    def read(self, columns: Sequence[str], requested: Collection[Any]) -> dict[Any, dict[str, np.ndarray]]:
        """Id → column → float32 array, of the predictions among `requested`; file by file, so little is held."""
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
    """Sample → column → float32 array, ascending, of the dataset images that an evaluator predicted.

    Predictions of the random sample come first, since they have all columns of the others.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for kind in ("top_images", "random_sample"):
        found |= PredictionFolder(root, key, kind).read(columns, samples)
    return dict(sorted(found.items()))
