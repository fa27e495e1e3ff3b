"""Tar shards of a few samples in memory, and what reading them gives."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from pipeline.data.shards import SkippedSample, iterate_samples


def jpeg(gray: int = 128) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (gray, gray, gray)).save(buffer, "JPEG")
    return buffer.getvalue()


def tar_bytes(members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def good(key: str, label: int = 1) -> list[tuple[str, bytes]]:
    return [
        (f"{key}.jpg", b"image of " + key.encode()),
        (f"{key}.cls", b"%d" % label),
        (f"{key}.json", b"{}"),
    ]


def read(folder: Path, data: bytes, **options) -> tuple[list, list[SkippedSample]]:
    (folder / "s.tar").write_bytes(data)
    skipped: list[SkippedSample] = []
    options = {"num_classes": 10} | options
    samples = list(iterate_samples(str(folder / "s.tar"), on_skip=skipped.append, **options))
    return samples, skipped


def reasons(skipped: list[SkippedSample]) -> list[tuple[str, int, str]]:
    return [(skip.key, skip.index, skip.reason) for skip in skipped]
