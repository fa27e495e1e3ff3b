"""Storage: atomic writes, paths that stay inside, errors with a remedy, file patterns."""

import errno
import multiprocessing
import os
import pickle
import signal
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.io.root import (
    TEMPORARY_PREFIX,
    Root,
    StorageError,
    expand_urls,
    open_for_reading,
    read_range,
)


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path) -> Root:
    if request.param == "local":
        return Root.open(tmp_path / "out")
    return Root.open(f"memory://test-{uuid.uuid4().hex}")


class TestRoot:
    """What every root does, wherever it lies."""

    def test_reads_back_what_was_written(self, root):
        root.write_bytes("a/b/c.bin", b"0123456789")
        assert root.read_bytes("a/b/c.bin") == b"0123456789"
        assert root.size_bytes("a/b/c.bin") == 10

    def test_overwrites(self, root):
        root.write_text("note", "long text")
        root.write_text("note", "é")
        assert root.read_text("note") == "é"

    def test_reads_a_byte_range(self, root):
        root.write_bytes("x", b"0123456789")
        assert root.read_bytes("x", offset=3, size=4) == b"3456"
        assert root.read_bytes("x", offset=8) == b"89"
        assert root.read_bytes("x", offset=4, size=0) == b""

    def test_a_range_beyond_the_end_is_an_error(self, root):
        root.write_bytes("x", b"0123456789")
        with pytest.raises(StorageError, match=r"bytes 8–12 .* gave only 2"):
            root.read_bytes("x", offset=8, size=4)

    def test_json_is_the_same_for_equal_values(self, root):
        root.write_json("a.json", {"b": [1, 2], "a": "é"})
        root.write_json("b.json", {"a": "é", "b": [1, 2]})
        assert root.read_json("a.json") == {"a": "é", "b": [1, 2]}
        assert root.read_bytes("a.json") == root.read_bytes("b.json")
        assert root.read_bytes("a.json").endswith(b"}\n")

    def test_lists_sorted_names(self, root):
        for path in ("d/z", "d/a/x", "d/m"):
            root.write_bytes(path, b"1")
        assert root.list("d") == ["a", "m", "z"]
        assert root.walk("d") == ["a/x", "m", "z"]
        assert root.walk() == ["d/a/x", "d/m", "d/z"]

    def test_an_absent_folder_is_empty(self, root):
        assert root.list() == []
        assert root.list("no/such") == []
        assert root.walk("no/such") == []

    def test_a_missing_file_is_a_file_not_found_error(self, root):
        root.write_bytes("there", b"1")
        with pytest.raises(FileNotFoundError):
            root.read_bytes("missing")
        with pytest.raises(FileNotFoundError):
            root.size_bytes("missing")

    def test_removes_files_and_trees(self, root):
        root.write_bytes("d/a/x", b"1")
        root.write_bytes("f", b"1")
        root.remove("d")
        root.remove("f")
        root.remove("never-was")
        assert not root.exists("d/a/x")
        assert root.walk() == []

    def test_join_is_the_same_place(self, root):
        root.join("a", "b").write_bytes("c", b"1")
        assert root.read_bytes("a/b/c") == b"1"
        assert root.exists("a/b")

    def test_survives_pickling(self, root):
        root.write_bytes("x", b"1")
        assert pickle.loads(pickle.dumps(root)).read_bytes("x") == b"1"

    @pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a\\b", "a\0", "a/"])
    def test_paths_stay_inside(self, root, path):
        with pytest.raises(ValueError, match="relative path"):
            root.write_bytes(path, b"1")
        with pytest.raises(ValueError, match="relative path"):
            root.read_bytes(path)
        with pytest.raises(ValueError, match="relative path"):
            root.join(path)


def test_local_path_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Root.open("here").local_path == tmp_path / "here"
    assert Root.open("file:///a/b").local_path == Path("/a/b")
    assert Root.open("file:///a/b").is_local


def test_a_remote_root_has_no_local_path():
    root = Root.open("memory://x")
    assert not root.is_local
    with pytest.raises(ValueError, match="not a local folder"):
        _ = root.local_path


@pytest.mark.parametrize("url", ["", "nosuch://bucket/x"])
def test_a_bad_root_names_itself(url):
    with pytest.raises(ValueError, match="expected a"):
        Root.open(url)


def test_a_missing_protocol_package_names_the_extra(monkeypatch):
    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(ValueError, match=r"pip install 'neuron-atlas\[s3\]'"):
        Root.open("s3://bucket/x")


