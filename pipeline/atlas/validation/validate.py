"""Validate an atlas or a site: is every file there and intact, and does every image belong to its row?

Nothing in the folder is trusted: it may be somebody else's. Paths are checked before use, sizes before reading, pixel
counts before decoding; every deviation becomes a `Fault` that names the file, and checking goes on with the next file.
One layer is in memory at a time; of the others a few columns stay, and the thumbnails if there is a map.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.atlas.format.file_list import FileList
from pipeline.atlas.format.fragments import Row
from pipeline.atlas.format.manifest import Manifest, make_head, manifest_problems
from pipeline.atlas.format.rows import (
    PATH_FOLDERS,
    LayerRows,
    count_statuses,
    has_captions,
    index_rows,
    index_scores,
    label_rows,
    part_rows,
    row_problems,
)
from pipeline.atlas.format.schema import (
    EXAMPLE_TILE_PX,
    HEAD_PATH,
    LAYER_SCHEMA,
    MAP_FOLDER,
    MAP_TABLE,
    NEIGHBORS_FOLDER,
    SITE_SCHEMA_VERSION,
    STATUSES,
    index_path,
    neighbors_path,
    part_path,
)
from pipeline.atlas.format.scores import SCORES_TABLE, SCORES_TEXT, SUMMARY_SCHEMA, scores_tables, summary_problems
from pipeline.atlas.neighbors.find import NeuronKey
from pipeline.atlas.neighbors.nearest import NEIGHBORS_SCHEMA
from pipeline.atlas.neighbors.projection import MAP_SCHEMA
from pipeline.atlas.site.site import check_site_entry, site_entry
from pipeline.atlas.validation.image_checks import decode_bounded, sheet_problems, thumbnail
from pipeline.atlas.validation.listed_files import Fault, ListedFiles, parsed, read_json
from pipeline.atlas.validation.map_checks import map_problems, map_sheet_problems, map_sheet_rows, neighbor_problems
from pipeline.atlas.validation.primary_rows import PrimaryRows
from pipeline.atlas.validation.table_checks import TableChecks, WholeTable
from pipeline.errors import UserError
from pipeline.io.images import BadImage
from pipeline.io.root import Root

Seen = TypeVar("Seen")
Watch = Callable[[int], AbstractContextManager[Callable[[int], None]]]


def unwatched(num_files: int) -> AbstractContextManager[Callable[[int], None]]:
    """A `Watch` that shows nothing."""
    return nullcontext(lambda _: None)


def validate(path: str | Path | Root, *, watch: Watch = unwatched) -> list[Fault]:
    """All faults of an atlas folder (atlas.json) or a site (sites.json), sorted; none if it is good.

    Args:
        path: the folder.
        watch: takes the number of listed files of an atlas; gives a function that is called with the number of files
            read since the last call.
    """
    root = path if isinstance(path, Root) else Root.open(str(path))
    if root.exists("sites.json"):
        faults = _check_site(root, watch)
    elif root.exists("atlas.json"):
        faults = _AtlasCheck(root, watch=watch).run(whole_folder=False)
    else:
        faults = [Fault("atlas.json", f"missing, like sites.json: {root.url} is neither an atlas nor a site")]
    return sorted(set(faults))


def _check_site(root: Root, watch: Watch) -> list[Fault]:
    faults: list[Fault] = []
    sites = read_json(root, "sites.json", faults)
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
        except UserError as error:
            faults.append(Fault("sites.json", str(error)))
            continue
        folder = entry["path"]
        if folder in folders:
            faults.append(Fault("sites.json", f"names {folder} twice"))
            continue
        folders.add(folder)
        packed = entry.get("packed") is True
        check = _AtlasCheck(root.join(folder), watch=watch, packed=packed)
        faults += [Fault(f"{folder}/{found.path}", found.message) for found in check.run(whole_folder=True)]
        if check.manifest and entry != site_entry(entry["slug"], check.manifest, packed=packed):
            faults.append(Fault("sites.json", f"its entry {entry['slug']!r} is not what atlas.json says"))
    for slug in root.list("atlases"):
        for build in root.list(f"atlases/{slug}"):
            folder = f"atlases/{slug}/{build}"
            if folder not in folders:
                faults.append(Fault(folder, "not named by sites.json; publish again to remove it"))
    return faults


class _AtlasCheck:
    """The check of one atlas folder, step by step; `files` collects the faults."""

    def __init__(self, root: Root, *, watch: Watch, packed: bool = False) -> None:
        self.root = root
        self.watch = watch
        self.files = ListedFiles(root, packed=packed)
        self.manifest: Manifest = {}
        self.tables = TableChecks(self.files, self.manifest)
        self.primary: dict[str, PrimaryRows] = {}  # by layer

    def run(self, *, whole_folder: bool) -> list[Fault]:
        """All faults.

        Args:
            whole_folder: search the whole folder for unlisted files, as in a published one; in a run's own folder
                only the folders of images and tables.
        """
        manifest = read_json(self.root, "atlas.json", self.files.faults)
        if manifest is None:
            return self.files.faults
        problems = manifest_problems(manifest)
        for problem in problems:
            self.files.add("atlas.json", problem)
        if problems:
            return self.files.faults
        if not self.files.check_packs():
            return self.files.faults  # the places of the images are not certain
        self.manifest = manifest
        self.tables = TableChecks(self.files, manifest)
        manifest["files"] = FileList(manifest["files"])  # in a third of the memory
        self.files.take_list(manifest["files"])
        self.files.check_unlisted(
            [""] if whole_folder else ["images", "sheets", "layers", "parts", "index", NEIGHBORS_FOLDER, MAP_FOLDER]
        )
        with self.watch(len(self.files.listed)) as advance:
            self.files.advance = advance
            self._check_files()
        return self.files.faults

    def _check_files(self) -> None:
        for _, recipe in self.files.intact(["recipe.toml"]):
            if recipe != self.manifest["recipe"].encode():
                self.files.add("recipe.toml", "is not the recipe that atlas.json quotes")
        self._check_layers()
        self._check_scores()
        self._check_further_visualizations(self._check_neighbors())

    def _check_layers(self) -> None:
        """Check every layer by itself, and the tables of all layers against it."""
        index, labels = self.tables.index(), self.tables.labels()
        counts = count_statuses(())
        scores: set[str] = set()
        captioned = False
        complete = True
        for layer in self.manifest["layers"]:
            tables = dict(self.files.intact([layer["file"]]))
            found = self._check_layer(layer, tables)
            if found is None:
                complete = False
                continue  # its other files are read with what is left
            known = [row for row in found.primary_rows if row["status"] in STATUSES]
            for name, count in count_statuses(known).items():
                counts[name] += count
            captioned = captioned or has_captions(found)
            if complete:
                scores.update(self._check_derived(found, index, labels))
            thumbnails = self._check_visualizations(found)
            self.primary[layer["name"]] = PrimaryRows.of(found, thumbnails if MAP_TABLE in self.files.listed else {})
        if not complete:
            return
        if counts != self.manifest["counts"]:
            self.files.add("atlas.json", f"counts are {self.manifest['counts']}, the tables say {counts}")
        if captioned != self.manifest["has_captions"]:
            self.files.add("atlas.json", f"has_captions must be {str(captioned).lower()}, as the tables say")
        for table in (index, labels):
            if table is not None:
                self.tables.end(table)
        if index is not None:
            expected = make_head(self.manifest, [name for name in index.schema if name in scores])
            for path, head in self.files.intact([HEAD_PATH]):
                if parsed(head) != expected:
                    self.files.add(path, "does not say what atlas.json and the index say")

    def _check_derived(self, layer: LayerRows, index: WholeTable | None, labels: WholeTable | None) -> Iterable[str]:
        """Check the tables that repeat a layer's rows; return the score columns that have a value in the index."""
        part: list[Row] = []
        if index is not None:
            part = index_rows(layer, index.schema)
            self.tables.compare_next(index, part)
            self.tables.check_copy(index_path(layer.name), part, index.schema)
        if labels is not None:
            self.tables.compare_next(labels, label_rows(layer))
        further = dict.fromkeys(set(self.manifest["columns"]) - set(LAYER_SCHEMA), "float32")
        for number, rows in enumerate(part_rows(layer)):
            known = {name: kind for name, kind in (LAYER_SCHEMA | further).items() if name in rows[0]}
            self.tables.check_copy(part_path(layer.name, number), rows, known)
        return index_scores(part, index.schema) if index is not None else ()

    def _check_layer(self, layer: Mapping[str, Any], tables: Mapping[str, bytes]) -> LayerRows | None:
        """Check the table of one layer; None if it could not be read."""
        path = layer["file"]
        rows = self.tables.read(path, tables[path], LAYER_SCHEMA) if path in tables else None
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
                self.files.add(path, f"row {number} ({where}): {problem}")
        found = LayerRows.of(layer["name"], layer["num_units"], layer["is_classes"], rows)
        if len(found.primary_rows) != layer["num_neurons"]:
            self.files.add(path, f"has {len(found.primary_rows)} neurons, atlas.json says {layer['num_neurons']}")
        return found

    def _listing_problems(self, row: Row) -> Iterator[str]:
        """Files that a row names must be listed, its image with the row's own sha256."""
        for column in PATH_FOLDERS:
            if row[column] and row[column] not in self.files.listed:
                yield f"{column} {row[column][:200]!r} is not listed in atlas.json"
        path = row["image_path"]
        if path in self.files.listed and self.files.listed[path]["sha256"] != row["image_sha256"]:
            yield f"image_sha256 is not that of {row['image_path']}"

    def _check_scores(self) -> None:
        """scores.parquet, if there is one, must be valid, and scores.md must hold its numbers."""
        tables = dict(self.files.intact([SCORES_TABLE, SCORES_TEXT]))
        if SCORES_TABLE not in tables:
            return
        rows = self.tables.read(SCORES_TABLE, tables[SCORES_TABLE], SUMMARY_SCHEMA)
        if rows is None:
            return
        methods, layers = self.manifest["methods"], [layer["name"] for layer in self.manifest["layers"]]
        problems = list(summary_problems(rows, methods=methods, layers=layers))
        for problem in problems:
            self.files.add(SCORES_TABLE, problem)
        text = tables.get(SCORES_TEXT, b"").decode(errors="replace")
        if not problems and scores_tables(rows, methods) not in text:
            self.files.add(SCORES_TEXT, f"does not hold the tables that {SCORES_TABLE} gives")

    def _check_neighbors(self) -> dict[str, list[NeuronKey]]:
        """Check the tables of neighbors and the map, where there are any; the neurons on each sheet of the map."""
        neurons = frozenset((layer, unit) for layer, primary in self.primary.items() for unit in primary.places)
        for layer, primary in self.primary.items():
            for path, data in self.files.intact([neighbors_path(layer)]):
                found = self.tables.read(path, data, NEIGHBORS_SCHEMA)
                units = list(primary.places)
                for problem in neighbor_problems(found or (), units=units, neurons=neurons, layer=layer):
                    self.files.add(path, problem)
        places = None
        for path, data in self.files.intact([MAP_TABLE]):
            places = self.tables.read(path, data, MAP_SCHEMA)
        problems = list(map_problems(places or (), neurons))
        for problem in problems:
            self.files.add(MAP_TABLE, problem)
        return {} if problems or places is None else map_sheet_rows(places)

    # ---- visualizations ----

    def _check_visualizations(self, layer: LayerRows) -> dict[str, np.ndarray]:
        """Decode every image that a layer names, and compare it with its row and with its tile.

        Returns:
            image_path → thumbnail of the primary rows' visualizations.
        """
        rows = {row["image_path"]: row for row in layer.rows if row["image_path"]}
        strips = {row["examples_path"]: row for row in layer.rows if row["examples_path"]}
        masks = {row["alpha_path"] for row in layer.rows if row["alpha_path"]}
        sheets = {sheet.path: sheet for sheet in layer.sheets}
        painted = {row["image_path"] for row in layer.primary_rows}
        thumbnails: dict[str, np.ndarray] = {}

        def measure(path: str, image: np.ndarray) -> tuple[tuple[int, int], np.ndarray | None]:
            return (image.shape[1], image.shape[0]), thumbnail(image) if path in painted else None

        for path, (size_px, small) in self._seen(sorted({*rows, *strips, *masks} - {*sheets}), measure):
            if small is not None:
                thumbnails[path] = small
            expected_px = size_px
            if path in rows:
                expected_px = (rows[path]["width_px"], rows[path]["height_px"])
            elif path in strips:
                expected_px = ((strips[path]["num_examples"] or 0) * EXAMPLE_TILE_PX, EXAMPLE_TILE_PX)
            if size_px != expected_px:
                self.files.add(path, f"has {size_px} px (width, height), its row says {expected_px}")

        def compare(path: str, visualization: np.ndarray) -> list[str]:
            return list(sheet_problems(visualization, sheets[path].rows, thumbnails))

        self._note_problems(self._seen(sheets, compare))
        self._check_listed(sheets)
        return thumbnails

    def _check_further_visualizations(self, map_sheets: Mapping[str, Sequence[NeuronKey]]) -> None:
        """Read every listed file that no layer names, and compare the sheets of the map with their neurons."""

        def compare(path: str, visualization: np.ndarray) -> list[str]:
            keys = map_sheets.get(path, ())
            rows = [self.primary[layer].row(unit) for layer, unit in keys]
            small = [self.primary[layer].thumbnail(unit) for layer, unit in keys]
            thumbnails = {row["image_path"]: seen for row, seen in zip(rows, small, strict=True) if seen is not None}
            return list(map_sheet_problems(visualization, rows, thumbnails)) if keys else []

        self._note_problems(self._seen([path for path in self.files.left if path.endswith(".webp")], compare))
        self._check_listed(map_sheets)
        for _ in self.files.intact(list(self.files.left)):
            pass  # tables of a layer that could not be read

    def _seen(self, paths: Iterable[str], see: Callable[[str, np.ndarray], Seen]) -> Iterator[tuple[str, Seen]]:
        """(path, what `see` makes of path and pixels) of the intact files that are images; the others become faults.

        Only the result of `see`, which runs in threads, stays in memory.
        """

        def decode(path: str, data: bytes) -> Seen | Fault:
            try:
                return see(path, decode_bounded(data))
            except BadImage as error:
                return Fault(path, f"does not decode: {error}")

        return self.files.seen(paths, decode)

    def _note_problems(self, found: Iterable[tuple[str, list[str]]]) -> None:
        for path, problems in found:
            for problem in problems:
                self.files.add(path, problem)

    def _check_listed(self, sheets: Iterable[str]) -> None:
        for path in sheets:
            if path not in self.files.listed:
                self.files.add(path, "missing: this contact sheet is not listed in atlas.json")
