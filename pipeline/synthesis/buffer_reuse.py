"""Results written over arguments that are read for the last time: less memory is held, and less of it travels.

Beside its convolutions a traced step is bound by the memory it reads and writes. Values stay the same, bit for bit.
"""

import operator
from functools import cache

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node

_aten = torch.ops.aten
_UNANNOTATED_VIEW = _aten._unsafe_view.default  # a view that its schema does not mark as one


def reuse_buffers(graph: Graph) -> int:
    """Let pointwise operations write their results over an argument that nothing reads afterwards.

    Args:
        graph: of operations that write nothing in place, with the metadata that `make_fx` leaves; it is changed.

    Returns:
        How many of its operations do so now.
    """
    nodes = list(graph.nodes)
    owner: dict[Node, Node] = {}  # node → whose memory its tensor lies in; none for what comes from outside
    for node in nodes:
        _note_owner(node, owner)
    last_read = {owner[arg]: place for place, node in enumerate(nodes) for arg in node.all_input_nodes if arg in owner}
    count = 0
    for place, node in enumerate(nodes):
        form = _form_with_result(node.target) if isinstance(node.target, OpOverload) else None
        if form is None:
            continue
        for arg in node.all_input_nodes:
            own = owner.get(arg)
            others = [owner.get(other) for other in node.all_input_nodes if other is not arg]
            if own is not None and last_read[own] == place and own not in others and _is_alike(arg, node):
                node.target, result = form
                node.kwargs = {**node.kwargs, result: arg}  # from here on only the result's names for it are read
                count += 1
                break
    return count


def _note_owner(node: Node, owner: dict[Node, Node]) -> None:
    """Note whose memory a node's tensor lies in, by its operation's schema."""
    source = node.args[0] if node.args else None
    if node.target is operator.getitem and isinstance(source, Node):
        if source in owner:  # each of several new tensors has its own memory, each part of one tensor that tensor's
            owner[node] = node if owner[source] is source else owner[source]
    elif isinstance(node.target, OpOverload):
        is_view = node.target is _UNANNOTATED_VIEW or any(item.alias_info for item in node.target._schema.returns)
        if not is_view:
            owner[node] = node
        elif isinstance(source, Node) and source in owner:
            owner[node] = owner[source]


@cache
def _form_with_result(operation: OpOverload) -> tuple[OpOverload, str] | None:
    """The overload of a pointwise operation that writes to an argument, and the name of that argument."""
    schema = operation._schema
    if torch.Tag.pointwise not in operation.tags or len(schema.returns) != 1 or schema.is_mutable:
        return None
    for name in operation.overloadpacket.overloads():
        other = getattr(operation.overloadpacket, name)
        arguments = other._schema.arguments
        results = [argument for argument in arguments if argument.is_out]
        if len(results) == 1 and [a.name for a in arguments if not a.is_out] == [a.name for a in schema.arguments]:
            types = [(str(a.type), a.kwarg_only) for a in arguments if not a.is_out]
            if types == [(str(a.type), a.kwarg_only) for a in schema.arguments]:
                return other, results[0].name
    return None


def _is_alike(one: Node, other: Node) -> bool:
    """Whether two tensors have the same shape, type and order in memory."""
    first, second = (
        (value.shape, value.stride(), value.dtype, value.device) if isinstance(value, torch.Tensor) else None
        for value in (one.meta.get("val"), other.meta.get("val"))
    )
    return first is not None and first == second
