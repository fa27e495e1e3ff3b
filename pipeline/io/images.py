"""Images: bytes to pixels and back, at the edge where other people's files come in.

Whatever a file holds, the result is an upright RGB image or a `BadImage` that says why not.
"""

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import UserError

Reason = Literal["empty", "truncated", "corrupt", "too-large", "too-thin", "unsupported"]

MAX_PIXELS = 80_000_000
# A model's square crop shows a hundredth of such an image, and enlarging it to the model's size takes a hundred times
# the memory of the crop: 30,000 × 1 px, a file of 200 bytes, would take 8 GB.
MAX_ASPECT_RATIO = 100
_NARROW = "neuron_atlas_narrow_to"
_NARROW_BELOW = 1 << 14  # largest value of an image of 14 bits is below it
_FULL_RANGE = (1 << 16) - 1
# What data sets of images hold. Others that Pillow knows start programs (EPS) or have pixels of any type (TIFF).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM")

# EXIF 2.32, tag 0x0112: how the stored image must be turned to stand upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's readers raise on damaged bytes (seen over 24,000 mutated files). MemoryError
# is not among them.
_READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
# Held only while headers are read, never while pixels are decoded.
_HEADER_LOCK = threading.Lock()

# Pillow's modes of floating-point numbers and of a color space that it does not convert.
_MODES_WITHOUT_RANGE = ("F", "LAB")


