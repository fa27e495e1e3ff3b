"""The LRP mode: runs a network as it is and gives each torch function a rule for the backward pass.

While `RelevanceMode` is active, every torch function that a module calls comes here first. Its value is
computed by the same function, so the forward pass is bit-identical; only the node that autograd records
is replaced, by one whose "gradient" is relevance. A functional `F.relu` or `x += skip` is therefore seen like
any module, and the network itself is never touched. `pipeline.attribution.operations` decides what to record.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pipeline.errors import UserError


class UnsupportedOperationError(UserError):
    """Relevance arrived at an operation that has no rule; the text names it and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a tensor without reading its values, for which a GPU would have to be waited for."""

    nonnegative: bool = False
    gate: bool = False  # came out of a sigmoid or softmax: in a product it is the gate, not the signal
    image: bool = False  # still the image itself, at most normalized or padded
    logarithm: bool = False  # of a quantity ≥ 0: sums of such are products
    signed: bool = False  # computed from a LayerNorm's output: the rules for signed features apply
    version: int = 0  # of the tensor when this was noted; an in-place write through another view ends it


UNKNOWN = Facts()


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a torch function. `carriers` are those of its tensors that depend on the image."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    carriers: list[Tensor]
    signed: bool  # whether any of the carriers is

    def value(self) -> Any:
        """The ordinary value, with no node recorded."""
        with torch.no_grad():
            return self.function(*self.args, **self.kwargs)

    def native(self) -> Any:
        """The ordinary value with autograd's own node."""
        return self.function(*self.args, **self.kwargs)

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    def carries(self, value: Any) -> bool:
        return any(value is carrier for carrier in self.carriers)

    @property
    def is_in_place(self) -> bool:
        return self.function.__name__.endswith("_") and not self.function.__name__.endswith("__")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dict values."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def depends_on_image(tensor: Tensor) -> bool:
    """Whether autograd follows the tensor back to something: parameters are leaves, so they don't count."""
    return tensor.requires_grad and not tensor.is_leaf


class RelevanceMode(TorchFunctionMode):
    """Records relevance rules instead of gradients while active (see the module's docstring).

    Args:
        operations: torch function → what it records.
        place: names the module that is running now, for error messages.
    """

    def __init__(self, operations: "Mapping[Callable[..., Any], Handler]", place: Callable[[], str]) -> None:
        super().__init__()
        self._operations = operations
        self._place = place
        self._facts = WeakTensorKeyDictionary()

    def enter_image(self, image: Tensor) -> None:
        """Make a tensor known as the image, the start of every path."""
        self.note(image, Facts(image=True))

    def note(self, tensor: Tensor, facts: Facts) -> None:
        self._facts[tensor] = replace(facts, version=tensor._version)

    def facts(self, tensor: Tensor) -> Facts:
        facts = self._facts.get(tensor, UNKNOWN)
        return facts if facts.version == tensor._version else Facts(signed=facts.signed)

    def check_seen(self, value: object) -> None:
        """Refuse relevance to tensors computed from the image by something that was never seen here.

        Scripted functions and custom `autograd.Function`s call no torch function that a mode can intercept;
        their plain gradient would pass silently for relevance.
        """
        for tensor in tensors_in(value):
            if depends_on_image(tensor) and tensor not in self._facts:
                self._refuse(tensor, f"a scripted or custom operation ({type(tensor.grad_fn).__name__})")

    def unsupported(self, call: Call, why: str = "") -> Any:
        """The ordinary value, for an operation without a rule: an error as soon as relevance arrives at it.

        Not at once, because no relevance may ever come: it stops at the feature layers, and enters no gate.
        """
        result = call.native()
        written = call.args[0] if call.function is Tensor.__setitem__ else result
        for tensor in tensors_in(written):
            if depends_on_image(tensor):
                self._refuse(tensor, f"`{call.function.__name__}`{f' ({why})' if why else ''}")
        return result

    def _refuse(self, tensor: Tensor, operation: str) -> None:
        error = UnsupportedOperationError(
            f"rule='lrp' has no formula for {operation} in {self._place()}; use rule='gradient_x_activation' or "
            "rule='guided_backprop', which work for any network, or relevance = \"none\" in a recipe"
        )

        def raise_error(_relevance: object) -> None:
            raise error

        assert tensor.grad_fn is not None
        tensor.grad_fn.register_prehook(raise_error)
        self.note(tensor, UNKNOWN)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        if not tensors or not torch.is_grad_enabled():
            # Without gradients the network computes constants, or is inside of a custom `autograd.Function`.
            return func(*args, **kwargs)
        self.check_seen(tensors)
        carriers = [tensor for tensor in tensors if depends_on_image(tensor)]
        signed = any(self.facts(carrier).signed for carrier in carriers)
        call = Call(function=func, args=args, kwargs=kwargs, carriers=carriers, signed=signed)
        if not call.carriers:
            return call.value()  # arithmetic on weights: constant
        handler = self._operations.get(func)
        result = handler(self, call) if handler is not None else self.unsupported(call)
        if signed:
            for tensor in tensors_in(result):
                self.note(tensor, replace(self.facts(tensor), signed=True))
        return result


Handler = Callable[[RelevanceMode, Call], Any]


def functions_named(names: str) -> Iterator[Callable[..., Any]]:
    """All torch functions of some names (separated by spaces): `torch.relu`, `F.relu`, `Tensor.relu_`, …"""
    for name in names.split():
        for home in (torch, F, Tensor, torch._C._nn):
            for spelling in (name, f"{name}_"):
                function = getattr(home, spelling, None)
                if callable(function):  # `torch.float` is a dtype, `Tensor.float` a function
                    yield function
