"""Image priors, one value per image.

Reference: VITAL's published code, after DeepInversion (Yin et al., CVPR 2020, arXiv 1912.08795).
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Regularizer:
    """A weighted sum of image priors.

    Attributes:
        total_variation, total_variation_l1, image_norm: weights of the functions of these names.
    """

    total_variation: float = 0.0
    total_variation_l1: float = 0.0
    image_norm: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] → [B]."""
        value = images.new_zeros(len(images))
        for weight, prior in (
            (self.total_variation, total_variation),
            (self.total_variation_l1, total_variation_l1),
            (self.image_norm, image_norm),
        ):
            if weight:
                value = value + weight * prior(images)
        return value


def total_variation(images: Tensor) -> Tensor:
    """Sum of the l2 norms of the differences to the right, lower, lower-right and lower-left neighbor.

    Args:
        images: [B, C, H, W].

    Returns:
        [B].
    """
    norms = (difference.flatten(1).norm(dim=1) for difference in _differences(images))
    return sum(norms, start=images.new_zeros(len(images)))


def total_variation_l1(images: Tensor) -> Tensor:
    """Sum over the same four neighbors of the mean absolute difference: [B, C, H, W] → [B]."""
    means = (difference.flatten(1).abs().mean(dim=1) for difference in _differences(images))
    return sum(means, start=images.new_zeros(len(images)))


def _differences(images: Tensor) -> tuple[Tensor, ...]:
    return (
        images[:, :, :, :-1] - images[:, :, :, 1:],
        images[:, :, :-1, :] - images[:, :, 1:, :],
        images[:, :, 1:, :-1] - images[:, :, :-1, 1:],
        images[:, :, :-1, :-1] - images[:, :, 1:, 1:],
    )


def image_norm(images: Tensor) -> Tensor:
    """The l2 norm of each image: [B, C, H, W] → [B]."""
    return images.flatten(1).norm(dim=1)
