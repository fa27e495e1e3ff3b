"""atlas.json: what an atlas says about itself, and what is wrong with one that somebody else wrote. Pure."""

import datetime
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from pipeline.atlas.format.file_list import FileList, build_id
from pipeline.atlas.format.rows import LayerRows, count_statuses, has_captions
from pipeline.atlas.format.schema import (
    EXAMPLE_TILE_PX,
    HEAD_PATH,
    INDEX_PATH,
    LABELS_PATH,
    MAP_FOLDER,
    MAP_TABLE,
    PART_NEURONS,
    SCHEMA_VERSION,
    SHEET_COLUMNS,
    SHEET_ROWS,
    TILE_SIZE_PX,
    check_atlas_path,
    column_notes,
    index_path,
    layer_path,
    neighbors_path,
    part_path,
)
from pipeline.atlas.format.scores import SCORES_TABLE, SCORES_TEXT
from pipeline.errors import UserError
from pipeline.recipe.recipe import Recipe

Manifest = dict[str, Any]

MODEL_KEYS: Final = ("name", "weights", "weights_sha256", "input_size_px", "num_classes", "classifier_layer")
PROVENANCE_KEYS: Final = (
    *("versions", "weights_sha256", "data_fingerprint", "num_samples", "num_skipped"),
    *("recipe_fingerprint", "git_commit"),
)
METHOD_CITATION: Final = (
    "Görgün, Schiele, Fischer: VITAL: More Understandable Feature Visualization through Distribution "
    "Alignment and Relevant Information Flow. ICCV 2025. arXiv:2503.22399"
)
# The folders of an atlas that hold images. Its other files are tables, the recipe, head.json and atlas.json.
IMAGE_FOLDERS: Final = ("images", "sheets", "examples", MAP_FOLDER)

_SIZES: Final = {
    "tile_size_px": TILE_SIZE_PX,
    "example_tile_size_px": EXAMPLE_TILE_PX,
    "sheet_columns": SHEET_COLUMNS,
    "sheet_rows": SHEET_ROWS,
    "part_neurons": PART_NEURONS,
}
_TYPES: Final[dict[str, type]] = {
    **dict.fromkeys(("schema", "title", "name", "recipe", "license", "homepage", "build_id"), str),
    **dict.fromkeys(("model", "counts", "columns", "provenance"), dict),
    **dict.fromkeys(("methods", "layers", "files"), list),
    **dict.fromkeys(_SIZES, int),
    "has_captions": bool,
}
_LAYER_TYPES: Final[dict[str, type]] = {
    "name": str,
    "num_units": int,
    "num_neurons": int,
    "is_classes": bool,
    "file": str,
    "num_parts": int,
}
_SHA256: Final = re.compile("[0-9a-f]{64}")
_FILE_TYPES: Final[dict[str, type]] = {"path": str, "bytes": int, "sha256": str}


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """What atlas.json says about a layer, and the numbers that are added up over layers."""

    name: str
    num_units: int
    is_classes: bool
    num_parts: int
    counts: Mapping[str, int]
    methods: frozenset[str]
    has_captions: bool

    @staticmethod
    def of(layer: LayerRows, num_parts: int) -> "LayerSummary":
        """The summary of a layer whose table is also stored in `num_parts` parts."""
        return LayerSummary(
            name=layer.name,
            num_units=layer.num_units,
            is_classes=layer.is_classes,
            num_parts=num_parts,
            counts=count_statuses(layer.primary_rows),
            methods=frozenset(row["method"] for row in layer.rows),
            has_captions=has_captions(layer),
        )


