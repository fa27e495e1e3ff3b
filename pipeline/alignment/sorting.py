"""Sorting along the last axis and comparing the sorted values: the operation of sort matching.

On the CPU, float32 rows are sorted by NumPy as integers that hold the value in the upper half and its place in the
lower: one vectorized sort gives values and places together, ties by place. The comparison follows block by block of
rows, while these are in the caches. On a GPU `pipeline.alignment.sorting_kernel` does the same in one kernel per row.
Measured in benchmarks/LOG.md.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pipeline.alignment import sorting_kernel

_MAGNITUDE = np.int32(0x7FFFFFFF)
_PLACE = np.int64(0xFFFFFFFF)
# Keys of as many values are a megabyte, the second-level cache of a core of today's servers.
_BLOCK_VALUES = 2**17


class _Sort(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        ranked, order = _sort(values)
        ctx.save_for_backward(order)
        return ranked

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (order,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _scatter(gradients[0], order)


# values [..., N] → the same values ascending along N; the gradient goes to where each value came from.
sort_values: Callable[[Tensor], Tensor] = _Sort.apply


def sorted_distance(values: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference between the sorted values and a quantile function: mean over j of (sort(x)[j] − q[j])².

    Args:
        values: x, [..., N], any floating type.
        target: q, ascending along N, of the shape of `values` or of its last axes; a constant.

    Returns:
        [...], in the wider of the two types.
    """
    distance: Tensor = _SortedDistance.apply(values, target.detach())
    return distance


class _SortedDistance(torch.autograd.Function):
    """The gradient is made with the value, since both need what only the sort knows, and scaled once asked for."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor, target: Tensor) -> Tensor:
        distance, gradient = _distance_and_gradient(values, target)
        ctx.save_for_backward(gradient)
        return distance

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *weights: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * weights[0].unsqueeze(-1).to(gradient.dtype), None


# One operation for tracing (`pipeline.synthesis.tracing`), which cannot look into NumPy or a kernel.
@torch.library.custom_op("neuron_atlas::sorted_distance", mutates_args=())
def _distance_and_gradient(values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if sorting_kernel.takes(values):
        return sorting_kernel.sorted_distance(values, target)
    scale = 2 / values.shape[-1]
    if not _sorts_by_numpy(values) or target.dtype != values.dtype:
        ranked, order = _sort(values)
        difference = ranked - target
        gradient = (difference * scale).to(values.dtype)
        return difference.square_().mean(dim=-1), _scatter(gradient, order)
    rows, quantiles = (tensor.reshape(-1, values.shape[-1]) for tensor in (values, target.expand(values.shape)))
    distances, gradients = rows.new_empty(len(rows)), rows.new_empty(rows.shape)
    for block, order in _argsort_by_blocks(rows):
        difference = rows[block].gather(-1, order).sub_(quantiles[block])
        gradients[block].scatter_(-1, order, difference * scale)
        torch.mean(difference.square_(), dim=-1, out=distances[block])
    return distances.view(values.shape[:-1]), gradients.view(values.shape)


@_distance_and_gradient.register_fake
def _(values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    wider = torch.promote_types(values.dtype, target.dtype)
    return values.new_empty(values.shape[:-1], dtype=wider), torch.empty_like(
        values, memory_format=torch.contiguous_format
    )


def _sort(values: Tensor) -> tuple[Tensor, Tensor]:
    """The values ascending along N, and the place of each, int64."""
    if _sorts_by_numpy(values):
        rows = values.detach().reshape(-1, values.shape[-1])
        order = torch.cat([order for _, order in _argsort_by_blocks(rows)]).view(values.shape)
        return values.gather(-1, order), order
    ranked, order = values.sort(dim=-1, stable=True)
    return ranked, order


def _scatter(ranked: Tensor, order: Tensor) -> Tensor:
    """Each of the ranked values to the place it came from."""
    # `order` is a permutation: plain scatter, which is deterministic, where gather's backward would add.
    return torch.empty_like(ranked).scatter_(-1, order, ranked)


def _sorts_by_numpy(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.float32 and values.numel() > 0


def _argsort_by_blocks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows [M, N], and where their values come from in ascending order; NaN last or first by sign."""
    array, threads = rows.detach().numpy(), torch.get_num_threads()
    num_rows = max(1, threads * _BLOCK_VALUES // rows.shape[-1])
    blocks = [slice(start, start + num_rows) for start in range(0, len(rows), num_rows)]
    if threads == 1:
        for block in blocks:
            yield block, torch.from_numpy(argsort_rows(array[block]))
        return
    with ThreadPoolExecutor(threads) as pool:  # NumPy sorts on one thread and releases the interpreter
        for block in blocks:
            parts = [part for part in np.array_split(array[block], threads) if len(part)]
            yield block, torch.from_numpy(np.concatenate(list(pool.map(argsort_rows, parts))))


def argsort_rows(rows: np.ndarray) -> np.ndarray:
    """Stable argsort of float32 [M, N] along N, as int64 [M, N]."""
    bits = np.ascontiguousarray(rows).view(np.int32)
    # The bits of a positive IEEE 754 float ascend as integers; those of a negative one do with its magnitude flipped.
    keys = (bits ^ ((bits >> 31) & _MAGNITUDE)).astype(np.int64)
    np.left_shift(keys, 32, out=keys)
    np.bitwise_or(keys, np.arange(rows.shape[-1], dtype=np.int64), out=keys)
    keys.sort(axis=-1)
    return np.bitwise_and(keys, _PLACE, out=keys)
