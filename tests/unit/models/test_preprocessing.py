"""The pixels a model sees: those of the libraries' own transforms, whichever way an image comes."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipeline.io.images import decode_image
from pipeline.models import Preprocessing, load_model, torchvision_operators
from pipeline.models.preprocessing import crop_fraction

torchvision_operators.declare()

import timm  # noqa: E402
import torchvision  # noqa: E402
from timm.data import create_transform, resolve_data_config  # noqa: E402

MAX_PX = 320  # larger inputs differ in nothing but time


def scene(width: int = 120, height: int = 80) -> Image.Image:
    colors = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
    return Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)


# Sides whose difference to the crop is odd, whose resized length is no whole number, and smaller than the crop.
IMAGES = [scene(*size) for size in ((333, 501), (259, 256), (97, 61))]


RGB = Preprocessing(input_size_px=80, crop_fraction=1.0, interpolation="nearest", mean=(0.0,) * 3, std=(1.0,) * 3)


def timm_configs() -> Iterator[dict]:
    """One for every crop, crop mode and interpolation of timm's weights, of the smallest square size."""
    found: dict[tuple, dict] = {}
    for name in timm.list_pretrained():
        config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        _, height, width = config["input_size"]
        key = (config["crop_pct"], config["crop_mode"], config["interpolation"])
        if height == width <= found.get(key, {"input_size": [MAX_PX]})["input_size"][-1]:
            found[key] = config
    yield from found.values()


def test_pixels_are_those_of_timm_s_own_transforms() -> None:
    configs = list(timm_configs())
    assert {config["crop_mode"] for config in configs} >= {"center", "squash"}
    configs.append({**configs[0], "crop_mode": "border", "crop_pct": 0.9})  # timm's smallest has 392 px
    assert len(configs) > 20
    for config in configs:
        ready = Preprocessing(
            input_size_px=config["input_size"][-1],
            crop_fraction=config["crop_pct"],
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
            crop_mode=config["crop_mode"],
        )
        transform = create_transform(**config)
        for image in IMAGES:
            expected, seen = transform(image), ready.to_tensor(ready.square_crop(image))
            assert torch.equal(seen, expected), (config, image.size)


def test_pixels_are_those_of_torchvision_s_own_transforms() -> None:
    models = torchvision.models
    every = [w.transforms() for name in models.list_models(module=models) for w in models.get_model_weights(name)]
    transforms = {str(transform): transform for transform in every if transform.crop_size[0] <= MAX_PX}
    assert len(transforms) > 15
    for transform in transforms.values():
        (crop_px,), (resized_px,) = transform.crop_size, transform.resize_size
        ready = Preprocessing(
            input_size_px=crop_px,
            crop_fraction=crop_fraction(crop_px, resized_px),
            interpolation=transform.interpolation.value,
            mean=tuple(transform.mean),
            std=tuple(transform.std),
        )
        assert f" {resized_px} px" in str(ready)
        for image in IMAGES:
            expected, seen = transform(image), ready.to_tensor(ready.square_crop(image))
            assert torch.equal(seen, expected), (str(transform), image.size)


def test_a_loaded_model_has_the_crop_of_its_library() -> None:
    squash = load_model("timm:test_vit2.r160_in1k", "random")
    config = resolve_data_config({}, model=squash.module)
    assert torch.equal(squash.preprocess(IMAGES[0]), create_transform(**config)(IMAGES[0]))
    assert squash.preprocessing.crop_mode == config["crop_mode"]
    with pytest.raises(ValueError, match=r"768 × 1024 px, and inputs are square here: set model.input_size_px"):
        load_model("timm:vit_5b_patch16_sapiens2.fb", "random")


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    """Images that need more than `convert("RGB")`."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    opacity = Image.new("L", (120, 80))
    opacity.paste(255, (30, 20, 90, 60))
    cutout, gray_cutout = scene().convert("RGBA"), scene().convert("LA")
    cutout.putalpha(opacity)
    gray_cutout.putalpha(opacity)
    gray = np.asarray(scene().convert("L")).astype(np.uint16) * 257
    few_colors = scene().quantize(4).convert("RGB")
    return {
        "plain": encoded(scene()),
        "turned by EXIF": encoded(scene(), "JPEG", exif=rotated, quality=95),
        "16 bits": encoded(Image.fromarray(gray)),
        "transparent": encoded(cutout),
        "transparent gray": encoded(gray_cutout),
        "transparent palette": encoded(scene().quantize(16), transparency=3),
        "transparent color": encoded(few_colors, transparency=few_colors.getpixel((0, 0))),
        "CMYK": encoded(scene().convert("CMYK"), "JPEG", quality=95),
        "one bit": encoded(scene().convert("1")),
        "WebP": encoded(cutout, "WEBP", lossless=True),
    }


@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_an_opened_image_is_seen_as_in_a_run(num_channels: int) -> None:
    ready = Preprocessing(
        input_size_px=48,
        crop_fraction=0.9,
        interpolation="bilinear",
        mean=(0.0,) * num_channels,
        std=(1.0,) * num_channels,
    )
    for name, data in files().items():
        decoded = decode_image(data, keep_alpha=ready.has_alpha)
        expected = ready.to_tensor(ready.square_crop(decoded))
        assert torch.equal(ready.to_tensor(ready.square_crop(Image.open(io.BytesIO(data)))), expected), name
        assert not decoded.info


def test_what_an_opened_image_is_seen_as() -> None:
    shown = {name: RGB.square_crop(Image.open(io.BytesIO(data))) for name, data in files().items()}
    pixels = {name: np.asarray(image).astype(int) for name, image in shown.items()}
    upright = np.asarray(ImageOps.exif_transpose(shown["plain"].rotate(-90))).astype(int)
    assert abs(pixels["turned by EXIF"] - upright).mean() < 3
    assert abs(pixels["16 bits"] - np.asarray(shown["plain"].convert("L"))[..., None]).max() == 0
    for name in ("transparent", "transparent gray", "WebP"):
        assert (pixels[name][:20] == 255).all()
        assert (pixels[name][20:60, 10:70] < 255).any()
    assert (pixels["transparent color"] == 255).all(-1).any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (4, 4)), r'mode "F" does not say which number is black .* convert it to "RGB" or "L"'),
        (Image.new("LAB", (4, 4)), 'mode "LAB"'),
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), "numbers from 70000 to 70000: expected 0 to 65535"),
        (np.zeros((4, 4, 3), np.uint8), r"ndarray: expected an image of Pillow"),
    ],
)
def test_images_of_unknown_range_are_refused(image: Image.Image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RGB.square_crop(image)


def test_an_unknown_crop_is_refused() -> None:
    settings = {"input_size_px": 8, "crop_fraction": 1.0, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(ValueError, match=r'crop_mode = "centre": .*did you mean "center"'):
        Preprocessing(interpolation="bicubic", crop_mode="centre", **settings)
    with pytest.raises(ValueError, match='interpolation = "random": expected one of bicubic'):
        Preprocessing(interpolation="random", **settings)
