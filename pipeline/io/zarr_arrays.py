"""Numeric arrays on disk in Zarr v3: the one module that imports zarr.

Every chunk carries a CRC-32C, checked on reading: without it a flipped bit is read silently. A chunk (or
Zarr shard, where one is used) is the unit of writing, is replaced atomically, and has exactly one owner:
two processes that write into one shard lose chunks of each other. `write_rows` therefore takes whole units only.

Every unit is stored, even one full of the fill value, so that a missing file is a fault and never reads as
zeros.
"""

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import zarr
from zarr.abc.store import ByteRequest
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.errors import NodeNotFoundError
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from pipeline.errors import UserError
from pipeline.io import remote
from pipeline.io.root import Root
from pipeline.io.urls import explaining

Group = zarr.Group

# One chunk is read and checked as a whole: large enough for few files, small enough to read one unit in
# milliseconds.
MAX_CHUNK_BYTES: Final = 4 << 20
# Level 3 is Zstandard's own default; on histograms (mostly zeros) it keeps about a tenth of the bytes.
ZSTD_LEVEL: Final = 3


class CorruptArrayError(OSError):
    """An array on disk that is damaged or incomplete; the message names it and the remedy."""


def create_group(root: Root, path: str, attrs: Mapping[str, Any]) -> Group:
    """A new, empty group at `path` of `root` with JSON attributes; whatever lay there is removed."""
    place = root.join(path)
    with explaining(place.url, "write"):
        store = _store(place, read_only=False)
        group = zarr.create_group(store, attributes=dict(attrs), overwrite=True, zarr_format=3)
    if isinstance(store, _RemoteStore):
        store.is_own = True
    return group


def open_group(root: Root, path: str, mode: Literal["r", "r+"] = "r") -> Group:
    """The group at `path` of `root`, for reading ("r") or for the owners of chunks ("r+").

    Raises:
        FileNotFoundError: there is no group.
    """
    place = root.join(path)
    try:
        # Of version 3 and unconsolidated, as we write them: Zarr need not ask for the files of other kinds.
        store = _store(place, read_only=mode == "r")
        return zarr.open_group(store, mode=mode, zarr_format=3, use_consolidated=False)
    except (FileNotFoundError, NodeNotFoundError) as error:
        raise FileNotFoundError(f"{place.url}: no array group there; run the stage that writes it first") from error


def write_array(
    group: Group,
    path: str,
    array: np.ndarray,
    *,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    attrs: Mapping[str, Any] | None = None,
    dimensions: Sequence[str] | None = None,
) -> None:
    """Store a whole array at `path`, replacing one that is there.

    Args:
        group: the group to write into.
        path: "/"-separated name below the group; groups between are made.
        array: any shape and numeric dtype.
        chunks: unit of reading; by default, as many rows of the first axis as fit `MAX_CHUNK_BYTES`.
        shards: unit of writing, a multiple of `chunks`; by default, the chunk itself.
        attrs: JSON attributes of the array.
        dimensions: names of the axes.
    """
    made = _create(
        group, path, array.shape, array.dtype, chunks or default_chunks(array.shape, array.dtype), 0,
        shards=shards, attrs=attrs, dimensions=dimensions, overwrite=True,
    )  # fmt: skip
    with explaining(_place(group, path), "write"):
        made[...] = array


def create_array(
    group: Group,
    path: str,
    shape: Sequence[int],
    dtype: Any,
    chunks: Sequence[int],
    fill: float = 0,
    *,
    shards: Sequence[int] | None = None,
    attrs: Mapping[str, Any] | None = None,
    dimensions: Sequence[str] | None = None,
) -> None:
    """Make an empty array whose units are then written by their owners with `write_rows`; nothing if it is
    there.

    Args:
        group: the group to write into, opened by the driver alone (two creators would race).
        path: "/"-separated name below the group.
        shape: full shape.
        dtype: numeric dtype.
        chunks: unit of reading; axes after the first must be whole.
        fill: what a cell holds before it is written, as seen by foreign readers (`read_rows` refuses
            unwritten units).
        shards: unit of writing, a multiple of `chunks`; by default, the chunk itself.
        attrs: JSON attributes of the array.
        dimensions: names of the axes.

    Raises:
        UserError: an array of another shape, dtype or chunking is already there, or the chunks cut an
            axis after the first.
    """
    if tuple(chunks[1:]) != tuple(shape[1:]) or (shards is not None and tuple(shards[1:]) != tuple(shape[1:])):
        raise UserError(f"array {path!r}: chunks {tuple(chunks)} must span all but the first axis of {tuple(shape)}")
    requested = (tuple(shape), np.dtype(dtype), tuple(chunks), None if shards is None else tuple(shards))
    if path in group:
        there = _array(group, path)
        found = (there.shape, there.dtype, there.chunks, there.shards)
        if found != requested:
            raise UserError(
                f"array {path!r} exists with (shape, dtype, chunks, shards) {found}, requested {requested}; "
                "it belongs to another recipe: remove it or choose another output.root"
            )
        return
    _create(
        group,
        path,
        shape,
        dtype,
        chunks,
        fill,
        shards=shards,
        attrs=attrs,
        dimensions=dimensions,
        overwrite=False,
    )


