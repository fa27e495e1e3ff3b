"""Guided backpropagation: activations pass on only what raises the target.

Reference: Springenberg et al., "Striving for simplicity: the all convolutional net", ICLR 2015 workshop; for
    activations other than ReLU the gradient at their input is clamped likewise. In zennit: `ReLUGuidedBackprop`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pipeline.attribution.mode import depends_on_image, functions_named

_RECTIFIERS = """
    relu relu6 hardtanh clamp clamp_min clip leaky_relu prelu elu celu selu silu gelu hardswish mish softplus
"""
RECTIFIERS = frozenset(functions_named(_RECTIFIERS))


class _ClampGradient(torch.autograd.Function):
    """Identity whose gradient is clamped at 0.

    Before an in-place activation the tensor itself must take the node: its later readers see the activated
    value. Otherwise they must not, so an alias takes it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, in_place: bool) -> Tensor:
        if in_place:
            ctx.mark_dirty(x)
            return x
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.clamp(min=0), None


class GuidedMode(TorchFunctionMode):
    """Clamps the gradient at the input of every activation recorded while active; all else is as ever."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        if func not in RECTIFIERS or not isinstance(x, Tensor) or not depends_on_image(x):
            return func(*args, **kwargs)
        options = {key: value for key, value in kwargs.items() if key != "input"}
        # `inplace` is the only flag any of them takes, by name or by position.
        in_place = func.__name__.endswith("_") or any(v is True for v in (*args[1:], options.get("inplace")))
        return func(_ClampGradient.apply(x, in_place), *args[1:], **options)
