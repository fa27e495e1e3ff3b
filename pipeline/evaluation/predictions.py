"""Looks: what each judge saw, in storage. Numbers that pictures and photographs are compared by, not yet scores.

run/evaluation/JUDGE/judge.json              which network it is; written when it was first loaded
run/evaluation/JUDGE/panel/NAME.parquet      embedding and logits of some photographs of the panel
run/evaluation/JUDGE/exemplars/NAME.parquet  of exemplars that are not on the panel
run/evaluation/JUDGE/pictures/NAME.parquet   of some pictures
                         .../NAME.json       which of them there are; written last, the commit

JUDGE is `model` for the atlas's own model, whose looks hold more: see `pipeline.evaluation.predict`. A held-out judge's
folder is named after its name and weights, so that judges can be added and taken away, and each looks once.
"""

import hashlib
import json
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from pipeline.io.parquet import read_table, write_table
from pipeline.io.root import Root
from pipeline.recipe.evaluate import ClipChoice, JudgeChoice
from pipeline.recipe.recipe import Recipe

FOLDER: Final = "run/evaluation"
MODEL: Final = "model"  # key and slug of the atlas's own model as a judge
_MAX_KEY_LENGTH = 48

Kind = Literal["panel", "exemplars", "pictures"]
Id = int | tuple[str, int, str, int]  # sample, or (layer, unit, method, seed)


@dataclass(frozen=True, kw_only=True)
class JudgeRecord:
    """A judge as atlases name it.

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
        """What `provenance.judges` of atlas.json says of it."""
        return {name: value for name, value in asdict(self).items() if name != "key"}


def judge_key(judge: JudgeChoice) -> str:
    """The folder of a held-out judge: its slug and a hash of what it is."""
    digest = hashlib.sha256(json.dumps([judge.name, judge.weights]).encode()).hexdigest()[:8]
    return f"{judge.slug[:_MAX_KEY_LENGTH]}-{digest}"


def judge_keys(recipe: Recipe) -> list[str]:
    """The folders of all judges of a recipe: the model's, then those of the others in order."""
    return [MODEL, *(judge_key(judge) for judge in recipe.evaluate.judges)]


def read_judge(root: Root, key: str) -> JudgeRecord | None:
    """The record of a judge that was loaded before, or None."""
    path = f"{FOLDER}/{key}/judge.json"
    return JudgeRecord(**root.read_json(path)) if root.exists(path) else None


def write_judge(root: Root, record: JudgeRecord) -> None:
    """Keep the record of a judge."""
    root.write_json(f"{FOLDER}/{record.key}/judge.json", asdict(record))


def role_of(judge: JudgeChoice) -> str:
    """`clip` or `held-out`."""
    return "clip" if isinstance(judge, ClipChoice) else "held-out"


def activation_column(layer: str) -> str:
    """The column of the model's panel that holds the activation of each unit of a layer."""
    return f"activation/{layer}"


class LookFolder:
    """The looks of one judge at things of one kind."""

    def __init__(self, root: Root, key: str, kind: Kind) -> None:
        self._root = root
        self._path = f"{FOLDER}/{key}/{kind}"
        self._is_pictures = kind == "pictures"

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
        """What was looked at and has these columns; photographs that could not be read are among it."""
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

    def read(self, columns: Sequence[str], wanted: Collection[Any]) -> dict[Any, dict[str, np.ndarray]]:
        """Id → column → float32 array, of those of `wanted` that were looked at; file by file, so little is held."""
        wanted = set(wanted)
        found: dict[Any, dict[str, np.ndarray]] = {}
        for name, entry in self._entries():
            places = {found_id: place for place, found_id in enumerate(self._ids(entry)) if found_id in wanted}
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
        return [tuple(found) for found in entry["ids"]] if self._is_pictures else entry["ids"]


def read_photographs(
    root: Root, key: str, columns: Sequence[str], samples: Collection[int]
) -> dict[int, dict[str, np.ndarray]]:
    """Sample → column → what a judge saw of it, float32, ascending; of the samples that were looked at.

    Those of the panel are taken from there, since its looks hold all that the others do.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for kind in ("exemplars", "panel"):
        found |= LookFolder(root, key, kind).read(columns, samples)
    return dict(sorted(found.items()))
