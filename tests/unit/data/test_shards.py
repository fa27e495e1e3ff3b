"""Tar shards: what is streamed, which samples are skipped and why, their ids, and how many may be bad."""

import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile
from pathlib import Path

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


def test_what_is_no_image_of_the_data_set_is_passed_over_and_counted(tmp_path):
    hidden = ["._a.jpg", "d/._a.jpg", "./._a.jpg", "__MACOSX/d/a.jpg", "d/@eaDir/a.jpg/SMALL.jpg", "d/.DS_Store"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo("d.jpg")
        folder.type = tarfile.DIRTYPE
        for header in (folder, *map(tarfile.TarInfo, ["__meta__", "__note__/a.jpg", *hidden])):
            tar.addfile(header)
        header = tarfile.TarInfo("d/a.jpg")
        header.size = 1
        tar.addfile(header, io.BytesIO(b"1"))
    samples, skipped = read(tmp_path, buffer.getvalue())
    assert [sample.key for sample in samples] == ["d/a"]
    assert [(skip.reason, skip.is_bad) for skip in skipped] == [("webdataset-note", False)] + 5 * [
        ("hidden-file", False)
    ]


def test_an_empty_tar_has_no_samples(tmp_path):
    assert read(tmp_path, tar_bytes([])) == ([], [])


# Bad data is skipped, sample by sample.


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        (b"10", "the model has classes 0 to 9"),
        (b"-1", "is negative (leave the member out"),
        (b"1.5", "is a decimal number"),
        (b"3.0\n", "is a decimal number"),
        (b"cat", "'cat' is no number"),
        (b"n01440764", "is no number"),
        (b"", "is empty"),
        (b"1 2", "is several numbers"),
        (b"[3]", "is no number"),
        (b"0x1", "is no number"),
        ("１".encode(), "is no number"),
        (b"1_0", "is no number"),
        (pickle.dumps(3), "is a pickled Python object"),
    ],
)
def test_a_bad_label_is_skipped_and_named(tmp_path, label, fault):
    members = [*good("a"), ("b.jpg", b"1"), ("b.cls", label), *good("c")]
    samples, skipped = read(tmp_path, tar_bytes(members))
    assert [(s.key, s.index) for s in samples] == [("a", 0), ("c", 2)]
    assert reasons(skipped) == [("b", 1, "bad-label")]
    assert skipped[0].detail.startswith("label ")
    assert fault in skipped[0].detail


def test_labels_at_the_bounds_are_taken(tmp_path):
    members = [("a.jpg", b"1"), ("a.cls", b"0"), ("b.jpg", b"1"), ("b.cls", b" 9\n"), ("c.jpg", b"1")]
    members.append(("c.cls", b"\xef\xbb\xbf3"))  # with a byte order mark
    samples, skipped = read(tmp_path, tar_bytes(members))
    assert [s.label for s in samples] == [0, 9, 3]
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


def test_images_whose_names_have_dots_are_each_skipped_with_a_hint(tmp_path):
    members = [*good("a"), *((f"cat.{number}.jpg", b"1") for number in range(40)), ("cat.txt", b"cats"), *good("b")]
    samples, skipped = read(tmp_path, tar_bytes(members))
    assert [(s.key, s.index) for s in samples] == [("a", 0), ("b", 2)]
    assert reasons(skipped) == 40 * [("cat", 1, "dotted-name")]
    assert all(skip.is_bad and skip.num_images == 1 for skip in skipped)
    for part in ("cat.0.jpg", '"cat"', '"0.jpg"', "neuron-atlas shards", "data.image_key"):
        assert part in skipped[0].detail
    budget = ErrorBudget(0.01)
    budget.add_good(len(samples))
    for skipped_sample in skipped:
        budget.add_skip(skipped_sample)
    with pytest.raises(TooManyBadSamples, match=r"40 of 42 samples are bad .*dotted-name \(cat in"):
        budget.check()


def test_further_images_of_a_key_are_counted_and_no_loss_where_most_keys_have_them(tmp_path):
    pairs = [(f"{number}.{suffix}", b"1") for number in range(3) for suffix in ("png", "jpg", "mask.png")]
    samples, skipped = read(tmp_path, tar_bytes(pairs))
    assert [(sample.key, sample.image) for sample in samples] == [("0", b"1"), ("1", b"1"), ("2", b"1")]
    assert {skip.is_bad for skip in skipped} == {False}
    assert sorted(skip.reason for skip in skipped) == 3 * ["annotation"] + 3 * ["other-format"]

    one_more = [*pairs, *((f"2.{number}.jpg", b"1") for number in range(3))]
    _, skipped = read(tmp_path, tar_bytes(one_more))
    assert [(skip.key, skip.reason, skip.is_bad) for skip in skipped[-3:]] == 3 * [("2", "dotted-name", True)]


