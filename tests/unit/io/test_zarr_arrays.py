"""Zarr arrays: what is written is read, damage is noticed, a chunk has one owner."""

import errno
import uuid
from pathlib import Path

import numpy as np
import pytest

from pipeline.io.root import Root, StorageError
from pipeline.io.zarr_arrays import (
    MAX_CHUNK_BYTES,
    CorruptArrayError,
    create_array,
    create_group,
    default_chunks,
    open_group,
    read_array,
    read_rows,
    read_single_rows,
    write_array,
    write_rows,
)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    return Root.open(tmp_path if request.param == "local" else f"memory://{uuid.uuid4().hex}/atlas")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 4), (3, 4, 2)])
def test_an_array_comes_back_equal(root: Root, shape: tuple[int, ...], dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    group = create_group(root, "s.zarr", {"model": "m"})
    write_array(group, "layers/blocks.5/mean", array)
    again = open_group(root, "s.zarr")
    read = read_array(again, "layers/blocks.5/mean")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    assert dict(again.attrs) == {"model": "m"}


def test_an_array_of_the_fill_value_is_stored_and_not_taken_for_missing(root: Root) -> None:
    group = create_group(root, "s.zarr", {})
    write_array(group, "zeros", np.zeros((6, 2)), chunks=(2, 2))
    np.testing.assert_array_equal(read_array(open_group(root, "s.zarr"), "zeros"), np.zeros((6, 2)))


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(40, 3))
    files = []
    for name in ("a", "b"):
        root = Root.open(tmp_path / name)
        write_array(create_group(root, "s.zarr", {"x": 1}), "mean", array, dimensions=("unit", "bin"))
        files.append({path: root.read_bytes(path) for path in root.walk()})
    assert files[0] == files[1]
    assert any("/c/" in path for path in files[0])


def test_any_flipped_bit_of_a_chunk_is_detected(tmp_path: Path) -> None:
    root = Root.open(tmp_path)
    group = create_group(root, "s.zarr", {})
    write_array(group, "mean", np.random.default_rng(0).normal(size=30))
    chunk = tmp_path / "s.zarr/mean/c/0"
    intact = chunk.read_bytes()
    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << (position % 8)
        chunk.write_bytes(damaged)
        with pytest.raises(CorruptArrayError, match="mean"):
            read_array(open_group(root, "s.zarr"), "mean")
    chunk.write_bytes(intact)
    assert read_array(open_group(root, "s.zarr"), "mean").shape == (30,)


@pytest.mark.parametrize("keep_bytes", [0, 3, 40])
def test_a_cut_chunk_is_detected(tmp_path: Path, keep_bytes: int) -> None:
    root = Root.open(tmp_path)
    write_array(create_group(root, "s.zarr", {}), "mean", np.random.default_rng(0).normal(size=30))
    chunk = tmp_path / "s.zarr/mean/c/0"
    chunk.write_bytes(chunk.read_bytes()[:keep_bytes])
    with pytest.raises(CorruptArrayError):
        read_array(open_group(root, "s.zarr"), "mean")


def test_a_missing_chunk_is_an_error_and_not_zeros(root: Root) -> None:
    group = create_group(root, "s.zarr", {})
    write_array(group, "mean", np.ones((6, 2)), chunks=(2, 2))
    root.remove("s.zarr/mean/c/1/0")
    group = open_group(root, "s.zarr")
    with pytest.raises(CorruptArrayError, match="c/1/0 is missing"):
        read_array(group, "mean")
    np.testing.assert_array_equal(read_rows(group, "mean", 4, 6), np.ones((2, 2)))


def test_owners_write_their_rows_independently(root: Root) -> None:
    create_array(create_group(root, "t.zarr", {}), "q", (7, 3), "float32", (2, 3))
    array = np.arange(21, dtype=np.float32).reshape(7, 3)
    for start in (4, 0, 6, 2):  # the last unit is short
        write_rows(open_group(root, "t.zarr", "r+"), "q", start, array[start : start + 2])
    group = open_group(root, "t.zarr")
    np.testing.assert_array_equal(read_array(group, "q"), array)
    np.testing.assert_array_equal(read_rows(group, "q", 3, 5), array[3:5])
    np.testing.assert_array_equal(read_single_rows(group, "q", [5, 0, 6]), array[[5, 0, 6]])
    assert read_single_rows(group, "q", []) == []


