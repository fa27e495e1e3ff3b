"""Parameterizations: what the optimizer moves, and the images it stands for.

Every parameterization gives images in the model's input space, [B, C, H, W], one independent set of parameters
per image, drawn from that image's own generator, so that an image does not depend on its neighbors in the batch.
C is the number of channels the model takes.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models import Preprocessing
from pipeline.synthesis.methods.options import SynthesisOptions
from pipeline.synthesis.parameterization.fourier import FourierParameterization
from pipeline.synthesis.parameterization.maco_phase import PhaseParameterization


class Parameterization(Protocol):
    """A differentiable map from parameters to images."""

    parameters: list[Tensor]

    def images(self) -> Tensor:
        """The images, [B, C, H, W], in the model's input space."""
        ...

    def after_step(self) -> None:
        """Bring the parameters back into their valid range, in place."""
        ...


class PixelParameterization:
    """The pixels themselves, in the model's input space, clamped to the range of real images after each step.

    Reference: VITAL's published code: N(0, 1) initialization in normalized space.
    """

    def __init__(
        self,
        size_px: int,
        generators: Sequence[torch.Generator],
        preprocessing: Preprocessing,
        device: torch.device,
        *,
        initial_std: float = 1.0,
    ) -> None:
        shape = (preprocessing.num_channels, size_px, size_px)
        pixels = torch.stack([torch.randn(shape, generator=g) for g in generators]).mul_(initial_std).to(device)
        black, white = (preprocessing.normalize(torch.full((shape[0], 1, 1), v, device=device)) for v in (0.0, 1.0))
        self._lowest, self._highest = black, white
        self.parameters = [pixels.requires_grad_()]

    def images(self) -> Tensor:
        """The pixels, [B, C, H, W]."""
        return self.parameters[0]

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp every pixel to what black and white are in the input space."""
        self.parameters[0].clamp_(self._lowest, self._highest)


def parameterize(
    options: SynthesisOptions,
    size_px: int,
    generators: Sequence[torch.Generator],
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    initial_rgb: Tensor | None = None,
    spectrum: Tensor | None = None,
) -> Parameterization:
    """The parameterization that the options name, one image per generator.

    Args:
        options: `parameterization` and the settings of each are read.
        size_px: side of the images.
        generators: one per image, on the CPU.
        preprocessing: of the model whose input space the images live in.
        device: of the parameters.
        initial_rgb: `fourier`: coarse colors to begin with, [B, C, h, w] in [0, 1].
        spectrum: `phase`: mean magnitude of real images, [C, S, S // 2 + 1] of any S.

    Raises:
        UserError: `phase` without a spectrum, or with one of other channels.
    """
    if options.parameterization == "pixel":
        return PixelParameterization(size_px, generators, preprocessing, device, initial_std=options.initial_std)
    if options.parameterization == "fourier":
        return FourierParameterization(
            size_px,
            generators,
            preprocessing,
            device,
            decay=options.spectrum_decay,
            chroma_decay=options.chroma_decay,
            contrast=options.contrast,
            initial_rgb=initial_rgb,
        )
    if spectrum is None:
        raise UserError(
            'parameterization "phase" (method "maco") needs the mean magnitude spectrum of real images: pass '
            "`spectrum`, which the statistics of a run keep"
        )
    return PhaseParameterization(
        size_px,
        generators,
        preprocessing,
        device,
        magnitude=spectrum,
        phase_std=options.phase_std,
        contrast=options.contrast,
    )
