"""What products do with relevance: layers with weights, gates, attention.

Of two factors that both depend on the image, one may be a gate, that is, a weighting of the other: attention
probabilities, squeeze-and-excitation, a normalization's divisor. A gate counts as a constant. For attention this is
CP-LRP (Ali et al., "XAI for transformers", ICML 2022), which the authors of AttnLRP use for vision transformers too
(examples/vit_torch.py of their code). Where neither factor is a gate, each gets half: the uniform rule (AttnLRP, arXiv
2402.05602, section 3.3).
"""

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.attribution.mode import Call, Facts, RelevanceMode, tensors_in
from pipeline.attribution.nodes import Halves, Shared, SharedInOwnType, Split, SplitInPlace, follow, wide
from pipeline.attribution.rules import spread, z_plus
from pipeline.attribution.signed_rules import gamma_rule, proportional

Bilinear = Callable[[Tensor, Tensor], Tensor]


def multiply(mode: RelevanceMode, call: Call) -> Tensor:
    """Products element by element: all relevance to the signal, or half to each factor if neither is a gate.

    The gate is the factor that came out of a sigmoid or softmax, else the one that is broadcast. A product of x with a
    function of x, such as a hardswish written out, thus gives all its relevance to x.
    """
    if len(call.carriers) == 1:
        return scale(mode, call)
    first, second = call.carriers
    facts = mode.facts(first), mode.facts(second)
    nonnegative = facts[0].nonnegative and facts[1].nonnegative
    is_uniform = facts[0].gate == facts[1].gate and first.numel() == second.numel() and not facts[0].gate
    if is_uniform:
        node = SplitInPlace if call.is_in_place else Split
        result: Tensor = node.apply(lambda a, b: torch.full((), 0.5, device=a.device), call, first, second)
        mode.note(result, Facts(nonnegative=nonnegative))
        return result
    if facts[0].gate != facts[1].gate:
        signal = second if facts[0].gate else first
    else:
        signal = first if first.numel() >= second.numel() else second
    if call.is_in_place and call.args[0] is not signal:
        return mode.unsupported(call, "the gate is overwritten by its product with the signal")
    return follow(mode, call, signal, Facts(nonnegative=nonnegative, gate=facts[0].gate and facts[1].gate))


def scale(mode: RelevanceMode, call: Call) -> Tensor:
    """Identity on relevance (zennit's `Pass`): BatchNorm, and scaling or shifting by constants."""
    if len(call.carriers) != 1:
        return mode.unsupported(call, "more than one input depends on the image")
    facts = mode.facts(call.carriers[0])
    return follow(mode, call, call.carriers[0], Facts(gate=facts.gate, image=facts.image, logarithm=facts.logarithm))


def divide(mode: RelevanceMode, call: Call) -> Tensor:
    """Division by a constant, or by a norm that is broadcast: identity on the numerator's relevance."""
    numerator, divisor = call.argument(0, "input"), call.argument(1, "other")
    if not call.carries(numerator):
        return mode.unsupported(call, "the divisor depends on the image and the numerator does not")
    if len(call.carriers) == 1:
        return scale(mode, call)
    if divisor.numel() >= numerator.numel():
        return mode.unsupported(call, "the divisor depends on the image at every element")
    return follow(mode, call, numerator, Facts())


def scaled_sum(mode: RelevanceMode, call: Call) -> Tensor:
    """`addcmul(constant, factor, factor)`: as the product alone."""
    if len(call.carriers) != 1 or call.carries(call.argument(0, "input")):
        return mode.unsupported(call, "more than one of its inputs depends on the image")
    return scale(mode, call)


