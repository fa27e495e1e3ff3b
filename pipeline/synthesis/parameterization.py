"""Parameterizations: what the optimizer moves, and the images it stands for.

Every parameterization gives images in the model's input space, [B, 3, H, W], one independent set of parameters
per image, drawn from that image's own generator, so that an image does not depend on its neighbors in the batch.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models import Preprocessing
from pipeline.synthesis.presets import SynthesisOptions


class Parameterization(Protocol):
    """A differentiable map from parameters to images."""

    parameters: list[Tensor]

    def images(self) -> Tensor:
        """The images, [B, 3, H, W], in the model's input space."""
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
    ) -> None:
        pixels = torch.stack([torch.randn(3, size_px, size_px, generator=g) for g in generators]).to(device)
        black, white = (preprocessing.normalize(torch.full((3, 1, 1), v, device=device)) for v in (0.0, 1.0))
        self._lowest, self._highest = black, white
        self.parameters = [pixels.requires_grad_()]

    def images(self) -> Tensor:
        """The pixels, [B, 3, H, W]."""
        return self.parameters[0]

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp every pixel to what black and white are in the input space."""
        self.parameters[0].clamp_(self._lowest, self._highest)


# Square root of the covariance of the colors of natural images, up to scale: rows are R, G, B.
# Reference: Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017 (the Lucid library's constant).
_COLOR_CORRELATION = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
# Standard deviation of the initial spectrum: faint clouds on gray (Lucid uses 0.01).
_INITIAL_STD = 0.01
# Where tanh is flat a pixel no longer moves: initial colors stay this far inside black and white.
_MAX_INITIAL_CONTRAST = 0.9


class FourierParameterization:
    """A spectrum scaled by 1/f in decorrelated colors, squashed into the range of real pixels by tanh.

    All spatial scales and colors then move at the pace they have in natural images, which a step of Adam on
    pixels does not give: there, high frequencies win.

    Reference: Olah et al., "Feature Visualization", Distill 2017, appendix on preconditioning.
    """

    def __init__(
        self,
        size_px: int,
        generators: Sequence[torch.Generator],
        preprocessing: Preprocessing,
        device: torch.device,
        *,
        decay: float = 1.0,
        initial_rgb: Tensor | None = None,
    ) -> None:
        self._size_px = size_px
        self._preprocessing = preprocessing
        rows, columns = torch.fft.fftfreq(size_px), torch.fft.rfftfreq(size_px)
        frequency = torch.sqrt(rows[:, None] ** 2 + columns[None, :] ** 2)
        # f^-decay, 1 at the lowest frequency; times the number of pixels, which the inverse transform divides by.
        relative = torch.clamp(frequency * size_px, min=1.0)
        self._scale = (size_px**2 * relative**-decay).to(device)[..., None]
        self._color = (_COLOR_CORRELATION / _COLOR_CORRELATION.norm(dim=0).max()).to(device)
        shape = (3, size_px, size_px // 2 + 1, 2)
        spectrum = torch.stack([torch.randn(shape, generator=g) for g in generators]).mul_(_INITIAL_STD).to(device)
        if initial_rgb is not None:
            spectrum += self._spectrum_of(initial_rgb.to(device))
        self.parameters = [spectrum.requires_grad_()]

    def _spectrum_of(self, rgb: Tensor) -> Tensor:
        """The parameters whose images are `rgb` [B, 3, h, w] in [0, 1], enlarged smoothly."""
        size = (self._size_px, self._size_px)
        enlarged = F.interpolate(rgb, size=size, mode="bilinear", align_corners=False)
        squashed = torch.atanh((2 * enlarged - 1).clamp(-_MAX_INITIAL_CONTRAST, _MAX_INITIAL_CONTRAST))
        planes = torch.einsum("dc,bchw->bdhw", torch.linalg.inv(self._color), squashed)
        return torch.view_as_real(torch.fft.rfft2(planes)) / self._scale

    def images(self) -> Tensor:
        """The images of the spectra, [B, 3, H, W]."""
        spectrum = torch.view_as_complex((self.parameters[0] * self._scale).contiguous())
        planes = torch.fft.irfft2(spectrum, s=(self._size_px, self._size_px))
        rgb = torch.einsum("cd,bdhw->bchw", self._color, planes)
        return self._preprocessing.normalize(0.5 + 0.5 * torch.tanh(rgb))

    def after_step(self) -> None:
        """Nothing to do: tanh keeps the pixels in range."""


def parameterize(
    options: SynthesisOptions,
    size_px: int,
    generators: Sequence[torch.Generator],
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    initial_rgb: Tensor | None = None,
) -> Parameterization:
    """The parameterization that the options name, one image per generator.

    Args:
        options: `parameterization` and `spectrum_decay` are read.
        size_px: side of the images.
        generators: one per image, on the CPU.
        preprocessing: of the model whose input space the images live in.
        device: of the parameters.
        initial_rgb: coarse colors to begin with, [B, 3, h, w] in [0, 1]; pixels begin as noise all the same.
    """
    if options.parameterization == "pixel":
        return PixelParameterization(size_px, generators, preprocessing, device)
    return FourierParameterization(
        size_px, generators, preprocessing, device, decay=options.spectrum_decay, initial_rgb=initial_rgb
    )
