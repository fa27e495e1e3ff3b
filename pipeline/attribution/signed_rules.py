"""Relevance rules for signed features: those behind a LayerNorm, as in every transformer.

z⁺ (`pipeline.attribution.rules`) keeps positive contributions alone, which suits features that a ReLU made ≥ 0.
Behind a LayerNorm features have both signs, and what inhibits counts as much as what activates. The rules here are
those of AttnLRP: relevance is a share of a *value*, so positive where a feature raises the value and negative where it
lowers it. All conserve: what they give to the inputs sums to what came from the output, biases included.

Each returns relevance as `input × slope` with bounded slopes. As long as what comes in is a bounded multiple of the
output too, no division by a value near zero can blow it up, however many layers follow each other.

zennit's names (https://github.com/chr5tphr/zennit): `gamma_rule` is `Gamma`, `proportional` is `Epsilon` with ε = 0, or
`Norm` for operations without weights, and `share_of_first_term` is `Norm` of a sum. zennit has no rules for LayerNorm
and attention; those of AttnLRP's own library (lxt) are the models here.

Legend: R relevance of the output z, x input, w weight, b bias; P and N the sums of positive contributions and of the
sizes of negative ones, so z = P − N + b; `⁺`/`⁻` the positive and negative part.

Reference: Achtibat et al., "AttnLRP: Attention-aware layer-wise relevance propagation for transformers", ICML 2024,
    arXiv 2402.05602; Ali et al., "XAI for transformers: better explanations through conservative propagation",
    ICML 2022, for attention and LayerNorm; Montavon et al., "Layer-wise relevance propagation: an overview", 2019,
    for γ.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the values that the authors of AttnLRP try on a ViT (0 to 1, their examples/vit_torch.py) the largest with which
# deletion curves are as good as with 0 (benchmarks/LOG.md). It must not be 0, since it bounds the shares.
GAMMA = 0.05


def gamma_rule(
    relevance: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    operation: Callable[[Tensor, Tensor], Tensor],
    *,
    nonnegative: bool,
    gamma: float = GAMMA,
) -> Tensor:
    """Share relevance among all contributions of a layer's inputs, with those favored that have the output's sign.

    Where z ≥ 0, the input's share of R is `((1+γ) p + β p/P − n) / ((1+γ) P + β − N)`, p and n being the positive
    contribution or the size of the negative one; where z < 0 the same with the sides exchanged. So γ = 0 is the ε
    rule, and γ → ∞ keeps the side that won alone: z⁺. The bias counts with the contributions of the side that won, in
    proportion to them, so nothing is lost to it: β is `(1+γ) b` if b has their sign, else b. The denominator is then at
    least γ times the winning side, which bounds the sizes of all shares together by 1 + 2/γ.

    In zennit: `Gamma`, generalized to both signs. Its shares are the same for a layer without bias; the bias there
    takes a share of its own, which is lost.

    Args:
        relevance: relevance of the output, shaped like `operation(x, weight)`.
        x: input of the layer.
        weight: weight of the layer, never changed.
        bias: broadcast against the output, or None.
        operation: (x, weight) → output without bias, linear in both.
        nonnegative: whether x is known to be ≥ 0.
        gamma: γ.

    Returns:
        Relevance of x, shaped like x.
    """
    x, weight = x.detach(), weight.detach()
    pairs = [(x if nonnegative else x.clamp(min=0), weight.clamp(min=0))]
    if not nonnegative:
        pairs.append((x.clamp(max=0), weight.clamp(max=0)))
    with torch.enable_grad():
        whole = x.clone().requires_grad_()
        total = operation(whole, weight)
        parts = [part.clone().requires_grad_() for part, _ in pairs]
        contributions = [operation(part, part_weight) for part, (_, part_weight) in zip(parts, pairs, strict=True)]
    positive = torch.stack([contribution.detach() for contribution in contributions]).sum(0)
    negative = (positive - total.detach()).clamp(min=0)
    b = torch.zeros_like(positive) if bias is None else bias.detach()
    is_positive = positive - negative + b >= 0
    winner = torch.where(is_positive, positive, -negative)
    b = torch.where((b >= 0) == is_positive, (1 + gamma) * b, b)
    # Factors of p and of n in the numerators; the denominator is the same for all.
    favored = 1 + gamma + _ratio(b, winner)
    slope = _ratio(relevance, (1 + gamma) * winner + b + torch.where(is_positive, -negative, positive))
    slope_positive = slope * torch.where(is_positive, favored, 1)
    slope_negative = slope * torch.where(is_positive, 1, favored)
    # n = p − x w, so `slope_positive · p − slope_negative · n` takes no products of opposite signs.
    differences = [slope_positive - slope_negative] * len(parts)
    slopes = torch.autograd.grad([total, *contributions], [whole, *parts], [slope_negative, *differences])
    shared = x * slopes[0]
    for part, part_slope in zip(parts, slopes[1:], strict=True):
        shared = shared + part.detach() * part_slope
    return shared


def proportional(relevance: Tensor, x: Tensor, operation: Callable[[Tensor], Tensor]) -> Tensor:
    """Share relevance in proportion to the contributions to a weighted sum without bias: `R_x = x · Aᵀ(R / A x)`.

    The ε rule with ε = 0, for means, and for attention with its weights held constant (Ali et al., 2022, eq. 8). In
    zennit: `Epsilon` and `Norm`.

    Args:
        relevance: relevance of the output, shaped like `operation(x)`.
        x: input.
        operation: linear.
    """
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        total = operation(x)
    (slope,) = torch.autograd.grad(total, x, _ratio(relevance, total.detach()))
    return x.detach() * slope


def share_of_first_term(first: Tensor, second: Tensor) -> Tensor:
    """The share of a sum's relevance that its first term gets: `first / (first + second)`; two zeros share evenly.

    Not in [0, 1] where the terms have opposite signs: the one that lost gets negative relevance (AttnLRP, eq. 8). In
    zennit: `Norm` of `zennit.layer.Sum`.
    """
    total = first + second
    return torch.where(total == 0, 0.5, _ratio(first, total))


def layer_norm(
    relevance: Tensor, x: Tensor, num_axes: int, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Tensor:
    """Share relevance through a LayerNorm, `z = w (x − mean x) / σ + b`.

    σ counts as a constant (Ali et al., 2022; AttnLRP, proposition 3.4). What remains is linear in x, the mean
    included, and is shared by the ε rule with ε = 0. The bias's part, which that would lose, goes to the normalized
    vector as a whole: to each element by its size |x|.

    Args:
        relevance: relevance of the output, shaped like x.
        x: input.
        num_axes: how many of the last axes are normalized together.
        weight: shaped like those axes, or None.
        bias: the same.
        epsilon: added to the variance.

    Returns:
        Relevance of x.
    """
    axes = tuple(range(-num_axes, 0))
    output = F.layer_norm(x, x.shape[-num_axes:], weight, bias, epsilon)
    slope = _ratio(relevance, output) * (1 if weight is None else weight)
    deviation = (x.var(dim=axes, correction=0, keepdim=True) + epsilon).sqrt()
    shared = x * (slope - slope.mean(dim=axes, keepdim=True)) / deviation
    lost = relevance.sum(dim=axes, keepdim=True) - shared.sum(dim=axes, keepdim=True)
    return shared + lost * _ratio(x.abs(), x.abs().sum(dim=axes, keepdim=True))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator`, 0 where the denominator is 0: nothing to share, or nobody to share it with."""
    return torch.where(denominator == 0, 0, numerator / torch.where(denominator == 0, 1, denominator))
