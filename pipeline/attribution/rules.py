"""Relevance rules: how the relevance of an operation's output is shared among its inputs.

Every rule is a pure function of the output's relevance and the operation's inputs, and knows nothing of
networks. A linear operation is given as a function `x -> A x`; the transposed operation that a rule needs
comes from autograd, so one formula serves convolutions of any rank, stride and grouping, and poolings.

Legend: R relevance of the output, x input, w weight, b bias, p a non-negative map, A a linear operation,
`⁺`/`⁻` the positive and negative part.

zennit's names (https://github.com/chr5tphr/zennit): `z_plus` is `ZPlus`, `spread` with the input as weights is `Norm`
of the positive part and with ones `Flat`, and what passes on unchanged (activations, BatchNorm) is `Pass`. zennit has
no counterpart to `share_of_first`, and leaves max pooling to its gradient.

Reference: Bach et al., "On pixel-wise explanations …", PLOS ONE 2015 (z⁺ is their αβ rule with α=1, β=0);
    Montavon et al., "Explaining nonlinear classification decisions with deep Taylor decomposition", 2017;
    VITAL, arXiv 2503.22399, supplement, for the choice per operation.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # stabilizes the denominators of z⁺ and of max pooling; the value of VITAL's code

# Stands in for zero in shares, so that `0 / 0` becomes an even split. Small beside every activation, and a
# normal number in bfloat16 and float32 alike.
TINY = 1e-12

# A negative bias can take the denominator of a z⁺ share to zero, or below it. Before a ReLU such a unit is
# zero and has no relevance to share, so the floor is rarely met; elsewhere it bounds the gain to tenfold.
BIAS_FLOOR = 0.1

# By number of axes.
_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def z_plus(
    relevance: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    operation: Callable[[Tensor, Tensor], Tensor],
    *,
    nonnegative: bool,
) -> Tensor:
    """Share relevance in proportion to the positive contributions of a layer's inputs.

    `R_x = x⁺ · A(w⁺)ᵀ c + x⁻ · A(w⁻)ᵀ c` with `c = R / (A(w⁺) x⁺ + A(w⁻) x⁻ + b + ε)`. For x ≥ 0 this is the
    published z⁺ rule; for signed inputs the pairing keeps every share non-negative, where z⁺ alone divides by
    sums that cancel.

    In zennit: `ZPlus`, or `AlphaBeta(alpha=1, beta=0)`. It counts only the positive part of b, where b itself counts
    here.

    Args:
        relevance: relevance of the output, shaped like `operation(x, weight)`.
        x: input of the layer. In half precision its products, all of one sign, are taken as they come; they are
            divided by in the type of the relevance.
        weight: weight of the layer, in the type of x, never changed.
        bias: `[C]`, or None; broadcast along axis 1 of the output.
        operation: (x, weight) → output without bias, linear in both.
        nonnegative: whether x is known to be ≥ 0, so that its negative part need not be computed.

    Returns:
        Relevance of x, shaped like x.
    """
    weight = weight.detach()
    pairs = [(x.detach() if nonnegative else x.detach().clamp(min=0), weight.clamp(min=0))]
    if not nonnegative:
        pairs.append((x.detach().clamp(max=0), weight.clamp(max=0)))
    with torch.enable_grad():
        parts = [part.requires_grad_() for part, _ in pairs]
        contributions = [operation(part, part_weight) for part, (_, part_weight) in zip(parts, pairs, strict=True)]
    total = contributions[0].detach().to(relevance.dtype)
    for contribution in contributions[1:]:
        total = total + contribution.detach()
    if bias is not None:
        axes = (1, -1, *([1] * (total.ndim - 2)))
        total = torch.maximum(total + bias.detach().view(axes), BIAS_FLOOR * total)
    coefficient = (relevance / (total + EPSILON)).to(x.dtype)
    slopes = torch.autograd.grad(contributions, parts, [coefficient] * len(parts))
    shared = parts[0].detach() * slopes[0]
    for part, slope in zip(parts[1:], slopes[1:], strict=True):
        shared = shared + part.detach() * slope
    return shared


def spread(
    relevance: Tensor, weights: Tensor, operation: Callable[[Tensor], Tensor], *, keep_all: bool = True
) -> Tensor:
    """Share relevance over the window that each output was pooled from, in proportion to `weights`.

    `R_x = p · Aᵀ(R / (A p + e))`. Weights of one give the published DenseNet transition (nearest
    upsampling / 4).

    In zennit: `Norm` of the pooling for the input as weights, `Flat` for ones.

    Args:
        relevance: relevance of the output, shaped like `operation(weights)`.
        weights: map shaped like the input: the input itself, or ones for equal shares.
        operation: linear and without negative coefficients: a mean, a sum, an average pooling.
        keep_all: whether a window without any positive weight shares its relevance evenly (`p = weights⁺ + tiny`,
            `e = 0`). Otherwise its relevance is lost (`p = weights⁺`, `e = ε`), as in the published max pooling,
            where it happens: there the window pooled forward is not the one that relevance is shared over.
    """
    with torch.enable_grad():
        positive = (weights.detach().clamp(min=0) + (TINY if keep_all else 0)).requires_grad_()
        pooled = operation(positive)
    (slope,) = torch.autograd.grad(pooled, positive, relevance / (pooled.detach() + (0 if keep_all else EPSILON)))
    return positive.detach() * slope


def average_to_size(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average pooling of the last axes to `size`: windows as even as can be, 2×2 where the map halves."""
    lengths = x.shape[-len(size) :]
    if all(length % requested == 0 for length, requested in zip(lengths, size, strict=True)):
        window = [length // requested for length, requested in zip(lengths, size, strict=True)]
        return _AVERAGE_POOL[len(size)](x, window)
    return _ADAPTIVE_AVERAGE_POOL[len(size)](x, list(size))


def share_of_first(first: Tensor, second: Tensor) -> Tensor:
    """The share of a sum's relevance that its first term gets: `|first| / (|first| + |second|)`, in [0, 1].

    The published split of a residual sum; two zeros share evenly. zennit shares a sum by signed values (`Norm`), as
    `signed_rules.share_of_first_term` does.
    """
    first, second = first.abs() + TINY, second.abs() + TINY
    return first / (first + second)
