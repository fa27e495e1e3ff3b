"""A small atlas without a fault, to damage copies of, and lists that agree with the damage."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.atlas.format.file_list import build_id, file_entry
from pipeline.atlas.format.manifest import make_head
from pipeline.atlas.format.schema import HEAD_PATH
from pipeline.io.parquet import column_types, read_rows, write_table
from pipeline.io.root import Root
from tests.support.synthetic_atlas import build_synthetic_atlas

OPTIONS: dict[str, Any] = {
    "layers": {"conv_stem": (16, 12), "classifier": (30, 8)},
    "methods": ("vital",),
    "seeds": 1,
}
VISUALIZATION = "images/conv_stem/00001-vital-s0.webp"
STEM = "layers/conv_stem.parquet"
SHEET = "sheets/conv_stem/0000.webp"


def build_good(folder: Path) -> Path:
    """Build the atlas without a fault in `folder`."""
    build_synthetic_atlas(str(folder), **OPTIONS)
    return folder


def copied(good: Path, folder: Path) -> Root:
    """A copy of it in `folder`, to be damaged."""
    shutil.copytree(good, folder / "atlas")
    return Root.open(str(folder / "atlas"))


def sign(root: Root, **changes: Any) -> None:
    """Make atlas.json and head.json agree with the files again, as an attacker or a faulty build would."""
    manifest = root.read_json("atlas.json") | changes
    head = next((entry for entry in manifest["files"] if entry["path"] == HEAD_PATH), {})
    for entry in manifest["files"]:
        if root.exists(entry["path"]):
            entry |= file_entry(entry["path"], root.read_bytes(entry["path"]))
    manifest["build_id"] = build_id(manifest["files"])
    if head:
        root.write_json(HEAD_PATH, make_head(manifest, root.read_json(HEAD_PATH)["scores"]))
        head |= file_entry(HEAD_PATH, root.read_bytes(HEAD_PATH))
    root.write_json("atlas.json", manifest)


def change_rows(root: Root, change: Callable[[list[dict[str, Any]]], Any], path: str = STEM) -> None:
    """Rewrite a table with changed rows and sign it."""
    rows = read_rows(root, path)
    change(rows)
    write_table(root, path, rows, column_types(root.read_bytes(path), source=path))
    sign(root)
