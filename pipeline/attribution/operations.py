"""What each torch function does with relevance: the table `OPERATIONS` at the end, and its few kinds of rows.

A row runs the function, notes the result's sign, and records a node of autograd whose backward pass
is a rule of `pipeline.attribution.rules` or, where features are signed, of `pipeline.attribution.signed_rules`. Rows of
products, layers with weights and attention are in `pipeline.attribution.products`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.attribution.mode import Call, Facts, Handler, RelevanceMode, functions_named, tensors_in
from pipeline.attribution.nodes import Shared, Split, SplitInPlace, follow, wide
from pipeline.attribution.products import (
    attend,
    divide,
    einsum,
    layer,
    matrix_product,
    multiply,
    run_openly,
    scale,
    scaled_sum,
)
from pipeline.attribution.rules import average_to_size, share_of_first, spread
from pipeline.attribution.signed_rules import layer_norm, proportional, share_of_first_term


def rearrange(mode: RelevanceMode, call: Call, *, keep_sign: bool = True) -> Any:
    """Operations whose own gradient moves relevance as it should: reshapes, slices, the larger of two."""
    facts = [mode.facts(tensor) for tensor in call.carriers]
    num_tensors = sum(1 for _ in tensors_in((call.args, call.kwargs)))
    nonnegative = keep_sign and len(facts) == num_tensors and all(f.nonnegative for f in facts)
    known = Facts(
        nonnegative=nonnegative,
        gate=all(f.gate for f in facts),
        image=all(f.image for f in facts),
        logarithm=all(f.logarithm for f in facts),
    )
    result = call.native()
    for tensor in tensors_in(result):
        mode.note(tensor, known)
    return result


def pad(mode: RelevanceMode, call: Call) -> Tensor:
    """Padding: relevance of the border is dropped, as it belongs to no input."""
    fill = call.argument(3, "value")
    return rearrange(mode, call, keep_sign=fill is None or fill >= 0)


def activate(
    mode: RelevanceMode, call: Call, *, nonnegative: bool = False, gate: bool = False, logarithm: bool = False
) -> Tensor:
    """Identity on relevance (zennit's `Pass`): activations."""
    if len(call.carriers) != 1 or not call.carries(call.argument(0, "input")):
        return mode.unsupported(call, "more than one input depends on the image")
    gate = gate or mode.facts(call.carriers[0]).gate
    return follow(mode, call, call.carriers[0], Facts(nonnegative=nonnegative, gate=gate, logarithm=logarithm))


def clamp(mode: RelevanceMode, call: Call, *, lower: str = "min") -> Tensor:
    """Clamp and hardtanh: identity; not negative if the lower bound isn't."""
    bound = call.argument(1, lower)
    return activate(mode, call, nonnegative=isinstance(bound, int | float) and bound >= 0)


def normalize(mode: RelevanceMode, call: Call) -> Tensor:
    """LayerNorm, behind which features are signed."""
    x, weight, bias = (call.argument(i, name) for i, name in ((0, "input"), (2, "weight"), (3, "bias")))
    if len(call.carriers) != 1 or not call.carries(x):
        return mode.unsupported(call, "its weight depends on the image")
    num_axes, epsilon = len(call.argument(1, "normalized_shape")), call.argument(4, "eps", 1e-5)

    def rule(relevance: Tensor, x: Tensor) -> Tensor:
        w, b = (None if constant is None else wide(constant.detach()) for constant in (weight, bias))
        return layer_norm(relevance, x, num_axes, w, b, epsilon)

    result: Tensor = Shared.apply(rule, call, x)
    mode.note(result, Facts(signed=True))
    return result


def normalize_length(mode: RelevanceMode, call: Call) -> Tensor:
    """RMSNorm, behind which features are signed: identity, since its divisor counts as a constant."""
    result = scale(mode, call)
    mode.note(result, Facts(signed=True))
    return result


def add(mode: RelevanceMode, call: Call, *, sign: float = 1.0, is_reversed: bool = False) -> Tensor:
    """Sums: shared by the size of the two terms, where features are signed by their values; a constant gets nothing.

    Logarithms share evenly, as the factors of a product do.
    """
    first, second = call.argument(0, "input"), call.argument(1, "other")
    if len(call.carriers) == 1:
        if call.is_in_place and not call.carries(first):
            return rearrange(mode, call, keep_sign=False)  # constant += signal: its gradient is identity
        return scale(mode, call)
    alpha = call.argument(2, "alpha", 1)
    factors = (sign * alpha, 1.0) if is_reversed else (1.0, sign * alpha)
    facts = mode.facts(first), mode.facts(second)
    logarithm = facts[0].logarithm and facts[1].logarithm

    def share(first: Tensor, second: Tensor) -> Tensor:
        if logarithm:
            return torch.full((), 0.5, device=first.device)
        terms = (term if factor == 1 else term * factor for term, factor in zip((first, second), factors, strict=True))
        return (share_of_first_term if call.signed else share_of_first)(*terms)

    result: Tensor = (SplitInPlace if call.is_in_place else Split).apply(share, call, first, second)
    nonnegative = min(factors) >= 0 and facts[0].nonnegative and facts[1].nonnegative
    mode.note(result, Facts(nonnegative=nonnegative, logarithm=logarithm))
    return result


def average(mode: RelevanceMode, call: Call, *, equal_shares: bool = False) -> Tensor:
    """Means, sums and average pooling: shared over the window by the input's positive part, or evenly.

    Where features are signed by their values, and logarithms evenly.
    """
    if len(call.carriers) != 1 or not call.carries(call.argument(0, "input")):
        return mode.unsupported(call)
    options = {key: value for key, value in call.kwargs.items() if key != "input"}

    def operation(x: Tensor) -> Tensor:
        result: Tensor = call.function(x, *call.args[1:], **options)
        return result

    x = call.carriers[0]
    facts = mode.facts(x)
    equal_shares = facts.logarithm or (equal_shares and not call.signed)

    def rule(relevance: Tensor, x: Tensor) -> Tensor:
        if call.signed and not equal_shares:
            return proportional(relevance, x, operation)
        return spread(relevance, torch.ones_like(x) if equal_shares else x, operation)

    result: Tensor = Shared.apply(rule, call, x)
    mode.note(result, Facts(nonnegative=facts.nonnegative, logarithm=facts.logarithm))
    return result


def max_pool(mode: RelevanceMode, call: Call, *, num_axes: int) -> Tensor:
    """Max pooling, treated as average pooling to the same size: 2×2 where it halves, as in VITAL's supplement."""
    flag = 2 if call.function.__name__.startswith("adaptive") else 6
    if call.argument(flag, "return_indices", False):
        return mode.unsupported(call, "it returns indices")
    x = call.carriers[0]

    def rule(relevance: Tensor, x: Tensor) -> Tensor:
        size = relevance.shape[-num_axes:]
        return spread(relevance, x, lambda p: average_to_size(p, size), keep_all=False)

    result: Tensor = Shared.apply(rule, call, x)
    mode.note(result, Facts(nonnegative=mode.facts(x).nonnegative))
    return result


def _table(rows: Iterable[tuple[Handler, str]]) -> dict[Callable[..., Any], Handler]:
    return {function: handler for handler, names in rows for function in functions_named(names)}


_REARRANGING = """
    view view_as reshape reshape_as flatten unflatten squeeze unsqueeze expand expand_as contiguous clone
    permute transpose t adjoint movedim moveaxis swapaxes swapdims flip roll pixel_shuffle pixel_unshuffle
    channel_shuffle __getitem__ narrow select index_select gather split split_with_sizes chunk tensor_split unbind
    cat concat concatenate stack repeat repeat_interleave tile unfold
    to type_as float double half bfloat16
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
"""
_WINNER_TAKES_ALL = "maximum minimum max min amax amin where masked_fill"
_SIGNED_ACTIVATIONS = """
    silu gelu hardswish mish leaky_relu elu celu selu prelu rrelu tanh softsign logsigmoid log_softmax
    hardshrink softshrink
"""

# What each torch function does with relevance. A function that is not here lets none through.
OPERATIONS: dict[Callable[..., Any], Handler] = _table(
    [
        (rearrange, _REARRANGING),
        (partial(rearrange, keep_sign=False), f"interpolate upsample {_WINNER_TAKES_ALL}"),
        (pad, "pad constant_pad_nd"),
        (scale, "batch_norm group_norm instance_norm neg negative normalize"),
        (normalize, "layer_norm"),
        (normalize_length, "rms_norm"),
        (activate, _SIGNED_ACTIVATIONS),
        (partial(activate, nonnegative=True), "relu relu6 softplus exp sqrt square abs"),
        (partial(activate, logarithm=True), "log log1p"),
        (activate, "pow"),
        (partial(activate, nonnegative=True, gate=True), "sigmoid hardsigmoid softmax"),
        (clamp, "clamp clip clamp_min clamp_max"),
        (partial(clamp, lower="min_val"), "hardtanh"),
        (add, "add"),
        (partial(add, sign=-1.0), "sub subtract"),
        (partial(add, sign=-1.0, is_reversed=True), "rsub __rsub__"),
        (multiply, "mul multiply"),
        (divide, "div divide true_divide"),
        (scaled_sum, "addcmul"),
        (partial(layer, published_bias=True, bias_axis=1), "conv1d conv2d conv3d"),
        (partial(layer, published_bias=True, bias_axis=1), "conv_transpose1d conv_transpose2d conv_transpose3d"),
        (partial(layer, published_bias=False, bias_axis=-1), "linear"),
        (matrix_product, "matmul bmm mm __matmul__"),
        (partial(matrix_product, is_reversed=True), "__rmatmul__"),
        (partial(matrix_product, num_constants=1), "addmm baddbmm"),
        (einsum, "einsum"),
        (attend, "scaled_dot_product_attention"),
        (run_openly, "multi_head_attention_forward"),
        (average, "mean sum adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"),
        (partial(average, equal_shares=True), "avg_pool1d avg_pool2d avg_pool3d"),
        (partial(max_pool, num_axes=1), "max_pool1d adaptive_max_pool1d"),
        (partial(max_pool, num_axes=2), "max_pool2d adaptive_max_pool2d"),
        (partial(max_pool, num_axes=3), "max_pool3d adaptive_max_pool3d"),
    ]
)