# What the system says, and what the user is told to do about it.
FAILURES = [
    (errno.ENOSPC, "disk is full"),
    (errno.EDQUOT, "quota"),
    (errno.EROFS, "read-only"),
    (errno.EACCES, "no permission"),
]


@pytest.mark.parametrize(("number", "remedy"), FAILURES)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, number, remedy, call):
    root = Root.open(tmp_path)
    root.write_bytes("a/x", b"old")

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"pipeline.io.root.os.{call}", fail)
        with pytest.raises(StorageError, match=remedy) as caught:
            root.write_bytes("a/x", b"new")
    assert caught.value.errno == number
    assert str(tmp_path / "a" / "x") in str(caught.value)
    assert os.listdir(tmp_path / "a") == ["x"]
    assert root.read_bytes("a/x") == b"old"


def test_a_disk_that_fills_up_during_the_write_keeps_the_old_file(tmp_path, monkeypatch):
    root = Root.open(tmp_path)
    root.write_bytes("x", b"old")
    write, calls = os.write, []

    def write_a_little(descriptor, data):
        calls.append(len(data))
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:3])

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.io.root.os.write", write_a_little)
        with pytest.raises(StorageError, match="disk is full"):
            root.write_bytes("x", b"0123456789")
    assert calls == [10, 7, 4]
    assert os.listdir(tmp_path) == ["x"]
    assert root.read_bytes("x") == b"old"


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr("pipeline.io.root.os.write", lambda descriptor, data: write(descriptor, data[:3]))
    root = Root.open(tmp_path)
    root.write_bytes("x", b"0123456789")
    assert root.read_bytes("x") == b"0123456789"


def test_the_first_error_is_reported_when_cleaning_up_fails_too(tmp_path, monkeypatch):
    def fail(number):
        def call(*args, **kwargs):
            raise OSError(number, os.strerror(number))

        return call

    monkeypatch.setattr("pipeline.io.root.os.fsync", fail(errno.ENOSPC))
    monkeypatch.setattr("pipeline.io.root.os.unlink", fail(errno.EROFS))
    with pytest.raises(StorageError, match="disk is full"):
        Root.open(tmp_path).write_bytes("x", b"1")


def test_a_remote_refusal_without_a_number_is_explained(monkeypatch):
    root = Root.open("memory://refused")

    def refuse(*args, **kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", refuse)
    with pytest.raises(StorageError, match=r"memory://refused/x: Access Denied; check that the credentials") as caught:
        root.write_bytes("x", b"1")
    assert caught.value.errno == errno.EACCES


def test_a_folder_in_the_way_is_explained(tmp_path):
    root = Root.open(tmp_path)
    root.write_bytes("a", b"1")
    with pytest.raises(StorageError, match="cannot write"):
        root.write_bytes("a/b", b"1")
    assert root.read_bytes("a") == b"1"


def test_a_storage_error_survives_pickling():
    error = pickle.loads(pickle.dumps(StorageError(errno.ENOSPC, "cannot write x")))
    assert (error.errno, str(error)) == (errno.ENOSPC, "[Errno 28] cannot write x")


def test_temporaries_are_not_listed(tmp_path):
    root = Root.open(tmp_path)
    root.write_bytes("d/x", b"1")
    (tmp_path / "d" / f"{TEMPORARY_PREFIX}host-1-ab").write_bytes(b"")
    (tmp_path / "d" / "c.0123.partial").write_bytes(b"")
    assert root.list("d") == ["x"]
    assert root.walk() == ["d/x"]


def die_before_the_rename(root: Root) -> None:
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    root.write_bytes("d/x", b"new")


def test_sweep_removes_what_a_killed_writer_left(tmp_path):
    """A real process dies between write and rename."""
    root = Root.open(tmp_path)
    root.write_bytes("d/x", b"old")
    writer = multiprocessing.get_context("spawn").Process(target=die_before_the_rename, args=(root,))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert len(os.listdir(tmp_path / "d")) == 2
    assert root.read_bytes("d/x") == b"old"
    assert root.sweep() == 1
    assert os.listdir(tmp_path / "d") == ["x"]


def test_sweep_keeps_what_may_still_be_written(tmp_path, monkeypatch):
    root = Root.open(tmp_path)
    seen = []

    def sweep_meanwhile(source, target):
        seen.append(root.sweep(stale_after_s=0))
        os.rename(source, target)

    monkeypatch.setattr("pipeline.io.root.os.replace", sweep_meanwhile)
    root.write_bytes("x", b"1")
    assert seen == [0]
    assert root.read_bytes("x") == b"1"


def test_sweep_evaluators_other_hosts_and_zarr_by_age(tmp_path):
    for name in (f"{TEMPORARY_PREFIX}elsewhere-1-ab", "c.0123.partial"):
        (tmp_path / name).write_bytes(b"")
    root = Root.open(tmp_path)
    assert root.sweep() == 0
    for name in os.listdir(tmp_path):
        os.utime(tmp_path / name, (0, 0))
    assert root.sweep() == 2


@given(data=st.binary(max_size=64), offset=st.integers(0, 80), size=st.integers(0, 80))
def test_a_range_is_a_slice_or_an_error(data, offset, size):
    url = f"memory://ranges/{uuid.uuid4().hex}"
    root, name = Root.open("memory://ranges"), url.rpartition("/")[2]
    root.write_bytes(name, data)
    if offset + size <= len(data):
        assert read_range(url, offset, size) == data[offset : offset + size]
    elif size:
        with pytest.raises(StorageError):
            read_range(url, offset, size)
    root.remove(name)


def test_a_negative_range_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="offset=-1"):
        read_range(str(tmp_path / "x"), -1, 2)


