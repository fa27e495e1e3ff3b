"""Validate an atlas or a site: is everything there, whole, and does every picture belong to its row?

Nothing in the folder is trusted: it may be somebody else's. Paths are checked before use, sizes before
reading, pixels before decoding; every deviation becomes a `Fault` that names the file, and checking goes on
with the next one.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.atlas.fragments import Row
from pipeline.atlas.manifest import Manifest, manifest_problems
from pipeline.atlas.picture_checks import decode_bounded, sheet_problems, thumbnail
from pipeline.atlas.rows import PATH_FOLDERS, LayerRows, count_statuses, index_rows, row_problems
from pipeline.atlas.schema import (
    EXAMPLE_TILE_PX,
    INDEX_SCHEMA,
    KEY_COLUMNS,
    LAYER_SCHEMA,
    SITE_SCHEMA_VERSION,
    STATUSES,
    indexed_scores,
)
from pipeline.atlas.scores import SCORES_TABLE, SCORES_TEXT, SUMMARY_SCHEMA, scores_tables, summary_problems
from pipeline.atlas.site import check_site_entry, site_entry
from pipeline.images import BadImage
from pipeline.storage import Root
from pipeline.tables import BadTable, column_types, parse_table

MAX_MANIFEST_BYTES: Final = 512 << 20  # 1 million pictures listed at 140 bytes each, and room
MAX_FILE_BYTES: Final = 256 << 20  # no part of an atlas comes near
_READERS: Final = 4
_FILES_IN_FLIGHT: Final = 32


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong: the file (relative to what was validated) and what about it."""

    path: str
    message: str

    def __str__(self) -> str:
        # What comes from the folder must not steer the terminal it is printed on.
        text = f"{self.path}: {self.message}"
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def validate(path: str | Path | Root) -> list[Fault]:
    """All faults of an atlas folder (atlas.json) or a site (sites.json), sorted; none if it is good."""
    root = path if isinstance(path, Root) else Root.open(str(path))
    if root.exists("sites.json"):
        faults = _check_site(root)
    elif root.exists("atlas.json"):
        faults = _AtlasCheck(root).run(whole_folder=False)
    else:
        faults = [Fault("atlas.json", f"missing, like sites.json: {root.url} is neither an atlas nor a site")]
    return sorted(set(faults))


def _check_site(root: Root) -> list[Fault]:
    faults: list[Fault] = []
    sites = _read_json(root, "sites.json", faults)
    if sites is None:
        return faults
    entries = sites.get("atlases")
    if not isinstance(entries, list) or sites.get("schema") != SITE_SCHEMA_VERSION:
        return [Fault("sites.json", f"expected schema {SITE_SCHEMA_VERSION!r} and a list `atlases`")]
    if not root.exists("index.html"):
        faults.append(Fault("index.html", "missing: the viewer is not there"))
    folders: set[str] = set()
    for entry in entries:
        try:
            check_site_entry(entry)
        except ValueError as error:
            faults.append(Fault("sites.json", str(error)))
            continue
        folder = entry["path"]
        if folder in folders:
            faults.append(Fault("sites.json", f"names {folder} twice"))
            continue
        folders.add(folder)
        check = _AtlasCheck(root.join(folder))
        faults += [Fault(f"{folder}/{found.path}", found.message) for found in check.run(whole_folder=True)]
        if check.manifest and entry != site_entry(entry["slug"], check.manifest):
            faults.append(Fault("sites.json", f"its entry {entry['slug']!r} is not what atlas.json says"))
    for slug in root.list("atlases"):
        for build in root.list(f"atlases/{slug}"):
            folder = f"atlases/{slug}/{build}"
            if folder not in folders:
                faults.append(Fault(folder, "not named by sites.json; publish again to remove it"))
    return faults


