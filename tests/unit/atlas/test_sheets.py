"""Contact sheets: every neuron has its tile, every tile shows its neuron or says why not."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.atlas.format.schema import (
    EXAMPLE_TILE_PX,
    MAX_EXAMPLES,
    SHEET_COLUMNS,
    SHEET_ROWS,
    STATUSES,
    TILE_SIZE_PX,
)
from pipeline.atlas.format.sheets import (
    TILES_PER_SHEET,
    draw_examples,
    draw_sheet,
    image_tile,
    plan_sheets,
    status_tile,
    tile_box,
)
from tests.support.synthetic_atlas import draw_visualization


@given(st.integers(0, 300))
def test_no_row_is_lost_and_none_is_laid_out_twice(num_rows: int) -> None:
    rows = [{"unit": unit} for unit in range(num_rows)]
    sheets = plan_sheets("blocks.3", rows)
    assert [row for sheet in sheets for row in sheet.rows] == rows
    assert all(len(sheet.rows) == TILES_PER_SHEET for sheet in sheets[:-1])
    assert [sheet.path for sheet in sheets] == [f"sheets/blocks.3/{n:04d}.webp" for n in range(len(sheets))]


def test_tiles_cover_the_sheet_without_overlap() -> None:
    covered = np.zeros((SHEET_ROWS * TILE_SIZE_PX, SHEET_COLUMNS * TILE_SIZE_PX), int)
    for tile in range(TILES_PER_SHEET):
        left, top, right, bottom = tile_box(tile)
        covered[top:bottom, left:right] += 1
    assert (covered == 1).all()
    assert tile_box(SHEET_COLUMNS) == (0, TILE_SIZE_PX, TILE_SIZE_PX, 2 * TILE_SIZE_PX), "row-major"


def test_a_sheet_shows_each_visualization_in_its_box() -> None:
    tiles = [image_tile(draw_visualization(seed)) for seed in range(10)]
    sheet = draw_sheet(tiles)
    for number, tile in enumerate(tiles):
        left, top, right, bottom = tile_box(number)
        assert (sheet[top:bottom, left:right] == tile).all()
    with pytest.raises(ValueError, match="65 tiles"):
        draw_sheet([tiles[0]] * 65)


@pytest.mark.parametrize("shape", [(300, 100, 3), (100, 300, 3), (7, 5, 3), (112, 112, 3)])
def test_a_tile_is_the_centered_square(shape: tuple[int, ...]) -> None:
    visualization = np.zeros(shape, np.uint8)
    visualization[shape[0] // 2, shape[1] // 2] = 255
    tile = image_tile(visualization)
    assert tile.shape == (TILE_SIZE_PX, TILE_SIZE_PX, 3)
    bright_y, bright_x = np.unravel_index(tile.sum(-1).argmax(), tile.shape[:2])
    side = min(shape[:2])
    assert abs(bright_y - TILE_SIZE_PX / 2) <= TILE_SIZE_PX / side + 1
    assert abs(bright_x - TILE_SIZE_PX / 2) <= TILE_SIZE_PX / side + 1


def test_every_status_has_a_tile_of_its_own_with_legible_ink() -> None:
    without_visualization = [status for status in STATUSES if status != "ok"]
    tiles = {status: status_tile(status) for status in without_visualization}
    for one, other in itertools.combinations(without_visualization, 2):
        assert (tiles[one] != tiles[other]).any()
    for tile in tiles.values():
        assert tile.shape == (TILE_SIZE_PX, TILE_SIZE_PX, 3)
        assert (tile > 200).all(-1).sum() > 100, "bright letters"
        assert (tile < 40).all(-1).mean() > 0.3, "on dark ground"


def test_an_example_strip_keeps_the_order() -> None:
    visualizations = [draw_visualization(seed, size_px=EXAMPLE_TILE_PX) for seed in range(3)]
    strip = draw_examples(visualizations)
    assert strip.shape == (EXAMPLE_TILE_PX, 3 * EXAMPLE_TILE_PX, 3)
    assert (strip == np.concatenate(visualizations, axis=1)).all()
    for wrong in ([], visualizations[:1] * (MAX_EXAMPLES + 1)):
        with pytest.raises(ValueError, match="example images"):
            draw_examples(wrong)


def test_what_is_transparent_lies_over_white() -> None:
    visualization = np.zeros((112, 112, 4), np.uint8)  # black, and all but the left half transparent
    visualization[:, :56, 3] = 255
    tile = image_tile(visualization)
    assert (tile[:, :56] == 0).all()
    assert (tile[:, 56:] == 255).all()


@pytest.mark.parametrize("wrong", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8, 5), np.uint8)])
def test_a_visualization_of_another_kind_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        image_tile(wrong)