def test_rows_of_zeros_count_as_written(root: Root) -> None:
    create_array(create_group(root, "t.zarr", {}), "q", (2, 3), "float32", (1, 3))
    write_rows(open_group(root, "t.zarr", "r+"), "q", 0, np.zeros((1, 3), np.float32))
    group = open_group(root, "t.zarr")
    np.testing.assert_array_equal(read_rows(group, "q", 0, 1), np.zeros((1, 3)))
    with pytest.raises(CorruptArrayError, match="never written"):
        read_rows(group, "q", 1, 2)
    with pytest.raises(CorruptArrayError, match="never written"):
        read_single_rows(group, "q", [0, 1])


@pytest.mark.parametrize(("start", "count"), [(1, 2), (0, 3), (2, 1)])
@pytest.mark.parametrize("shards", [None, (2, 3)])
def test_a_part_of_a_write_unit_is_refused(
    tmp_path: Path, start: int, count: int, shards: tuple[int, int] | None
) -> None:
    group = create_group(Root.open(tmp_path), "t.zarr", {})
    chunks = (2, 3) if shards is None else (1, 3)
    create_array(group, "q", (8, 3), "float32", chunks, shards=shards)
    with pytest.raises(ValueError, match="whole write units"):
        write_rows(group, "q", start, np.ones((count, 3), np.float32))


def test_rows_of_another_shape_or_beyond_the_end_are_refused(tmp_path: Path) -> None:
    group = create_group(Root.open(tmp_path), "t.zarr", {})
    create_array(group, "q", (4, 3), "float32", (1, 3))
    for start, shape in ((0, (1, 2)), (4, (1, 3)), (-1, (1, 3)), (0, (0, 3))):
        with pytest.raises(ValueError, match="cannot write"):
            write_rows(group, "q", start, np.ones(shape, np.float32))
    with pytest.raises(IndexError, match="rows 3:5"):
        read_rows(group, "q", 3, 5)
    with pytest.raises(IndexError, match="row 4"):
        read_single_rows(group, "q", [0, 4])


def test_creating_again_keeps_what_is_there_unless_it_differs(tmp_path: Path) -> None:
    group = create_group(Root.open(tmp_path), "t.zarr", {})
    create_array(group, "q", (4, 3), "float32", (1, 3))
    write_rows(group, "q", 0, np.ones((1, 3), np.float32))
    create_array(group, "q", (4, 3), "float32", (1, 3))
    np.testing.assert_array_equal(read_rows(group, "q", 0, 1), np.ones((1, 3)))
    with pytest.raises(ValueError, match="another recipe"):
        create_array(group, "q", (4, 5), "float32", (1, 5))
    with pytest.raises(ValueError, match="must span"):
        create_array(group, "p", (4, 6), "float32", (1, 3))


def test_what_is_not_there_is_named(root: Root) -> None:
    with pytest.raises(FileNotFoundError, match=r"s\.zarr"):
        open_group(root, "s.zarr")
    with pytest.raises(KeyError, match="mean"):
        read_array(create_group(root, "s.zarr", {}), "mean")


def test_a_failed_write_names_the_place_and_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*s\.zarr.*output\.root"):
        create_group(Root.open(tmp_path / "file"), "s.zarr", {})

    group = create_group(Root.open(tmp_path), "s.zarr", {})
    create_array(group, "q", (2, 3), "float32", (1, 3))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zarr.storage._local._put", full)
    for write in (
        lambda: write_array(group, "mean", np.ones(3)),
        lambda: write_rows(group, "q", 0, np.ones((1, 3), np.float32)),
    ):
        with pytest.raises(StorageError, match="No space left"):
            write()


@pytest.mark.parametrize("shape", [(1,), (10**7,), (3000, 512), (4, 10**7), (0, 5)])
def test_default_chunks_are_whole_rows_of_bounded_size(shape: tuple[int, ...]) -> None:
    chunks = default_chunks(shape, np.float64)
    assert chunks[1:] == shape[1:]
    assert chunks[0] == 1 or np.prod(chunks) * 8 <= MAX_CHUNK_BYTES
