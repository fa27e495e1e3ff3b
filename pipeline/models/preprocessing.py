"""From a dataset image to the tensor a model sees: resize the shorter side, crop the center, normalize."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError
from pipeline.io.images import check_aspect

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR,
            "lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}  # fmt: skip
# Pillow's mode for so many channels: gray, gray and opacity, color, color and opacity.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# The statistics of data sets know no opacity, so it goes from [0, 1] to [−1, 1].
_ALPHA_MEAN = _ALPHA_STD = 0.5


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a model wants its input: what its weights were trained with.

    Attributes:
        input_size_px: side of the square crop.
        crop_fraction: side of the crop over the shorter side after resizing (0.875: 224 of 256).
        interpolation: Pillow filter used for resizing.
        mean, std: per channel, for pixels in [0, 1]; their length is the number of channels, 1 to 4.

    Raises:
        UserError: the lengths of `mean` and `std` differ, or are not 1 to 4; they are meant for pixels in [0, 255];
            an unknown filter.
    """

    input_size_px: int
    crop_fraction: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) not in _MODES or len(self.mean) != len(self.std):
            raise UserError(
                f"mean = {self.mean}, std = {self.std}: expected one number each per input channel, for 1 channel "
                "(gray), 2 (gray and opacity), 3 (RGB) or 4 (RGBA)"
            )
        if max(*self.mean, *self.std) > 1:
            mean, std = (tuple(round(value / 255, 4) for value in values) for values in (self.mean, self.std))
            raise UserError(
                f"mean = {self.mean}, std = {self.std}: expected values for pixels in [0, 1], at most 1; of pixels in "
                f"[0, 255] divide both by 255: mean = {mean}, std = {std}"
            )
        if not (all(map(math.isfinite, (*self.mean, *self.std))) and min(self.std) > 0):
            raise UserError(f"mean = {self.mean}, std = {self.std}: expected finite numbers, std above 0")
        if self.interpolation not in _FILTERS:
            raise UserError(f'interpolation = "{self.interpolation}": expected one of {", ".join(_FILTERS)}')

    def __str__(self) -> str:
        shorter_px = round(self.input_size_px / self.crop_fraction)
        return (
            f"shorter side {shorter_px} px {self.interpolation}, center crop {self.input_size_px} px, "
            f"mean {self.mean}, std {self.std}"
        )

    @property
    def num_channels(self) -> int:
        """Of the input."""
        return len(self.mean)

    @property
    def mode(self) -> str:
        """Pillow's mode of images with these channels: L, LA, RGB or RGBA."""
        return _MODES[self.num_channels]

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is opacity."""
        return self.mode.endswith("A")

    def square_crop(self, image: Image.Image, size_px: int | None = None) -> Image.Image:
        """The square of the dataset image that the model sees, at `size_px` (the model's own size if None).

        Raises:
            BadImage: the image is too thin.
        """
        size = size_px or self.input_size_px
        shorter = max(size, int(size / self.crop_fraction + 1e-6))
        width, height = image.size
        check_aspect(width, height)
        scale = shorter / min(width, height)
        resized = image.convert(self.mode).resize(
            (max(size, round(width * scale)), max(size, round(height * scale))), _FILTERS[self.interpolation]
        )
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        return resized.crop((left, top, left + size, top + size))

    def to_tensor(self, image: Image.Image | np.ndarray) -> Tensor:
        """A square image as a normalized float32 tensor [channels, H, W]; nothing is resized.

        Args:
            image: in any of Pillow's modes, or uint8 [H, W, 3] or [H, W, 4].
        """
        opened = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        pixels = torch.from_numpy(np.array(opened.convert(self.mode), dtype=np.uint8))
        channels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return self.normalize(channels.float().div_(255))

    def to_visualization(self, pixels: Tensor) -> np.ndarray:
        """Pixels [channels, H, W] in [0, 1] as an image to publish, uint8 [H, W, 3], or [H, W, 4] with opacity.

        Gray is written as three equal channels, so that `to_tensor` gives the same numbers back, rounded to 8 bits.
        """
        channels = np.clip(pixels.detach().float().cpu().numpy(), 0, 1)
        if self.mode.startswith("L"):
            channels = np.concatenate([np.repeat(channels[:1], 3, axis=0), channels[1:]])
        return (channels * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1], [..., channels, H, W] → the model's input space."""
        mean, std = self._constants(pixels)
        return (pixels - mean) / std

    def denormalize(self, inputs: Tensor) -> Tensor:
        """The model's input space → pixels in [0, 1] (not clamped)."""
        mean, std = self._constants(inputs)
        return inputs * std + mean

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(c, dtype=like.dtype, device=like.device)[:, None, None] for c in (self.mean, self.std)
        )
        return mean, std


def for_channels(
    num_channels: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The normalization of RGB for another number of channels: gray takes the average, opacity goes to [−1, 1].

    timm adds up the kernels of R, G and B for a gray input, so the average is what these kernels were trained with.
    """
    if num_channels == len(mean):
        return mean, std
    color_mean, color_std = (mean, std) if num_channels >= 3 else ((sum(mean) / 3,), (sum(std) / 3,))
    num_alpha = num_channels - len(color_mean)
    return (*color_mean, *[_ALPHA_MEAN] * num_alpha), (*color_std, *[_ALPHA_STD] * num_alpha)
