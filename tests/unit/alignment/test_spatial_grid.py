"""Maps as rows of positions: the same values and gradients in every layout, by operations that can be traced."""

import pytest
import torch

from pipeline.alignment import spatial_grid
from pipeline.alignment.spatial_grid import partition

CASES = [(1, 0), (3, 0), (2, 5), (3, 7), (1, 4)]


@pytest.mark.parametrize(("grid", "side"), CASES)
@pytest.mark.parametrize("shape", [(2, 5, 14, 14), (3, 4, 7, 11), (1, 1, 3, 3)])
def test_values_and_gradients_are_those_of_plain_indexing(shape: tuple[int, ...], grid: int, side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(shape, dtype=torch.float64, generator=generator)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = maps.clone(memory_format=layout).requires_grad_()
        rows = partition(leaf, grid, side)
        weights = torch.randn(rows.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        found.append((rows.detach(), *torch.autograd.grad((rows * weights).sum(), leaf)))
    expected = plainly(maps.requires_grad_(), grid, side)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), maps)
    for rows, own in found:
        assert torch.equal(rows, expected)
        torch.testing.assert_close(own, gradient)


def plainly(maps: torch.Tensor, grid: int, side: int) -> torch.Tensor:
    """Thinned by slicing, cut cell by cell, padded by the last row and column."""
    k = -(-max(maps.shape[2:]) // side) if side else 1
    maps = maps[:, :, ::k, ::k]
    height, width = maps.shape[2:]
    if min(height, width) < grid:
        grid = 1
    high, wide = -(-height // grid), -(-width // grid)
    parts = []
    for top, bottom in zip(*borders(height, grid), strict=True):
        for left, right in zip(*borders(width, grid), strict=True):
            rows = [min(top + i, bottom - 1) for i in range(high)]
            columns = [min(left + i, right - 1) for i in range(wide)]
            parts.append(maps[:, :, rows][:, :, :, columns].flatten(2))
    return torch.stack(parts, dim=2).flatten(1, 2)


def borders(size: int, grid: int) -> tuple[list[int], list[int]]:
    edges = [round(cell * size / grid) for cell in range(grid + 1)]
    return edges[:-1], edges[1:]


@pytest.mark.parametrize("index", [None, torch.tensor([0, 3, 3, 1])])
def test_the_operations_are_what_they_say_to_those_who_trace(index: torch.Tensor | None) -> None:
    values = torch.randn(2, 5, 3)
    torch.library.opcheck(spatial_grid._gather_by_image, (values, index))
    torch.library.opcheck(spatial_grid._add_by_image, (spatial_grid._gather_by_image(values, index), index, 5))


@pytest.mark.parametrize("index", [None, torch.tensor([0, 3, 3, 1])])
def test_image_by_image_is_what_gpus_do_at_once(index: torch.Tensor | None) -> None:
    values = torch.randn(2, 5, 3)
    rows = spatial_grid._gather_by_image(values, index)
    assert torch.equal(rows, spatial_grid._gather_at_once(values, index))
    torch.testing.assert_close(spatial_grid._add_by_image(rows, index, 5), spatial_grid._add_at_once(rows, index, 5))


def test_tokens_and_logits_are_taken_as_they_are() -> None:
    tokens = torch.randn(2, 3, 5)
    assert torch.equal(partition(tokens, 3), tokens)
    logits = torch.randn(2, 7)
    assert torch.equal(partition(logits, 3), logits[:, :, None])
