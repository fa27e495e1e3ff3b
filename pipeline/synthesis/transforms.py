"""Transforms of the synthetic image before the model sees it, drawn per image from the image's own generator.

B images, K views of each (one, or the number of random resized crops), S side of an image, V side of a view, in pixels.
A view is drawn once and may be applied at several steps, since a relevance map belongs to the image as it was shown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.synthesis.methods.options import SynthesisOptions

# Centers of crops are normal around the image's center with this standard deviation, as a fraction of its side.
# Reference: Horama and Xplique, MACO.
_CROP_CENTER_STD = 0.15


@dataclass(frozen=True, kw_only=True)
class Views:
    """How each image of a batch is shown to the model, in this order; None leaves a transform out.

    Attributes:
        offsets: rows and columns by which each image is rolled.
        affine: [B, 2, 3], from places in the view to places in the image, both in [-1, 1] (x, y).
        flips: bool [B]: mirrored left to right.
        boxes: [B, K, 3]: row and column of a crop's upper left corner and its side, in pixels.
        view_px: side of a crop once it is enlarged.
        noise: [B, K, C, V, V], added.
        gray: [C, 1, 1], fills the borders of a rotated image.
    """

    offsets: list[tuple[int, int]] | None = None
    affine: Tensor | None = None
    flips: Tensor | None = None
    boxes: Tensor | None = None
    view_px: int = 0
    noise: Tensor | None = None
    gray: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, C, S, S] → views [B·K, C, V, V], those of one image in a row."""
        if self.offsets is not None:
            images = roll(images, self.offsets)
        if self.affine is not None:
            assert self.gray is not None
            images = warp(images, self.affine, self.gray)
        if self.flips is not None:
            images = torch.where(self.flips[:, None, None, None], images.flip(3), images)
        if self.boxes is not None:
            images = crop(images, self.boxes, self.view_px)
        return images if self.noise is None else images + self.noise.flatten(0, 1)


def num_views(options: SynthesisOptions) -> int:
    """K: how many views of each image the model sees in one step."""
    return max(1, options.num_crops)


def draw_views(
    options: SynthesisOptions, generators: Sequence[torch.Generator], *, size_px: int, view_px: int, gray: Tensor
) -> Views:
    """Draw one step's views, each image's from its own generator.

    Args:
        options: of the transforms.
        generators: one per image, on the CPU.
        size_px: S.
        view_px: V where there are crops; a whole image keeps its size.
        gray: medium gray in the model's input space, [C, 1, 1], on the images' device.
    """
    offsets = draw_jitter(generators, options.jitter_px)
    is_warped = options.rotation_degrees > 0 or options.scaling > 0
    is_whole = options.crop_min == 1 and view_px == size_px  # resampling would change nothing
    is_cropped = options.num_crops > 0 and not (options.num_crops == 1 and is_whole)
    view_px = view_px if is_cropped else size_px
    affine, flips, boxes, noise = [], [], [], []
    for generator, offset in zip(generators, offsets, strict=True):
        if is_warped:
            affine.append(_draw_affine(options, offset, size_px, generator))
        if options.flip:
            flips.append(torch.rand((), generator=generator) < 0.5)
        if is_cropped:
            boxes.append(_draw_boxes(options, size_px, generator))
        if options.noise:
            shape = (num_views(options), len(gray), view_px, view_px)
            noise.append(_draw_noise(options.noise, shape, generator))

    def stacked(drawn: list[Tensor]) -> Tensor | None:
        return torch.stack(drawn).to(gray.device) if drawn else None

    return Views(
        offsets=None if is_warped else offsets,
        affine=stacked(affine),
        flips=stacked(flips),
        boxes=stacked(boxes),
        view_px=view_px,
        noise=stacked(noise),
        gray=gray,
    )


def draw_jitter(generators: Sequence[torch.Generator], jitter_px: int) -> list[tuple[int, int]]:
    """One (rows, columns) offset per image, uniform in ±jitter_px, each from the image's own generator."""
    drawn = [torch.randint(-jitter_px, jitter_px + 1, (2,), generator=g).tolist() for g in generators]
    return [(rows, columns) for rows, columns in drawn]