def test_opens_local_and_remote_files_seekable(root):
    root.write_bytes("x", b"0123456789")
    with open_for_reading(f"{root.url}/x") as file:
        assert file.seek(0, os.SEEK_END) == 10
        file.seek(4)
        assert file.read(2) == b"45"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_expands_braces_in_their_order_and_globs_sorted(tmp_path):
    touch(tmp_path, "b-0.tar", "b-1.tar", "b-2.tar", "a-9.tar", "a-10.tar")
    assert expand_urls(f"{tmp_path}/b-{{2..0}}.tar") == [f"{tmp_path}/b-{i}.tar" for i in (2, 1, 0)]
    assert expand_urls(f"{tmp_path}/a-*.tar") == [f"{tmp_path}/a-10.tar", f"{tmp_path}/a-9.tar"]
    mixed = expand_urls([f"{tmp_path}/b-1.tar", f"{tmp_path}/a-*.tar"])
    assert mixed == [f"{tmp_path}/b-1.tar", f"{tmp_path}/a-10.tar", f"{tmp_path}/a-9.tar"]


def test_remote_braces_need_no_request():
    urls = expand_urls("memory://nowhere/imagenet1k-train-{0000..1023}.tar")
    assert len(urls) == 1024
    assert urls[1] == "memory://nowhere/imagenet1k-train-0001.tar"


def test_remote_globs_come_back_as_urls():
    root = Root.open(f"memory://globs-{uuid.uuid4().hex}")
    for name in ("x-1.tar", "x-0.tar", "y.tar"):
        root.write_bytes(name, b"1")
    urls = expand_urls(f"{root.url}/x-*.tar")
    assert [url.rpartition("/")[2] for url in urls] == ["x-0.tar", "x-1.tar"]
    assert read_range(urls[0]) == b"1"


def test_relative_patterns_come_back_absolute(tmp_path, monkeypatch):
    touch(tmp_path, "d/x.tar")
    monkeypatch.chdir(tmp_path)
    assert expand_urls("d/*.tar") == [f"{tmp_path}/d/x.tar"]


def test_a_file_with_pattern_characters_in_its_name_is_found(tmp_path):
    touch(tmp_path, "run [1] {a}.tar")
    assert expand_urls(f"{tmp_path}/run [1] {{a}}.tar") == [f"{tmp_path}/run [1] {{a}}.tar"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("no-*.tar", "matches no file"),
        ("a-{0..3}.tar", r"a-2\.tar \(from .* does not exist"),
        ("a-{0..1.tar", "braces are not balanced"),
        ("a-0.tar;x", "does not exist"),
        (["a-*.tar", "a-1.tar"], "named twice"),
        ([], "no file pattern"),
        ("", "empty file pattern"),
    ],
)
def test_bad_patterns_are_explained(tmp_path, monkeypatch, pattern, message):
    touch(tmp_path, "a-0.tar", "a-1.tar")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        expand_urls(pattern)


@given(
    start=st.integers(0, 50),
    count=st.integers(1, 20),
    width=st.integers(1, 6),
    names=st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), min_size=1, max_size=3, unique=True),
)
def test_a_list_of_braces_is_every_file_once_in_order(start, count, width, names):
    patterns = [f"memory://d/{n}-{{{start:0{width}d}..{start + count - 1:0{width}d}}}.tar" for n in names]
    numbers = range(start, start + count)
    padded = width if len(str(start)) < width or len(str(start + count - 1)) < width else 0
    assert expand_urls(patterns) == [f"memory://d/{n}-{i:0{padded}d}.tar" for n in names for i in numbers]
