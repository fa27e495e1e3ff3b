"""Mean Fourier magnitude of the data set's images, which MACO keeps fixed; mergeable.

Shapes: B images, C color channels, S side of the square input in pixels.
Reference: Fel et al., "Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained
Optimization", NeurIPS 2023, arXiv 2306.06805, section 3 (there over ImageNet; here over the user's own data).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanSpectrum:
    """Mean over `count` images of |rfft2(image)|, without normalization factor.

    Attributes:
        count: number of images.
        magnitude: float64 [C, S, S // 2 + 1], laid out as `torch.fft.rfft2` gives it.
    """

    count: int
    magnitude: np.ndarray

    @classmethod
    def empty(cls, num_channels: int, size_px: int) -> "MeanSpectrum":
        """The identity of `merge`."""
        return cls(count=0, magnitude=np.zeros((num_channels, size_px, size_px // 2 + 1)))

    @classmethod
    def of(cls, images: Tensor) -> "MeanSpectrum":
        """Of a batch of images [B, C, S, S], float32 in [0, 1]."""
        num_images, num_channels, size_px, _ = images.shape
        if num_images == 0:
            return cls.empty(num_channels, size_px)
        squares = torch.view_as_real(torch.fft.rfft2(images)).square()
        # `abs` of complex numbers guards against overflow, which pixels cannot cause, and is slower.
        magnitude = (squares[..., 0] + squares[..., 1]).sqrt_().sum(dim=0).double() / num_images
        return cls(count=num_images, magnitude=magnitude.cpu().numpy())

    def merge(self, other: "MeanSpectrum") -> "MeanSpectrum":
        """Of the images of both; `a.merge(b)` and `b.merge(a)` are equal to the bit."""
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        return MeanSpectrum(
            count=count, magnitude=(self.count * self.magnitude + other.count * other.magnitude) / count
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Named arrays from which `from_arrays` makes the same object."""
        return {"spectrum": self.magnitude, "spectrum_count": np.array([self.count], np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "MeanSpectrum":
        """Inverse of `arrays`."""
        return cls(count=int(arrays["spectrum_count"][0]), magnitude=arrays["spectrum"])
