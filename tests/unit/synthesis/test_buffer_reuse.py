"""Results written over dead arguments: the same values, and nothing that is still read is touched."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pipeline.synthesis.buffer_reuse import reuse_buffers

SIDE = 3


def traced(function: Callable[..., object], *example: Tensor) -> tuple[GraphModule, int]:
    graph = make_fx(function)(*example)
    count = reuse_buffers(graph.graph)
    graph.graph.lint()
    graph.recompile()
    return graph, count


def matrix(seed: int = 0) -> Tensor:
    return torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def test_a_chain_of_operations_takes_one_buffer():
    graph, count = traced(lambda x: [((x * 2).relu() + 1).abs() / 3], matrix())

    assert count == 4  # all but the first, whose argument comes from outside
    results = graph(matrix())
    assert torch.equal(results[0], ((matrix() * 2).relu() + 1).abs() / 3)


def test_the_second_argument_may_be_overwritten():
    graph, count = traced(lambda x: [x - x * 2], matrix())

    assert count == 1
    assert torch.equal(graph(matrix())[0], matrix() - matrix() * 2)


def test_gradients_of_activations_are_written_over_what_flows_back():
    graph, count = traced(lambda x, y: [torch.ops.aten.threshold_backward(y * 2, x, 0)], matrix(), matrix(1))

    assert count == 1
    assert torch.equal(graph(matrix(), matrix(1))[0], matrix(1) * 2 * (matrix() > 0))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x.relu()],  # from outside
        lambda x: [(y := x * 2), y.relu()],  # returned
        lambda x: [(y := x * 2).relu(), y.sum()],  # read later
        lambda x: [y := x * 2, y.t().relu()],  # returned, and read through a view
        lambda x: [(y := x * 2)[0].relu(), y.sum()],  # a part of it is read later
        lambda x: [(y := x * 2).relu(), y.view(-1).sum()],  # a view of it is read later
        lambda x: [
            (y := x * 2).relu(),
            torch.ops.aten._unsafe_view(y, [SIDE**2]).sum(),
        ],  # a view that its schema does not mark
        lambda x: [(y := x * 2) + y.t()],  # its other argument lies in the same memory
        lambda x: [x.sum(0, keepdim=True).expand(SIDE, SIDE) + 1],  # one value in many places
        lambda x: [x + (x * 2).t()],  # another order in memory
    ],
)
def test_what_is_still_read_stays(function):
    graph, count = traced(function, matrix())
    given_matrix = matrix()

    results = graph(given_matrix)

    assert count == 0
    assert torch.equal(given_matrix, matrix())
    assert all(torch.equal(found, expected) for found, expected in zip(results, function(matrix()), strict=True))


UNARY = (torch.relu, torch.abs, torch.neg, lambda x: x + 1)
VIEWS = (
    lambda x: x.t(),
    lambda x: x.view(-1).view(SIDE, SIDE) if x.is_contiguous() else x,
    lambda x: x[:1].expand(SIDE, SIDE),
    lambda x: torch.stack(x.split(1))[:, 0],
    lambda x: x.split(1)[1].expand(SIDE, SIDE),
)
BINARY = (torch.add, torch.sub, torch.mul, torch.maximum)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=12))
def test_any_program_keeps_its_values(program):
    def run(x: Tensor, y: Tensor) -> list[Tensor]:
        values = [x, y]
        for operation, first, second in program:
            a, b = values[first % len(values)], values[second % len(values)]
            if operation < 4:
                values.append(UNARY[operation](a))
            elif operation < 9:
                values.append(VIEWS[operation - 4](a))
            else:
                values.append(BINARY[operation - 9](a, b))
        return [values[-1], values[len(values) // 2]]

    graph, _ = traced(run, matrix(), matrix(1))
    x, y = matrix(), matrix(1)

    results = graph(x, y)

    assert torch.equal(x, matrix())
    assert torch.equal(y, matrix(1))
    assert all(torch.equal(found, expected) for found, expected in zip(results, run(x, y), strict=True))
