"""Contact sheets: 8 × 8 tiles of 112 px, so that a gallery of thousands of neurons loads as a few dozen files.

`plan_sheets` assigns neurons to tiles (pure); `draw_sheet` paints one sheet from decoded visualizations. A neuron
without a visualization gets a hatched tile that names its status.

Legend: H, W = height and width in pixels; visualizations are uint8 RGB [H, W, 3].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.atlas.format.schema import (
    EXAMPLE_TILE_PX,
    MAX_EXAMPLES,
    SHEET_COLUMNS,
    SHEET_ROWS,
    TILE_SIZE_PX,
    sheet_path,
)
from pipeline.errors import UserError
from pipeline.io.images import over_white

TILES_PER_SHEET: Final = SHEET_COLUMNS * SHEET_ROWS

_BACKGROUND: Final = (24, 24, 27)
_HATCH: Final = (70, 70, 78)
_INK: Final = (250, 250, 250)  # on the background: contrast 17:1
_HATCH_STEP_PX: Final = 14


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One planned sheet: where it lies and the primary rows of its tiles, row-major from the top left."""

    path: str
    rows: tuple[dict[str, Any], ...]


def plan_sheets(layer: str, rows: Sequence[dict[str, Any]]) -> list[Sheet]:
    """The sheets of the primary rows of one layer, in their order: tile i of sheet n is row n × 64 + i."""
    return [
        Sheet(path=sheet_path(layer, number), rows=tuple(rows[start : start + TILES_PER_SHEET]))
        for number, start in enumerate(range(0, len(rows), TILES_PER_SHEET))
    ]


def tile_box(tile: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a tile on its sheet, in pixels."""
    row, column = divmod(tile, SHEET_COLUMNS)
    left, top = column * TILE_SIZE_PX, row * TILE_SIZE_PX
    return left, top, left + TILE_SIZE_PX, top + TILE_SIZE_PX


def image_tile(visualization: np.ndarray) -> np.ndarray:
    """The largest centered square of a visualization [H, W, 3], or [H, W, 4] over white, as a tile [112, 112, 3]."""
    if visualization.ndim == 3 and visualization.shape[2] == 4:
        visualization = np.asarray(over_white(Image.fromarray(visualization)))
    return _square(visualization, TILE_SIZE_PX)


@cache
def status_tile(status: str) -> np.ndarray:
    """The tile [112, 112, 3] of a neuron without a visualization: diagonal hatching and the status word."""
    tile = Image.new("RGB", (TILE_SIZE_PX, TILE_SIZE_PX), _BACKGROUND)
    draw = ImageDraw.Draw(tile)
    for start in range(-TILE_SIZE_PX, TILE_SIZE_PX, _HATCH_STEP_PX):
        draw.line((start, TILE_SIZE_PX, start + TILE_SIZE_PX, 0), fill=_HATCH, width=3)
    middle = TILE_SIZE_PX // 2
    draw.rectangle((0, middle - 16, TILE_SIZE_PX, middle + 16), fill=_BACKGROUND)
    draw.text((middle, middle), status, fill=_INK, font=ImageFont.load_default(size=22), anchor="mm")
    return np.asarray(tile)


def draw_sheet(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Paint tiles [112, 112, 3] on one sheet [896, 896, 3]; a last, partly filled sheet keeps the full size.

    Raises:
        UserError: more tiles than a sheet holds.
    """
    if len(tiles) > TILES_PER_SHEET:
        raise UserError(f"{len(tiles)} tiles, expected at most {TILES_PER_SHEET}")
    sheet = np.empty((SHEET_ROWS * TILE_SIZE_PX, SHEET_COLUMNS * TILE_SIZE_PX, 3), dtype=np.uint8)
    sheet[:] = _BACKGROUND
    for number, tile in enumerate(tiles):
        left, top, right, bottom = tile_box(number)
        sheet[top:bottom, left:right] = tile
    return sheet


def draw_examples(images: Sequence[np.ndarray]) -> np.ndarray:
    """The strip [112, 112 × n, 3] of a neuron's top-activating images, left to right in the order given.

    Raises:
        UserError: no images, or more than MAX_EXAMPLES.
    """
    if not 1 <= len(images) <= MAX_EXAMPLES:
        raise UserError(f"{len(images)} example images, expected 1 to {MAX_EXAMPLES}")
    return np.concatenate([_square(image, EXAMPLE_TILE_PX) for image in images], axis=1)


def largest_square(image: np.ndarray) -> np.ndarray:
    """The largest centered square of an image uint8 [H, W, 3].

    Raises:
        UserError: another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(f"image of shape {image.shape} and type {image.dtype}, expected uint8 [H, W, 3]")
    H, W = image.shape[:2]
    side = min(H, W)
    top, left = (H - side) // 2, (W - side) // 2
    return image[top : top + side, left : left + side]


def _square(image: np.ndarray, size_px: int) -> np.ndarray:
    square = Image.fromarray(largest_square(image))
    return np.asarray(square.resize((size_px, size_px), Image.Resampling.LANCZOS))
