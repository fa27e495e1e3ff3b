"""Tar shards: what is streamed, which samples are skipped and why, their ids, and how many may be bad."""

import io
import json
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.data.shards import (
    ErrorBudget,
    SkippedSample,
    TooManyBadSamples,
    iterate_samples,
    read_image_bytes,
    sample_id,
    split_sample_id,
)
from pipeline.io.root import Root
from tests.support.paths import ROOT
from tests.support.tiny_shards import good, jpeg, read, reasons, tar_bytes

DEMO_SHARD = ROOT / "jobs/demo_data/shards/neuron-atlas-demo-000000.tar"


# Streaming.


def test_samples_come_in_order_with_the_range_of_their_image(tmp_path):
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
    assert read_image_bytes(sample.tar_shard, sample.offset, sample.size) == b"image of a"


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


def test_a_sample_without_image_is_skipped(tmp_path):
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


def test_an_empty_image_is_left_to_the_decoder(tmp_path):
    samples, _ = read(tmp_path, tar_bytes([("a.jpg", b""), ("a.cls", b"1")]))
    assert [(s.key, s.size, s.image) for s in samples] == [("a", 0, b"")]


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
