"""Transforms of the synthetic image before the model sees it, drawn per image."""

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_jitter(generators: Sequence[torch.Generator], jitter_px: int) -> list[tuple[int, int]]:
    """One (rows, columns) offset per image, uniform in ±jitter_px, each from the image's own generator."""
    drawn = [torch.randint(-jitter_px, jitter_px + 1, (2,), generator=g).tolist() for g in generators]
    return [(rows, columns) for rows, columns in drawn]


def roll(images: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """Each image [B, 3, H, W] rolled by its own offset: the published jitter.

    Reference: VITAL's published code (random roll of ±30 px per axis), after DeepInversion (CVPR 2020).
    """
    if not any(offset != (0, 0) for offset in offsets):
        return images
    rolled = [image.roll(offset, dims=(1, 2)) for image, offset in zip(images, offsets, strict=True)]
    return torch.stack(rolled)