def test_a_suffix_with_dots_in_image_key_names_the_image_and_its_masks_are_nothing(tmp_path):
    members = [(f"{number}.{suffix}", b"1") for number in range(3) for suffix in ("image.jpg", "mask.jpg", "mask.png")]
    samples, skipped = read(tmp_path, tar_bytes(members), image_key="image.jpg")
    assert ([sample.key for sample in samples], skipped) == (["0", "1", "2"], [])
    samples, skipped = read(tmp_path, tar_bytes(members))
    assert (samples, {skip.reason for skip in skipped}, len(skipped)) == ([], {"dotted-name"}, 9)


def test_names_in_other_encodings_stay_different(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name in "éè":
            tar.addfile(tarfile.TarInfo(f"caf{name}.jpg"))
    samples, skipped = read(tmp_path, buffer.getvalue())
    assert ([sample.key for sample in samples], skipped) == (["caf\\xe9", "caf\\xe8"], [])


def test_several_archives_in_one_file_are_one_shard(tmp_path):
    first, second = tar_bytes([*good("a"), *good("b")]), tar_bytes(good("c"), tarfile.PAX_FORMAT)
    data = first + second + tar_bytes([*good("d"), *good("a")])
    samples, skipped = read(tmp_path, data)
    assert [sample.key for sample in samples] == ["a", "b", "c", "d"]
    assert reasons(skipped) == [("a", 4, "duplicate-key")]
    assert all(data[s.offset : s.offset + s.size] == s.image for s in samples)


# Members whose data lie elsewhere, as GNU tar writes them.


def packed(folder: Path, *options: str) -> bytes:
    command = ["tar", "--sort=name", *options, "--create", "--file", "-", "--directory", str(folder), "."]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@pytest.mark.parametrize("form", ["gnu", "posix", "ustar"])
def test_links_give_the_data_of_their_target_or_are_counted(tmp_path, form):
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.jpg").write_bytes(b"image")
    (folder / "b.cls").write_bytes(b"3")
    os.link(folder / "b.jpg", folder / "c.jpg")
    os.link(folder / "b.cls", folder / "c.cls")
    os.symlink("b.jpg", folder / "a.jpg")  # leads to a member that follows
    os.symlink("../a.jpg", folder / "sub/d.jpg")
    os.symlink("/etc/passwd", folder / "e.jpg")
    os.symlink("g.jpg", folder / "f.jpg")
    os.symlink("f.jpg", folder / "g.jpg")
    (folder / "h.jpg").write_bytes(b"more")
    os.symlink("nowhere", folder / "h.cls")
    data = packed(folder, f"--format={form}")
    samples, skipped = read(tmp_path, data)
    expected = {"./a": None, "./b": 3, "./c": 3, "./sub/d": None}
    assert {sample.key: sample.label for sample in samples} == expected
    assert {sample.image for sample in samples} == {b"image"}
    assert all(read_image_bytes(s.tar_shard, s.offset, s.size) == b"image" for s in samples)
    assert {skip.key: skip.reason for skip in skipped} == {
        "./e": "broken-link", "./f": "broken-link", "./g": "broken-link", "./h": "bad-label",
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@pytest.mark.parametrize("form", ["--format=gnu", "--format=posix", "--sparse-version=0.0", "--sparse-version=0.1"])
def test_sparse_members_are_counted_and_those_between_are_read(tmp_path, form):
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(4):
        with (folder / f"{number}.jpg").open("wb") as file:
            file.write(b"image")
            if number % 2:
                file.truncate(200_000)
    forms = [form] if "format" in form else ["--format=posix", form]
    samples, skipped = read(tmp_path, packed(folder, "--sparse", *forms))
    assert [(sample.key, sample.image) for sample in samples] == [("./0", b"image"), ("./2", b"image")]
    assert [(skip.key, skip.reason) for skip in skipped] == [("./1", "sparse-member"), ("./3", "sparse-member")]
    assert "write the tar without --sparse" in skipped[0].detail


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
