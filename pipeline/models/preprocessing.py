"""From a dataset image to the tensor a model sees: resize, crop the center, normalize.

Sizes are rounded as `torchvision.transforms` and `timm.data.transforms` round them, so that the pixels are theirs.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError
from pipeline.io.images import check_aspect, upright_rgb
from pipeline.neurons import nearest

CropMode = Literal["center", "squash", "border"]

_FILTERS: Final = {
    "bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST, "box": Image.Resampling.BOX, "hamming": Image.Resampling.HAMMING,
}  # fmt: skip
# Pillow's mode for so many channels: gray, gray and opacity, color, color and opacity.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# The statistics of data sets know no opacity, so it goes from [0, 1] to [−1, 1].
_ALPHA_MEAN = _ALPHA_STD = 0.5


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a model wants its input: what its weights were trained with.

    Attributes:
        input_size_px: side of the square crop.
        crop_fraction: side of the crop over the side after resizing (0.875: 224 of 256).
        interpolation: Pillow filter used for resizing.
        mean, std: per channel, for pixels in [0, 1]; their length is the number of channels, 1 to 4.
        crop_mode: timm's: `center` resizes the shorter side and crops the longer; `squash` makes both sides equal;
            `border` resizes the longer side and fills up the shorter with the mean.

    Raises:
        UserError: the lengths of `mean` and `std` differ, or are not 1 to 4; they are meant for pixels in [0, 255]; no
            such interpolation or crop mode.
    """

    input_size_px: int
    crop_fraction: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        for key, value, known in (
            ("interpolation", self.interpolation, tuple(_FILTERS)),
            ("crop_mode", self.crop_mode, get_args(CropMode)),
        ):
            if value not in known:
                raise UserError(f'{key} = "{value}": expected one of {", ".join(known)}{nearest(value, known)}')
        if not self.crop_fraction > 0:
            raise UserError(f"crop_fraction = {self.crop_fraction}: expected a number above 0, 0.875 for 224 of 256 px")
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

    def __str__(self) -> str:
        resized = {"center": "shorter side", "squash": "both sides", "border": "longer side"}[self.crop_mode]
        return (
            f"{resized} {self._resized_px(self.input_size_px)} px {self.interpolation}, "
            f"center crop {self.input_size_px} px, "
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
            UserError: see `upright_rgb`.
            BadImage: the image is too thin.
        """
        size = size_px or self.input_size_px
        opened = upright_rgb(image, keep_alpha=self.has_alpha)
        check_aspect(*opened.size)
        if opened.mode != self.mode:
            opened = opened.convert(self.mode)
        resized = opened.resize(self._resized(opened.size, size), _FILTERS[self.interpolation])
        return self._center(resized, size)

    def _resized_px(self, size_px: int) -> int:
        """Side to which an image is resized before a square of `size_px` is cropped."""
        return max(1, math.floor(size_px / self.crop_fraction))

    def _resized(self, size: tuple[int, int], size_px: int) -> tuple[int, int]:
        """(width, height) after resizing.

        `center` is `torchvision.transforms.Resize`, which cuts off; `border` is timm's `ResizeKeepRatio`, which rounds.
        """
        side, (width, height) = self._resized_px(size_px), size
        if self.crop_mode == "squash":
            return side, side
        if self.crop_mode == "border":
            ratio = max(width / side, height / side)
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        longer = int(side * max(size) / min(size))
        return (side, longer) if width <= height else (longer, side)

    def _center(self, image: Image.Image, size_px: int) -> Image.Image:
        """The middle square of an image, filled up where the image is smaller.

        Both libraries pad first, the odd pixel at the end, and then crop at a half rounded to even.
        """
        padded = (max(image.width, size_px), max(image.height, size_px))
        if padded != image.size:
            canvas = Image.new(image.mode, padded, self._border())
            canvas.paste(image, ((padded[0] - image.width) // 2, (padded[1] - image.height) // 2))
            image = canvas
        left, top = (round((side - size_px) / 2) for side in image.size)
        return image.crop((left, top, left + size_px, top + size_px))

    def _border(self) -> tuple[int, ...]:
        """What lies beside an image that is smaller than the crop: the mean in mode `border`, else black."""
        return tuple(round(255 * mean) if self.crop_mode == "border" else 0 for mean in self.mean)

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


def crop_fraction(crop_px: int, resized_px: int) -> float:
    """The largest fraction by which `Preprocessing` resizes to `resized_px` for a crop of `crop_px`.

    The quotient itself may be too large by its rounding: 224 / (224 / 232) is less than 232.
    """
    fraction = crop_px / resized_px
    return fraction if math.floor(crop_px / fraction) == resized_px else math.nextafter(fraction, 0)
