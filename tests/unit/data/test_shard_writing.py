"""Writing tar shards: nothing lost, nothing twice, equal images give equal bytes, bad ones are reported."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.class_folders import FolderNaming
from pipeline.data.shards import NewSample, iterate_samples, unique_slugs, write_shards, write_tar_shards
from pipeline.io.root import Root, StorageError


def jpeg(gray: int = 128) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (gray, gray, gray)).save(buffer, "JPEG")
    return buffer.getvalue()


def image_folder(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number))
    return folder


def stream(out: Path, shards: Iterable[str]) -> list:
    urls = [str(out / shard) for shard in shards]
    return [sample for url in urls for sample in iterate_samples(url, num_classes=None, on_skip=pytest.fail)]


def test_class_folders_become_labels(tmp_path):
    images = image_folder(tmp_path / "in", "zebra/1.jpg", "ant/deep/2.JPEG", "ant/3.jpg", "loose.jpg")
    report = write_shards(images, tmp_path / "out", name="pets")
    assert dict(report.classes.labels) == {"ant": 0, "zebra": 1}
    assert (tmp_path / "out" / "pets-classes.txt").read_text() == "ant\nzebra\n"
    assert report.shards == ("pets-000000.tar",)
    samples = stream(tmp_path / "out", report.shards)
    assert {s.key: s.label for s in samples} == {"ant-3": 0, "ant-deep-2": 0, "loose": None, "zebra-1": 1}
    assert {s.image for s in samples} == {jpeg(number) for number in range(4)}
    with tarfile.open(tmp_path / "out" / report.shards[0]) as tar:
        assert json.load(tar.extractfile("zebra-1.json")) == {"class_name": "zebra", "file": "zebra/1.jpg"}


def test_a_flat_folder_has_no_labels(tmp_path):
    report = write_shards(image_folder(tmp_path / "in", "b.jpg", "a.jpg"), tmp_path / "out", name="x")
    assert [(s.key, s.label) for s in stream(tmp_path / "out", report.shards)] == [("a", None), ("b", None)]
    assert report.classes is None
    assert not (tmp_path / "out" / "x-classes.txt").exists()


def test_given_labels_win_over_folders(tmp_path):
    images = image_folder(tmp_path / "in", "c/1.jpg", "c/2.jpg")
    report = write_shards(images, tmp_path / "out", name="x", labels={"c/1.jpg": 7})
    assert [s.label for s in stream(tmp_path / "out", report.shards)] == [7, None]


def test_bad_images_are_left_out_and_reported(tmp_path):
    images = image_folder(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg", "notes.txt", ".hidden.jpg")
    (images / "b.jpg").write_bytes(jpeg()[:-100])
    (images / "c.jpg").write_bytes(b"")
    report = write_shards(images, tmp_path / "out", name="x")
    assert report.num_samples == 1
    assert [(s.key, s.reason) for s in report.skipped] == [("b", "truncated"), ("c", "empty")]
    assert "b.jpg" in report.skipped[0].detail
    assert report.num_ignored == 1
    assert str(report).splitlines()[0] == "1 samples in 1 tar shards, 0.0 MB, no class folders"
    assert "left out b.jpg" in str(report)


def test_equal_folders_give_equal_bytes(tmp_path):
    first = image_folder(tmp_path / "one", "b/1.jpg", "a/2.jpg")
    second = tmp_path / "two"
    shutil.copytree(first, second, copy_function=shutil.copyfile)
    for images in (first, second):
        write_shards(images, tmp_path / f"out-{images.name}", name="x")
    assert (tmp_path / "out-one/x-000000.tar").read_bytes() == (tmp_path / "out-two/x-000000.tar").read_bytes()


def new_samples(sizes: Iterable[int]) -> list[NewSample]:
    return [
        NewSample(key=f"k{i}", suffix="jpg", image=b"x" * size, label=i, description={}) for i, size in enumerate(sizes)
    ]


@given(
    sizes=st.lists(st.integers(0, 20_000), max_size=20),
    max_samples=st.integers(1, 6),
    max_bytes=st.integers(1, 60_000),
)
def test_nothing_is_lost_nothing_comes_twice_and_the_bounds_hold(tmp_path_factory, sizes, max_samples, max_bytes):
    out = tmp_path_factory.mktemp("bounds")
    samples = new_samples(sizes)
    shards, count = write_tar_shards(samples, Root.open(out), name="x", max_samples=max_samples, max_bytes=max_bytes)
    assert count == len(samples)
    written = stream(out, shards)
    assert [(s.key, s.image, s.label) for s in written] == [(s.key, s.image, s.label) for s in samples]
    for shard in shards:
        in_it = [s for s in written if s.tar_shard.endswith(shard)]
        assert 1 <= len(in_it) <= max_samples
        assert len(in_it) == 1 or (out / shard).stat().st_size <= max_bytes + tarfile.RECORDSIZE


def test_older_shards_of_the_name_are_not_mixed_in(tmp_path):
    out = Root.open(tmp_path)
    write_tar_shards(new_samples([1] * 3), out, name="x", max_samples=1, max_bytes=10**6)
    with pytest.raises(ValueError, match=r"x-000002\.tar"):
        write_tar_shards(new_samples([1] * 2), out, name="x", max_samples=1, max_bytes=10**6)
    write_tar_shards(new_samples([1] * 2), out, name="y", max_samples=1, max_bytes=10**6)


def test_a_full_disk_keeps_the_shards_before(tmp_path, monkeypatch):
    replace, done = os.replace, []

    def replace_twice(source, target):
        if len(done) == 2:
            raise OSError(28, "No space left on device")
        done.append(target)
        replace(source, target)

    monkeypatch.setattr("pipeline.io.root.os.replace", replace_twice)
    with pytest.raises(StorageError, match="disk is full"):
        write_tar_shards(new_samples([1] * 4), Root.open(tmp_path), name="x", max_samples=1, max_bytes=10**6)
    assert [s.key for s in stream(tmp_path, sorted(p.name for p in tmp_path.iterdir()))] == ["k0", "k1"]


def test_a_folder_without_images_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        write_shards(tmp_path / "no", tmp_path / "out", name="x")
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        write_shards(tmp_path / "in", tmp_path / "out", name="x")


@given(st.lists(st.text(max_size=12), max_size=12))
def test_slugs_are_unique_and_plain(names):
    slugs = unique_slugs(names)
    assert len(set(slugs)) == len(names)
    assert all(slug and slug.isascii() and set(slug) <= set(SLUG_CHARACTERS) for slug in slugs)


SLUG_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


def test_slugs_are_readable():
    assert unique_slugs(["Käse & Wein", "kase-wein", "Käse/Wein", "猫"]) == [
        "Kase-Wein",
        "kase-wein",
        "Kase-Wein-2",
        "image",
    ]


def test_what_is_no_data_moves_no_class(tmp_path):
    images = image_folder(
        tmp_path / "in", "b/1.jpg", "b/deep/2.jpg", "c/3.jpg",
        ".ipynb_checkpoints/1.jpg", "@eaDir/1.jpg", "__MACOSX/b/1.jpg", "#recycle/1.jpg", "b/@eaDir/1.jpg", "b/._1.jpg",
    )  # fmt: skip
    (images / "a").mkdir()
    (images / "b" / "again").symlink_to(images, target_is_directory=True)
    (images / "linked").symlink_to(images / "c", target_is_directory=True)
    report = write_shards(images, tmp_path / "out", name="x")
    assert dict(report.classes.labels) == {"a": 0, "b": 1, "c": 2, "linked": 3}
    samples = stream(tmp_path / "out", report.shards)
    assert {s.key: s.label for s in samples} == {"b-1": 1, "b-deep-2": 1, "c-3": 2, "linked-3": 3}
    said = str(report)
    assert "passed over folders that hold no data: #recycle, .ipynb_checkpoints, @eaDir and 2 more" in said
    assert "passed over links to a folder above: b/again" in said
    assert "passed over 1 hidden files" in said
    assert "'a' holds no images; it keeps its index 0" in said
    assert (tmp_path / "out/x-classes.tsv").read_text() == "0\ta\n1\tb\n2\tc\n3\tlinked\n"
    # Another run by numbers leaves no list of the first one.
    write_shards(image_folder(tmp_path / "n", "10/1.jpg", "9/1.jpg"), tmp_path / "out", name="x", naming=FolderNaming())
    assert (tmp_path / "out/x-classes.tsv").read_text() == "9\t9\n10\t10\n"
    assert not (tmp_path / "out/x-classes.txt").exists()


def test_what_cannot_be_read_is_left_out_and_named(tmp_path):
    images = image_folder(tmp_path / "in", "caf\u00e9/1.jpg", "cafe\u0301/1.jpg", "a.jpg")
    (images / "dead.jpg").symlink_to(images / "gone.jpg")
    (images / "a.txt").symlink_to(images / "gone.txt")
    os.mkfifo(images / "pipe.jpg")
    (images / os.fsdecode(b"\xff")).mkdir()
    (images / os.fsdecode(b"\xff/\xfe.jpg")).write_bytes(jpeg())
    report = write_shards(images, tmp_path / "out", name="x")
    assert {s.detail: s.reason for s in report.skipped} == {
        "dead.jpg: No such file or directory": "unreadable",
        "pipe.jpg: not a regular file": "unreadable",
    }
    assert dict(report.classes.labels) == {"\\xff": 0, "caf\u00e9": 1}
    samples = stream(tmp_path / "out", report.shards)
    assert sorted((s.key, s.label) for s in samples) == [("a", None), ("cafe-1", 1), ("cafe-1-2", 1), ("image", 0)]
    assert (tmp_path / "out/x-classes.txt").read_text(encoding="utf-8") == "\\xff\ncaf\u00e9\n"
    str(report).encode()  # can be printed

    for path in images.glob("**/*.jpg"):
        path.unlink()
    (images / "b.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 images in .* can be used: b\.jpg: .* \(empty\)"):
        write_shards(images, tmp_path / "out2", name="x")
