"""The numbers of one step: the loss of each visualization as it is shown, and its gradient.

A step may be traced once, relevance rules and hooks included, into one graph of tensor operations, in which relevance
and the loss share one forward pass. On a CPU that changes no bit. Torch's compiler may then fuse operations, which
changes the rounding.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from pipeline.synthesis.buffer_reuse import reuse_buffers
from pipeline.synthesis.tracing import trace

Tensors = Mapping[str, Tensor]
ExecutionMode = Literal["plain", "traced", "compiled"]
EXECUTION_MODES: Final = ("plain", "traced", "compiled")


class Objective(Protocol):
    """What is minimized: one independent value per image.

    Its functions depend on their arguments only, so that they can be traced once for all batches of a layer.

    Attributes:
        tensors: those of the neurons of this batch.
        trace_key: equal for objectives of one network whose functions are the same.
    """

    tensors: dict[str, Tensor]
    trace_key: Hashable

    def relevance(self, images: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        """What depends on the images [B, C, H, W] and is held constant in the gradient."""
        ...

    def __call__(self, images: Tensor, tensors: Tensors, relevance: Tensors, *, is_fresh: bool = True) -> Tensor:
        """The loss of each image: [B, C, H, W] in the model's input space → [B].

        `is_fresh` says that the relevance was computed of these very images: traced, its forward pass is that of the
        loss too, if both run the network in the same form.
        """
        ...


def losses_of(objective: Objective, images: Tensor) -> Tensor:
    """The loss of each image [B, C, H, W] under the relevance of its own features: [B]."""
    return objective(images, objective.tensors, objective.relevance(images, objective.tensors))


class TracingError(RuntimeError):
    """The step of a network cannot be traced or compiled; plainly it may run all the same."""


@dataclass(frozen=True, kw_only=True)
class _Graph:
    run: Callable[..., Sequence[Tensor]]
    maps: tuple[str, ...]  # names of the relevance maps among its results


# Network → its traced steps, which hold parameters, but not the network.
_graphs: WeakKeyDictionary[nn.Module, dict[Hashable, _Graph]] = WeakKeyDictionary()
# Kept per network: batches of a layer follow one another, and each layer has its own folded parameters.
_MAX_GRAPHS = 8
# Of a compiled step, relative to the norm of the plain one's, image by image: rounding moves values across a kink or a
# rank.
_MAX_DIFFERENCE = 0.05


class Step:
    """Losses and gradients of a batch; relevance is kept from one step to the next.

    Args:
        objective: of the batch.
        module: the network.
        execution_mode: `plain` runs the functions as they are; `traced` and `compiled` run a graph of them, made once
            for all batches of one shape in a layer.
    """

    def __init__(self, objective: Objective, module: nn.Module, *, execution_mode: ExecutionMode) -> None:
        self._objective = objective
        self._module = module
        self._execution_mode = execution_mode
        self._relevance: Tensors = {}

    def __call__(self, views: Tensor, *, refresh: bool) -> tuple[Tensor, Tensor]:
        """Losses [B] and their gradient with respect to the views, both detached.

        Args:
            views: what the model sees, [B, C, V, V].
            refresh: whether relevance is computed for these views, or that of earlier ones is kept.

        Raises:
            TracingError: see there.
        """
        run = _value_and_gradient if self._execution_mode == "plain" else self._run_traced
        kept = None if refresh or not self._relevance else self._relevance
        losses, gradient, self._relevance = run(self._objective, views, self._objective.tensors, kept)
        return losses, gradient

    def _run_traced(
        self, objective: Objective, views: Tensor, tensors: Tensors, relevance: Tensors | None
    ) -> tuple[Tensor, Tensor, Tensors]:
        given = [views.detach(), *tensors.values(), *(relevance or {}).values()]
        shapes = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in given)
        key = (objective.trace_key, self._execution_mode, relevance is None, tuple(tensors), shapes)
        graphs = _graphs.setdefault(self._module, {})
        if key in graphs:
            graphs[key] = graphs.pop(key)  # to the end: the first is the least recently used
        else:
            if len(graphs) == _MAX_GRAPHS:
                del graphs[next(iter(graphs))]
            kept = None if relevance is None else tuple(relevance)
            graphs[key] = _make_graph(
                objective, given, tuple(tensors), kept, compiled=self._execution_mode == "compiled"
            )
        losses, gradient, *maps = graphs[key].run(*given)
        return losses, gradient, dict(zip(graphs[key].maps, maps, strict=True))


def _value_and_gradient(
    objective: Objective, views: Tensor, tensors: Tensors, relevance: Tensors | None
) -> tuple[Tensor, Tensor, Tensors]:
    views = views.detach().requires_grad_()
    is_fresh = relevance is None
    if relevance is None:
        relevance = objective.relevance(views, tensors)
    losses = objective(views, tensors, relevance, is_fresh=is_fresh)
    (gradient,) = torch.autograd.grad(losses.sum(), views)
    return losses.detach(), gradient, relevance


def _make_graph(
    objective: Objective,
    given: Sequence[Tensor],
    names: tuple[str, ...],
    kept: tuple[str, ...] | None,
    *,
    compiled: bool,
) -> _Graph:
    """Trace `_value_and_gradient` on the tensors given: views, the objective's tensors, relevance kept."""
    maps: list[str] = []

    def flat(views: Tensor, *rest: Tensor) -> list[Tensor]:
        tensors = dict(zip(names, rest, strict=False))
        relevance = None if kept is None else dict(zip(kept, rest[len(names) :], strict=True))
        losses, gradient, held = _value_and_gradient(objective, views, tensors, relevance)
        maps[:] = held
        return [losses, gradient, *held.values()]

    try:
        graph = trace(flat, given)
        if not compiled:  # torch's compiler does it by itself
            reuse_buffers(graph.graph)
            graph.recompile()
        run = _compile(graph, given[0].device) if compiled else graph
        results = run(*given)  # it is now that torch compiles
        if compiled and given[0].device.type == "cpu":  # on a GPU the plain graph may not fit
            _require_agreement(results, graph(*given))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise TracingError(
            f"the step cannot be {'compiled' if compiled else 'traced'}: {type(error).__name__}: {error}; "
            "set visualize.compile = false"
        ) from error
    return _Graph(run=run, maps=tuple(maps))


