"""The law of accounts: each image in a tar is a sample, a skip with its reason, or part of a named damaged shard.

Random tars of all header formats, with damage, are compared with the listings of Python's tarfile and of GNU tar.
"""

import io
import shutil
import subprocess
import tarfile
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.shards import DamagedShardError, Sample, SkippedSample, iterate_samples

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
KEYS = ("a", "b", "c.d", "é", "folder/e", "v1.2/f", "._g", "__MACOSX/h", "__note__", "@eaDir/i", "long" * 20, "./j")
SUFFIXES = ("jpg", "jpg", "PNG", "mask.png", "0.jpg", "cls", "json", "")
SPECIAL = (tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.CONTTYPE, tarfile.AREGTYPE, b"M", b"Z")

Member = tuple[str, bytes, int, str]  # name, type, size of the data, target

names = st.builds(lambda key, suffix: f"{key}.{suffix}" if suffix else key, *map(st.sampled_from, (KEYS, SUFFIXES)))
files = st.tuples(names, st.just(tarfile.REGTYPE), st.integers(0, 1500), st.just(""))
links = st.tuples(names, st.sampled_from((tarfile.LNKTYPE, tarfile.SYMTYPE)), st.just(0), names)
specials = st.tuples(names, st.sampled_from(SPECIAL), st.just(0), st.just(""))
archives = st.lists(st.one_of(files, files, files, links, specials), max_size=12)
damages = st.one_of(
    st.just(("none", 0.0, 0)),
    st.tuples(st.sampled_from(("cut", "zeros", "garbage", "insert")), st.floats(0, 0.999), st.integers(1, 4000)),
)


def written(members: Sequence[Member], tar_format: int, is_long: bool) -> bytes:
    """An archive; with `is_long`, names and targets need extended headers where the format has them."""
    prefix = "ü" * 60 + "/" if is_long and tar_format != tarfile.USTAR_FORMAT else ""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format, encoding="utf-8") as tar:
        for number, (name, kind, size, target) in enumerate(members):
            header = tarfile.TarInfo(prefix + name)
            header.type, header.size, header.linkname = kind, size, prefix + target if target else ""
            data = bytes([1 + number]) * size
            tar.addfile(header, io.BytesIO(data) if size else None)
    return buffer.getvalue()


def damaged(data: bytes, kind: str, share: float, size: int) -> bytes:
    start = int(share * len(data))
    return {
        "none": data,
        "cut": data[:start],
        "zeros": data[:start] + bytes(len(data[start : start + size])) + data[start + size :],
        "garbage": data[:start] + b"\xa5" * len(data[start : start + size]) + data[start + size :],
        "insert": data[:start] + b"\x5a" * size + data[start:],
    }[kind]


def listed(data: bytes) -> list[tarfile.TarInfo]:
    """By Python's tarfile, which looks for members everywhere."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True, errors="surrogateescape") as tar:
            return [member for member in tar.getmembers() if not member.isdir()]
    except tarfile.ReadError:
        return []


def listed_by_gnu_tar(path: str) -> list[str]:
    found = subprocess.run(
        ["tar", "--list", "--ignore-zeros", "--quoting-style=literal", "--file", path], capture_output=True, check=True
    )
    return [name for name in found.stdout.decode("utf-8", "replace").splitlines() if not name.endswith("/")]


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    archives=st.lists(st.tuples(archives, st.sampled_from(FORMATS), st.booleans()), min_size=1, max_size=3),
    damage=damages,
)
def test_no_image_is_lost_without_a_word(tmp_path_factory, archives, damage):
    whole = b"".join(written(*archive) for archive in archives if archive[0]) or written([], tarfile.GNU_FORMAT, False)
    data = damaged(whole, *damage)
    path = str(tmp_path_factory.getbasetemp() / "accounts.tar")
    with open(path, "wb") as file:
        file.write(data)
    samples, skipped, fault = read(path)
    if fault:
        assert damage[0] != "none"
        assert fault.startswith(f"{path} is damaged: ")
        return
    images = [member for member in listed(data) if is_image(member.name)]
    assert len(samples) + sum(skip.num_images for skip in skipped) == len(images)
    assert all(skip.reason and skip.detail for skip in skipped)
    assert len({(sample.key, sample.index) for sample in samples}) == len(samples)
    if damage[0] == "cut" and len(archives) == 1:  # of several, all that follow may be gone
        assert listed_names(data) == listed_names(whole)
    assert len([name for name in listed_by_gnu_tar(path) if is_image(name)]) == len(images)
    for sample in samples:
        assert data[sample.offset : sample.offset + sample.size] == sample.image


def read(path: str) -> tuple[list[Sample], list[SkippedSample], str]:
    """Samples, skips, and why the shard is damaged."""
    skipped: list[SkippedSample] = []
    try:
        return list(iterate_samples(path, num_classes=None, on_skip=skipped.append)), skipped, ""
    except DamagedShardError as error:
        return [], skipped, str(error)


def listed_names(data: bytes) -> list[str]:
    return [member.name for member in listed(data)]
