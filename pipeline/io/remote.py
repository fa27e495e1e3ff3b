"""Remote storage: requests to object stores and web servers, tried again when they fail for a while.

The one module that imports fsspec. Each request is whole and idempotent (an object is put, a range is got, a prefix
is listed), so it is sent again as it is. This is the one place that does so: the libraries' own retries are switched
off, or the attempts would multiply (botocore 5 × s3fs 5 × ours).
"""

import asyncio
import errno
import logging
import posixpath
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO, Final, TypeVar, cast

import fsspec
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from pipeline.errors import UserError
from pipeline.io.errors import StorageError, explained, is_storage_failure, is_transient
from pipeline.io.range_file import open_ranges

T = TypeVar("T")

# Waits of 0.5, 1, 2, 4, 8, 16 and 20 s, 51 s together: S3 asks for exponential backoff on SlowDown and needs tens of
# seconds to spread a busy prefix; a restarted gateway needs as long. A longer outage stops the run, which resumes.
MAX_TRIES: Final = 8
FIRST_WAIT_S: Final = 0.5
MAX_WAIT_S: Final = 20.0
# gcsfs sends each request up to six times, over half a minute, and has no setting for it.
_TRIES_OF_PROTOCOL: Final = {"gs": 2, "gcs": 2}
LOG_FROM_S: Final = 4.0  # shorter waits are usual and not logged
# A request that gets no byte for this long is sent again: the defaults of s3fs, for web servers too (aiohttp: 300 s).
CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 15.0
# Streams read this far ahead: at 50 ms per request and 100 MB/s a quarter of the time is waiting, with less it is more.
READ_AHEAD_BYTES: Final = 16 << 20

_EXTRA_OF_PROTOCOL: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_OBJECT_STORES: Final = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
_WEB: Final = ("http", "https")

_log = logging.getLogger(__name__)
# Of the operating system: the waits of workers differ, and no seed of a result is touched.
_jitter = random.SystemRandom()


def request(url: str, action: str, call: Callable[[], T]) -> T:
    """Return `call()`, made again while the store fails for reasons that pass.

    Args:
        url: the place, for messages.
        action: read, write, list or remove.
        call: one request, or several that may be repeated together.

    Raises:
        FileNotFoundError: there is no such file (and `action` is not write).
        StorageError: the store refuses, or failed `MAX_TRIES` times.
    """
    attempts = _Attempts(url, action)
    while True:
        try:
            return call()
        except Exception as error:
            time.sleep(attempts.failed(error))


async def request_async(url: str, action: str, call: Callable[[], Awaitable[T]]) -> T:
    """As `request`, for a coroutine function."""
    attempts = _Attempts(url, action)
    while True:
        try:
            return await call()
        except Exception as error:
            await asyncio.sleep(attempts.failed(error))


class _Attempts:
    """The attempts of one request."""

    def __init__(self, url: str, action: str) -> None:
        self._url = url
        self._action = action
        self._left = _TRIES_OF_PROTOCOL.get(url.partition("://")[0], MAX_TRIES)
        self._wait_s = FIRST_WAIT_S
        self._failed = 0
        self._started_at = time.monotonic()

    def failed(self, error: Exception) -> float:
        """The seconds to wait before the next attempt; raises what the caller gets if there is none left."""
        if not is_storage_failure(error):
            raise error
        if isinstance(error, StorageError) or not is_transient(error):
            raise explained(error, self._url, self._action) from error
        self._failed += 1
        self._left -= 1
        if not self._left:
            after = f"{self._failed} tries in {time.monotonic() - self._started_at:.0f} s"
            raise explained(error, self._url, self._action, after=after) from error
        wait_s = self._wait_s * _jitter.uniform(0.5, 1.0)
        self._wait_s = min(2 * self._wait_s, MAX_WAIT_S)
        if wait_s >= LOG_FROM_S:
            _log.warning("cannot %s %s: %s; next try in %.0f s", self._action, self._url, error, wait_s)
        return wait_s


def filesystem(url: str, *, asynchronous: bool = False) -> tuple[Any, str]:
    """Return the fsspec file system of a URL (fsspec keeps one instance per process) and the path in it.

    Raises:
        UserError: the protocol is unknown, or the package for it is not installed.
    """
    protocol = url.partition("://")[0]
    options: dict[str, Any] = {"asynchronous": True} if asynchronous else {}
    try:
        if protocol in _WEB:
            options["client_kwargs"] = {"timeout": _web_timeout()}
        fs, place = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRA_OF_PROTOCOL.get(protocol)
        remedy = f"pip install 'neuron-atlas[{extra}]'" if extra else str(error)
        raise UserError(f"{url}: the package for this protocol is not installed: {remedy}") from error
    except ValueError as error:
        raise UserError(f"{url}: {error}; expected a local path or a URL that fsspec knows") from error
    if protocol in ("s3", "s3a"):
        # Before the first request; a user's own settings of fsspec (FSSPEC_S3_…) stay.
        fs.retries = 1
        times = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        fs.config_kwargs = {**times, **fs.config_kwargs, "retries": {"total_max_attempts": 1}}
        # With more, s3fs asks for the size before each whole read: two requests where one will do.
        fs.max_concurrency = 1
    if asynchronous and not fs.async_impl:
        fs = AsyncFileSystemWrapper(fs, asynchronous=True)
    return fs, place