class _Roll(torch.autograd.Function):
    """Each image by its own offset in two gathers, whose gradient is the roll back: no kernel per image."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, images: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(offsets)
        return _rolled(images, offsets)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (offsets,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _rolled(gradients[0], -offsets), None


def _rolled(images: Tensor, offsets: Tensor) -> Tensor:
    B, C, H, W = images.shape
    rows = (torch.arange(H, device=images.device) - offsets[:, :1]) % H
    columns = (torch.arange(W, device=images.device) - offsets[:, 1:]) % W
    images = images.gather(2, rows[:, None, :, None].expand(B, C, H, W))
    return images.gather(3, columns[:, None, None, :].expand(B, C, H, W))


def roll(images: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """Each image [B, C, H, W] rolled by its own offset: the published jitter.

    Reference: VITAL's published code (random roll of ±30 px per axis), after DeepInversion (CVPR 2020).
    """
    if not any(offset != (0, 0) for offset in offsets):
        return images
    rolled: Tensor = _Roll.apply(images, torch.tensor(offsets).to(images.device, non_blocking=True))
    return rolled


def warp(images: Tensor, affine: Tensor, gray: Tensor) -> Tensor:
    """Each image [B, C, S, S] under its own affine map [B, 2, 3], interpolated bilinearly, gray outside."""
    places = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images - gray, places, align_corners=False) + gray


def crop(images: Tensor, boxes: Tensor, view_px: int) -> Tensor:
    """Crops of the images, resized: [B, C, S, S], boxes [B, K, 3] as in `Views` → [B·K, C, view_px, view_px].

    Rows and columns are resampled by one matrix product each, with a triangle as wide as a pixel of the coarser of
    the two grids: bilinear where the crop is enlarged, averaging where it is reduced.
    """
    side_px = images.shape[-1]
    rows = _resampling(boxes[..., 0], boxes[..., 2], side_px, view_px)
    columns = _resampling(boxes[..., 1], boxes[..., 2], side_px, view_px)
    views = rows[:, :, None] @ images[:, None] @ columns[:, :, None].transpose(-1, -2)  # [B, K, C, V, V]
    return views.flatten(0, 1)


def _resampling(start: Tensor, side: Tensor, image_px: int, view_px: int) -> Tensor:
    """Weights of an image's pixels in those of a view from `start` [B, K] on, `side` [B, K] long: [B, K, V, S]."""
    scale = (side / view_px)[..., None, None]  # image pixels per view pixel
    requested = torch.arange(view_px, device=start.device)[:, None] + 0.5
    known = torch.arange(image_px, device=start.device) + 0.5
    centers = (start[..., None, None] + requested * scale).clamp(0.5, image_px - 0.5)
    weights = torch.relu(1 - (centers - known).abs() / scale.clamp(min=1))
    return weights / weights.sum(dim=-1, keepdim=True)


def _draw_affine(
    options: SynthesisOptions, offset: tuple[int, int], size_px: int, generator: torch.Generator
) -> Tensor:
    """Rotation and scale uniform in their ranges, with the offset in pixels: [2, 3].

    Reference: Lucid's standard transforms, which draw from a list of steps and show views of varying size; here
    values are drawn evenly and the view keeps the image's size, so that a batch has one shape.
    """
    turn, growth = (2 * torch.rand(2, generator=generator) - 1).tolist()
    angle, scale = math.radians(options.rotation_degrees) * turn, 1 + options.scaling * growth
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    rows, columns = (2 * shift / size_px for shift in offset)
    return torch.tensor([[cos, -sin, -columns], [sin, cos, -rows]])


def _draw_boxes(options: SynthesisOptions, size_px: int, generator: torch.Generator) -> Tensor:
    """Crops of a uniform size around the image's center, pushed inside the image: [K, 3] in pixels.

    Reference: Horama, MACO; there the few crops that leave the image see zeros.
    """
    sides = options.crop_min + (options.crop_max - options.crop_min) * torch.rand(
        options.num_crops, generator=generator
    )
    centers = 0.5 + _CROP_CENTER_STD * torch.randn(options.num_crops, 2, generator=generator)
    corners = (centers - sides[:, None] / 2).clamp(min=0).minimum(1 - sides[:, None])
    return torch.cat([corners, sides[:, None]], dim=1) * size_px


def _draw_noise(strength: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal noise of standard deviation `strength` plus uniform noise of that width. Reference: Horama, MACO."""
    normal, uniform = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
    return strength * (normal + uniform - 0.5)
