"""One forward pass up to a layer, keeping where in autograd's graph the outputs of named modules stand.

The pass stops as soon as the target layer has its output. Nothing of the module is touched: the hooks are
PyTorch's global module hooks, set for the length of the call, and they act only in the thread that set them,
so several threads may trace one module at once.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from pipeline.errors import UserError
from pipeline.models.calls import LayerNames
from pipeline.models.capture import UnsupportedOutputError, channels_first
from pipeline.models.checkpointing import without_checkpoints


class _LayerReached(BaseException):
    """Ends the forward pass. A BaseException, so that no `except Exception` in a network can swallow it."""


@dataclass(frozen=True, kw_only=True)
class LayerOutput:
    """A module's output: its place in the graph when it came, before any later in-place write, and a copy."""

    edge: GradientEdge
    value: Tensor | None


class Trace:
    """A forward pass up to a layer, then its result.

    Args:
        module: the network.
        layer: name of the target layer.
        watched: names of the layers whose outputs are kept.
        keep_values: whether to keep copies of their values too.
        conditioned_on: (layer, unit); what flows back to other units of that layer is set to zero. None: no condition.

    Attributes:
        target: the target layer's output, attached to the graph.
        outputs: layer → its output; absent if it has not run before the target was done.

    Raises:
        UserError: no module is called so.
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str,
        watched: Collection[str],
        *,
        keep_values: bool = False,
        conditioned_on: tuple[str, int] | None = None,
    ) -> None:
        self.module, self.layer, self.conditioned_on = module, layer, conditioned_on
        self.watched = frozenset(watched) | ({conditioned_on[0]} if conditioned_on else set())
        self.target: Tensor | None = None
        self.outputs: dict[str, LayerOutput] = {}
        self._keep_values = keep_values
        self._names = LayerNames(module)
        self._calls: Counter[nn.Module] = Counter()
        self._running: list[nn.Module] = []
        self._thread = threading.get_ident()
        for name in (layer, *self.watched):
            if self._names.layer(*self._names.call(name)) != name:
                raise UserError(f'layer "{name}" is listed as "{self._names.listed(name)}"; use that name')

    def place(self) -> str:
        """The innermost module that is running, as `"path" (Class)`."""
        if not self._running:
            return "a hook of the network"
        innermost = self._running[-1]
        path = "the root module" if innermost is self.module else f'"{self._names.layer(innermost) or ""}"'
        return f"{path} ({type(innermost).__name__})"

    def run(
        self,
        images: Tensor,
        mode: contextlib.AbstractContextManager[object] | None = None,
        check_output: Callable[[object], None] | None = None,
    ) -> Tensor:
        """Run the module on images until the target layer is done.

        Args:
            images: [B, 3, H, W], part of an autograd graph.
            mode: a context the forward pass runs in.
            check_output: called with the output of every module, while the module is still the innermost one.

        Returns:
            The output of the target layer.

        Raises:
            UserError: the target layer has not run, or its output is no tensor that depends on the image.
        """
        recording = mode or contextlib.nullcontext()
        with contextlib.suppress(_LayerReached), self._hooks(check_output), without_checkpoints(), recording:
            # The network's own output, after the hooks of the network itself, which may select a part of it.
            self._keep(self._names.output, self.module(images))
        if self.target is None:
            raise UserError(f'layer "{self.layer}" takes no part in the forward pass; choose one that does')
        return self.target

    @contextlib.contextmanager
    def _hooks(self, check_output: Callable[[object], None] | None) -> Iterator[None]:
        def enter(module: nn.Module, _inputs: object) -> None:
            if threading.get_ident() == self._thread:
                self._running.append(module)

        def leave(module: nn.Module, _inputs: object, output: object) -> None:
            if threading.get_ident() == self._thread:
                if check_output is not None:
                    check_output(output)
                self._running.pop()
                self._calls[module] += 1
                layer = self._names.layer(module, self._calls[module])
                if layer is not None and module is not self.module:
                    self._keep(layer, output)

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, name: str, output: object) -> None:
        if name != self.layer and name not in self.watched:
            return
        if not isinstance(output, Tensor) or not output.requires_grad:
            seen = "nothing computed from the image" if isinstance(output, Tensor) else type(output).__name__
            raise UnsupportedOutputError(
                f'layer "{name}" gives {seen}; expected one tensor computed from the image, '
                "choose one of the layers inside or around it"
            )
        if self.conditioned_on is not None and name == self.conditioned_on[0]:
            unit, num_units = self.conditioned_on[1], channels_first(output, name).shape[1]
            if not 0 <= unit < num_units:
                raise UserError(
                    f'layer "{self.layer}" is conditioned on unit {unit} of layer "{name}"; '
                    f"expected 0 to {num_units - 1}"
                )
            output.register_hook(self.keep_condition)
        value = output.detach().clone() if self._keep_values else None
        self.outputs[name] = LayerOutput(edge=get_gradient_edge(output), value=value)
        if name == self.layer:
            self.target = output
            raise _LayerReached

    def is_condition(self, layer: str) -> bool:
        """Whether a watched layer's output is the very tensor that the conditioning layer gives."""
        if self.conditioned_on is None:
            return False
        edges = [self.outputs[name].edge for name in (layer, self.conditioned_on[0]) if name in self.outputs]
        ends = [(edge.node, edge.output_nr) for edge in edges]
        return len(set(ends)) < len(ends)

    def keep_condition(self, flow: Tensor) -> Tensor:
        """What flows back to the conditioning layer, zero but for the conditioning unit.

        Reference: Achtibat et al., "From attribution maps to human-understandable explanations through concept
            relevance propagation", Nature Machine Intelligence 5, 2023.
        """
        assert self.conditioned_on is not None
        layer, unit = self.conditioned_on
        kept = torch.zeros_like(flow)
        channels_first(kept, layer)[:, unit] = channels_first(flow, layer)[:, unit]
        return kept


def nodes_below(tensor: Tensor) -> set[Node]:
    """All nodes of the autograd graph that a tensor was computed through."""
    assert tensor.grad_fn is not None
    seen: set[Node] = {tensor.grad_fn}
    waiting = [tensor.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen
