"""What each torch function does with relevance: the table `OPERATIONS` at the end, and its few kinds of rows.

A row runs the function, notes what it knows of the result's sign, and records a node of autograd whose
backward pass is a rule of `pipeline.relevance.rules`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.relevance.mode import UNKNOWN, Call, Facts, Handler, RelevanceMode, functions_named, tensors_in
from pipeline.relevance.rules import average_to_size, share_of_first, spread, z_plus


class _Identity(torch.autograd.Function):
    """A value whose relevance all goes to one tensor, unchanged.

    The value comes in a list, lest autograd take it for an input and give back an alias of it.
    """

    @staticmethod
    def forward(ctx: Any, signal: Tensor, value: list[Tensor]) -> Tensor:
        ctx.shape = signal.shape
        return value[0]

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        return relevance.sum_to_size(ctx.shape), None


class _Shared(torch.autograd.Function):
    """A value whose relevance is shared over its input by a rule: (relevance, input) → input's relevance."""

    @staticmethod
    def forward(ctx: Any, rule: Callable[[Tensor, Tensor], Tensor], call: Call, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rule = rule
        return call.native()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        return None, None, ctx.rule(relevance, *ctx.saved_tensors)


class _Sum(torch.autograd.Function):
    """`first ± alpha · second`."""

    @staticmethod
    def forward(ctx: Any, call: Call, alpha: float, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.alpha = alpha
        return call.native()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        first, second = ctx.saved_tensors
        share = _share_of_first(first, second, ctx.alpha)
        return None, None, *_split(relevance, share, first.shape, second.shape)


class _SumInPlace(torch.autograd.Function):
    """`first ±= alpha · second`. The share is taken before `first` is overwritten."""

    @staticmethod
    def forward(ctx: Any, call: Call, alpha: float, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(_share_of_first(first, second, alpha))
        ctx.shapes = first.shape, second.shape
        ctx.mark_dirty(first)
        return call.native()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        (share,) = ctx.saved_tensors
        return None, None, *_split(relevance, share, *ctx.shapes)


def _share_of_first(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    return share_of_first(first, second if alpha == 1 else second * alpha)


def _split(relevance: Tensor, share: Tensor, first: torch.Size, second: torch.Size) -> tuple[Tensor, Tensor]:
    to_first = relevance * share
    return to_first.sum_to_size(first), (relevance - to_first).sum_to_size(second)


def rearrange(mode: RelevanceMode, call: Call, *, keep_sign: bool = True) -> Any:
    """Operations whose own gradient moves relevance as it should: reshapes, slices, concatenation."""
    facts = [mode.facts(tensor) for tensor in call.carriers]
    num_tensors = sum(1 for _ in tensors_in((call.args, call.kwargs)))
    nonnegative = keep_sign and len(facts) == num_tensors and all(f.nonnegative for f in facts)
    gate, image = all(f.gate for f in facts), all(f.image for f in facts)
    result = call.native()
    for tensor in tensors_in(result):
        mode.note(tensor, Facts(nonnegative=nonnegative, gate=gate, image=image))
    return result


def pad(mode: RelevanceMode, call: Call) -> Tensor:
    """Padding: relevance of the border is dropped, as it belongs to no input."""
    fill = call.argument(3, "value")
    return rearrange(mode, call, keep_sign=fill is None or fill >= 0)


def pass_through(mode: RelevanceMode, call: Call) -> Tensor:
    """Identity on relevance: BatchNorm, and scaling or shifting by constants (METHOD 3)."""
    if len(call.carriers) != 1:
        return mode.unsupported(call, "more than one input depends on the image")
    facts = mode.facts(call.carriers[0])
    return _follow(mode, call, call.carriers[0], Facts(gate=facts.gate, image=facts.image))


def activate(mode: RelevanceMode, call: Call, *, nonnegative: bool = False, gate: bool = False) -> Tensor:
    """Identity on relevance: activations (METHOD 3)."""
    if len(call.carriers) != 1:
        return mode.unsupported(call, "more than one input depends on the image")
    gate = gate or mode.facts(call.carriers[0]).gate
    return _follow(mode, call, call.carriers[0], Facts(nonnegative=nonnegative, gate=gate))


def _follow(mode: RelevanceMode, call: Call, signal: Tensor, facts: Facts) -> Tensor:
    """The call's value, with all its relevance on `signal`."""
    result = call.value()
    if result is not signal:  # an in-place identity keeps the signal's node: nothing to record
        result = _Identity.apply(signal, [result])
    mode.note(result, facts)
    return result


def clamp(mode: RelevanceMode, call: Call, *, lower: str = "min") -> Tensor:
    """Clamp and hardtanh: identity; not negative if the lower bound isn't."""
    bound = call.argument(1, lower)
    return activate(mode, call, nonnegative=isinstance(bound, int | float) and bound >= 0)


def add(mode: RelevanceMode, call: Call, *, sign: float = 1.0) -> Tensor:
    """Sums: shared by the size of the two terms; a constant term gets nothing."""
    first, second = call.argument(0, "input"), call.argument(1, "other")
    if len(call.carriers) == 1:
        if call.is_in_place and not call.carries(first):
            return rearrange(mode, call, keep_sign=False)  # constant += signal: its gradient is identity
        return pass_through(mode, call)
    alpha = call.argument(2, "alpha", 1)
    facts = mode.facts(first), mode.facts(second)
    node = _SumInPlace if call.is_in_place else _Sum
    result = node.apply(call, alpha, first, second)
    mode.note(result, Facts(nonnegative=sign * alpha >= 0 and all(f.nonnegative for f in facts)))
    return result


def multiply(mode: RelevanceMode, call: Call) -> Tensor:
    """Products: the gate counts as a constant and all relevance goes to the signal.

    The gate is the factor that came out of a sigmoid or softmax, else the one that is broadcast.
    """
    if len(call.carriers) == 1:
        return pass_through(mode, call)
    first, second = call.carriers
    gates = [mode.facts(first).gate, mode.facts(second).gate]
    if gates[0] != gates[1]:
        signal = second if gates[0] else first
    elif gates[0] or first.numel() != second.numel():
        signal = first if first.numel() >= second.numel() else second
    else:
        return mode.unsupported(call, "both factors depend on the image and neither is a gate")
    if call.is_in_place and call.args[0] is not signal:
        return mode.unsupported(call, "the gate is overwritten by its product with the signal")
    nonnegative = mode.facts(first).nonnegative and mode.facts(second).nonnegative
    return _follow(mode, call, signal, Facts(nonnegative=nonnegative, gate=all(gates)))


def divide(mode: RelevanceMode, call: Call) -> Tensor:
    """Division by a constant: identity."""
    if len(call.carriers) != 1 or not call.carries(call.argument(0, "input")):
        return mode.unsupported(call, "the divisor depends on the image")
    return pass_through(mode, call)


def weighted(mode: RelevanceMode, call: Call, *, with_bias: bool) -> Tensor:
    """Convolutions and linear layers: z⁺ (METHOD 3: convolutions keep their bias, linear layers don't)."""
    x, weight, bias = (call.argument(i, name) for i, name in enumerate(("input", "weight", "bias")))
    if len(call.carriers) != 1 or not call.carries(x):
        return mode.unsupported(call, "its weight depends on the image")
    options = {key: value for key, value in call.kwargs.items() if key not in ("input", "weight", "bias")}

    def operation(x: Tensor, weight: Tensor) -> Tensor:
        return call.function(x, weight, None, *call.args[3:], **options)

    facts = mode.facts(x)
    rule = partial(
        _share_weighted,
        weight=weight,
        bias=bias if with_bias else None,
        operation=operation,
        nonnegative=facts.nonnegative,
        as_ones=facts.image,
    )
    result = _Shared.apply(rule, call, x)
    mode.note(result, UNKNOWN)
    return result


def _share_weighted(relevance: Tensor, x: Tensor, *, as_ones: bool, nonnegative: bool, **layer: Any) -> Tensor:
    # The first layer sees ones instead of the image (METHOD 3): a dark pixel is evidence like a bright one.
    if as_ones:
        return z_plus(relevance, torch.ones_like(x), nonnegative=True, **layer)
    return z_plus(relevance, x, nonnegative=nonnegative, **layer)


def average(mode: RelevanceMode, call: Call, *, equal_shares: bool = False) -> Tensor:
    """Means, sums and average pooling: shared over the window by the input's positive part, or evenly."""
    if len(call.carriers) != 1 or not call.carries(call.argument(0, "input")):
        return mode.unsupported(call)
    options = {key: value for key, value in call.kwargs.items() if key != "input"}
    return _pool(mode, call, lambda p, _: call.function(p, *call.args[1:], **options), equal_shares=equal_shares)


def max_pool(mode: RelevanceMode, call: Call, *, num_axes: int) -> Tensor:
    """Max pooling, treated as average pooling to the same size (METHOD 3: AvgPool 2×2 where it halves)."""
    flag = 2 if call.function.__name__.startswith("adaptive") else 6
    if call.argument(flag, "return_indices", False):
        return mode.unsupported(call, "it returns indices")
    return _pool(mode, call, lambda p, size: average_to_size(p, size[-num_axes:]))


def _pool(
    mode: RelevanceMode,
    call: Call,
    operation: Callable[[Tensor, torch.Size], Tensor],
    *,
    equal_shares: bool = False,
) -> Tensor:
    x = call.carriers[0]
    nonnegative = mode.facts(x).nonnegative

    def rule(relevance: Tensor, x: Tensor) -> Tensor:
        weights = torch.ones_like(x) if equal_shares else x
        return spread(relevance, weights, lambda p: operation(p, relevance.shape))

    result = _Shared.apply(rule, call, x)
    mode.note(result, Facts(nonnegative=nonnegative))
    return result


def _table(rows: Iterable[tuple[Handler, str]]) -> dict[Callable[..., Any], Handler]:
    return {function: handler for handler, names in rows for function in functions_named(names)}


_REARRANGING = """
    view view_as reshape reshape_as flatten unflatten squeeze unsqueeze expand expand_as contiguous clone
    permute transpose t movedim moveaxis swapaxes swapdims flip roll pixel_shuffle pixel_unshuffle
    channel_shuffle __getitem__ narrow select index_select split split_with_sizes chunk tensor_split unbind
    cat concat concatenate stack repeat repeat_interleave tile
    to type_as float double half bfloat16
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
"""
_SIGNED_ACTIVATIONS = """
    silu gelu hardswish mish leaky_relu elu celu selu prelu rrelu tanh softsign logsigmoid log_softmax
    hardshrink softshrink
"""

# What each torch function does with relevance. A function that is not here lets none through.
OPERATIONS: dict[Callable[..., Any], Handler] = _table(
    [
        (rearrange, _REARRANGING),
        (partial(rearrange, keep_sign=False), "interpolate upsample"),
        (pad, "pad constant_pad_nd"),
        (pass_through, "batch_norm neg negative"),
        (activate, _SIGNED_ACTIVATIONS),
        (partial(activate, nonnegative=True), "relu relu6 softplus"),
        (partial(activate, nonnegative=True, gate=True), "sigmoid hardsigmoid softmax"),
        (clamp, "clamp clip clamp_min"),
        (partial(clamp, lower="min_val"), "hardtanh"),
        (add, "add"),
        (partial(add, sign=-1.0), "sub subtract rsub __rsub__"),
        (multiply, "mul multiply"),
        (divide, "div divide true_divide"),
        (partial(weighted, with_bias=True), "conv1d conv2d conv3d"),
        (partial(weighted, with_bias=True), "conv_transpose1d conv_transpose2d conv_transpose3d"),
        (partial(weighted, with_bias=False), "linear"),
        (average, "mean sum adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"),
        (partial(average, equal_shares=True), "avg_pool1d avg_pool2d avg_pool3d"),
        (partial(max_pool, num_axes=1), "max_pool1d adaptive_max_pool1d"),
        (partial(max_pool, num_axes=2), "max_pool2d adaptive_max_pool2d"),
        (partial(max_pool, num_axes=3), "max_pool3d adaptive_max_pool3d"),
    ]
)