class _AtlasCheck:
    """The check of one atlas folder, step by step; faults gather in `faults`."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.faults: list[Fault] = []
        self.manifest: Manifest = {}
        self.listed: dict[str, dict[str, Any]] = {}

    def run(self, *, whole_folder: bool) -> list[Fault]:
        """All faults.

        Args:
            whole_folder: nothing unlisted may lie anywhere in the folder, as in a published one; a run's own
                folder is only searched where the pictures and tables are.
        """
        manifest = _read_json(self.root, "atlas.json", self.faults)
        if manifest is None:
            return self.faults
        problems = manifest_problems(manifest)
        for problem in problems:
            self._add("atlas.json", problem)
        if problems:
            return self.faults
        self.manifest = manifest
        self.listed = {entry["path"]: entry for entry in manifest["files"]}
        self._check_unlisted([""] if whole_folder else ["images", "sheets", "layers"])

        tables = dict(self._intact(path for path in self.listed if not path.endswith(".webp")))
        if "recipe.toml" in tables and tables["recipe.toml"] != manifest["recipe"].encode():
            self._add("recipe.toml", "is not the recipe that atlas.json quotes")
        layers = [found for layer in manifest["layers"] if (found := self._check_layer(layer, tables))]
        if len(layers) == len(manifest["layers"]):
            self._check_counts(layers)
            self._check_index(layers, tables)
        self._check_scores(tables)
        self._check_pictures(layers)
        return self.faults

    def _add(self, path: str, message: str) -> None:
        self.faults.append(Fault(path, message))

    def _check_unlisted(self, folders: Sequence[str]) -> None:
        for folder in folders:
            for name in self.root.walk(folder):
                path = f"{folder}/{name}" if folder else name
                if path not in self.listed and path != "atlas.json":
                    self._add(path, "not listed in atlas.json; if it is newer, run `neuron-atlas build` again")

    def _intact(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of the listed files with the listed size and sha256; the others become faults."""
        paths = list(paths)
        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(paths), _FILES_IN_FLIGHT):
                some = paths[start : start + _FILES_IN_FLIGHT]
                for path, data in zip(some, pool.map(self._read_listed, some), strict=True):
                    if isinstance(data, Fault):
                        self.faults.append(data)
                    else:
                        yield path, data

    def _read_listed(self, path: str) -> bytes | Fault:
        entry = self.listed[path]
        try:
            _refuse_links(self.root, path)
            size = self.root.size_bytes(path)
            if size > MAX_FILE_BYTES:
                return Fault(path, f"has {size} bytes, more than any part of an atlas")
            if size != entry["bytes"]:
                return Fault(path, f"has {size} bytes, atlas.json says {entry['bytes']}: cut or replaced")
            data = self.root.read_bytes(path)
        except FileNotFoundError:
            return Fault(path, "missing, though atlas.json lists it")
        except OSError as error:
            return Fault(path, f"cannot be read: {error}")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            return Fault(path, "sha256 differs from atlas.json: damaged or replaced")
        return data

    # ---- tables ----

    def _read_table(self, path: str, data: bytes, schema: Mapping[str, str]) -> list[Row] | None:
        """Rows of a table whose columns are as they must be; None if it has none such, with the faults."""
        try:
            types = column_types(data, source=path)
            columns = parse_table(data, source=path)
        except BadTable as error:
            self._add(path, str(error).removeprefix(f"{path}: "))
            return None
        problems = [
            f"column {name!r} is {types.get(name, 'missing')}, expected {kind}"
            for name, kind in schema.items()
            if types.get(name) != kind
        ]
        problems += [
            f"column {name!r} is not in the schema, nor a float32 score that atlas.json explains"
            for name, kind in types.items()
            if name not in schema and (kind != "float32" or name not in self.manifest["columns"])
        ]
        problems += [
            f"column {name!r} has empty cells"
            for name, kind in schema.items()
            if (name in KEY_COLUMNS or not kind.startswith(("int", "float"))) and None in columns.get(name, ())
        ]
        for problem in problems:
            self._add(path, problem)
        if problems:
            return None
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _check_layer(self, layer: Mapping[str, Any], tables: Mapping[str, bytes]) -> LayerRows | None:
        """Check the table of one layer; None if it could not be read."""
        path = layer["file"]
        rows = self._read_table(path, tables[path], LAYER_SCHEMA) if path in tables else None
        if rows is None:
            return None
        methods = {name: position for position, name in enumerate(self.manifest["methods"])}
        model_name = str(self.manifest["model"]["name"])
        previous: tuple[int, int, int] | None = None
        for number, row in enumerate(rows):
            problems = [
                *row_problems(
                    row,
                    layer=layer["name"],
                    num_units=layer["num_units"],
                    methods=methods,
                    model_name=model_name,
                ),
                *self._listing_problems(row),
            ]
            place = (row["unit"], methods.get(row["method"], -1), row["seed"])
            if previous is not None and place <= previous:
                problems.append("out of order or twice; rows go by unit, method and seed")
            previous = place
            for problem in problems:
                where = f"{row['layer'][:200]}:{row['unit']}, {row['method'][:80]}, seed {row['seed']}"
                self._add(path, f"row {number} ({where}): {problem}")
        found = LayerRows.of(layer["name"], layer["num_units"], layer["is_classes"], rows)
        if len(found.primary_rows) != layer["num_neurons"]:
            self._add(path, f"has {len(found.primary_rows)} neurons, atlas.json says {layer['num_neurons']}")
        return found

    def _listing_problems(self, row: Row) -> Iterator[str]:
        """Files that a row names must be listed, its picture with the row's own sha256."""
        for column in PATH_FOLDERS:
            if row[column] and row[column] not in self.listed:
                yield f"{column} {row[column][:200]!r} is not listed in atlas.json"
        listed = self.listed.get(row["image_path"])
        if listed is not None and listed["sha256"] != row["image_sha256"]:
            yield f"image_sha256 is not that of {row['image_path']}"

    def _check_counts(self, layers: Sequence[LayerRows]) -> None:
        rows = [row for layer in layers for row in layer.primary_rows if row["status"] in STATUSES]
        if count_statuses(rows) != self.manifest["counts"]:
            self._add("atlas.json", f"counts are {self.manifest['counts']}, the tables say {count_statuses(rows)}")

    def _check_index(self, layers: Sequence[LayerRows], tables: Mapping[str, bytes]) -> None:
        """index.parquet must say what the layers' tables say."""
        path = "index.parquet"
        rows = self._read_table(path, tables[path], INDEX_SCHEMA) if path in tables else None
        if rows is None:
            return
        types = column_types(tables[path], source=path)
        extra = [name for name in indexed_scores(self.manifest["columns"]) if name in types]
        expected = index_rows(layers, extra)
        if len(rows) != len(expected):
            self._add(path, f"has {len(rows)} rows, the layers have {len(expected)} neurons")
        for number, (row, wanted) in enumerate(zip(rows, expected, strict=False)):
            differing = [name for name in (*INDEX_SCHEMA, *extra) if row[name] != wanted.get(name)]
            if differing:
                where = f"{wanted['layer'][:200]}:{wanted['unit']}"
                self._add(path, f"row {number} ({where}): {differing} differ from the layer's table")

    def _check_scores(self, tables: Mapping[str, bytes]) -> None:
        """scores.parquet, where there is one, must be sound, and scores.md hold its numbers."""
        if SCORES_TABLE not in tables:
            return
        rows = self._read_table(SCORES_TABLE, tables[SCORES_TABLE], SUMMARY_SCHEMA)
        if rows is None:
            return
        methods, layers = self.manifest["methods"], [layer["name"] for layer in self.manifest["layers"]]
        problems = list(summary_problems(rows, methods=methods, layers=layers))
        for problem in problems:
            self._add(SCORES_TABLE, problem)
        text = tables.get(SCORES_TEXT, b"").decode(errors="replace")
        if not problems and scores_tables(rows, methods) not in text:
            self._add(SCORES_TEXT, f"does not hold the tables that {SCORES_TABLE} gives")

    # ---- pictures ----

    def _check_pictures(self, layers: Sequence[LayerRows]) -> None:
        """Decode every listed picture once; compare it with its row, and the sheets with what is on them."""
        rows = {row["image_path"]: row for layer in layers for row in layer.rows if row["image_path"]}
        strips = {row["examples_path"]: row for layer in layers for row in layer.rows if row["examples_path"]}
        sheets = {sheet.path: sheet for layer in layers for sheet in layer.sheets}
        painted = {row["image_path"] for sheet in sheets.values() for row in sheet.rows}
        thumbnails: dict[str, np.ndarray] = {}
        pictures = [path for path in self.listed if path.endswith(".webp")]
        pictures.sort(key=lambda path: path in sheets)  # sheets last: they need the thumbnails
        for path, data in self._intact(pictures):
            try:
                picture = decode_bounded(data)
            except BadImage as error:
                self._add(path, f"does not decode: {error}")
                continue
            if path in sheets:
                for problem in sheet_problems(picture, sheets[path].rows, thumbnails):
                    self._add(path, problem)
                continue
            if path in painted:
                thumbnails[path] = thumbnail(picture)
            size_px = (picture.shape[1], picture.shape[0])
            expected_px = size_px
            if path in rows:
                expected_px = (rows[path]["width_px"], rows[path]["height_px"])
            elif path in strips:
                expected_px = ((strips[path]["num_examples"] or 0) * EXAMPLE_TILE_PX, EXAMPLE_TILE_PX)
            if size_px != expected_px:
                self._add(path, f"has {size_px} px (width, height), its row says {expected_px}")
        for path in sheets:
            if path not in self.listed:
                self._add(path, "missing: this contact sheet is not listed in atlas.json")


def _refuse_links(root: Root, path: str) -> None:
    """Raise OSError if a local file is a link out of the folder or no plain file (a device, a pipe)."""
    if not root.is_local:
        return
    file = (root.local_path / path).resolve(strict=True)
    if not file.is_relative_to(root.local_path.resolve()) or not file.is_file():
        raise OSError("a link out of the folder, or not a plain file")


def _read_json(root: Root, path: str, faults: list[Fault]) -> dict[str, Any] | None:
    """The JSON object, or None with a fault."""
    try:
        _refuse_links(root, path)
        size = root.size_bytes(path)
        if size > MAX_MANIFEST_BYTES:
            raise ValueError(f"{size} bytes, at most {MAX_MANIFEST_BYTES} are expected")
        value = json.loads(root.read_bytes(path))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}, expected an object")
    except FileNotFoundError:
        faults.append(Fault(path, "missing"))
        return None
    except (OSError, ValueError, RecursionError) as error:
        faults.append(Fault(path, f"not readable: {error}"))
        return None
    return value