def write_rows(group: Group, path: str, start: int, rows: np.ndarray) -> None:
    """Write rows `start : start + len(rows)` of the first axis; the caller must own all their chunks.

    Raises:
        UserError: the rows are not whole write units (chunks or shards), or their shape is not the array's.
    """
    array = _array(group, path)
    stop = start + len(rows)
    unit = (array.shards or array.chunks)[0]
    if rows.shape[1:] != array.shape[1:] or not 0 <= start < stop <= array.shape[0]:
        raise UserError(f"array {path!r} of shape {array.shape}: cannot write {rows.shape} at row {start}")
    if start % unit or (stop % unit and stop != array.shape[0]):
        raise UserError(
            f"array {path!r}: rows {start}:{stop} are not whole write units of {unit}; a unit has one owner, "
            "which writes all of it at once"
        )
    with explaining(_place(group, path), "write"):
        array.with_config({"write_empty_chunks": True})[start:stop] = rows


def read_array(group: Group, path: str) -> np.ndarray:
    """A whole array, checked.

    Raises:
        KeyError: there is no such array.
        CorruptArrayError: a checksum does not match or a chunk is missing.
    """
    array = _array(group, path)
    return _read(array, _place(group, path), 0, array.shape[0] if array.shape else 1)


def read_rows(group: Group, path: str, start: int, stop: int) -> np.ndarray:
    """Rows `start:stop` of the first axis, checked; only their chunks are read.

    Raises:
        KeyError: there is no such array.
        IndexError: the rows are not in the array.
        CorruptArrayError: a checksum does not match or a chunk was never written.
    """
    array = _array(group, path)
    if not 0 <= start <= stop <= array.shape[0]:
        raise IndexError(f"rows {start}:{stop} of array {path!r} with {array.shape[0]} rows")
    return _read(array, _place(group, path), start, stop)


def read_single_rows(group: Group, path: str, rows: Sequence[int]) -> list[np.ndarray]:
    """Some rows of the first axis, in the order given, as `read_rows`; the array is opened once for all of them."""
    array = _array(group, path)
    wrong = [row for row in rows if not 0 <= row < array.shape[0]]
    if wrong:
        raise IndexError(f"row {wrong[0]} of array {path!r} with {array.shape[0]} rows")
    return [_read(array, _place(group, path), row, row + 1)[0] for row in rows]


