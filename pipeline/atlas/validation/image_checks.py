"""Does an image decode within bounds, and does a contact sheet show the visualizations of its rows? Pure.

Legend: H, W = height and width in pixels; a thumbnail is the tile of a visualization as uint8 [16, 16, 3].
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from PIL import Image

from pipeline.atlas.format.schema import SHEET_COLUMNS, SHEET_ROWS, TILE_SIZE_PX
from pipeline.atlas.format.sheets import largest_square, status_tile, tile_box
from pipeline.io.images import BadImage, decode_image

MAX_PIXELS: Final = 16_000_000  # 4,000 × 4,000; the largest part of an atlas is a sheet of 896 × 896
# Mean difference (0–255) between a tile on a sheet and its visualization scaled down, both averaged to 16 × 16.
# WebP at quality 75 costs 2, and 5 on saturated color noise, the worst case; of 60 dataset images no two differ by less
# than 18.
MAX_TILE_DIFFERENCE: Final = 8.0
THUMBNAIL_PX: Final = 16


def decode_bounded(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of a WebP file of bounded size; transparency lies over white.

    Raises:
        BadImage: not a WebP file, too large, or damaged.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise BadImage("unsupported", "not a WebP file")
    return np.asarray(decode_image(data, max_pixels=MAX_PIXELS))


def thumbnail(visualization: np.ndarray) -> np.ndarray:
    """The thumbnail of a visualization uint8 [H, W, 3]: means over equal parts of its largest centered square.

    Scaling to a tile first, as on a sheet, takes eight times as long and differs by at most 1.4 (saturated color noise).
    """
    square = Image.fromarray(largest_square(visualization))
    return np.asarray(square.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX))


def sheet_problems(
    sheet: np.ndarray, rows: Sequence[Mapping[str, Any]], thumbnails: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """What is wrong with a decoded sheet uint8 [H, W, 3], in words.

    Args:
        sheet: the decoded sheet.
        rows: the primary rows of its tiles in order.
        thumbnails: by image_path; a visualization without one (damaged, missing) is not compared.
    """
    width_px, height_px = SHEET_COLUMNS * TILE_SIZE_PX, SHEET_ROWS * TILE_SIZE_PX
    if sheet.shape != (height_px, width_px, 3):
        yield f"is {sheet.shape[1]} × {sheet.shape[0]} px, expected {width_px} × {height_px}"
        return
    yield from tile_problems(sheet, rows, thumbnails, box=tile_box, max_difference=MAX_TILE_DIFFERENCE)


def tile_problems(
    sheet: np.ndarray,
    rows: Sequence[Mapping[str, Any]],
    thumbnails: Mapping[str, np.ndarray],
    *,
    box: Callable[[int], tuple[int, int, int, int]],
    max_difference: float,
) -> Iterator[str]:
    """Which tiles of a sheet do not show what their rows say, in words.

    Args:
        sheet: uint8 [H, W, 3].
        rows: the primary rows of its tiles in order.
        thumbnails: by image_path; a visualization without one is not compared.
        box: tile → (left, top, right, bottom) in pixels, a multiple of 16 wide and high.
        max_difference: of the mean over a thumbnail, 0–255.
    """
    for tile, row in enumerate(rows):
        path = row["image_path"]
        expected = thumbnails.get(path) if path else _status_thumbnail(row["status"])
        if expected is None:
            continue
        left, top, right, bottom = box(tile)
        difference = np.abs(_averaged(sheet[top:bottom, left:right]) - expected).mean()
        if difference > max_difference:
            shown = path or f"the {row['status']} tile"
            yield (
                f"tile {tile} does not show {shown} of {row['layer']}:{row['unit']} "
                f"(mean difference {difference:.0f} of 255)"
            )


@cache
def _status_thumbnail(status: str) -> np.ndarray:
    """The thumbnail of the tile of a neuron without a visualization."""
    return _averaged(status_tile(status))


def _averaged(tile: np.ndarray) -> np.ndarray:
    """float32 [16, 16, 3] of a tile [16·n, 16·n, 3]: means over n × n pixels."""
    step = len(tile) // THUMBNAIL_PX
    # One axis after the other, contiguous rows first, is faster than both at once.
    rows = tile.reshape(THUMBNAIL_PX, step, -1).sum(axis=1, dtype=np.uint32)
    total = rows.reshape(THUMBNAIL_PX, THUMBNAIL_PX, step, 3).sum(axis=2, dtype=np.uint32)
    return total.astype(np.float32) / np.float32(step * step)
