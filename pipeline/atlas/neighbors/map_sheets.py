"""The thumbnails of the map: 256 neurons on each `map/NNNN.webp`, in the order of `map.parquet`.

A window on the map shows neurons of every layer. The contact sheets of the layers would be loaded by the dozen for it;
along the Morton curve its neurons are together on one to four sheets. Tiles are cut from the contact sheets, so no
visualization is decoded twice. Neuron i is on tile i mod 256 of sheet i div 256.

Legend: H, W = height and width in pixels; sheets and tiles are uint8 RGB [H, W, 3].
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Final

import numpy as np
from PIL import Image

from pipeline.atlas.format.schema import MAP_FOLDER
from pipeline.atlas.format.sheets import tile_box

MAP_TILE_PX: Final = 64  # the map shows thumbnails of 40 to 64 px
MAP_SHEET_COLUMNS: Final = 16
TILES_PER_MAP_SHEET: Final = MAP_SHEET_COLUMNS**2
MAP_SHEET_PX: Final = MAP_SHEET_COLUMNS * MAP_TILE_PX
MAP_SHEET_QUALITY: Final = 75
_TILE_BYTES: Final = MAP_TILE_PX * MAP_TILE_PX * 3

Place = tuple[str, int]  # contact sheet and tile


def map_sheet_path(number: int) -> str:
    """Where sheet `number` (from 0) of the map lies."""
    return f"{MAP_FOLDER}/{number:04d}.webp"


def num_map_sheets(num_neurons: int) -> int:
    """How many sheets the thumbnails of `num_neurons` fill."""
    return -(-num_neurons // TILES_PER_MAP_SHEET)


def draw_map_sheets(
    places: Sequence[Place], read_sheet: Callable[[str], np.ndarray], spool: BinaryIO
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, sheet [1024, 1024, 3]) of every sheet of the map, in order.

    Neighbors on the map come from contact sheets of all layers, so all thumbnails are kept, 12 kB each, in a file.

    Args:
        places: the place of each neuron of the map on the contact sheets, in the order of the map.
        read_sheet: path → decoded contact sheet [896, 896, 3]; called once for each.
        spool: an empty file, open for writing and reading, for the thumbnails.
    """
    requested: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for position, (path, tile) in enumerate(places):
        requested[path].append((position, tile))
    for path in sorted(requested):
        contact_sheet = Image.fromarray(read_sheet(path))
        for position, tile in requested[path]:
            small = contact_sheet.resize(
                (MAP_TILE_PX, MAP_TILE_PX), Image.Resampling.LANCZOS, box=tile_box(tile), reducing_gap=None
            )
            spool.seek(position * _TILE_BYTES)
            spool.write(small.tobytes())
    spool.seek(0)
    for number in range(num_map_sheets(len(places))):
        sheet = np.zeros((MAP_SHEET_PX, MAP_SHEET_PX, 3), np.uint8)
        for position in range(min(TILES_PER_MAP_SHEET, len(places) - number * TILES_PER_MAP_SHEET)):
            left, top, right, bottom = map_tile_box(position)
            tile_pixels = np.frombuffer(spool.read(_TILE_BYTES), np.uint8)
            sheet[top:bottom, left:right] = tile_pixels.reshape(MAP_TILE_PX, MAP_TILE_PX, 3)
        yield map_sheet_path(number), sheet


def map_tile_box(position: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels of the neuron at a position of the map, on its sheet."""
    row, column = divmod(position % TILES_PER_MAP_SHEET, MAP_SHEET_COLUMNS)
    left, top = column * MAP_TILE_PX, row * MAP_TILE_PX
    return left, top, left + MAP_TILE_PX, top + MAP_TILE_PX