class BadImage(UserError):  # noqa: N818 - a state of the data, counted more often than raised
    """An image that cannot be used; `reason` is one word for counting, the message has the detail."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} image: {self.detail}"


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_value: int | None = None, keep_alpha: bool = False
) -> Image.Image:
    """Return an image file as an upright RGB image.

    The EXIF orientation is applied; CMYK, gray, palette and 16-bit images become 8-bit RGB; transparency is
    laid over white; of an animation the first frame is taken.

    Args:
        data: a JPEG, PNG, WebP, GIF or BMP file.
        max_pixels: width times height allowed, checked on the header before any pixel is decoded. Pillow's
            own limit, twice `Image.MAX_IMAGE_PIXELS`, holds as well.
        max_value: the value that is white in images of 16 bits, such as 4095 for data of 12 bits; None takes 65535,
            and `narrow_to` tells whether the image looks as if that were wrong.
        keep_alpha: return RGBA and keep transparency, for models that see it.

    Raises:
        BadImage: the file is empty, truncated, corrupt, too large or of a kind that cannot be read.
    """
    if not data:
        raise BadImage("empty", "the file has no bytes")
    image = _read(data, max_pixels)
    if max_value not in (None, _FULL_RANGE) and _is_png_of_16_bits(data) and not image.mode.startswith("I"):
        raise BadImage("unsupported", "data.max_value is for gray: colors of 16 bits are read by their high byte")
    decoded = upright_rgb(image, keep_alpha=keep_alpha, max_value=max_value)
    if max_value is None and (largest := _largest(image, data)) < _NARROW_BELOW:
        decoded.info[_NARROW] = largest
    return decoded


def upright_rgb(image: Image.Image, *, keep_alpha: bool = False, max_value: int | None = None) -> Image.Image:
    """Return an opened image, in any of Pillow's modes, as `decode_image` returns its file.

    The result has no metadata, so that nothing turns it a second time.

    Args:
        image: as `Image.open` gives it, or made by Pillow.
        keep_alpha: return RGBA and keep transparency, for models that see it.
        max_value: of gray images of 16 bits, the number that is white; None is 65535.

    Raises:
        UserError: it is no image of Pillow, or its mode does not say which number is white.
    """
    if not isinstance(image, Image.Image):
        raise UserError(f"{type(image).__name__}: expected an image of Pillow, as Image.open and Image.fromarray give")
    image = _upright(image)
    if image.mode.startswith("I"):
        image = _from_16_bit(image, max_value or _FULL_RANGE)
    if image.mode in _MODES_WITHOUT_RANGE:
        raise UserError(
            f'an image of mode "{image.mode}" does not say which number is black and which is white: expected 8 or 16 '
            'bits per channel; convert it to "RGB" or "L" first'
        )
    upright = image.convert("RGBA") if keep_alpha else over_white(image)  # a new image in any case
    upright.info = {}
    return upright


def narrow_to(image: Image.Image) -> int:
    """The largest value of a decoded image of 16 bits whose values are all small (14 bits or fewer); else 0."""
    return int(image.info.get(_NARROW, 0))


def check_aspect(width: int, height: int) -> None:
    """Refuse an image that is too thin for a square crop of its shorter side.

    Raises:
        BadImage: one side is more than `MAX_ASPECT_RATIO` times the other.
    """
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BadImage("too-thin", f"{width}×{height} px, one side is more than {MAX_ASPECT_RATIO} times the other")


def over_white(image: Image.Image) -> Image.Image:
    """An image as RGB, what is transparent laid over white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def encode_webp(array: np.ndarray, *, quality: int = 90, lossless: bool = False) -> bytes:
    """Return an image as WebP; equal pixels give equal bytes.

    Args:
        array: uint8 [H, W, 3] RGB or [H, W, 4] RGBA.
        quality: 0–100.
        lossless: keep every pixel exactly.

    Raises:
        UserError: the array has another shape or type, or a side beyond the 16,383 px of the format.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (3, 4):
        raise UserError(f"image of {array.dtype} {list(array.shape)}: expected uint8 [H, W, 3] or [H, W, 4]")
    if not all(1 <= side <= 16_383 for side in array.shape[:2]):
        raise UserError(f"image of {list(array.shape)}: WebP holds sides of 1 to 16383 px")
    buffer = io.BytesIO()
    # exact: the colors below full transparency are kept, so that what is read back is what was written.
    Image.fromarray(np.ascontiguousarray(array)).save(
        buffer, "WEBP", quality=quality, lossless=lossless, method=4, exact=True
    )
    return buffer.getvalue()


def decode_webp(data: bytes) -> np.ndarray:
    """Return the pixels of a WebP file, uint8 [H, W, 3], or [H, W, 4] if it has transparency.

    Raises:
        BadImage: the file is not a readable WebP.
    """
    if not data:
        raise BadImage("empty", "the file has no bytes")
    return np.array(_read(data, MAX_PIXELS, formats=("WEBP",)))


def _read(data: bytes, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open and load; everything inside the `try` is Pillow at work on the bytes, so its errors are theirs."""
    try:
        with _no_warnings():
            image = Image.open(io.BytesIO(data), formats=formats)
        num_pixels = image.width * image.height
        if num_pixels <= max_pixels:
            image.load()
    except Image.DecompressionBombError as error:
        raise BadImage("too-large", str(error)) from error
    except _READ_ERRORS as error:
        is_unidentified = isinstance(error, UnidentifiedImageError)
        if is_unidentified and not data.startswith(_MAGIC):
            raise BadImage("unsupported", f"not one of {', '.join(FORMATS)}") from error
        detail = "the header of the file cannot be read" if is_unidentified else f"{error}"
        raise BadImage("truncated" if _is_cut(data, error) else "corrupt", detail) from error
    if num_pixels > max_pixels:
        raise BadImage("too-large", f"{image.width}×{image.height} px, more than data.max_pixels = {max_pixels} allows")
    return image


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Quiet Pillow about damaged metadata (frequent in ImageNet) and sizes, which `max_pixels` bounds.

    What a file gives must not depend on the caller's warning filters. These belong to the whole process,
    hence the lock: two threads must not restore them in the wrong order.
    """
    with _HEADER_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_cut(data: bytes, error: Exception) -> bool:
    """Whether the bytes end too early: Pillow says so, and a WebP gives its length in its header."""
    is_webp = data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    is_short = is_webp and len(data) < 8 + int.from_bytes(data[4:8], "little")
    return is_short or isinstance(error, EOFError) or "truncated" in str(error).lower()


def _upright(image: Image.Image) -> Image.Image:
    try:
        with _no_warnings():
            orientation = image.getexif().get(_ORIENTATION_TAG)
    except _READ_ERRORS:
        # The pixels are good: an image is not given up for the camera's notes beside them.
        return image
    transpose = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if transpose is None else image.transpose(transpose)


def _from_16_bit(image: Image.Image, max_value: int) -> Image.Image:
    """Scale gray of 16 bits (PNG; Pillow's modes `I;16` and `I`) to 8 bits, where Pillow would clip it.

    Rounded down: of the whole range the low byte is dropped, as Pillow does with color of 16 bits.
    """
    gray_HW = np.asarray(image)
    if gray_HW.size and not 0 <= gray_HW.min() <= gray_HW.max() <= _FULL_RANGE:
        raise UserError(
            f'an image of mode "{image.mode}" with numbers from {gray_HW.min()} to {gray_HW.max()}: expected 0 to '
            '65535; scale them to 8 bits ("L") first'
        )
    scaled = gray_HW.astype(np.int64) * 256 // (max_value + 1)
    return Image.fromarray(np.minimum(scaled, 255).astype(np.uint8)).convert("RGB")


def _largest(image: Image.Image, data: bytes) -> int:
    """The largest value of an image of 16 bits, of colors by their high byte; 65535 of any other."""
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    if _is_png_of_16_bits(data):
        # Pillow keeps the high byte of colors.
        bands = image.getchannel(0), *((image.getchannel(1), image.getchannel(2)) if image.mode[:3] == "RGB" else ())
        return max(int(np.asarray(band).max()) for band in bands) << 8 | 255
    return _FULL_RANGE


def _is_png_of_16_bits(data: bytes) -> bool:
    """By the bit depth in its first chunk (PNG specification, 11.2.1)."""
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10"