def put(url: str, data: bytes) -> None:
    """Write an object in one request, or in one multipart upload that counts when it is complete.

    Raises:
        StorageError: the store cannot be written; what stood there before is unchanged.
    """
    protocol = url.partition("://")[0]
    if protocol in _WEB:
        raise StorageError(
            errno.EROFS, f"cannot write {url}: web servers are read here only; choose another output.root"
        )
    fs, place = filesystem(url)

    def call() -> None:
        try:
            fs.pipe_file(place, data)
        except FileNotFoundError:
            # File servers (sftp, hdfs) need the folder first; object stores have none, and would make a bucket.
            if protocol in _OBJECT_STORES:
                raise
            fs.makedirs(posixpath.dirname(place), exist_ok=True)
            fs.pipe_file(place, data)

    request(url, "write", call)


def get(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """Return a range of a file (size None: all that follows), or less if the file ends inside it.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read, or the server sends more than it was asked for.
    """
    fs, place = filesystem(url)
    if size == 0:
        return b""
    limits = {"start": offset, "end": None if size is None else offset + size} if offset or size is not None else {}
    data: bytes = request(url, "read", lambda: fs.cat_file(place, **limits))
    if size is not None and len(data) > size:
        raise StorageError(
            errno.EIO,
            f"{url}: {size} bytes were asked for and {len(data)} came: this server ignores byte ranges; "
            "copy the file to a server or store that has them",
        )
    return data


def size_bytes(url: str) -> int:
    """Return the size of a file.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read, or the server does not tell sizes.
    """
    fs, place = filesystem(url)
    fs.invalidate_cache()
    found = request(url, "read", lambda: fs.info(place)["size"])
    if found is None:
        raise StorageError(errno.EIO, f"{url}: the server does not tell the size; copy the file to one that does")
    return int(found)


def exists(url: str) -> bool:
    """Whether there is a file or folder."""
    fs, place = filesystem(url)
    fs.invalidate_cache()
    try:
        # Not `fs.exists`: for many file systems it answers no when the request failed.
        request(url, "read", lambda: fs.info(place))
    except FileNotFoundError:
        return False
    return True


def names(url: str) -> list[str]:
    """The names in a folder; none if there is no such folder."""
    fs, place = filesystem(url)
    fs.invalidate_cache()
    try:
        # Not `fs.isdir`: it too answers no when the request failed.
        found = request(url, "list", lambda: fs.ls(place, detail=False))
    except FileNotFoundError:
        return []
    folder = place.rstrip("/")
    return [posixpath.basename(item.rstrip("/")) for item in found if item.rstrip("/") != folder]


def files_below(url: str) -> list[str]:
    """The paths of all files below a folder, relative to it."""
    fs, place = filesystem(url)
    fs.invalidate_cache()
    try:
        found = request(url, "list", lambda: fs.find(place))
    except FileNotFoundError:
        return []
    return [posixpath.relpath(item, place) for item in found if item != place]


def matches(url: str) -> list[str]:
    """The URLs of the files that a glob matches, sorted."""
    fs, place = filesystem(url)
    fs.invalidate_cache()
    return sorted(fs.unstrip_protocol(match) for match in request(url, "list", lambda: fs.glob(place)))


def remove(url: str) -> None:
    """Remove a file or a whole folder; one that is missing is fine."""
    fs, place = filesystem(url)
    fs.invalidate_cache()
    try:
        request(url, "remove", lambda: fs.rm(place, recursive=True))
    except FileNotFoundError:
        return


def open_file(url: str) -> BinaryIO:
    """Open a file for reading, seekable, with read-ahead; every request of it is one of `get`.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read. Reading the opened file raises it too.
    """
    # fsspec's own files would retry, or not, as each library does.
    opened = open_ranges(
        url, size_bytes(url), lambda offset, size: get(url, offset, size), read_ahead_bytes=READ_AHEAD_BYTES
    )
    return cast(BinaryIO, opened)


def _web_timeout() -> Any:
    import aiohttp  # of fsspec's file system for web servers, which imports it too

    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
