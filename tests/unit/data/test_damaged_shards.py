"""Damaged tar shards: what lies before the damage is read, then one skip; what is not the data's fault goes through."""

import bz2
import gzip
import io
import lzma
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.shards import iterate_samples, read_image_bytes
from pipeline.io.root import StorageError
from tests.support.tiny_shards import good, jpeg, read, reasons, tar_bytes

# Shards that stop early.

KEYS = [f"k{i}" for i in range(5)]
WHOLE = tar_bytes([member for key in KEYS for member in good(key)])
MEMBER_BYTES = 2 * tarfile.BLOCKSIZE  # header and one block of data
SAMPLE_BYTES = 3 * MEMBER_BYTES


@given(cut=st.integers(0, 5 * SAMPLE_BYTES))
def test_a_cut_shard_gives_every_sample_before_the_cut(tmp_path_factory, cut):
    samples, skipped = read(tmp_path_factory.getbasetemp(), WHOLE[:cut])
    num_whole = cut // SAMPLE_BYTES
    # The data of the last member may be whole although the block it lies in is cut.
    expected = [KEYS[:num_whole], KEYS[: num_whole + 1]] if num_whole != 1 else [[], KEYS[:1], KEYS[:2]]
    keys = [s.key for s in samples]
    assert keys in expected
    assert all(s.label == 1 and s.image == b"image of " + s.key.encode() for s in samples)
    assert [(s.index, s.reason) for s in skipped] == [(len(samples), "truncated-shard")]


def test_a_cut_between_image_and_label_gives_no_unlabeled_sample(tmp_path):
    cut = 2 * SAMPLE_BYTES + MEMBER_BYTES
    samples, skipped = read(tmp_path, WHOLE[:cut])
    assert [(s.key, s.label) for s in samples] == [("k0", 1), ("k1", 1)]
    assert [skip.reason for skip in skipped] == ["truncated-shard"]


def test_the_first_sample_under_a_cut_is_dropped(tmp_path):
    samples, skipped = read(tmp_path, WHOLE[:MEMBER_BYTES])
    assert samples == []
    assert [skip.reason for skip in skipped] == ["truncated-shard"]


def test_a_zero_byte_shard_is_one_skip(tmp_path):
    samples, skipped = read(tmp_path, b"")
    assert (samples, reasons(skipped)) == ([], [("", 0, "truncated-shard")])


@pytest.mark.parametrize("data", [b"<html>403 Forbidden</html>" * 40, jpeg(), b"\1" * 20_000])
def test_what_is_no_tar_is_one_skip(tmp_path, data):
    samples, skipped = read(tmp_path, data)
    assert samples == []
    assert [skip.reason for skip in skipped] in (["corrupt-shard"], ["truncated-shard"])


def test_garbage_in_the_middle_is_not_taken_for_the_end(tmp_path):
    damaged = bytearray(WHOLE)
    start = 2 * SAMPLE_BYTES
    damaged[start : start + tarfile.BLOCKSIZE] = b"\xaa" * tarfile.BLOCKSIZE
    samples, skipped = read(tmp_path, bytes(damaged))
    assert [s.key for s in samples] == ["k0", "k1"]
    assert reasons(skipped) == [("", 2, "corrupt-shard")]
    assert str(start) in skipped[0].detail


@pytest.mark.timeout(20)
def test_a_negative_size_does_not_loop_for_ever(tmp_path):
    header = tarfile.TarInfo("x.jpg")
    header.size = -tarfile.BLOCKSIZE  # the next header would be this one again (CVE-2025-8194)
    samples, skipped = read(tmp_path, WHOLE[: 2 * SAMPLE_BYTES] + header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    assert [s.key for s in samples] == ["k0", "k1"]
    assert [(skip.index, skip.reason) for skip in skipped] == [(2, "corrupt-shard")]


def test_a_size_beyond_the_file_is_a_cut(tmp_path):
    header = tarfile.TarInfo("x.jpg")
    header.size = 8_000_000_000
    data = WHOLE[: 2 * SAMPLE_BYTES] + header.tobuf(tarfile.USTAR_FORMAT) + b"few bytes"
    samples, skipped = read(tmp_path, data)
    assert [s.key for s in samples] == ["k0", "k1"]
    assert reasons(skipped) == [("x", 2, "truncated-shard")]


@settings(max_examples=200)
@given(edits=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6))
def test_damaged_shards_never_raise_and_never_hang(tmp_path_factory, edits):
    damaged = bytearray(WHOLE)
    for position, value in edits:
        damaged[position] = value
    samples, skipped = read(tmp_path_factory.getbasetemp(), bytes(damaged))
    assert len(samples) + len(skipped) <= 3 * len(KEYS) + 1
    if not edits:
        assert len(samples) == len(KEYS)
    indices = sorted([s.index for s in samples] + [s.index for s in skipped])
    assert indices == list(range(len(indices)))


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

    monkeypatch.setattr("pipeline.data.shards._parse_label", broken)
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