def make_manifest(
    *,
    recipe: Recipe,
    layers: Sequence[LayerSummary],
    model: Mapping[str, Any],
    provenance: Mapping[str, Any],
    created: str,
    extra: Mapping[str, str],
    files: FileList,
    neighbors: Mapping[str, Any] | None = None,
) -> Manifest:
    """The value of atlas.json; `files` stays the object that is given.

    Args:
        recipe: gives name, title, license, homepage and the order of the methods.
        layers: in model order.
        model: MODEL_KEYS.
        provenance: PROVENANCE_KEYS, and `evaluators` of an evaluation.
        created: UTC ISO date of the build.
        extra: score columns beyond LAYER_SCHEMA.
        files: every published file.
        neighbors: `NeighborTables.note`, of an atlas that has neighbors.
    """
    used = {method for layer in layers for method in layer.methods}
    return {
        "schema": SCHEMA_VERSION,
        "name": recipe.name,
        "title": recipe.atlas.title or recipe.name,
        "model": {key: model[key] for key in MODEL_KEYS},
        "methods": [method for method in recipe.visualize.methods if method in used],
        "recipe": recipe.to_toml(),
        "license": recipe.atlas.license,
        "homepage": recipe.atlas.homepage,
        **_SIZES,
        "layers": [
            {
                "name": layer.name,
                "num_units": layer.num_units,
                "num_neurons": layer.counts["neurons"],
                "is_classes": layer.is_classes,
                "file": layer_path(layer.name),
                "num_parts": layer.num_parts,
            }
            for layer in layers
        ],
        "counts": {name: sum(layer.counts[name] for layer in layers) for name in count_statuses(())},
        "columns": column_notes(extra, provenance.get("evaluators", ())),
        "provenance": {**provenance, "created": created, "method_citation": METHOD_CITATION},
        **({"neighbors": dict(neighbors)} if neighbors is not None else {}),
        "has_captions": any(layer.has_captions for layer in layers),
        "files": files,
        "build_id": build_id(files),
    }


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """atlas.json: keys sorted, one to a line, and one listed file to a line; equal values give equal bytes.

    It is written one entry at a time and not indented, because it may list 300,000 files.
    """
    out = io.BytesIO()
    start = b"{\n "
    for key in sorted(manifest):
        out.write(start + json.dumps(key).encode() + b": ")
        start = b",\n "
        if key == "files":
            _write_entries(out, manifest[key])
        else:
            out.write(json.dumps(manifest[key], ensure_ascii=False, sort_keys=True).encode())
    out.write(b"\n}\n")
    return out.getvalue()


def _write_entries(out: BinaryIO, files: Iterable[Mapping[str, Any]]) -> None:
    start = b"[\n  "
    for entry in files:
        out.write(start + json.dumps(entry, ensure_ascii=False, sort_keys=True).encode())
        start = b",\n  "
    out.write(b"\n ]")


def make_head(manifest: Manifest, scores: Sequence[str]) -> dict[str, Any]:
    """The value of head.json: atlas.json without its list of files, which grows with the number of images.

    Args:
        manifest: atlas.json; head.json need not be among its files yet.
        scores: columns of the index that the gallery can be sorted by, `rows.index_scores`.
    """
    kept = {key: value for key, value in manifest.items() if key != "files"}
    sizes, total = {}, {"files": 0, "bytes": 0}
    for entry in manifest["files"]:
        if _has_known_size(entry["path"]):
            sizes[entry["path"]] = entry["bytes"]
        if entry["path"] != HEAD_PATH:
            total["files"] += 1
            total["bytes"] += entry["bytes"]
    return kept | {"scores": list(scores), "sizes": sizes, "total": total}


def _has_known_size(path: str) -> bool:
    """Whether head.json gives the size of a file: of all tables but the parts, which may be many."""
    return path.endswith(".parquet") and not path.startswith("parts/")


def creation_date(source_date_epoch: str | None) -> str:
    """Now, or the seconds of SOURCE_DATE_EPOCH (reproducible-builds.org), as a UTC ISO date.

    Raises:
        UserError: it is set but not a number of seconds.
    """
    if source_date_epoch is None:
        moment = datetime.datetime.now(datetime.UTC)
    elif source_date_epoch.isdecimal():
        moment = datetime.datetime.fromtimestamp(int(source_date_epoch), datetime.UTC)
    else:
        raise UserError(f"SOURCE_DATE_EPOCH={source_date_epoch!r}: expected whole seconds since 1970")
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def require_keys(mapping: Mapping[str, Any], keys: Sequence[str], what: str) -> None:
    """Raise UserError if `mapping` lacks one of `keys`."""
    missing = [key for key in keys if key not in mapping]
    if missing:
        raise UserError(f"{what}: {missing} missing, expected {list(keys)}")


