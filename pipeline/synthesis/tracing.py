"""From a function of tensors to a graph of tensor operations without repetitions.

Relevance and the loss each begin with a forward pass of the same views. Traced into one graph in which nothing is
written in place, operations with equal arguments are the same operation.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

_aten = torch.ops.aten
# Where nothing is written in place, a copy in the same layout is as good as what it is a copy of.
_COPIES = (_aten.detach.default, _aten.alias.default, _aten.clone.default, _aten.lift_fresh_copy.default)
# Results that are different every time, or left for others to fill.
_NOT_MERGED = (_aten.empty.memory_format, _aten.empty_like.default, _aten.new_empty.default)


def trace(function: Callable[..., Sequence[Tensor]], example: Sequence[Tensor]) -> GraphModule:
    """The operations that `function` runs on tensors shaped like the example, gradients and rules included.

    The function must not look at values, and what it reads beside its arguments, such as parameters, becomes part of
    the graph.

    Args:
        function: of as many tensors as the example has, to a sequence of tensors.
        example: arguments; the function runs on them twice.
    """
    recorded = make_fx(function)(*example)
    functional = make_fx(functionalize(recorded, remove="mutations"))(*example)
    functional.graph = merged(functional.graph)
    functional.graph.eliminate_dead_code()
    functional.recompile()
    return functional


def merged(graph: Graph) -> Graph:
    """The graph with copies and repeated operations left out; for graphs in which nothing is written in place."""
    result = Graph()
    new: dict[Node, Node] = {}
    seen: dict[Hashable, Node] = {}
    for node in graph.nodes:
        if node.target in _COPIES and len(node.args) == 1 and not node.kwargs:
            new[node] = new[node.args[0]]
            continue
        copied = result.node_copy(node, lambda old: new[old])
        key = _key(copied)
        if key is None or key not in seen:
            new[node] = copied
            if key is not None:
                seen[key] = copied
        else:
            result.erase_node(copied)
            new[node] = seen[key]
    return result


def _key(node: Node) -> Hashable | None:
    """Equal for operations that give the same; None for what is never merged."""
    if node.op not in ("call_function", "get_attr") or node.target in _NOT_MERGED:
        return None
    return node.op, node.target, _hashable(node.args), _hashable(node.kwargs)


def _hashable(value: Any) -> Hashable:
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _hashable(item)) for name, item in sorted(value.items()))
    return type(value), value  # 1, 1.0 and True are equal, but not the same argument
