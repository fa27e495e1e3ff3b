"""The Fourier parameterization, and the decorrelated colors it shares with the phases of MACO.

Reference: Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017, appendix on preconditioning, and its
library Lucid.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models import Preprocessing

# Square root of the covariance of the colors of natural images, up to scale: rows are R, G, B.
# Reference: Lucid's constant.
_COLOR_CORRELATION = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
# Of its columns the first is lightness, the others are differences of colors.
_CHROMA_PLANES = slice(1, 3)
# Standard deviation of the initial spectrum: faint clouds on gray (Lucid uses 0.01).
_INITIAL_STD = 0.01
# Where tanh is flat a pixel no longer moves: initial colors stay this far inside black and white.
_MAX_INITIAL_CONTRAST = 0.9


def color_matrix(num_channels: int) -> Tensor:
    """From decorrelated planes to the channels of natural images, [C, C].

    Red, green and blue are correlated; opacity, if there is such a channel, and gray are planes of their own.
    """
    color = _COLOR_CORRELATION / _COLOR_CORRELATION.norm(dim=0).max()
    return torch.block_diag(*([color] if num_channels >= 3 else []), torch.eye(num_channels % 3))


class FourierParameterization:
    """A spectrum scaled by 1/f in decorrelated colors, squashed into the range of real pixels by tanh.

    All spatial scales and colors then move at the pace they have in natural images, which a step of Adam on
    pixels does not give: there, high frequencies win.
    """

    def __init__(
        self,
        size_px: int,
        generators: Sequence[torch.Generator],
        preprocessing: Preprocessing,
        device: torch.device,
        *,
        decay: float = 1.0,
        chroma_decay: float = 0.0,
        contrast: float = 1.0,
        initial_rgb: Tensor | None = None,
    ) -> None:
        self._size_px = size_px
        self._preprocessing = preprocessing
        num_channels = preprocessing.num_channels
        rows, columns = torch.fft.fftfreq(size_px), torch.fft.rfftfreq(size_px)
        frequency = torch.sqrt(rows[:, None] ** 2 + columns[None, :] ** 2)
        # f^-decay, 1 at the lowest frequency; times the number of pixels, which the inverse transform divides by.
        relative = torch.clamp(frequency * size_px, min=1.0)
        exponents = torch.full((num_channels, 1, 1), decay)
        if num_channels >= 3:
            exponents[_CHROMA_PLANES] += chroma_decay
        self._scale = (contrast * size_px**2 * relative**-exponents).to(device)[..., None]
        self._color = color_matrix(num_channels).to(device)
        shape = (num_channels, size_px, size_px // 2 + 1, 2)
        spectrum = torch.stack([torch.randn(shape, generator=g) for g in generators]).mul_(_INITIAL_STD).to(device)
        if initial_rgb is not None:
            spectrum += self._spectrum_of(initial_rgb.to(device))
        self.parameters = [spectrum.requires_grad_()]

    def _spectrum_of(self, rgb: Tensor) -> Tensor:
        """The parameters whose images are `rgb` [B, C, h, w] in [0, 1], enlarged smoothly."""
        size = (self._size_px, self._size_px)
        enlarged = F.interpolate(rgb, size=size, mode="bilinear", align_corners=False)
        squashed = torch.atanh((2 * enlarged - 1).clamp(-_MAX_INITIAL_CONTRAST, _MAX_INITIAL_CONTRAST))
        planes = torch.einsum("dc,bchw->bdhw", torch.linalg.inv(self._color), squashed)
        return torch.view_as_real(torch.fft.rfft2(planes)) / self._scale

    def images(self) -> Tensor:
        """The images of the spectra, [B, C, H, W]."""
        spectrum = torch.view_as_complex((self.parameters[0] * self._scale).contiguous())
        planes = torch.fft.irfft2(spectrum, s=(self._size_px, self._size_px))
        rgb = torch.einsum("cd,bdhw->bchw", self._color, planes)
        return self._preprocessing.normalize(0.5 + 0.5 * torch.tanh(rgb))

    def after_step(self) -> None:
        """Nothing to do: tanh keeps the pixels in range."""