def manifest_problems(value: Any) -> list[str]:
    """Why a JSON value is no atlas.json that code can rely on; nothing if it is one.

    Names and paths in a value without problems are safe as parts of a path; the files need not exist.
    """
    if isinstance(value, dict) and value.get("schema") != SCHEMA_VERSION:
        return [f"schema {str(value.get('schema'))[:80]!r}, expected {SCHEMA_VERSION!r}; build the atlas again"]
    problems = _type_problems(value, _TYPES) or _part_problems(value)
    return problems or list(_layer_problems(value)) or list(_file_problems(value))


def _part_problems(value: Manifest) -> list[str]:
    """What is wrong with the types of the parts of a manifest, and with its fixed numbers."""
    problems = [
        f"{key}[{number}]: {problem}"
        for key, types in (("layers", _LAYER_TYPES), ("files", _FILE_TYPES))
        for number, entry in enumerate(value[key])
        for problem in _type_problems(entry, types)
    ]
    problems += [f"methods: {name!r} is not text" for name in value["methods"] if not isinstance(name, str)]
    for key, requested in (("model", MODEL_KEYS), ("provenance", (*PROVENANCE_KEYS, "created"))):
        problems += [f"{key}: {name!r} is missing" for name in requested if name not in value[key]]
    if type(value.get("neighbors", {})) is not dict:
        problems.append("'neighbors' is no object")
    return problems + [f"{key} is {value[key]}, expected {size}" for key, size in _SIZES.items() if value[key] != size]


def _layer_problems(value: Manifest) -> Iterator[str]:
    """What is wrong with the names and files of the layers of a manifest whose types are right."""
    for layer in value["layers"]:
        try:
            path = layer_path(layer["name"])
        except UserError as error:
            yield f"layers: {error}"
            continue
        if layer["file"] != path:
            yield f"layers: file of {layer['name']} is {layer['file'][:200]!r}"
        num_parts = -(-layer["num_neurons"] // PART_NEURONS)
        if layer["num_parts"] not in (0, num_parts) or layer["num_parts"] > len(value["files"]):
            yield f"layers: num_parts of {layer['name']} is {layer['num_parts']}"


def _file_problems(value: Manifest) -> Iterator[str]:
    """What is wrong with the list of files of a manifest whose types are right."""
    required, optional = _tables(value["layers"])
    listed: set[str] = set()
    for entry in value["files"]:
        path = entry["path"]
        try:
            check_atlas_path(path)
        except UserError as error:
            yield f"files: {error}"
            continue
        if path in listed:
            yield f"files: {path} is listed twice"
        if not 0 <= entry["bytes"] < 1 << 63 or not _SHA256.fullmatch(entry["sha256"]):
            yield f"files: bytes or sha256 of {path} are invalid"
        if path not in required | optional and not (path.endswith(".webp") and path.split("/")[0] in IMAGE_FOLDERS):
            yield f"files: {path} is no part of an atlas"
        listed.add(path)
    yield from (f"files: {path} is not listed" for path in sorted(required - listed))
    if value["build_id"] != build_id(value["files"]):
        yield "build_id does not belong to the list of files"


def _tables(layers: Iterable[Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    """The files beside the images that an atlas of these layers must list, and those that it may list."""
    required = {INDEX_PATH, LABELS_PATH, HEAD_PATH, "recipe.toml"}
    optional = {SCORES_TABLE, SCORES_TEXT, MAP_TABLE}
    for layer in layers:
        name = layer["name"]
        required |= {layer_path(name), index_path(name)}
        required |= {part_path(name, number) for number in range(layer["num_parts"])}
        optional.add(neighbors_path(name))
    return required, optional


def _type_problems(value: Any, types: Mapping[str, type]) -> list[str]:
    if not isinstance(value, dict):
        return [f"a {type(value).__name__}, expected an object"]
    return [
        f"{key!r} is {type(value[key]).__name__ if key in value else 'missing'}, expected {kind.__name__}"
        for key, kind in types.items()
        if type(value.get(key)) is not kind  # not isinstance: True must not pass as a number
    ]
