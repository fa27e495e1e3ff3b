"""The folder of a run, `<output.root>/run/`: which recipe it belongs to, and the log of its tasks."""

import contextlib
import datetime
import json
import secrets
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from pipeline.errors import UserError
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe, Stage

Json: TypeAlias = dict[str, Any]  # an object as `json.loads` gives it

RUN_SCHEMA: Final = "run/1"
RECIPE_PATH: Final = "run/recipe.json"
LOG_PATH: Final = "run/log.jsonl"
LOG_PARTS: Final = "run/log"  # the folder of its parts, where files cannot grow
STAGES: Final[tuple[Stage, ...]] = ("collect", "targets", "visualize", "evaluate", "build")
# A build is cheap and replaces the one before as a whole, so it may follow a changed title or license; what the
# other stages left belongs to one recipe for good.
GUARDED_STAGES: Final = STAGES[:-1]
# Where each of them commits. A stage that was claimed and stopped before its first result binds nobody.
RESULTS: Final[Mapping[Stage, str]] = {
    "collect": "run/shard_statistics",
    "targets": "run/targets",
    "visualize": "run/fragments",
    "evaluate": "run/scores",
}
# Keys of a stage that bind no folder: layers and evaluators may be added, what is there stays as it is.
UNBOUND_KEYS: Final = ("evaluate.held_out_models", "statistics.layers")
# They change what a stage writes beside its results: the stage runs again, later ones do not.
DERIVED_KEYS: Final = ("data.caption_key",)
# Tar shards change what neurons are aligned to, but not what was found in other tar shards.
_SHARDS_REMEDY: Final = (
    "To read only the tar shards that are new, copy the folder run/shard_statistics into the new output.root first: "
    "the statistics of shards that keep their place in the sorted list are used again"
)
REMOTE_FLUSH_S: Final = 30.0  # object stores cannot append: a part is sent whole again, so not after every line
PART_BYTES: Final = 128 << 10  # a part is full: so no flush sends more than that again, 15 MB in an hour


class OtherRecipeError(UserError):
    """The output folder holds results of a recipe with other settings."""


def check_recipe(root: Root, recipe: Recipe) -> None:
    """Refuse an output folder that holds results of another recipe.

    Raises:
        OtherRecipeError: with every key that differs and both values.
    """
    recorded = _recorded(root)
    for stage in GUARDED_STAGES:
        entry = recorded.get(stage)
        if entry is None or entry["fingerprint"] == recipe.fingerprint(stage) or not root.list(RESULTS[stage]):
            continue
        keys = _plain(recipe.stage_keys(stage))
        here = {name: value for name, value in keys.items() if name not in DERIVED_KEYS}
        there = {
            name: value
            for name, value in entry["keys"].items()
            if name not in (*UNBOUND_KEYS, *DERIVED_KEYS) and (name != "data.shards" or name in here)
        }
        differing = differing_keys(there, here)
        if not differing:
            continue
        message = (
            f"{root.url} holds results of another recipe (stage {stage}):\n{differing}\n"
            "give another output.root (--set output.root=FOLDER), or set these keys back"
        )
        if there.get("data.shards") != here.get("data.shards"):
            message += f".\n{_SHARDS_REMEDY}"
        raise OtherRecipeError(message)


def claim(root: Root, recipe: Recipe, stage: Stage) -> None:
    """Note that the folder now holds results of `recipe` up to `stage`; nothing is written if that is noted already."""
    recorded = _recorded(root)
    entry = {"fingerprint": recipe.fingerprint(stage), "keys": _plain(recipe.stage_keys(stage))}
    if recorded.get(stage) != entry:
        root.write_json(RECIPE_PATH, {"schema": RUN_SCHEMA, "stages": recorded | {stage: entry}})


def differing_keys(there: Json, here: Json) -> str:
    """One line per key that differs, with both values."""
    lines = []
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            lines.append(f"  {key}: {_show(there, key)} in the folder, {_show(here, key)} in the recipe")
    return "\n".join(lines)


def _show(keys: Json, key: str) -> str:
    return json.dumps(keys[key], ensure_ascii=False) if key in keys else "not set"


def _plain(keys: Mapping[str, object]) -> Json:
    """As JSON gives it back, so that tuples compare equal to lists."""
    plain: Json = json.loads(json.dumps(keys))
    return plain


def _recorded(root: Root) -> Json:
    if not root.exists(RECIPE_PATH):
        return {}
    record = root.read_json(RECIPE_PATH)
    if record.get("schema") != RUN_SCHEMA:
        raise UserError(
            f"{root.url}/{RECIPE_PATH}: schema {record.get('schema')!r}, expected {RUN_SCHEMA!r}; "
            "the folder was made by another version: give another output.root"
        )
    stages: Json = record["stages"]
    return stages


class RunLog:
    """`run/log.jsonl`: one line per task, written by the driver as outcomes arrive.

    On a local root a line is on disk when `append` returns. On an object store the log is in parts,
    `run/log/RUN-NUMBER.jsonl`; the last one is sent every `REMOTE_FLUSH_S` and at the end, until it has `PART_BYTES`.
    Every line names its `run`, one driver from start to end: when it began, and some letters against ties.
    """

    def __init__(self, root: Root) -> None:
        self.run = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        self._root = root
        self._part = ""  # the lines of the part that is not full yet
        self._part_number = 0
        self._has_unsent = False
        self._flushed_at = time.monotonic()
        earlier = root.read_text(LOG_PATH) if root.is_local and root.exists(LOG_PATH) else ""
        if earlier and not earlier.endswith("\n"):  # a killed driver's half line must not swallow the next one
            self._root.append_text(LOG_PATH, "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
            return
        # The error on its way names the cause; storage that is gone refuses the log, too.
        with contextlib.suppress(OSError):
            self.flush()

    def append(self, **entry: object) -> None:
        """Add one line; `time` (UTC) and `run` are filled in."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        line = json.dumps({"time": now, "run": self.run, **entry}, ensure_ascii=False) + "\n"
        if self._root.is_local:
            self._root.append_text(LOG_PATH, line)
            return
        self._part += line
        self._has_unsent = True
        if time.monotonic() - self._flushed_at > REMOTE_FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Send what an object store does not have yet."""
        if self._has_unsent:
            self._root.write_text(f"{LOG_PARTS}/{self.run}-{self._part_number:04d}.jsonl", self._part)
            self._has_unsent = False
            if len(self._part) >= PART_BYTES:
                self._part, self._part_number = "", self._part_number + 1
        self._flushed_at = time.monotonic()


def read_log(root: Root) -> list[Json]:
    """All entries by their times; a line that a killed driver left half-written is passed over."""
    paths = [LOG_PATH] if root.exists(LOG_PATH) else []
    paths += [f"{LOG_PARTS}/{name}" for name in root.list(LOG_PARTS)]
    entries = []
    for path in paths:
        for line in root.read_text(path).splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entries.append(json.loads(line))
    return sorted(entries, key=lambda entry: entry["time"])  # UTC, of one format


def log_place(root: Root) -> str:
    """Where the log of a root is, for people."""
    return f"{root.url}/{LOG_PATH if root.is_local else LOG_PARTS}"