def default_chunks(shape: Sequence[int], dtype: Any) -> tuple[int, ...]:
    """Whole rows of the first axis, as many as fit `MAX_CHUNK_BYTES` (at least one)."""
    if not shape:
        return ()
    row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    rows = max(1, min(shape[0], MAX_CHUNK_BYTES // max(1, row_bytes)))
    return (rows, *(max(1, length) for length in shape[1:]))


def _store(place: Root, *, read_only: bool) -> "LocalStore | _RemoteStore":
    if place.is_local:
        return LocalStore(place.local_path, read_only=read_only)
    fs, path = remote.filesystem(place.url, asynchronous=True)
    return _RemoteStore(FsspecStore(fs, read_only=read_only, path=path))


class _RemoteStore(WrapperStore[FsspecStore]):
    """Zarr's store on fsspec with each request repeated as all of ours are: chunks are written whole.

    It remembers the documents that it wrote itself. For each array Zarr reads those of all groups above it and clears
    its place: on an object store that would be ten requests for one array, of which two write it.
    """

    is_own = False  # whether the store was made empty by this object, so that what is there is what it wrote

    def __init__(self, store: FsspecStore) -> None:
        super().__init__(store)
        self._written: dict[str, Buffer | None] = {}  # documents, and the names of chunks

    def url(self, key: str = "") -> str:
        """Where a key lies."""
        return "/".join(filter(None, (self._store.fs.unstrip_protocol(self._store.path), key)))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if byte_range is None and (document := self._written.get(key)) is not None:
            return document
        return await remote.request_async(self.url(key), "read", lambda: self._store.get(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        requested = list(key_ranges)
        return await remote.request_async(
            self.url(), "read", lambda: self._store.get_partial_values(prototype, requested)
        )

    async def set(self, key: str, value: Buffer) -> None:
        await remote.request_async(self.url(key), "write", lambda: self._store.set(key, value))
        self._written[key] = value if key.endswith("zarr.json") else None

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    async def exists(self, key: str) -> bool:
        if key in self._written:
            return True
        return await remote.request_async(self.url(key), "read", lambda: self._store.exists(key))

    async def delete(self, key: str) -> None:
        self._written.pop(key, None)
        await remote.request_async(self.url(key), "remove", lambda: self._store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        below = [key for key in self._written if not prefix or key.startswith(f"{prefix}/")]
        if self.is_own and not below:
            return
        for key in below:
            del self._written[key]
        await remote.request_async(self.url(prefix), "remove", lambda: self._store.delete_dir(prefix))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async def call() -> list[str]:
            return [name async for name in self._store.list_dir(prefix)]

        for name in await remote.request_async(self.url(prefix), "list", call):
            yield name


def _create(
    group: Group,
    path: str,
    shape: Sequence[int],
    dtype: Any,
    chunks: Sequence[int],
    fill: float,
    *,
    shards: Sequence[int] | None,
    attrs: Mapping[str, Any] | None,
    dimensions: Sequence[str] | None,
    overwrite: bool,
) -> zarr.Array:
    with explaining(_place(group, path), "write"):
        return group.create_array(
            path,
            shape=tuple(shape),
            dtype=np.dtype(dtype),
            chunks=tuple(chunks),
            shards=None if shards is None else tuple(shards),
            compressors=[ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],  # the checksum is over the compressed bytes
            fill_value=fill,
            attributes=dict(attrs or {}),
            dimension_names=None if dimensions is None else tuple(dimensions),
            config={"write_empty_chunks": True},
            overwrite=overwrite,
        )


def _place(group: Group, path: str = "") -> str:
    """Where an array lies, as messages name it: a local path or a URL."""
    store = group.store_path.store
    assert isinstance(store, LocalStore | _RemoteStore)
    root = str(store.root) if isinstance(store, LocalStore) else store.url()
    return "/".join(part for part in (root.rstrip("/"), group.store_path.path, path) if part)


def _array(group: Group, path: str) -> zarr.Array:
    found = group.get(path)
    if not isinstance(found, zarr.Array):
        raise KeyError(f"no array {path!r} in {_place(group)}")
    return found


def _read(array: zarr.Array, where: str, start: int, stop: int) -> np.ndarray:
    remedy = "remove the store and run its stage again"
    missing = _missing_units(array, start, stop)
    if missing:
        raise CorruptArrayError(f"{where}: chunk {missing[0]} is missing (or was never written); {remedy}")
    try:
        return np.asarray(array[start:stop] if array.shape else array[...])
    except ValueError as error:
        raise CorruptArrayError(f"{where}, rows {start}:{stop}: {error}; {remedy}") from error


def _missing_units(array: zarr.Array, start: int, stop: int) -> list[str]:
    """Keys of the write units of rows `start:stop` that are not in the store."""
    unit = array.shards or array.chunks
    grid = [range(math.ceil(length / size)) for length, size in zip(array.shape, unit, strict=True)]
    if grid:
        grid[0] = range(start // unit[0], math.ceil(stop / unit[0]))
    keys = ["/".join(("c", *map(str, index))) for index in itertools.product(*grid)]

    async def are_there() -> list[bool]:
        return await asyncio.gather(*((array.store_path / key).exists() for key in keys))

    return [key for key, is_there in zip(keys, sync(are_there()), strict=True) if not is_there]
