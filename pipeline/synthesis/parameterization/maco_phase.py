"""The phase parameterization of MACO: phases are optimized, the magnitude of the spectrum is that of real images.

Reference: Fel et al., "Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization",
NeurIPS 2023, arXiv 2306.06805, section 3; standardization and colors as in the authors' libraries Horama and Xplique.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models import Preprocessing
from pipeline.synthesis.parameterization.fourier import color_matrix

_EPSILON = 1e-4  # Horama's, keeps the standardization finite


class PhaseParameterization:
    """Phases under a fixed magnitude: image = σ(contrast · color · standardize(F⁻¹(magnitude · exp(i · angle)))).

    angle = phase_std · standardize(phase), and `standardize` makes the values of one image zero in the mean and one in
    standard deviation, over all channels together. As steps grow the raw phases, standardizing them lets the step
    size decay by itself. With the authors' standard deviation of 1 the waves agree at the image's corner, by
    exp(−phase_std² / 2) of their magnitude on average, and leave a bright spot there; from 3 on there is none.

    The magnitude is that of the images' RGB, taken for that of decorrelated planes, as Xplique does for a data set
    of one's own. The zero frequency, which there is an image's brightness and would leave nothing but a tint, is
    lowered to the largest of the other frequencies.
    """

    def __init__(
        self,
        size_px: int,
        generators: Sequence[torch.Generator],
        preprocessing: Preprocessing,
        device: torch.device,
        *,
        magnitude: Tensor,
        phase_std: float = 1.0,
        contrast: float = 1.0,
    ) -> None:
        num_channels = preprocessing.num_channels
        if magnitude.ndim != 3 or magnitude.shape[0] != num_channels:
            raise UserError(
                f"spectrum of shape {list(magnitude.shape)}: expected [{num_channels}, S, S // 2 + 1], the mean "
                f"magnitude of images of {num_channels} channels"
            )
        self._size_px = size_px
        self._preprocessing = preprocessing
        self._phase_std = phase_std
        self._contrast = contrast
        self._color = color_matrix(num_channels).to(device)
        self._magnitude = without_brightness(resample_spectrum(magnitude, size_px)).to(device)
        shape = (num_channels, size_px, size_px // 2 + 1)
        phase = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
        self.parameters = [phase.requires_grad_()]

    def images(self) -> Tensor:
        """The images of the phases, [B, C, H, W]."""
        angles = self._phase_std * _standardize(self.parameters[0])
        spectrum = torch.polar(self._magnitude.expand_as(angles), angles)
        planes = _standardize(torch.fft.irfft2(spectrum, s=(self._size_px, self._size_px)))
        rgb = torch.einsum("cd,bdhw->bchw", self._color, planes)
        return self._preprocessing.normalize(torch.sigmoid(self._contrast * rgb))

    def after_step(self) -> None:
        """Nothing to do: phases are angles."""


def _standardize(values: Tensor) -> Tensor:
    """Each image's values [B, ...] with mean 0 and standard deviation 1."""
    axes = tuple(range(1, values.ndim))
    std, mean = torch.std_mean(values, dim=axes, keepdim=True)
    return (values - mean) / (std + _EPSILON)


def mean_magnitude(images: Tensor) -> Tensor:
    """Mean over images [B, C, S, S] in [0, 1] of the magnitude of their spectra: [C, S, S // 2 + 1]."""
    return torch.fft.rfft2(images).abs().mean(dim=0)


def without_brightness(magnitude: Tensor) -> Tensor:
    """A spectrum [C, S, S // 2 + 1] whose zero frequency is no larger than the largest of the others."""
    others = magnitude.flatten(1)[:, 1:].amax(dim=1)
    lowered = magnitude.clone()
    lowered[:, 0, 0] = torch.minimum(magnitude[:, 0, 0], others)
    return lowered


def resample_spectrum(magnitude: Tensor, size_px: int) -> Tensor:
    """The magnitude spectrum for images of another size, interpolated at the same frequencies per pixel.

    Args:
        magnitude: [C, S, S // 2 + 1], laid out as `torch.fft.rfft2` gives it.
        size_px: side of the images it is for.

    Returns:
        float32 [C, size_px, size_px // 2 + 1], up to scale; the same values if the size is the same.

    Reference: Horama and Xplique resize the array bilinearly; here it is interpolated linearly at the frequencies
    that its rows and columns stand for, so that rows of negative frequencies keep their meaning.
    """
    magnitude = magnitude.float()
    source_px = magnitude.shape[1]
    if source_px == size_px:
        return magnitude
    centered = torch.fft.fftshift(magnitude, dim=1)  # rows in ascending order of frequency
    rows = _hat_weights(torch.fft.fftfreq(size_px), torch.fft.fftshift(torch.fft.fftfreq(source_px)))
    columns = _hat_weights(torch.fft.rfftfreq(size_px), torch.fft.rfftfreq(source_px))
    return rows @ centered @ columns.T


def _hat_weights(requested: Tensor, known: Tensor) -> Tensor:
    """Linear interpolation from values at ascending, evenly spaced `known` places: [len(requested), len(known)]."""
    spacing = known[1] - known[0]
    distance = requested.clamp(known[0], known[-1])[:, None] - known[None, :]
    return torch.relu(1 - distance.abs() / spacing)
