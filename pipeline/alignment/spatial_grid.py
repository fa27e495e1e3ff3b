"""From feature maps to rows of values that are sorted: positions thinned, split by a spatial grid, channel by channel.

Networks work channels-last, and sorting needs each channel's values side by side, so all features are transposed on
their way to the sort and back. On a CPU this is done image by image, because PyTorch then transposes in blocks
(benchmarks/LOG.md).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def partition(features: Tensor, grid: int = 1, side: int = 0) -> Tensor:
    """Features as rows of positions, optionally split into the cells of a spatial grid, sorted apart.

    Sorting forgets where a value was; sorting within cells keeps the coarse layout. The cells of a map that the
    grid does not divide are cut at rounded borders and padded by repeating their own last rows and columns.

    Args:
        features: [B, C, H, W], or [B, C, N] (tokens and logits have no layout: they are taken as they are).
        grid: cells per side.
        side: a larger map is thinned first, to every k-th row and column with the smallest k that leaves no more than
            `side` of either; 0 keeps all. Neighbors in a large map resemble one another, so a subset is enough.

    Returns:
        [B, C·P, N/P], P = grid², N positions after thinning; channel-major, so row c·P + p is channel c in cell p.
    """
    if features.ndim == 2:
        return features.unsqueeze(2)
    if features.ndim == 3:
        return _channel_rows(features.transpose(1, 2), None)
    places = _places(features.shape[2], features.shape[3], grid, side, features.device)
    if features.is_contiguous():  # channels are rows already
        rows = features.flatten(2)
        rows = rows if places is None else rows.index_select(2, places.flatten())
    else:
        rows = _channel_rows(features.permute(0, 2, 3, 1).flatten(1, 2), None if places is None else places.flatten())
    return rows if places is None else rows.reshape(len(features), -1, places.shape[1])


def _places(height: int, width: int, grid: int, side: int, device: torch.device) -> Tensor | None:
    """Places in a flattened map, [P, N/P] by cell; None stands for all of them in one cell."""
    k = -(-max(height, width) // side) if side else 1
    if -(-min(height, width) // k) < grid:
        grid = 1
    if grid == k == 1:
        return None
    rows, columns = (_cell_index(-(-size // k), grid, device) * k for size in (height, width))
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).reshape(grid**2, -1)


def _cell_index(side: int, grid: int, device: torch.device) -> Tensor:
    """Which positions along one axis each cell covers: [grid, ceil(side / grid)]."""
    length = -(-side // grid)
    starts = [round(cell * side / grid) for cell in range(grid + 1)]
    index = [[min(start + i, end - 1) for i in range(length)] for start, end in pairwise(starts)]
    return torch.tensor(index, device=device)


class _ChannelRows(torch.autograd.Function):
    """[B, N, C] → [B, C, M]: the values at some places (at all, without an index), channel by channel."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor, index: Tensor | None) -> Tensor:
        ctx.save_for_backward(index)  # type: ignore[arg-type]
        ctx.num_positions = values.shape[1]  # type: ignore[attr-defined]
        return _gather(values, index)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _add_at(gradients[0], index, ctx.num_positions), None  # type: ignore[attr-defined]


_channel_rows: Callable[[Tensor, Tensor | None], Tensor] = _ChannelRows.apply


def _gather(values: Tensor, index: Tensor | None) -> Tensor:
    """[B, N, C] → [B, C, M], contiguous."""
    return _gather_by_image(values, index) if values.device.type == "cpu" else _gather_at_once(values, index)


def _add_at(rows: Tensor, index: Tensor | None, num_positions: int) -> Tensor:
    """[B, C, M] → [B, N, C], contiguous: each value added at its place."""
    add = _add_by_image if rows.device.type == "cpu" else _add_at_once
    return add(rows, index, num_positions)


def _gather_at_once(values: Tensor, index: Tensor | None) -> Tensor:
    return (values if index is None else values.index_select(1, index)).transpose(1, 2).contiguous()


def _add_at_once(rows: Tensor, index: Tensor | None, num_positions: int) -> Tensor:
    values = rows.transpose(1, 2)
    if index is None:
        return values.contiguous()
    return rows.new_zeros(len(rows), num_positions, rows.shape[1]).index_add(1, index, values)


# One operation each for tracing (`pipeline.synthesis.tracing`), which would unroll loops over images.
@torch.library.custom_op("neuron_atlas::gather_channel_rows", mutates_args=())
def _gather_by_image(values: Tensor, index: Tensor | None) -> Tensor:
    rows = values.new_empty(len(values), values.shape[2], values.shape[1] if index is None else len(index))
    for image, out in zip(values, rows, strict=True):
        out.copy_((image if index is None else image.index_select(0, index)).t())
    return rows


@_gather_by_image.register_fake
def _(values: Tensor, index: Tensor | None) -> Tensor:
    return values.new_empty(len(values), values.shape[2], values.shape[1] if index is None else len(index))


@torch.library.custom_op("neuron_atlas::add_channel_rows", mutates_args=())
def _add_by_image(rows: Tensor, index: Tensor | None, num_positions: int) -> Tensor:
    if index is None:
        values = rows.new_empty(len(rows), rows.shape[2], rows.shape[1])
        for image, out in zip(rows, values, strict=True):
            out.copy_(image.t())
        return values
    values = rows.new_zeros(len(rows), num_positions, rows.shape[1])
    for image, out in zip(rows, values, strict=True):
        out.index_add_(0, index, image.t().contiguous())
    return values


@_add_by_image.register_fake
def _(rows: Tensor, index: Tensor | None, num_positions: int) -> Tensor:
    return rows.new_empty(len(rows), num_positions, rows.shape[1])
