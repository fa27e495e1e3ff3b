"""From raw relevance to the weights that sort matching uses (VITAL, arXiv 2503.22399, supplement)."""

from torch import Tensor

from pipeline.errors import UserError

# VITAL's value. A channel whose relevance is of this size or less counts little, instead of as much as any other.
_EPSILON = 1e-6


def normalize_relevance(relevance: Tensor) -> Tensor:
    """Min-max normalize every channel over space.

    Args:
        relevance: `[B, C, H, W]` or `[B, C, T]`.

    Returns:
        The same shape, in [0, 1): `(R − min R) / (max R − min R + 1e-6)`; 0 where a channel is the same everywhere
        and so prefers no position.

    Raises:
        UserError: relevance has no spatial axis.
    """
    if relevance.ndim < 3:
        raise UserError(f"relevance of shape {tuple(relevance.shape)} has no space; expected [B,C,H,W] or [B,C,T]")
    space = tuple(range(2, relevance.ndim))
    return _unit_range(relevance, space)


def channel_importance(relevance: Tensor) -> Tensor:
    """Importance of each channel: spatial maximum, min-max normalized over channels, mean over references.

    Args:
        relevance: `[R, C, H, W]` or `[R, C, T]`, one raw map per reference image.

    Returns:
        `[C]`, in [0, 1].
    """
    if relevance.ndim < 3 or relevance.shape[0] == 0:
        raise UserError(
            f"relevance has shape {tuple(relevance.shape)}; expected [R,C,H,W] or [R,C,T] with at least one reference"
        )
    peak_RC = relevance.flatten(2).amax(dim=2)
    return _unit_range(peak_RC, (1,)).mean(dim=0)


def _unit_range(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    lowest, highest = values.amin(dim=axes, keepdim=True), values.amax(dim=axes, keepdim=True)
    return (values - lowest) / (highest - lowest + _EPSILON)
