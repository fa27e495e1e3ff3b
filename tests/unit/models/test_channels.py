"""Inputs that are not RGB: gray, gray with opacity, RGBA."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline.io.images import decode_image
from pipeline.models import Preprocessing, load_model
from pipeline.models.preprocessing import for_channels


def preprocessing(num_channels: int, size_px: int = 4) -> Preprocessing:
    return Preprocessing(
        input_size_px=size_px,
        crop_fraction=1.0,
        interpolation="nearest",
        mean=(0.5,) * num_channels,
        std=(0.25,) * num_channels,
    )


def gray_net() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    module.in_chans, module.input_size_px = 1, 16
    return module


COLOR, OPACITY = (200, 100, 50), 128
GRAY = (200 * 299 + 100 * 587 + 50 * 114) / 1000  # ITU-R 601, as Pillow converts


def over_white(value: float) -> float:
    return (value * OPACITY + 255 * (255 - OPACITY)) / 255


@pytest.mark.parametrize(
    ("num_channels", "expected"),
    [
        (1, [over_white(GRAY)]),
        (2, [GRAY, OPACITY]),
        (3, [over_white(value) for value in COLOR]),
        (4, [*COLOR, OPACITY]),
    ],
)
def test_a_dataset_image_has_the_channels_of_the_model(num_channels: int, expected: list[float]) -> None:
    """What is transparent lies over white for models that do not see opacity."""
    ready = preprocessing(num_channels)
    dataset_image = Image.new("RGBA", (8, 8), (*COLOR, OPACITY))
    tensor = ready.to_tensor(ready.square_crop(dataset_image))
    assert tensor.shape == (num_channels, 4, 4)
    pixels = ready.denormalize(tensor)[:, 1, 2] * 255
    torch.testing.assert_close(pixels, torch.tensor([float(round(value)) for value in expected]))


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
def test_a_published_image_gives_the_same_input_back(num_channels: int) -> None:
    ready = preprocessing(num_channels)
    pixels = torch.randint(0, 256, (num_channels, 4, 4)).float() / 255
    image = ready.to_visualization(pixels)
    assert image.dtype == np.uint8
    assert image.shape == (4, 4, 4 if ready.has_alpha else 3)
    torch.testing.assert_close(ready.denormalize(ready.to_tensor(image)), pixels)


def test_opacity_is_kept_only_for_models_that_see_it() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 2), (*COLOR, 0)).save(buffer, "PNG")
    assert decode_image(buffer.getvalue()).getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(buffer.getvalue(), keep_alpha=True).getpixel((0, 0)) == (*COLOR, 0)
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), COLOR).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), keep_alpha=True).getpixel((0, 0)) == (*COLOR, 255)


def test_the_normalization_of_other_channels() -> None:
    mean, std = (0.3, 0.4, 0.8), (0.1, 0.2, 0.3)
    assert for_channels(3, mean, std) == (mean, std)
    gray_mean, gray_std = for_channels(1, mean, std)
    assert (gray_mean, gray_std) == ((pytest.approx(0.5),), (pytest.approx(0.2),))
    assert for_channels(2, mean, std)[0][1:] == (0.5,)
    assert for_channels(4, mean, std) == ((*mean, 0.5), (*std, 0.5))
    for num_channels in (0, 5):
        with pytest.raises(ValueError, match="1 channel"):
            preprocessing(num_channels)


def test_models_of_gray_images() -> None:
    own = load_model(f"python:{__name__}:gray_net")
    assert own.preprocess(Image.new("RGB", (20, 30))).shape == (1, 16, 16)
    assert own.layers() == ["0", "1", "2", "3"]
    timm = load_model("timm:resnet18", "random", input_size_px=32, options={"in_chans": 1})
    assert timm.mean == (pytest.approx(sum((0.485, 0.456, 0.406)) / 3),)
    assert timm.module(timm.preprocess(Image.new("RGB", (40, 40)))[None]).shape == (1, 1000)


def test_a_network_of_more_channels_than_images_have_is_refused() -> None:
    with pytest.raises(ValueError, match="for 1 channel"):
        load_model("timm:resnet18", "random", options={"in_chans": 7})