def layer(mode: RelevanceMode, call: Call, *, published_bias: bool, bias_axis: int) -> Tensor:
    """Convolutions and linear layers: z⁺, or the γ rule where features are signed.

    z⁺ keeps the bias of convolutions and not of linear layers, as VITAL's code does: `published_bias`. In zennit:
    `ZPlus` and `Gamma`.
    """
    x, weight, bias = (call.argument(i, name) for i, name in enumerate(("input", "weight", "bias")))
    if len(call.carriers) != 1 or not call.carries(x):
        return mode.unsupported(call, "its weight depends on the image")
    options = {key: value for key, value in call.kwargs.items() if key not in ("input", "weight", "bias")}

    def operation(x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = call.function(x, weight, None, *call.args[3:], **options)
        return result

    if call.signed and bias is not None and bias_axis == 1:
        bias = bias.view(-1, *[1] * (x.ndim - 2))
    return _weighted(mode, call, x, weight, bias if published_bias or call.signed else None, operation)


def matrix_product(mode: RelevanceMode, call: Call, *, is_reversed: bool = False, num_constants: int = 0) -> Any:
    """`matmul`, `bmm`, `mm`, `@`, and with a constant added (`num_constants` = 1) `addmm` and `baddbmm`."""
    operands = list(tensors_in((call.args, call.kwargs)))
    if len(operands) != 2 + num_constants or any(call.carries(added) for added in operands[:num_constants]):
        return mode.unsupported(call, "what it adds depends on the image")
    first, second = operands[num_constants:][::-1] if is_reversed else operands[num_constants:]
    return _bilinear(mode, call, first, second, torch.matmul)


def einsum(mode: RelevanceMode, call: Call) -> Any:
    """`einsum` of two tensors, the equation given as text."""
    operands = list(tensors_in(call.args))
    if len(operands) != 2 or not isinstance(call.args[0], str):
        return mode.unsupported(call, "it is not the product of two tensors")
    return _bilinear(mode, call, operands[0], operands[1], partial(torch.einsum, call.args[0]))


def attend(mode: RelevanceMode, call: Call) -> Any:
    """`scaled_dot_product_attention`: all relevance to the values, by their weighted contributions."""
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    if not call.carries(value):
        return mode.unsupported(call, "its values do not depend on the image")
    options = {name: option for name, option in call.kwargs.items() if name not in ("query", "key", "value")}
    query, key = query.detach(), key.detach()

    def operation(value: Tensor) -> Tensor:
        result: Tensor = call.function(wide(query), wide(key), value, *call.args[3:], **options)
        return result

    return _averaged(mode, call, value, operation)


def run_openly(mode: RelevanceMode, call: Call) -> Any:
    """A function written in Python that a mode sees as one call: run its body, and see the calls in there."""
    function = call.function
    names = {**function.__globals__, "has_torch_function": lambda _tensors: False}  # by which it asks for the mode
    body = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    body.__kwdefaults__ = function.__kwdefaults__
    with mode:
        return body(*call.args, **call.kwargs)


def _bilinear(mode: RelevanceMode, call: Call, first: Tensor, second: Tensor, product: Bilinear) -> Any:
    if len(call.carriers) == 1:
        if call.carries(first):
            return _weighted(mode, call, first, second, None, product)
        return _weighted(mode, call, second, first, None, lambda x, weight: product(weight, x))
    gates = mode.facts(first).gate, mode.facts(second).gate
    if gates[0] and not gates[1]:
        gate = first.detach()
        return _averaged(mode, call, second, lambda x: product(wide(gate), x))
    if gates[1] and not gates[0]:
        gate = second.detach()
        return _averaged(mode, call, first, lambda x: product(x, wide(gate)))
    rules = (
        lambda relevance, x, other: gamma_rule(relevance, x, other, None, product, nonnegative=False),
        lambda relevance, x, other: gamma_rule(
            relevance, x, other, None, lambda a, b: product(b, a), nonnegative=False
        ),
    )
    result: Tensor = Halves.apply(rules, call, first, second)
    mode.note(result, Facts())
    return result


def _weighted(
    mode: RelevanceMode, call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, operation: Bilinear
) -> Tensor:
    facts = mode.facts(x)
    rule = partial(
        _share_weighted,
        weight=weight.detach(),
        bias=None if bias is None else bias.detach(),
        operation=operation,
        nonnegative=facts.nonnegative,
        as_ones=facts.image,
        signed=call.signed,
    )
    node = Shared if call.signed else SharedInOwnType
    result: Tensor = node.apply(rule, call, x)
    mode.note(result, Facts())
    return result


def _share_weighted(
    relevance: Tensor,
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None,
    operation: Bilinear,
    nonnegative: bool,
    as_ones: bool,
    signed: bool,
) -> Tensor:
    weight, bias = weight.to(x.dtype), None if bias is None else wide(bias)
    # As published, the first layer sees ones instead of the image: a dark pixel is evidence like a bright one.
    # (zennit's `WSquare` and `Flat` put ones there too, with squared weights and with ones for weights.)
    if as_ones:
        return z_plus(relevance, torch.ones_like(x), weight, bias, operation, nonnegative=True)
    share = gamma_rule if signed else z_plus
    return share(relevance, x, weight, bias, operation, nonnegative=nonnegative)


def _averaged(mode: RelevanceMode, call: Call, x: Tensor, operation: Callable[[Tensor], Tensor]) -> Tensor:
    """A sum over x with weights ≥ 0 that count as constants."""
    share = proportional if call.signed else spread
    result: Tensor = Shared.apply(lambda relevance, x: share(relevance, x, operation), call, x)
    mode.note(result, Facts(nonnegative=mode.facts(x).nonnegative))
    return result
