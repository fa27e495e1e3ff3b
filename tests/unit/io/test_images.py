"""Images: whatever a file holds, an upright RGB image comes out, or a BadImage with its reason."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.io.images import BadImage, decode_image, decode_webp, encode_webp, narrow_to
from pipeline.models.preprocessing import Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def scene() -> Image.Image:
    """24 px high, 36 wide: red above left, green above right, blue below left, white below right."""
    image = Image.new("RGB", (36, 24), "white")
    for color, corner in (("red", (0, 0)), ("lime", (18, 0)), ("blue", (0, 12))):
        image.paste(color, (*corner, corner[0] + 18, corner[1] + 12))
    return image


def close_to_scene(image: Image.Image, tolerance: int = 40) -> bool:
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(scene()).astype(int))
    return image.mode == "RGB" and image.size == (36, 24) and int(np.median(difference)) <= tolerance


def reason(data: bytes, **options) -> str:
    with pytest.raises(BadImage) as caught:
        decode_image(data, **options)
    assert str(caught.value).startswith(f"{caught.value.reason} image: ")
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("file_format", FORMATS)
def test_reads_every_format(file_format):
    assert close_to_scene(decode_image(encoded(scene(), file_format)))


def test_a_cmyk_jpeg_becomes_rgb_and_is_not_inverted():
    assert close_to_scene(decode_image(encoded(scene().convert("CMYK"), "JPEG")))


def test_gray_becomes_three_equal_channels():
    pixels = np.asarray(decode_image(encoded(Image.new("L", (5, 4), 77), "PNG")))
    assert pixels.shape == (4, 5, 3)
    assert (pixels == 77).all()


def test_black_and_white_of_one_bit():
    assert decode_image(encoded(Image.new("1", (2, 2), 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_is_resolved():
    assert close_to_scene(decode_image(encoded(scene().convert("P"), "PNG")))


def test_16_bit_gray_is_scaled_not_clipped():
    gray = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    pixels = np.asarray(decode_image(encoded(Image.fromarray(gray), "PNG")))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (pixels == pixels[..., :1]).all()


def test_16_bit_rgb_png_is_scaled():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", 0, 32768, 65535)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert decode_image(data).getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), id="rgba"),
        pytest.param(Image.new("LA", (2, 2), (0, 0)), id="gray-alpha"),
    ],
)
def test_transparency_is_laid_over_white(image):
    assert decode_image(encoded(image, "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_half_transparency_is_mixed_with_white():
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    red, green, _ = decode_image(encoded(half, "PNG")).getpixel((0, 0))
    assert (red, green) == (255, 127)


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    decoded = decode_image(encoded(image, "PNG", transparency=0))
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(file_format):
    later = [Image.new("RGB", (36, 24), "black")] * 3
    data = encoded(scene(), file_format, save_all=True, append_images=later)
    assert close_to_scene(decode_image(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_undone(orientation, file_format):
    # The turn that a camera held in this way makes, which the reader has to take back.
    T = Image.Transpose
    camera = [None, None, T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_90]
    camera += [T.TRANSVERSE, T.ROTATE_270]
    stored = scene() if camera[orientation] is None else scene().transpose(camera[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert close_to_scene(decode_image(encoded(stored, file_format, exif=exif)))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert close_to_scene(decode_image(encoded(scene(), "JPEG", exif=exif)))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"]
)
def test_a_good_image_with_damaged_exif_is_kept(exif):
    assert close_to_scene(decode_image(encoded(scene(), "JPEG", exif=exif)))


def test_an_empty_file():
    assert reason(b"") == "empty"


@pytest.mark.parametrize("data", [b"\0" * 100, b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GARBAGE" * 9])
def test_what_is_no_image_is_unsupported(data):
    assert reason(data) == "unsupported"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_half_an_image_is_truncated(file_format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    assert reason(data[: len(data) // 2]) == "truncated"


def test_flipped_bytes_are_corrupt():
    data = bytearray(encoded(scene(), "PNG"))
    data[45] ^= 0xFF
    assert reason(bytes(data)) == "corrupt"
    assert reason(b"\xff\xd8\xff\xe0" + b"\0" * 50) == "corrupt"


def test_a_tiff_is_unsupported():
    assert reason(encoded(scene(), "TIFF")) == "unsupported"


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises an image of that size; there is no data behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    idat = struct.pack(">I", 4) + b"IDAT" + b"\0\0\0\0" + struct.pack(">I", zlib.crc32(b"IDAT\0\0\0\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk + idat


# Below Pillow's limit, between its warning and its error, beyond its error.
@pytest.mark.parametrize("side", [8_950, 10_000, 60_000])
def test_a_bomb_is_too_large_and_never_decoded(side, monkeypatch):
    def explode(self):
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", explode, raising=False)
    assert reason(bomb(side, side)) == "too-large"


def test_the_bound_is_exact():
    data = encoded(scene(), "PNG")
    assert decode_image(data, max_pixels=36 * 24).size == (36, 24)
    assert reason(data, max_pixels=36 * 24 - 1) == "too-large"


def test_running_out_of_memory_is_no_bad_image(monkeypatch):
    def exhaust(self):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", exhaust, raising=False)
    with pytest.raises(MemoryError):
        decode_image(encoded(scene(), "PNG"))


def test_a_code_error_is_no_bad_image():
    with pytest.raises(TypeError):
        decode_image(encoded(scene(), "PNG"), max_pixels=None)


@settings(max_examples=300)
@given(
    file_format=st.sampled_from(FORMATS),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.none() | st.integers(1, 3000),
)
def test_mutated_files_give_an_image_or_bad_image(file_format, edits, length):
    data = bytearray(encoded(scene(), file_format))
    for position, value in edits:
        data[position % len(data)] = value
    with contextlib.suppress(BadImage):
        assert decode_image(bytes(data[:length]), max_pixels=1_000_000).mode == "RGB"


PIXELS = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([3, 4])))


@given(PIXELS)
def test_lossless_webp_gives_the_pixels_back(pixels):
    data = encode_webp(pixels, lossless=True)
    assert data == encode_webp(pixels.copy(order="F"), lossless=True)
    # A mask that is opaque everywhere is stored without it.
    assert (decode_webp(data)[..., :3] == pixels[..., :3]).all()
    if pixels.shape[2] == 4 and (pixels[..., 3] < 255).any():
        assert (decode_webp(data) == pixels).all()


def test_lossy_webp_is_close_and_smaller_at_lower_quality():
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    pixels = np.stack([ramp, ramp.T, 255 - ramp], axis=2)
    high, low = encode_webp(pixels, quality=95), encode_webp(pixels, quality=10)
    assert len(low) < len(high)
    assert np.abs(decode_webp(high).astype(int) - pixels).mean() < 4


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 16_384, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_not_encoded(array):
    with pytest.raises(ValueError, match="image of"):
        encode_webp(array)


def test_decode_webp_takes_nothing_else():
    with pytest.raises(BadImage):
        decode_webp(encoded(scene(), "PNG"))
    with pytest.raises(BadImage, match="empty"):
        decode_webp(b"")


# The range of 16 bits, and thin images.


@pytest.mark.parametrize("max_value", [255, 1023, 4095, 16383, 65535])
def test_the_range_of_16_bits_is_spread_over_all_shades(max_value):
    gray = np.linspace(0, max_value, 64 * 64).astype(np.uint16).reshape(64, 64)
    data = encoded(Image.fromarray(gray), "PNG")
    pixels = np.asarray(decode_image(data, max_value=max_value))
    np.testing.assert_array_equal(pixels, np.repeat((gray[..., None].astype(int) * 256) // (max_value + 1), 3, axis=2))
    assert narrow_to(decode_image(data, max_value=max_value)) == 0
    assert narrow_to(decode_image(data)) == (max_value if max_value < 1 << 14 else 0)
    bright = np.asarray(decode_image(encoded(Image.fromarray(gray * 0 + 65535), "PNG"), max_value=max_value))
    assert (bright == 255).all()  # beyond the range is white


def color_png_of_16_bits(value: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + struct.pack(">3H", value, value // 2, 0) * 4) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colors_of_16_bits_are_told_from_those_of_fewer_and_have_no_range():
    assert narrow_to(decode_image(color_png_of_16_bits(60_000))) == 0
    assert narrow_to(decode_image(color_png_of_16_bits(4095))) == 4095
    assert narrow_to(decode_image(color_png_of_16_bits(4095), max_value=65535)) == 0
    with pytest.raises(BadImage, match="max_value is for gray"):
        decode_image(color_png_of_16_bits(4095), max_value=4095)


def test_8_bits_have_their_own_range_and_are_never_narrow():
    dark = encoded(Image.new("RGB", (4, 4), (3, 2, 1)), "PNG")
    assert decode_image(dark, max_value=4095).getpixel((0, 0)) == (3, 2, 1)
    assert narrow_to(decode_image(dark)) == narrow_to(decode_image(encoded(Image.new("L", (4, 4), 1), "PNG"))) == 0


@pytest.mark.parametrize(("width", "height"), [(30_000, 1), (1, 30_000), (60_000, 1), (1_010, 10)])
def test_thin_images_are_refused_before_they_are_enlarged(width, height):
    preprocessing = Preprocessing(
        input_size_px=224, crop_fraction=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    image = decode_image(encoded(Image.new("RGB", (width, height)), "PNG"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", lambda *args, **options: pytest.fail("enlarged"))
        with pytest.raises(BadImage, match=f"too-thin image: {width}×{height} px"):
            preprocessing.square_crop(image)
    assert preprocessing.square_crop(Image.new("RGB", (1_000, 10))).size == (224, 224)
