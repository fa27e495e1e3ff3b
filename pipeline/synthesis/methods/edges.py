"""Edges: differences between neighboring pixels at several scales, aligned like the features of one more layer.

In dataset images neighbors mostly agree and sometimes differ much: the distribution of their differences has a sharp
peak and heavy tails at every scale, unlike that of noise with the same spectrum. Colors and the features of a network
leave it open; aligned, it makes flat parts flat and borders sharp.

Reference: matching histograms of oriented filters at several scales, Heeger, Bergen, "Pyramid-based texture
analysis/synthesis", SIGGRAPH 1995; the distribution in dataset images: Huang, Mumford, "Statistics of natural images
and models", CVPR 1999. That sort matching compares it with a neuron's references is ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def edges(images: Tensor, size_px: int) -> Tensor:
    """Differences of blocks of pixels to their neighbors →, ↓, ↘ and ↗, of lightness and two axes of color.

    Args:
        images: [B, C, H, W]; of the channels the first three are red, green and blue if there are so many, the others
            are taken as they are.
        size_px: side of the blocks, whose means are compared. Of single pixels every second row and column is enough:
            jitter brings the others in turn.

    Returns:
        [B, 4·C, h, w], by direction, then by axis; h = H / size_px − 1, half of that for single pixels.
    """
    planes = _decorrelated(F.avg_pool2d(images, size_px) if size_px > 1 else images)
    step = 2 if size_px == 1 else 1
    here, right = planes[..., :-1:step, :-1:step], planes[..., :-1:step, 1::step]
    below, beyond = planes[..., 1::step, :-1:step], planes[..., 1::step, 1::step]
    return torch.cat([right - here, below - here, beyond - here, right - below], dim=1)


def _decorrelated(images: Tensor) -> Tensor:
    """Red, green and blue [B, 3 …, H, W] as lightness, red against blue, green against both; further channels stay.

    Reference: I₁, I₂, I₃ of Ohta, Kanade, Sakai, "Color information for region segmentation", CGIP 13, 1980: nearly
    uncorrelated in dataset images.
    """
    if images.shape[1] < 3:
        return images
    red, green, blue = images[:, :3].unbind(1)
    axes = torch.stack([(red + green + blue) / 3, (red - blue) / 2, (2 * green - red - blue) / 4], dim=1)
    return torch.cat([axes, images[:, 3:]], dim=1)
