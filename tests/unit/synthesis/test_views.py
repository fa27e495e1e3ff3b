"""What the optimizer moves and how the model sees it: spectra against NumPy, transforms against slices and turns."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.activations.accumulators.spectrum import MeanSpectrum
from pipeline.models import Preprocessing
from pipeline.synthesis.methods.options import SynthesisOptions
from pipeline.synthesis.parameterization.fourier import FourierParameterization, color_matrix
from pipeline.synthesis.parameterization.maco_phase import (
    PhaseParameterization,
    mean_magnitude,
    resample_spectrum,
    without_brightness,
)
from pipeline.synthesis.parameterization.pixel import PixelParameterization
from pipeline.synthesis.regularizers import total_variation_l1
from pipeline.synthesis.transforms import crop, draw_views, warp

SIZE = 24
CPU = torch.device("cpu")
GRAY = torch.zeros(3, 1, 1)
RGB = Preprocessing(
    input_size_px=SIZE, crop_fraction=1, interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def random_images(count: int = 2, channels: int = 3, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(5))


# Parameterizations


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Spectra are read back from pixels, where float32 rounds the faint high frequencies away."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("in_float64")
def test_chroma_decay_scales_the_color_planes_down_and_leaves_lightness() -> None:
    plain = FourierParameterization(SIZE, generators(1), RGB, CPU, decay=1.2)
    ours = FourierParameterization(SIZE, generators(1), RGB, CPU, decay=1.2, chroma_decay=0.5)

    def planes(parameterization: FourierParameterization) -> np.ndarray:
        pixels = RGB.denormalize(parameterization.images().detach())[0].numpy()
        mixed = np.arctanh(2 * pixels - 1)
        return np.fft.rfft2(np.einsum("dc,chw->dhw", np.linalg.inv(color_matrix(3).numpy()), mixed))

    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]) * SIZE
    ratio = planes(ours) / planes(plain)
    chosen = (slice(1, SIZE // 2), slice(1, SIZE // 2))  # neither constant nor its own mirror image
    np.testing.assert_allclose(ratio[0][chosen], 1, rtol=1e-9)
    for plane in ratio[1:]:
        np.testing.assert_allclose(plane[chosen], frequency[chosen] ** -0.5, rtol=1e-9)


def test_a_contrast_of_an_eighth_gives_lucid_s_images() -> None:
    ours = FourierParameterization(SIZE, generators(1), RGB, CPU, decay=1.0, contrast=0.125)
    parameters = ours.parameters[0].detach().numpy()[0] * 300  # far beyond the initial gray
    ours.parameters[0].data *= 300
    # lucid.optvis.param.spatial.fft_image and lucid.optvis.param.color.to_valid_rgb
    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[: SIZE // 2 + 1]
    scale = 1.0 / np.maximum(np.sqrt(fx * fx + fy * fy), 1.0 / SIZE) * math.sqrt(SIZE * SIZE)
    planes = np.fft.irfft2(scale * (parameters[..., 0] + 1j * parameters[..., 1])) / 4.0
    correlation = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    correlation /= np.max(np.linalg.norm(correlation, axis=0))
    flat = planes.transpose(1, 2, 0).reshape(-1, 3) @ correlation.T
    expected = (1 / (1 + np.exp(-flat))).reshape(SIZE, SIZE, 3).transpose(2, 0, 1)
    assert expected.std() > 0.1
    assert RGB.denormalize(ours.images())[0].detach().numpy() == pytest.approx(expected, abs=1e-4)


def test_phases_keep_the_magnitude_of_real_images() -> None:
    magnitude = torch.rand(3, SIZE, SIZE // 2 + 1, generator=generators(1, seed=9)[0]) + 0.1
    parameters = PhaseParameterization(SIZE, generators(2), RGB, CPU, magnitude=magnitude, contrast=0.5)
    rgb = RGB.denormalize(parameters.images()).detach().double().numpy()
    planes = np.linalg.inv(color_matrix(3).double().numpy()) @ (np.log(rgb / (1 - rgb)) / 0.5).reshape(2, 3, -1)
    assert planes.reshape(2, -1).mean(axis=1) == pytest.approx([0, 0], abs=1e-4)
    assert planes.reshape(2, -1).std(axis=1) == pytest.approx([1, 1], abs=1e-2)
    spectrum = np.abs(np.fft.rfft2(planes.reshape(2, 3, SIZE, SIZE)))
    # Columns 0 and S / 2 hold both halves of the spectrum; a real image keeps only part of a free phase there.
    ratio = (spectrum / magnitude.double().numpy())[..., 1 : SIZE // 2]
    for image in ratio:
        assert image == pytest.approx(np.full_like(image, image.mean()), rel=1e-3)
    assert not np.allclose(rgb[0], rgb[1])


def test_phases_are_standardized() -> None:
    parameters = PhaseParameterization(SIZE, generators(1), RGB, CPU, magnitude=torch.ones(3, SIZE, SIZE // 2 + 1))
    (phase,) = parameters.parameters
    assert phase.shape == (1, 3, SIZE, SIZE // 2 + 1)
    before = parameters.images().detach().clone()
    phase.data.mul_(7).add_(3)  # standardized away
    torch.testing.assert_close(parameters.images().detach(), before, atol=1e-3, rtol=1e-3)


def test_mean_magnitude_is_that_of_the_statistics() -> None:
    images = torch.rand(4, 3, SIZE, SIZE, generator=generators(1)[0])
    np.testing.assert_allclose(mean_magnitude(images).numpy(), MeanSpectrum.of(images).magnitude, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("source", "requested"), [(32, 24), (24, 40), (25, 32), (32, 25)])
def test_a_resampled_spectrum_has_the_same_values_at_the_same_frequencies(source: int, requested: int) -> None:
    def sloped(size: int) -> torch.Tensor:
        """Not symmetric: rows of negative frequency must not be taken for positive ones."""
        rows, columns = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
        return torch.stack([3 + 2 * rows + columns, 5 - rows + 0.5 * columns])

    got, expected = resample_spectrum(sloped(source), requested), sloped(requested)
    assert got.shape == (2, requested, requested // 2 + 1)
    # Linear in frequency, so linear interpolation is exact wherever the source reaches.
    limit = torch.fft.fftfreq(source)
    rows = torch.fft.fftfreq(requested)
    within = (rows >= limit.min()) & (rows <= limit.max())
    columns = torch.fft.rfftfreq(requested) <= torch.fft.rfftfreq(source).max()
    assert int(within.sum()) >= requested - 2
    torch.testing.assert_close(got[:, within][..., columns], expected[:, within][..., columns], rtol=1e-5, atol=1e-5)


def test_a_spectrum_of_the_same_size_is_left_alone_but_for_the_brightness() -> None:
    magnitude = torch.rand(3, SIZE, SIZE // 2 + 1)
    magnitude[:, 0, 0] = torch.tensor([50.0, 0.5, 0.0])
    assert torch.equal(resample_spectrum(magnitude, SIZE), magnitude)
    lowered = without_brightness(magnitude)
    others = magnitude.flatten(1)[:, 1:]
    assert torch.equal(lowered.flatten(1)[:, 1:], others)
    assert lowered[0, 0, 0] == others[0].max()
    assert lowered[1:, 0, 0].tolist() == [0.5, 0.0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_color_planes_are_those_of_the_input(channels: int) -> None:
    matrix = color_matrix(channels)
    assert matrix.shape == (channels, channels)
    if channels != 3:
        opacity_or_gray = matrix[-1].tolist()
        assert opacity_or_gray == [0.0] * (channels - 1) + [1.0]
    assert (channels >= 3) == (not torch.equal(matrix, torch.eye(channels)))


def test_pixels_begin_as_noise_of_the_given_strength() -> None:
    loud, quiet = (
        PixelParameterization(64, generators(1), RGB, CPU, initial_std=std).images().detach() for std in (1.0, 0.01)
    )
    torch.testing.assert_close(quiet, loud * 0.01)
    assert float(loud.std()) == pytest.approx(1.0, abs=0.05)


# Transforms


def affine(angle_degrees: float = 0.0, scale: float = 1.0, columns: float = 0.0, rows: float = 0.0) -> torch.Tensor:
    cos, sin = math.cos(math.radians(angle_degrees)) / scale, math.sin(math.radians(angle_degrees)) / scale
    return torch.tensor([[[cos, -sin, columns], [sin, cos, rows]]])


def test_warp_turns_shifts_and_enlarges() -> None:
    images = random_images(1)
    gray = torch.full((3, 1, 1), 0.25)
    torch.testing.assert_close(warp(images, affine(), gray), images)
    turned = warp(images, affine(90), gray)
    assert any(torch.allclose(turned, torch.rot90(images, k, (2, 3)), atol=1e-5) for k in (1, 3))
    shifted = warp(images, affine(columns=-2 * 3 / SIZE), gray)  # content moves right by 3 px
    torch.testing.assert_close(shifted[..., 3:], images[..., :-3], atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted[..., :3], torch.full((1, 3, SIZE, 3), 0.25), atol=1e-5, rtol=0)
    ramp = torch.arange(SIZE).float().expand(1, 3, SIZE, SIZE)
    middle = (SIZE - 1) / 2
    larger = warp(ramp, affine(scale=2), gray)
    torch.testing.assert_close(larger, (ramp - middle) / 2 + middle, atol=1e-4, rtol=0)


def test_rotations_and_scales_are_each_image_s_own_and_in_range() -> None:
    options = SynthesisOptions(jitter_px=3, rotation_degrees=10.0, scaling=0.1)
    views = draw_views(options, generators(300), size_px=SIZE, view_px=SIZE, gray=GRAY)
    assert views.offsets is None  # shifted by the warp, not rolled
    matrices = views.affine.numpy()
    scales = 1 / np.linalg.norm(matrices[:, 0, :2], axis=1)
    squares = matrices[:, :, :2] @ matrices[:, :, :2].transpose(0, 2, 1)
    assert squares == pytest.approx(np.eye(2) / scales[:, None, None] ** 2, abs=1e-5)  # no shear
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    shifts = matrices[:, :, 2] * SIZE / 2
    for values, low, high in ((scales, 0.9, 1.1), (angles, -10, 10), (shifts, -3, 3)):
        assert low - 1e-4 <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high + 1e-4
    alone = draw_views(options, generators(1, seed=7), size_px=SIZE, view_px=SIZE, gray=GRAY)
    assert torch.equal(alone.affine[0], views.affine[7])


def test_crops_equal_slices_where_pixels_coincide() -> None:
    images = random_images()
    boxes = torch.tensor([[[0.0, 0.0, SIZE], [4.0, 6.0, 12.0]], [[12.0, 0.0, 12.0], [2.0, 3.0, 12.0]]])
    whole = crop(images[:1], boxes[:1, :1], SIZE)
    torch.testing.assert_close(whole, images[:1])
    views = crop(images, boxes, 12)
    assert views.shape == (4, 3, 12, 12)
    torch.testing.assert_close(views[1], images[0, :, 4:16, 6:18])
    torch.testing.assert_close(views[2], images[1, :, 12:24, 0:12])
    torch.testing.assert_close(views[3], images[1, :, 2:14, 3:15])


def test_crops_are_enlarged_linearly_and_reduced_without_aliasing() -> None:
    columns = torch.arange(SIZE).float()
    ramp = (columns[None, :] + 10 * columns[:, None]).expand(1, 3, SIZE, SIZE)
    enlarged = crop(ramp, torch.tensor([[[4.0, 8.0, 8.0]]]), 16)[0, 0]
    places = (torch.arange(16) + 0.5) / 2 - 0.5
    torch.testing.assert_close(enlarged, (8 + places)[None, :] + 10 * (4 + places)[:, None], atol=1e-3, rtol=0)
    stripes = torch.tensor([1.0, -1.0]).repeat(SIZE // 2).expand(1, 3, SIZE, SIZE)
    reduced = crop(stripes, torch.tensor([[[0.0, 0.0, SIZE]]]), SIZE // 3)
    # Every third of alternating columns would alternate as well; the triangle leaves (1 − 4/3 + 2/3) / 3 of them.
    assert float(reduced[..., 1:-1].abs().max()) == pytest.approx(1 / 9, abs=1e-4)
    torch.testing.assert_close(
        crop(torch.ones(1, 3, SIZE, SIZE), torch.tensor([[[1.3, 2.7, 17.1]]]), 10).mean(), torch.tensor(1.0)
    )


def test_crops_are_each_image_s_own_and_inside_the_image() -> None:
    options = SynthesisOptions(num_crops=3, crop_min=0.25, crop_max=0.5, jitter_px=0)
    views = draw_views(options, generators(100), size_px=SIZE, view_px=10, gray=GRAY)
    boxes = views.boxes
    assert boxes.shape == (100, 3, 3)
    sides = boxes[..., 2] / SIZE
    assert 0.25 <= sides.min() < 0.27
    assert 0.48 < sides.max() <= 0.5
    assert boxes[..., :2].min() >= 0
    assert (boxes[..., :2] + boxes[..., 2:]).max() <= SIZE + 1e-4
    centers = (boxes[..., :2] + boxes[..., 2:] / 2) / SIZE
    assert centers.std() == pytest.approx(0.15, abs=0.02)  # few are pushed inside
    alone = draw_views(options, generators(1, seed=40), size_px=SIZE, view_px=10, gray=GRAY)
    assert torch.equal(alone.boxes[0], boxes[40])
    assert views(random_images(100)).shape == (300, 3, 10, 10)


def test_one_crop_that_is_the_whole_image_is_not_resampled() -> None:
    options = SynthesisOptions(num_crops=1, jitter_px=0)
    images = random_images(2)
    whole = draw_views(options, generators(2), size_px=SIZE, view_px=SIZE, gray=GRAY)
    assert whole(images) is images
    assert draw_views(options, generators(2), size_px=SIZE, view_px=10, gray=GRAY)(images).shape == (2, 3, 10, 10)
    twice = draw_views(SynthesisOptions(num_crops=2, jitter_px=0), generators(2), size_px=SIZE, view_px=SIZE, gray=GRAY)
    torch.testing.assert_close(twice(images), images.repeat_interleave(2, dim=0))


def test_noise_is_normal_plus_uniform() -> None:
    options = SynthesisOptions(noise=0.2, jitter_px=0)
    views = draw_views(options, generators(2), size_px=64, view_px=64, gray=GRAY)
    noise = views(torch.zeros(2, 3, 64, 64))
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(0.2 * math.sqrt(1 + 1 / 12), rel=0.02)
    assert not torch.equal(noise[0], noise[1])


def test_half_of_the_images_are_mirrored() -> None:
    images = random_images(40)
    views = draw_views(SynthesisOptions(flip=True, jitter_px=0), generators(40), size_px=SIZE, view_px=SIZE, gray=GRAY)
    shown = views(images)
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(shown, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(shown, images, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 10 <= sum(mirrored) <= 30


def test_without_transforms_the_model_sees_the_image() -> None:
    images = random_images()
    views = draw_views(SynthesisOptions(jitter_px=0), generators(2), size_px=SIZE, view_px=SIZE, gray=GRAY)
    assert views(images) is images


def test_the_l1_total_variation_equals_its_formula() -> None:
    images = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    for b, image in enumerate(images.numpy()):
        right, down = np.abs(np.diff(image, axis=2)).mean(), np.abs(np.diff(image, axis=1)).mean()
        falling = np.abs(image[:, 1:, 1:] - image[:, :-1, :-1]).mean()
        rising = np.abs(image[:, 1:, :-1] - image[:, :-1, 1:]).mean()
        assert float(total_variation_l1(images)[b]) == pytest.approx(right + down + falling + rising)
