"""Damaged tar shards are named and give nothing; what is not the data's fault goes through."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.shards import DamagedShardError, iterate_samples, read_image_bytes
from pipeline.io.root import StorageError
from tests.support.tiny_shards import good, jpeg, read, tar_bytes

# A shard that ends early, or is none, gives nothing: it is damaged as a whole.

KEYS = [f"k{i}" for i in range(5)]
WHOLE = tar_bytes([member for key in KEYS for member in good(key)])
MEMBER_BYTES = 2 * tarfile.BLOCKSIZE  # header and one block of data
SAMPLE_BYTES = 3 * MEMBER_BYTES
END = len(KEYS) * SAMPLE_BYTES


def damage(folder: Path, data: bytes) -> str:
    """What is said of a damaged shard."""
    with pytest.raises(DamagedShardError) as caught:
        read(folder, data)
    assert str(caught.value).startswith(f"{folder / 's.tar'} is damaged: ")
    return str(caught.value).partition(": ")[2]


@given(cut=st.integers(0, END + tarfile.BLOCKSIZE - 1))
def test_a_cut_shard_is_damaged_wherever_it_is_cut(tmp_path_factory, cut):
    damage(tmp_path_factory.getbasetemp(), WHOLE[:cut])


@given(cut=st.integers(END + tarfile.BLOCKSIZE, len(WHOLE)))
def test_padding_may_be_missing(tmp_path_factory, cut):
    samples, skipped = read(tmp_path_factory.getbasetemp(), WHOLE[:cut])
    assert ([sample.key for sample in samples], skipped) == (KEYS, [])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"<html><body>503 Slow down</body></html>" * 40, "it is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64,
            "a pointer of Git LFS.*lfs pull",
        ),
        (jpeg(), "no tar header at byte 0"),
        (b"\1" * 20_000, "no tar header at byte 0"),
        (bytes(40_960), "zeros from byte 0 on"),
        (WHOLE[: 2 * SAMPLE_BYTES] + bytes(40_960), f"zeros from byte {2 * SAMPLE_BYTES} on"),
        (
            WHOLE[:SAMPLE_BYTES] + bytes(SAMPLE_BYTES) + WHOLE[2 * SAMPLE_BYTES :],
            f"zeros .* at byte {SAMPLE_BYTES}",
        ),
        (WHOLE + b"garbage" * 100, f"no tar header at byte {len(WHOLE)}"),
        (WHOLE + bytes(tarfile.RECORDSIZE) + WHOLE, f"zeros from byte {END} on"),
        (WHOLE[:END] + bytes(1024) + WHOLE, f"the zeros of an end mark at byte {END}"),
        (WHOLE[: END - 100], "it ends at byte .*, inside k4.json"),
        (WHOLE[:END], f"it ends at byte {END}, without the end mark"),
    ],
)
def test_what_is_no_whole_tar_is_named_with_the_reason(tmp_path, data, message):
    assert re.search(message, damage(tmp_path, data))


def test_garbage_in_the_middle_is_not_taken_for_the_end(tmp_path):
    damaged = bytearray(WHOLE)
    start = 2 * SAMPLE_BYTES
    damaged[start : start + tarfile.BLOCKSIZE] = b"\xaa" * tarfile.BLOCKSIZE
    assert f"no tar header at byte {start}" in damage(tmp_path, bytes(damaged))


@pytest.mark.timeout(20)
def test_a_negative_size_does_not_loop_for_ever(tmp_path):
    header = tarfile.TarInfo("x.jpg")
    header.size = -tarfile.BLOCKSIZE  # the next header would be this one again (CVE-2025-8194)
    data = WHOLE[: 2 * SAMPLE_BYTES] + header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)
    assert "impossible size" in damage(tmp_path, data)


def test_a_size_beyond_the_file_is_a_cut(tmp_path):
    header = tarfile.TarInfo("x.jpg")
    header.size = 8_000_000_000
    data = WHOLE[: 2 * SAMPLE_BYTES] + header.tobuf(tarfile.USTAR_FORMAT) + b"few bytes"
    assert "inside x.jpg" in damage(tmp_path, data)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_damaged_long_name_is_noticed_though_no_checksum_covers_it(tmp_path, tar_format):
    data = bytearray(tar_bytes([("n" * 150 + ".jpg", b"1234")], tar_format))
    data[tarfile.BLOCKSIZE + 140] = 0
    data[tarfile.BLOCKSIZE] = ord("x") if tar_format == tarfile.PAX_FORMAT else ord("n")
    assert "extended header at byte 0" in damage(tmp_path, bytes(data))


@settings(max_examples=100)
@given(edits=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6))
def test_a_shard_with_changed_bytes_has_all_its_samples_or_is_damaged(tmp_path_factory, edits):
    damaged = bytearray(WHOLE)
    for position, value in edits:
        damaged[position] = value
    try:
        samples, skipped = read(tmp_path_factory.getbasetemp(), bytes(damaged))
    except DamagedShardError:
        assert bytes(damaged) != WHOLE
        return
    assert len(samples) + len(skipped) == len(KEYS)
    assert sorted([s.index for s in samples] + [s.index for s in skipped]) == list(range(len(KEYS)))


@pytest.mark.parametrize(
    ("compress", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")]
)
def test_a_compressed_shard_is_an_error_with_the_remedy(tmp_path, compress, name):
    with pytest.raises(ValueError, match=f"compressed with {name}.*Unpack it to a plain .tar"):
        read(tmp_path, compress(WHOLE))


# What is not the data's fault goes through.


def test_a_missing_shard_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(iterate_samples(str(tmp_path / "no.tar"), num_classes=1, on_skip=pytest.fail))


def test_an_unreadable_shard_is_an_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(StorageError, match="no permission"):
        next(iterate_samples(str(tmp_path / "s.tar"), num_classes=1, on_skip=pytest.fail))


def test_a_failing_disk_is_no_bad_sample(tmp_path):
    class FailingFile(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > SAMPLE_BYTES:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.shards.open_for_reading", lambda url: FailingFile(WHOLE))
        with pytest.raises(OSError, match="Input/output error"):
            list(iterate_samples("x.tar", num_classes=10, on_skip=pytest.fail))


def test_an_error_of_the_code_is_no_bad_sample(tmp_path, monkeypatch):
    def broken(member, num_classes):
        raise KeyError("a bug")

    monkeypatch.setattr("pipeline.data.grouping._parse_label", broken)
    with pytest.raises(KeyError, match="a bug"):
        read(tmp_path, WHOLE)


def test_an_error_of_the_grouping_is_no_bad_sample(tmp_path, monkeypatch):
    calls = []

    def broken(sample):
        calls.append(sample)
        if len(calls) == 1:
            raise ValueError("a bug")
        return bool(sample)

    monkeypatch.setattr("webdataset.tariterators.valid_sample", broken)
    with pytest.raises(ValueError, match="a bug"):
        read(tmp_path, WHOLE)


def test_an_error_of_the_consumer_is_no_bad_sample(tmp_path):
    def fail(skip):
        raise RuntimeError("the caller's own")

    (tmp_path / "s.tar").write_bytes(tar_bytes([("a.cls", b"1")]))
    with pytest.raises(RuntimeError, match="the caller's own"):
        list(iterate_samples(str(tmp_path / "s.tar"), num_classes=1, on_skip=fail))


def test_a_shard_that_changed_is_noticed(tmp_path):
    samples, _ = read(tmp_path, WHOLE)
    (tmp_path / "s.tar").write_bytes(WHOLE[:1000])
    with pytest.raises(StorageError, match="collect the statistics again"):
        read_image_bytes(samples[-1].tar_shard, samples[-1].offset, samples[-1].size)
