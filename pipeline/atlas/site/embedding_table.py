"""One Parquet file of all neurons that Apple's Embedding Atlas opens (apple.github.io/embedding-atlas), on request.

    embedding-atlas embedding/<slug>.parquet --text text --image image [--x x --y y]

`image` is the neuron's tile as a data URL, one of the forms on its "Data Formats" page, so that the file is complete
without this site. `x` and `y` come from the atlas's map (`map.parquet`); without a map Embedding Atlas computes a layout
from `text` or `image`.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.atlas.format.manifest import Manifest
from pipeline.atlas.format.schema import MAP_TABLE, SHEET_QUALITY
from pipeline.atlas.format.sheets import tile_box
from pipeline.io.images import decode_image, encode_webp
from pipeline.io.parquet import parse_table, table_bytes


def embedding_path(slug: str) -> str:
    """Where the table of an atlas lies in a site."""
    return f"embedding/{slug}.parquet"


def embedding_command(slug: str, *, has_map: bool) -> str:
    """The command that opens the table."""
    places = " --x x --y y" if has_map else ""
    return f"embedding-atlas {embedding_path(slug)} --text text --image image{places}"


def embedding_table(manifest: Manifest, rows: Sequence[Mapping[str, Any]], read: Callable[[str], bytes]) -> bytes:
    """The Parquet file: one row per neuron with `neuron`, `layer`, `unit`, `text`, `image`, its status and its scores.

    Args:
        manifest: atlas.json.
        rows: of index.parquet, with `top_labels` and `top_captions` as text.
        read: gives the bytes of a file of the atlas.
    """
    scores = [name for name in manifest["columns"] if rows and name in rows[0]]
    schema = {
        "neuron": "string",
        "layer": "string",
        "unit": "int32",
        "text": "string",
        "image": "string",
        "status": "string",
        "method": "string",
        **dict.fromkeys(scores, "float32"),
    }
    tiles = _Tiles(read)
    table: list[dict[str, Any]] = [
        {
            **{name: row[name] for name in ("layer", "unit", "status", "method", *scores)},
            "neuron": f"{row['layer']}:{row['unit']}",
            "text": _text(row),
            "image": tiles.data_url(row["sheet_path"], row["tile"]),
        }
        for row in rows
    ]
    if has_map(manifest):
        schema |= {"x": "float32", "y": "float32"}
        places = _places(read(MAP_TABLE))
        for row in table:
            x, y = places.get((row["layer"], row["unit"]), (None, None))
            row |= {"x": x, "y": None if y is None else -y}  # Embedding Atlas has y upwards
    return table_bytes(table, schema)


def has_map(manifest: Manifest) -> bool:
    """Whether the atlas has places on a plane for its neurons."""
    return any(entry["path"] == MAP_TABLE for entry in manifest["files"])


def _text(row: Mapping[str, Any]) -> str:
    words = [row["label"], f"{row['layer']}:{row['unit']}", row["top_labels"], row["top_captions"]]
    return " · ".join(word for word in words if word)


def _places(data: bytes) -> dict[tuple[str, int], tuple[float, float]]:
    table = parse_table(data, source=MAP_TABLE)
    keys = zip(table["layer"], table["unit"], strict=True)
    return dict(zip(keys, zip(table["x"], table["y"], strict=True), strict=True))


class _Tiles:
    """Tiles of contact sheets, one decoded sheet in memory at a time: neighbors in the index share theirs."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._path = ""
        self._sheet: Any = None

    def data_url(self, sheet_path: str, tile: int) -> str:
        if sheet_path != self._path:
            self._sheet, self._path = decode_image(self._read(sheet_path)), sheet_path
        visualization = np.asarray(self._sheet.crop(tile_box(tile)))
        return "data:image/webp;base64," + base64.b64encode(encode_webp(visualization, quality=SHEET_QUALITY)).decode()
