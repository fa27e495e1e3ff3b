"""What is published of an optimized image: pixels of 8 bits, and the attribution mask."""

import numpy as np
import torch
from torch import Tensor

from pipeline.models import Preprocessing

# The attribution mask is clipped at this percentile, published pixels at the 1st and 99th.
# Reference: MACO's display (Fel et al., NeurIPS 2023, arXiv 2306.06805).
_ALPHA_PERCENTILE = 98.0
_PIXEL_PERCENTILES = (1.0, 99.0)


def to_images(preprocessing: Preprocessing, pixels: Tensor, *, clip: bool) -> list[np.ndarray]:
    """[B, C, H, W] in [0, 1] → images to publish, optionally clipped at each image's outer percentiles."""
    images = []
    for image in pixels.float().cpu().numpy():
        if clip:
            image = np.clip(image, *np.percentile(image, _PIXEL_PERCENTILES))
        images.append(preprocessing.to_visualization(torch.from_numpy(image)))
    return images


def to_alpha(gradient_sum: Tensor) -> np.ndarray:
    """Accumulated magnitude of the gradient [H, W] → attribution mask (MACO's transparency), float32 in [0, 1]."""
    values = gradient_sum.float().cpu().numpy()
    ceiling = np.percentile(values, _ALPHA_PERCENTILE)
    return np.clip(values / ceiling, 0, 1).astype(np.float32) if ceiling > 0 else np.ones_like(values)
