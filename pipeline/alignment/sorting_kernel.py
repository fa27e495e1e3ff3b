"""The GPU kernels of sort matching: sort each row, compare it with its target, scatter the gradient to the values.

Short rows are sorted in registers by one program each: a key holds a value's order-preserving bits in its upper part
and the value's place in its lower one, as on the CPU, so that one bitonic network sorts both and ties break by place.
For long rows torch.sort, a radix sort, is faster; one more kernel compares and scatters. The lengths from which it is
are measured in benchmarks/results/2026-11-27-gpu.md. Triton comes with torch's CUDA builds.
"""

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no CUDA build of torch: `takes` says no
    triton = None

# Longer rows are sorted by torch.sort.
_MAX_LENGTH_IN_REGISTERS = {torch.bfloat16: 1024, torch.float32: 512}
_VALUES_PER_THREAD = 8
_CHUNK = 1024


def takes(values: Tensor) -> bool:
    """Whether there are kernels for these values [..., N]."""
    return (
        triton is not None
        and values.is_cuda
        and values.dtype in (torch.bfloat16, torch.float32)
        and values.shape[-1] > 1
        and values.numel() > 0
        and _compiles(values.device)
    )


@functools.cache
def _compiles(device: torch.device) -> bool:
    """Whether Triton works on this machine: it needs a C compiler."""
    try:
        sorted_distance(torch.zeros(1, 2, device=device), torch.zeros(1, 2, device=device))
    except Exception as error:
        warnings.warn(
            f"sort matching uses torch.sort, which makes steps longer, because Triton does not work here: {error}; "
            "it needs a C compiler, such as gcc",
            stacklevel=2,
        )
        return False
    return True


def sorted_distance(values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """See `pipeline.alignment.sorting.sorted_distance`; for values on a GPU.

    Returns:
        The distances, float32 [...], and their gradients with respect to the values, [..., N] in the values' type.
    """
    N = values.shape[-1]
    rows = values.contiguous().view(-1, N)
    targets = target.to(torch.float32).contiguous().view(-1, N)
    distance = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    gradient = torch.empty_like(rows)
    sizes = (N, len(targets), 1 / N)
    limit = _MAX_LENGTH_IN_REGISTERS[rows.dtype]
    with torch.cuda.device(rows.device):
        if limit >= N:
            block = triton.next_power_of_2(N)
            kernel = _sort_bfloat16_rows if rows.dtype == torch.bfloat16 else _sort_float32_rows
            warps = max(1, block // (32 * _VALUES_PER_THREAD))
            kernel[(len(rows),)](rows, targets, distance, gradient, *sizes, BLOCK=block, num_warps=warps)
        else:
            ranked, order = rows.sort(dim=-1, stable=True)
            _compare_rows[(len(rows),)](ranked, order, targets, distance, gradient, *sizes, CHUNK=_CHUNK)
    return distance.view(values.shape[:-1]), gradient.view(values.shape)


def _jit(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _sort_bfloat16_rows(x, q, distance, gradient, N, num_targets, scale, BLOCK: "tl.constexpr"):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    inside = places < N
    bits = tl.load(x + row * N + places, mask=inside, other=0).to(tl.int16, bitcast=True).to(tl.int32)
    key = ((bits ^ ((bits >> 15) & 0x7FFF)) << 16) | places
    key = tl.sort(tl.where(inside, key, 0x7FFFFFFF))
    bits = key >> 16
    value = (bits ^ ((bits >> 15) & 0x7FFF)).to(tl.int16).to(tl.bfloat16, bitcast=True).to(tl.float32)
    target = tl.load(q + (row % num_targets) * N + places, mask=inside, other=0.0)
    difference = tl.where(inside, value - target, 0.0)
    tl.store(distance + row, tl.sum(difference * difference) * scale)
    tl.store(gradient + row * N + (key & 0xFFFF), 2 * scale * difference, mask=inside)


@_jit
def _sort_float32_rows(x, q, distance, gradient, N, num_targets, scale, BLOCK: "tl.constexpr"):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    inside = places < N
    bits = tl.load(x + row * N + places, mask=inside, other=0.0).to(tl.int32, bitcast=True)
    key = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) << 32) | places
    key = tl.sort(tl.where(inside, key, 0x7FFFFFFFFFFFFFFF))
    bits = (key >> 32).to(tl.int32)
    value = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    target = tl.load(q + (row % num_targets) * N + places, mask=inside, other=0.0)
    difference = tl.where(inside, value - target, 0.0)
    tl.store(distance + row, tl.sum(difference * difference) * scale)
    tl.store(gradient + row * N + (key & 0xFFFF).to(tl.int32), 2 * scale * difference, mask=inside)


@_jit
def _compare_rows(ranked, order, q, distance, gradient, N, num_targets, scale, CHUNK: "tl.constexpr"):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, N, CHUNK):
        places = start + tl.arange(0, CHUNK)
        inside = places < N
        value = tl.load(ranked + row * N + places, mask=inside, other=0.0).to(tl.float32)
        target = tl.load(q + (row % num_targets) * N + places, mask=inside, other=0.0)
        difference = tl.where(inside, value - target, 0.0)
        squares += difference * difference
        place = tl.load(order + row * N + places, mask=inside, other=0)
        tl.store(gradient + row * N + place, 2 * scale * difference, mask=inside)
    tl.store(distance + row, tl.sum(squares) * scale)
