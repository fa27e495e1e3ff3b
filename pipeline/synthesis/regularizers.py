"""Image priors, one value per image.

Reference: VITAL's published code, after DeepInversion (Yin et al., CVPR 2020, arXiv 1912.08795).
"""

from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """Sum of the l2 norms of the differences to the right, lower, lower-right and lower-left neighbor.

    Args:
        images: [B, 3, H, W].

    Returns:
        [B].
    """
    differences = (
        images[:, :, :, :-1] - images[:, :, :, 1:],
        images[:, :, :-1, :] - images[:, :, 1:, :],
        images[:, :, 1:, :-1] - images[:, :, :-1, 1:],
        images[:, :, :-1, :-1] - images[:, :, 1:, 1:],
    )
    return sum((difference.flatten(1).norm(dim=1) for difference in differences), start=images.new_zeros(len(images)))


def image_norm(images: Tensor) -> Tensor:
    """The l2 norm of each image: [B, 3, H, W] → [B]."""
    return images.flatten(1).norm(dim=1)
