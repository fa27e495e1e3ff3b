"""From a photograph to the tensor a model sees: resize the shorter side, crop the center, normalize."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR,
            "lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a model wants its input: what its weights were trained with.

    Attributes:
        input_size_px: side of the square crop.
        crop_fraction: side of the crop over the shorter side after resizing (0.875: 224 of 256).
        interpolation: Pillow filter used for resizing.
        mean, std: per channel, for RGB in [0, 1].
    """

    input_size_px: int
    crop_fraction: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        shorter_px = round(self.input_size_px / self.crop_fraction)
        return (
            f"shorter side {shorter_px} px {self.interpolation}, center crop {self.input_size_px} px, "
            f"mean {self.mean}, std {self.std}"
        )

    def square_crop(self, image: Image.Image, size_px: int | None = None) -> Image.Image:
        """The square of the photograph that the model sees, at `size_px` (the model's own size if None)."""
        size = size_px or self.input_size_px
        shorter = max(size, int(size / self.crop_fraction + 1e-6))
        width, height = image.size
        scale = shorter / min(width, height)
        resized = image.convert("RGB").resize(
            (max(size, round(width * scale)), max(size, round(height * scale))), _FILTERS[self.interpolation]
        )
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        return resized.crop((left, top, left + size, top + size))

    def to_tensor(self, image: Image.Image | np.ndarray) -> Tensor:
        """A square RGB picture, uint8 [H, W, 3], as a normalized float32 tensor [3, H, W]; nothing is resized."""
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().div_(255)
        return self.normalize(pixels)

    def normalize(self, pixels: Tensor) -> Tensor:
        """RGB in [0, 1], [..., 3, H, W] → the model's input space."""
        mean, std = self._constants(pixels)
        return (pixels - mean) / std

    def denormalize(self, inputs: Tensor) -> Tensor:
        """The model's input space → RGB in [0, 1] (not clamped)."""
        mean, std = self._constants(inputs)
        return inputs * std + mean

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(c, dtype=like.dtype, device=like.device)[:, None, None] for c in (self.mean, self.std)
        )
        return mean, std