def _require_agreement(compiled: Sequence[Tensor], plain: Sequence[Tensor]) -> None:
    """Raise RuntimeError if results differ from the plain graph's by more than rounding can explain.

    Torch's compiler has made wrong code for CPUs, see `_deterministic`.
    """
    for found, expected in zip(compiled, plain, strict=True):  # losses [B], gradient, relevance maps [B, ...]
        difference = (found - expected).reshape(len(expected), -1).norm(dim=1)
        allowed = _MAX_DIFFERENCE * expected.reshape(len(expected), -1).norm(dim=1)
        if not bool((difference <= allowed).all()):  # nor where it is not a number
            raise RuntimeError(
                f"compiled, it gives other numbers: {difference.tolist()} off, {allowed.tolist()} allowed"
            )


def _compile(graph: GraphModule, device: torch.device) -> Callable[..., Sequence[Tensor]]:
    run = torch.compile(graph, dynamic=False)
    if device.type != "cpu":
        return run

    def run_deterministic(*given: Tensor) -> Sequence[Tensor]:
        with _deterministic():
            return run(*given)

    return run_deterministic


@contextmanager
def _deterministic() -> Iterator[None]:
    """Deterministic kernels: the others that torch's compiler makes for several CPU threads may write out of bounds.

    Where gradients are added up at places that an index gives, its kernels of two-dimensional tiles count the outer
    axis twice (torch 2.13: `CppTile2DKernel.store` moves the index, and for `atomic_add` `CppVecKernel.store` does so
    again by `ops.index_expr`). In deterministic mode it leaves such sums to torch's own functions.
    """
    before = torch.get_deterministic_debug_mode()  # off, warning or raising
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
