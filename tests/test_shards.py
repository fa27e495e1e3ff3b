"""Tar shards: what is streamed, what is skipped and why, what goes through, what is written."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.shards import (
    ErrorBudget,
    SkippedSample,
    TooManyBadSamples,
    iterate_samples,
    read_image_bytes,
    sample_id,
    split_sample_id,
)
from pipeline.storage import Root, StorageError

DEMO_SHARD = Path(__file__).parent.parent / "jobs/demo_data/shards/neuron-atlas-demo-000000.tar"


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
        (f"{key}.jpg", b"picture of " + key.encode()),
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


# Streaming.


def test_samples_come_in_order_with_the_range_of_their_picture(tmp_path):
    data = tar_bytes([*good("a", 1), *good("b/c", 2), ("d.jpg", b"unlabeled")])
    samples, skipped = read(tmp_path, data)
    assert [(s.key, s.index, s.label) for s in samples] == [("a", 0, 1), ("b/c", 1, 2), ("d", 2, None)]
    assert skipped == []
    for sample in samples:
        assert data[sample.offset : sample.offset + sample.size] == sample.image
        assert read_image_bytes(sample.tar_shard, sample.offset, sample.size) == sample.image


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_keep_their_ranges(tmp_path, tar_format):
    long = "n" * 99 if tar_format == tarfile.USTAR_FORMAT else "Ä" * 200
    samples, _ = read(tmp_path, tar_bytes([*good("a"), (f"{long}/x.jpg", b"1234"), *good("b")], tar_format))
    assert [sample.key for sample in samples] == ["a", f"{long}/x", "b"]
    assert [read_image_bytes(s.tar_shard, s.offset, s.size) for s in samples] == [s.image for s in samples]


def test_a_shard_in_the_form_of_public_imagenet_is_read(tmp_path):
    """Members as in imagenet1k-train-0000.tar: key `synset_number`, .cls as text, a .json beside it."""
    description = json.dumps({"label": 207, "width": 8, "height": 8, "filename": "n02099601_1.JPEG"}).encode()
    with webdataset.TarWriter(str(tmp_path / "imagenet1k-train-0000.tar"), encoder=False) as writer:
        for number in range(3):
            key = f"n02099601_{number}"
            writer.write({"__key__": key, "jpg": jpeg(number), "cls": b"207", "json": description})
    samples = list(iterate_samples(str(tmp_path / "imagenet1k-train-0000.tar"), num_classes=1000, on_skip=pytest.fail))
    assert [(s.key, s.label, s.image) for s in samples] == [
        (f"n02099601_{number}", 207, jpeg(number)) for number in range(3)
    ]


def test_streams_what_webdataset_itself_reads():
    ours = list(iterate_samples(str(DEMO_SHARD), num_classes=1000, on_skip=pytest.fail))
    with open(DEMO_SHARD, "rb") as file:
        members = tar_file_expander([{"url": str(DEMO_SHARD), "stream": file}])
        theirs = [(s["__key__"], s["jpg"], s.get("cls")) for s in group_by_keys(members)]
    assert [(s.key, s.image, None if s.label is None else b"%d" % s.label) for s in ours] == theirs


def test_remote_shards_are_read_by_url():
    root = Root.open("memory://shards-remote")
    root.write_bytes("s.tar", tar_bytes(good("a")))
    (sample,) = iterate_samples(f"{root.url}/s.tar", num_classes=None, on_skip=pytest.fail)
    assert read_image_bytes(sample.tar_shard, sample.offset, sample.size) == b"picture of a"


def test_keys_choose_the_members(tmp_path):
    members = [("a.png", b"png"), ("a.JPG", b"jpg"), ("a.label.txt", b"3"), ("a.cls", b"4")]
    samples, _ = read(tmp_path, tar_bytes(members), image_key="webp; png", label_key="label.txt;cls")
    assert [(s.image, s.label) for s in samples] == [(b"png", 3)]
    samples, _ = read(tmp_path, tar_bytes(members))
    assert [(s.image, s.label) for s in samples] == [(b"jpg", 4)]


def test_folders_links_and_notes_are_passed_over(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("l.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        for header in (folder, link, tarfile.TarInfo("__meta__"), tarfile.TarInfo("._hidden.jpg")):
            tar.addfile(header)
        header = tarfile.TarInfo("d/a.jpg")
        header.size = 1
        tar.addfile(header, io.BytesIO(b"1"))
    samples, skipped = read(tmp_path, buffer.getvalue())
    assert [sample.key for sample in samples] == ["d/a"]
    assert skipped == []


def test_an_empty_tar_has_no_samples(tmp_path):
    assert read(tmp_path, tar_bytes([])) == ([], [])


# Bad data is skipped, sample by sample.


@pytest.mark.parametrize("label", [b"10", b"-1", b"1.5", b"cat", b"", b"1 2", b"0x1", "１".encode(), b"1_0"])
def test_a_bad_label_is_skipped_and_named(tmp_path, label):
    members = [*good("a"), ("b.jpg", b"1"), ("b.cls", label), *good("c")]
    samples, skipped = read(tmp_path, tar_bytes(members))
    assert [(s.key, s.index) for s in samples] == [("a", 0), ("c", 2)]
    assert reasons(skipped) == [("b", 1, "bad-label")]
    assert "label" in skipped[0].detail


def test_labels_at_the_bounds_are_taken(tmp_path):
    members = [("a.jpg", b"1"), ("a.cls", b"0"), ("b.jpg", b"1"), ("b.cls", b" 9\n")]
    samples, skipped = read(tmp_path, tar_bytes(members))
    assert [s.label for s in samples] == [0, 9]
    assert skipped == []


def test_without_a_number_of_classes_any_index_is_taken(tmp_path):
    samples, _ = read(tmp_path, tar_bytes([("a.jpg", b"1"), ("a.cls", b"123456")]), num_classes=None)
    assert [s.label for s in samples] == [123456]


def test_a_sample_without_picture_is_skipped(tmp_path):
    samples, skipped = read(tmp_path, tar_bytes([("README.md", b"hello"), *good("a"), ("b.cls", b"1")]))
    assert [s.key for s in samples] == ["a"]
    assert reasons(skipped) == [("README", 0, "no-image"), ("b", 2, "no-image")]


def test_a_key_that_comes_again_is_skipped(tmp_path):
    samples, skipped = read(tmp_path, tar_bytes(good("a", 1) + good("b") + good("a", 2)))
    assert [(s.key, s.label) for s in samples] == [("a", 1), ("b", 1)]
    assert reasons(skipped) == [("a", 2, "duplicate-key")]


def test_members_that_stand_twice_in_a_row_are_one_duplicate(tmp_path):
    samples, skipped = read(tmp_path, tar_bytes(good("a", 1) + good("a", 2) + good("b")))
    assert [(s.key, s.index, s.label) for s in samples] == [("a", 0, 1), ("b", 2, 1)]
    assert reasons(skipped) == [("a", 1, "duplicate-key")]


def test_an_empty_picture_is_left_to_the_decoder(tmp_path):
    samples, _ = read(tmp_path, tar_bytes([("a.jpg", b""), ("a.cls", b"1")]))
    assert [(s.key, s.size, s.image) for s in samples] == [("a", 0, b"")]


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
    assert all(s.label == 1 and s.image == b"picture of " + s.key.encode() for s in samples)
    assert [(s.index, s.reason) for s in skipped] == [(len(samples), "truncated-shard")]


def test_a_cut_between_picture_and_label_gives_no_unlabeled_sample(tmp_path):
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
        patch.setattr("pipeline.shards.open_for_reading", lambda url: FailingFile(WHOLE))
        with pytest.raises(OSError, match="Input/output error"):
            list(iterate_samples("x.tar", num_classes=10, on_skip=pytest.fail))


def test_an_error_of_the_code_is_no_bad_sample(tmp_path, monkeypatch):
    def broken(member, num_classes):
        raise KeyError("a bug")

    monkeypatch.setattr("pipeline.shards._parse_label", broken)
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


# Ids and the error budget.


@given(st.integers(0, 2**39 - 1), st.integers(0, 2**24 - 1))
def test_ids_split_back_and_fit_in_int64(shard, index):
    assert split_sample_id(sample_id(shard, index)) == (shard, index)
    assert sample_id(shard, index) < 2**63


@given(st.tuples(st.integers(0, 99), st.integers(0, 99)), st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_ids_sort_like_shard_and_position(first, second):
    assert (sample_id(*first) < sample_id(*second)) == (first < second)


@pytest.mark.parametrize("bad", [(-1, 0), (0, -1), (0, 2**24), (2**39, 0)])
def test_ids_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        sample_id(*bad)


def skip(number: int = 0) -> SkippedSample:
    return SkippedSample(key=f"k{number}", tar_shard="s.tar", index=number, reason="truncated", detail="cut")


@given(num_good=st.integers(0, 50), num_bad=st.integers(0, 50), bound=st.floats(0, 1))
def test_the_budget_holds_the_bound(num_good, num_bad, bound):
    budget = ErrorBudget(bound)
    budget.add_good(num_good)
    for number in range(num_bad):
        budget.add_skip(skip(number))
    if num_bad > bound * (num_good + num_bad):
        with pytest.raises(TooManyBadSamples):
            budget.check()
    else:
        budget.check()
    assert budget.counts() == ({"truncated": num_bad} if num_bad else {})


def test_the_budget_says_what_went_wrong_and_what_to_do():
    budget = ErrorBudget(0.01)
    budget.add_good(98)
    for number in range(2):
        budget.add_skip(skip(number))
    with pytest.raises(TooManyBadSamples) as caught:
        budget.check()
    for part in ("2 of 100", "2.00%", "1.00%", "truncated (k0 in s.tar: cut)", "data.max_error_fraction"):
        assert part in str(caught.value)


@pytest.mark.parametrize("bound", [-0.1, 1.1, float("nan")])
def test_a_bound_outside_0_to_1_is_refused(bound):
    with pytest.raises(ValueError, match="from 0 to 1"):
        ErrorBudget(bound)
