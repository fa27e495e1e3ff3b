"""Distribution alignment: make the feature distributions of a synthetic image equal those of real images.

Shapes: B images, R reference images, C channels, N positions (H·W, or tokens), P cells of a spatial grid.

Sort matching compares two one-dimensional distributions by their quantile functions. For a channel with N
values a quantile function is simply its sorted values; its mean over the reference images is the
Wasserstein-2 barycenter of their distributions, a sufficient statistic of the references: it merges over
shards as a mean and the reference images need not be kept.

The two other kinds of alignment see a distribution as a Gaussian, by mean and standard deviation. For the references
these are the mean and the standard deviation of the mean quantile function, that is, of the barycenter. For Gaussian
references (m_r, s_r), or those of any other one location-scale family, they are the means of m_r and of s_r, which is
the barycenter of Gaussians exactly; for others its standard deviation is at most the mean of s_r (Minkowski).

Reference: Görgün, Schiele, Fischer, "VITAL", ICCV 2025 (arXiv 2503.22399), the sort-matching loss. The published code
scatters the target through the inverse permutation; comparing sorted values rank by rank has the same value and
the same gradient and needs one sort. Barycenter: Agueh, Carlier, SIAM J. Math. Anal. 43, 2011, section 6.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.alignment.sorting import sort_values, sorted_distance
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LayerTarget:
    """What one feature layer is aligned to, for one neuron.

    Attributes:
        quantile: mean sorted features of the reference images, float32 [C·P, N/P], ascending.
        importance: weight of each channel, [C] in [0, 1], or None for equal weights.
        weight: of this layer's loss in the sum over layers.
    """

    quantile: Tensor
    importance: Tensor | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NeuronTarget:
    """What the visualization of one neuron is aligned to.

    Attributes:
        layers: feature layer → its target. Some keys are no feature layers of the model: `INPUT_PIXELS`, the image
            itself; `INPUT_EDGES`, differences of its pixels; `TARGET_LAYER`, all channels of the neuron's layer (of a
            derived layer, of the layer that it is computed from), not weighted by relevance; and `TARGET_UNIT`, the
            neuron's own channel.
        relevance: the rule by which features are weighted by their relevance for the neuron; `none` leaves it out.
        goal_activation: the neuron's activation on its top-activating image, None if unknown.
    """

    layers: Mapping[str, LayerTarget]
    relevance: str = "none"
    goal_activation: float | None = None


# A target of (nearly) no variance, e.g. a dead channel's, must not blow up a loss that is divided by it.
_MIN_VARIANCE = 1e-6
# `gaussian_kl` blurs both distributions by this fraction of their layer's standard deviation, which bounds what a
# visualization without contrast can cost: 4.3 nats for a channel of the layer's mean variance, not infinity. Chosen by
# the measurements in benchmarks/LOG.md.
_KL_BLUR = 0.3

# Dashes keep these apart from every module name.
INPUT_PIXELS = "input-pixels"
INPUT_EDGES = {f"input-edges-{size_px}": size_px for size_px in (1, 2, 4)}  # key → pixels that are compared, per side
TARGET_LAYER = "target-layer"
TARGET_UNIT = "target-unit"
OWN_KEYS = frozenset({INPUT_PIXELS, *INPUT_EDGES, TARGET_LAYER, TARGET_UNIT})


def sorted_target(features: Tensor) -> Tensor:
    """The mean quantile function of reference images.

    Args:
        features: [R, C, N], any floating type.

    Returns:
        [C, N] ascending along N, in the type of the features.

    Raises:
        UserError: there is no reference image, or the shape is another one.
    """
    if features.ndim != 3 or features.shape[0] == 0:
        raise UserError(f"features: expected [R, C, N] with R ≥ 1, got {list(features.shape)}")
    return sort_values(features).mean(dim=0)


def sort_matching(features: Tensor, target: Tensor, importance: Tensor | None = None) -> Tensor:
    """Squared distance of quantile functions, per image: mean over (C, N) of w[c] (sort(A)[c, j] − q[c, j])².

    Args:
        features: of the synthetic images, [B, C, N].
        target: mean quantile function, [C, N] or one per image [B, C, N], ascending along N.
        importance: w, [C] or [B, C]; None means 1.

    Returns:
        [B] losses, each depending on its own image only.

    Raises:
        UserError: the shapes do not fit.

    Reference: VITAL (ICCV 2025), sort-matching loss; for intermediate neurons weighted by channel importance.
    """
    _require_fit(features, target)
    return _mean_over_channels(sorted_distance(features, target), importance)


def moment_matching(features: Tensor, target: Tensor, importance: Tensor | None = None) -> Tensor:
    """Squared distance of means and standard deviations, per image: mean over C of w[c] ((μ_A − μ_q)² + (σ_A − σ_q)²).

    This is the squared 2-Wasserstein distance of the two Gaussians with these moments, a lower bound of `sort_matching`
    (Gelbrich, Math. Nachr. 147, 1990). A single value (N = 1) has no deviation: its squared difference is left.

    Args, Returns, Raises: as `sort_matching`.
    """
    _require_fit(features, target)
    mean, deviation = _moments(features)
    target_mean, target_deviation = _moments(target)
    return _mean_over_channels((mean - target_mean).square() + (deviation - target_deviation).square(), importance)


def gaussian_kl(features: Tensor, target: Tensor, importance: Tensor | None = None) -> Tensor:
    """Kullback–Leibler divergence of Gaussians, per image: mean over C of w[c] KL(N(μ_q, σ_q²) ‖ N(μ_A, σ_A²)).

        KL = ln(σ_A / σ_q) + (σ_q² + (μ_q − μ_A)²) / (2 σ_A²) − 1/2

    from the references to the visualization: what the references show and the visualization lacks costs most. A
    dimensionless number of nats. Both variances are enlarged by the same small share of the target's variance in the
    layer, (`_KL_BLUR`)² times its mean over channels, so that it is finite everywhere and still 0 for equal moments. A
    single value (N = 1) has no variance: `target_spread` takes its place, and the squared difference over twice that is
    left.

    Args, Returns, Raises: as `sort_matching`.

    Reference: Kullback, Information Theory and Statistics, 1959, section 9.1 (the closed form).
    """
    _require_fit(features, target)
    mean, deviation = _moments(features)
    target_mean, target_deviation = _moments(target)
    if target.shape[-1] > 1:
        blur = _KL_BLUR**2 * target_deviation.square().mean(dim=-1, keepdim=True).clamp(min=_MIN_VARIANCE)
    else:
        blur = target_spread(target)[..., None]
    variance, target_variance = deviation.square() + blur, target_deviation.square() + blur
    distance = (target_variance + (target_mean - mean).square()) / variance
    return _mean_over_channels(0.5 * ((variance / target_variance).log() + distance - 1), importance)


Distance = Callable[[Tensor, Tensor, Tensor | None], Tensor]
# By its name in recipes: (features [B, C, N], target [B, C, N], importance [B, C] or None) → [B].
ALIGNMENTS: Mapping[str, Distance] = {"sort": sort_matching, "kl": gaussian_kl, "moments": moment_matching}


def target_spread(target: Tensor) -> Tensor:
    """What squared differences at a layer are measured in: the variance of each target, [..., C, N] → [...].

    A single value (a logit) has no variance; its own square takes the place.
    """
    values = target.flatten(-2)
    spread = values.var(dim=-1, correction=0) if values.shape[-1] > 1 else values.square().squeeze(-1)
    return spread.clamp(min=_MIN_VARIANCE)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation along N, without a gradient of infinity where all values are equal."""
    variance, mean = torch.var_mean(values, dim=-1, correction=0)
    return mean, variance.clamp(min=torch.finfo(values.dtype).tiny).sqrt()


def _mean_over_channels(values: Tensor, importance: Tensor | None) -> Tensor:
    return (values if importance is None else values * importance).mean(dim=-1)


def _require_fit(features: Tensor, target: Tensor) -> None:
    if features.ndim != 3 or target.shape[-2:] != features.shape[1:]:
        raise UserError(
            f"features and target do not fit: {list(features.shape)} and {list(target.shape)}; "
            "expected [B, C, N] and [C, N] or [B, C, N] (made at the same image size and grid?)"
        )
