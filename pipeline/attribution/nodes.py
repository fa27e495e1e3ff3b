"""Nodes of autograd's graph whose "gradient" is relevance: the ways of sharing it that operations use.

Each computes its value by the very call that the network made. Shares are computed in float32 at least, since in half
precision small numbers are zero, and features that nearly cancel leave no digits.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.attribution.mode import Call, Facts, RelevanceMode

Rule = Callable[..., Tensor]


class Identity(torch.autograd.Function):
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


class Shared(torch.autograd.Function):
    """A value whose relevance is shared over one input by a rule: (relevance, input) → the input's relevance."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, call: Call, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rule = rule
        return _own(call.native())

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return None, None, ctx.rule(wide(relevance), wide(x)).to(x.dtype)


class SharedInOwnType(Shared):
    """The same for a rule that takes the input in its own type and is careful by itself."""

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return None, None, ctx.rule(wide(relevance), x).to(x.dtype)


class Halves(torch.autograd.Function):
    """A product of two tensors, each of which shares half of the relevance by a rule of its own.

    The rules: (relevance, factor, the other factor) → the factor's relevance. Reference: the uniform rule of AttnLRP,
    arXiv 2402.05602, section 3.3.
    """

    @staticmethod
    def forward(ctx: Any, rules: tuple[Rule, Rule], call: Call, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.rules = rules
        return _own(call.native())

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        first, second = ctx.saved_tensors
        half, a, b = wide(relevance) / 2, wide(first), wide(second)
        to_first, to_second = ctx.rules[0](half, a, b), ctx.rules[1](half, b, a)
        return None, None, to_first.to(first.dtype), to_second.to(second.dtype)


class Split(torch.autograd.Function):
    """A value of two tensors, element by element. A rule gives the share of the first: (first, second) → share."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, call: Call, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.rule = rule
        return call.native()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        first, second = ctx.saved_tensors
        share = ctx.rule(wide(first), wide(second))
        return None, None, *_split(relevance, share, (first.shape, first.dtype), (second.shape, second.dtype))


class SplitInPlace(torch.autograd.Function):
    """The same, written into the first tensor; so the share is taken before that is overwritten."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, call: Call, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(rule(wide(first), wide(second)))
        ctx.kinds = (first.shape, first.dtype), (second.shape, second.dtype)
        ctx.mark_dirty(first)
        return call.native()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        (share,) = ctx.saved_tensors
        return None, None, *_split(relevance, share, *ctx.kinds)


def _own(value: Tensor) -> Tensor:
    """The same memory as no view of anything: linear layers give views, which autograd then forbids to overwrite."""
    return value.data


_Kind = tuple[torch.Size, torch.dtype]


def _split(relevance: Tensor, share: Tensor, first: _Kind, second: _Kind) -> tuple[Tensor, Tensor]:
    relevance = wide(relevance)
    to_first = relevance * share
    to_second = relevance - to_first
    return to_first.sum_to_size(first[0]).to(first[1]), to_second.sum_to_size(second[0]).to(second[1])


def wide(x: Tensor) -> Tensor:
    """x in float32 where it is of half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def follow(mode: RelevanceMode, call: Call, signal: Tensor, facts: Facts) -> Tensor:
    """The call's value, with all its relevance on `signal`, and what is known of it noted."""
    result: Tensor = call.value()
    if result is not signal:  # an in-place identity keeps the signal's node: nothing to record
        result = Identity.apply(signal, [result])
    mode.note(result, facts)
    return result
