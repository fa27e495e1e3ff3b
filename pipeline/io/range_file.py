"""A file that is read by ranges, as libraries read files: seekable, buffered, with read-ahead."""

import errno
import io
from collections.abc import Callable
from typing import Any

from pipeline.io.errors import StorageError

Read = Callable[[int, int], bytes]  # (offset, size) → bytes


def open_ranges(name: str, size: int, read: Read, *, read_ahead_bytes: int) -> io.BufferedReader:
    """A file of `size` bytes that `read` fetches; small reads are served from `read_ahead_bytes` fetched at once.

    `name` is for messages. Reading raises what `read` raises, and StorageError if it gives less than was asked for.
    """
    return io.BufferedReader(_RangeFile(name, size, read), read_ahead_bytes)


class _RangeFile(io.RawIOBase):
    def __init__(self, name: str, size: int, read: Read) -> None:
        self._name, self._size, self._read = name, size, read
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        requested = max(0, min(len(buffer), self._size - self._position))
        data = self._read(self._position, requested)
        if len(data) != requested:
            raise StorageError(
                errno.EIO,
                f"{self._name}: bytes {self._position}–{self._position + requested} are needed but the store gave only "
                f"{len(data)}; the file changed while it was read: run the command again",
            )
        buffer[:requested] = data
        self._position += requested
        return requested
