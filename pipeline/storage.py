"""Storage: where a run reads and writes, local or remote, through fsspec.

Every write is atomic. A local file is written beside its place under a temporary name, flushed to the disk
and renamed; a remote one is a single upload. So a reader sees the old file or the new one, never a part, and
a full disk or a killed process loses nothing that was written before.
"""

import contextlib
import errno
import glob
import json
import os
import posixpath
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import braceexpand
import fsspec

# Inside `Root`, `list` is the method.
Names: TypeAlias = list[str]

TEMPORARY_PREFIX = ".partial-"
# Zarr's local store leaves such names when it is killed between write and rename (zarr 3.1).
ZARR_TEMPORARY_SUFFIX = ".partial"
# A temporary that names no living process of this host is swept at once, any other one only after this time.
STALE_AFTER_S = 3600.0

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free space there or choose another output.root, then run it again",
    errno.EDQUOT: "the disk quota is used up: free space or choose another output.root, then run it again",
    errno.EROFS: "the file system is mounted read-only: choose another output.root",
    errno.EACCES: "no permission: check the owner and mode of that folder, or choose another output.root",
    errno.EPERM: "the operation is not permitted: check the owner and mode of that folder",
}
_EXTRA_OF_PROTOCOL = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class StorageError(OSError):
    """A read or write that failed for a reason outside the program; it names the place and the remedy."""


@dataclass(frozen=True)
class Root:
    """A folder, local or remote, below which paths are given with forward slashes.

    Frozen and picklable: workers receive it instead of an open file system. Make one with `Root.open`.
    """

    url: str

    @staticmethod
    def open(url: str | os.PathLike[str]) -> "Root":
        """Return the root at a local folder or an fsspec URL. Nothing is created before the first write.

        Raises:
            ValueError: the URL is empty, its protocol unknown, or the package for its protocol not installed.
        """
        text = os.fspath(url)
        if not text or "\0" in text:
            raise ValueError(f"storage root {text!r}: expected a folder or a URL such as s3://bucket/folder")
        if _is_local(text):
            # Absolute, because a worker may run in another current folder.
            return Root(os.path.abspath(_local_path(text)))
        _filesystem(text)
        return Root(text.rstrip("/") if not text.endswith("://") else text)

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return _is_local(self.url)

    @property
    def local_path(self) -> Path:
        """The root as a local path.

        Raises:
            ValueError: the root is remote.
        """
        if not self.is_local:
            raise ValueError(f"{self.url} is not a local folder: copy it to this machine first")
        return Path(self.url)

    def join(self, *parts: str) -> "Root":
        """Return the root of a folder below this one.

        Raises:
            ValueError: a part would leave the root or is not a plain relative path.
        """
        return Root(self._full("/".join(check_path(part) for part in parts)))

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or folder at `path`."""
        full = self._full(path)
        if self.is_local:
            return os.path.exists(full)
        fs, place = _filesystem(full)
        fs.invalidate_cache()
        return bool(fs.exists(place))

    def size_bytes(self, path: str) -> int:
        """Return the size of a file in bytes. Raises FileNotFoundError if it is absent."""
        full = self._full(path)
        with _explained(full, "read"):
            if self.is_local:
                return os.path.getsize(full)
            fs, place = _filesystem(full)
            fs.invalidate_cache()
            return int(fs.size(place))

    def read_bytes(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        """Return a file, or `size` bytes of it from `offset` on.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: the file ends before `offset + size`, or cannot be read.
        """
        return read_range(self._full(path), offset, size)

    def read_text(self, path: str) -> str:
        """Return a UTF-8 file as text."""
        return self.read_bytes(path).decode("utf-8")

    def read_json(self, path: str) -> Any:
        """Return the value of a JSON file."""
        return json.loads(self.read_bytes(path))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file atomically, replacing an older one; missing parent folders are made.

        Raises:
            StorageError: the disk is full, read-only or not ours; what stood at `path` before is unchanged.
        """
        full = self._full(path)
        if not path:
            raise ValueError(f"a file path below {self.url} is needed, got an empty one")
        with _explained(full, "write"):
            if self.is_local:
                _write_local(full, data)
                return
            fs, place = _filesystem(full)
            try:
                fs.pipe_file(place, data)
            except FileNotFoundError:
                # Object stores have no folders; others (sftp, hdfs) need them before the first file.
                fs.makedirs(posixpath.dirname(place), exist_ok=True)
                fs.pipe_file(place, data)

    def write_text(self, path: str, text: str) -> None:
        """Write text as UTF-8, atomically."""
        self.write_bytes(path, text.encode("utf-8"))

    def write_json(self, path: str, obj: Any) -> None:
        """Write a value as JSON with sorted keys, atomically: equal values give equal bytes."""
        self.write_text(path, json.dumps(obj, sort_keys=True, indent=1, ensure_ascii=False) + "\n")

    def append_text(self, path: str, text: str) -> None:
        """Add text to the end of a file of a local root (a log: a killed writer may leave half a line).

        Raises:
            ValueError: the root is remote; object stores cannot append.
            StorageError: the disk is full, read-only or not ours.
        """
        file = self.local_path / check_path(path)
        with _explained(str(file), "write"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as opened:
                opened.write(text)

    def list(self, path: str = "") -> Names:
        """Return the sorted names in a folder, without temporaries; none if there is no such folder."""
        full = self._full(path)
        with _explained(full, "list"):
            if self.is_local:
                names = os.listdir(full) if os.path.isdir(full) else []
            else:
                fs, place = _filesystem(full)
                fs.invalidate_cache()
                found = fs.ls(place, detail=False) if fs.isdir(place) else []
                names = [posixpath.basename(item.rstrip("/")) for item in found]
        return sorted(name for name in names if not is_temporary(name))

    def walk(self, path: str = "") -> Names:
        """Return all files below a folder as sorted paths relative to it, without temporaries."""
        full = self._full(path)
        with _explained(full, "list"):
            if self.is_local:
                paths = [
                    os.path.relpath(os.path.join(folder, name), full).replace(os.sep, "/")
                    for folder, _, names in os.walk(full)
                    for name in names
                ]
            else:
                fs, place = _filesystem(full)
                fs.invalidate_cache()
                found = fs.find(place) if fs.isdir(place) else []
                paths = [posixpath.relpath(item, place) for item in found]
        return sorted(p for p in paths if not is_temporary(posixpath.basename(p)))

    def remove(self, path: str) -> None:
        """Remove a file or a whole folder; one that is missing is fine."""
        full = self._full(path)
        with _explained(full, "remove"):
            if self.is_local:
                if os.path.isdir(full) and not os.path.islink(full):
                    shutil.rmtree(full)
                else:
                    Path(full).unlink(missing_ok=True)
                return
            fs, place = _filesystem(full)
            fs.invalidate_cache()
            if fs.exists(place):
                fs.rm(place, recursive=True)

    def sweep(self, *, stale_after_s: float = STALE_AFTER_S) -> int:
        """Remove the temporaries that killed writers left in a local root; return how many.

        A temporary of a process that still runs on this host is kept whatever its age.
        """
        if not self.is_local:
            return 0
        removed = 0
        for folder, _, names in os.walk(self.url):
            for name in filter(is_temporary, names):
                file = Path(folder, name)
                # The writer may finish (rename it) or another sweep remove it at any moment.
                with contextlib.suppress(FileNotFoundError), _explained(str(file), "remove"):
                    if _is_abandoned(name, time.time() - file.stat().st_mtime, stale_after_s):
                        file.unlink()
                        removed += 1
        return removed

    def _full(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{check_path(path)}" if path else self.url


def check_path(path: str) -> str:
    """Return `path` if it is a relative path with forward slashes that stays below its root.

    Raises:
        ValueError: it is empty, absolute, or contains `..`, a backslash, NUL or an empty part.
    """
    bad = not path or "\\" in path or "\0" in path or any(p in ("", ".", "..") for p in path.split("/"))
    if bad:
        raise ValueError(f"path {path!r}: expected a relative path with forward slashes and no '.' or '..' part")
    return path


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a write in progress (ours or Zarr's)."""
    return name.startswith(TEMPORARY_PREFIX) or name.endswith(ZARR_TEMPORARY_SUFFIX)


def read_range(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """Return `size` bytes (None: all that follow) from `offset` of a file at a local path or fsspec URL.

    Raises:
        ValueError: the range is negative.
        FileNotFoundError: there is no such file.
        StorageError: the file ends inside the range, or cannot be read.
    """
    if offset < 0 or (size is not None and size < 0):
        raise ValueError(f"byte range offset={offset}, size={size}: expected numbers of at least 0")
    with _explained(url, "read"):
        if _is_local(url):
            with open(_local_path(url), "rb") as file:
                file.seek(offset)
                data = file.read() if size is None else file.read(size)
        else:
            fs, place = _filesystem(url)
            data = b"" if size == 0 else fs.cat_file(place, offset, None if size is None else offset + size)
    if size is not None and len(data) != size:
        raise StorageError(
            errno.EIO,
            f"{url}: bytes {offset}–{offset + size} are wanted but the file gave only {len(data)}; "
            "it changed since it was read first: restore it, or collect the statistics again",
        )
    return data


def open_for_reading(url: str) -> Any:
    """Open any local path or fsspec URL as a seekable binary file, to be used in a `with` statement.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the file cannot be opened.
    """
    with _explained(url, "read"):
        if _is_local(url):
            return open(_local_path(url), "rb")
        fs, place = _filesystem(url)
        return fs.open(place, "rb")


def expand_urls(pattern: str | Sequence[str]) -> list[str]:
    """Return the files that a pattern names: braces `{0000..1023}`, globs, fsspec URLs, or a list of these.

    Order is that of the list, then of the braces; the matches of one glob are sorted. Local paths come back
    absolute. A local file that exists under the very name is taken as it is, so brackets in names do no harm.

    Raises:
        ValueError: a pattern is malformed, a glob matches nothing, a local file is missing, or one file is
            named twice.
    """
    patterns = [pattern] if isinstance(pattern, str) else [*pattern]
    if not patterns:
        raise ValueError("no file pattern given: expected at least one path, glob or URL")
    urls = [url for item in patterns for url in _expand_one(item)]
    seen: set[str] = set()
    for url in urls:
        if url in seen:
            raise ValueError(f"{url} is named twice by {pattern!r}: its samples would count twice")
        seen.add(url)
    return urls


def _expand_one(pattern: str) -> list[str]:
    if not pattern:
        raise ValueError("an empty file pattern: expected a path, glob or URL")
    if _is_local(pattern) and os.path.exists(_local_path(pattern)):
        return [os.path.abspath(_local_path(pattern))]
    try:
        names = list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise ValueError(f"file pattern {pattern!r}: the braces are not balanced") from error
    urls: list[str] = []
    for name in names:
        has_glob = glob.has_magic(name)
        if _is_local(name):
            path = os.path.abspath(_local_path(name))
            matches = sorted(glob.glob(path, recursive=True)) if has_glob else [path]
            matches = [match for match in matches if os.path.isfile(match)]
        elif has_glob:
            fs, place = _filesystem(name)
            fs.invalidate_cache()
            matches = sorted(fs.unstrip_protocol(match) for match in fs.glob(place))
        else:
            # One request for each of perhaps thousands of remote files: the first read reports a missing one.
            matches = [name]
        if not matches:
            what = "matches no file" if has_glob else "does not exist"
            within = "" if name == pattern else f" (from {pattern!r})"
            raise ValueError(f"{name}{within} {what}: check the path, relative to {os.getcwd()}")
        urls.extend(matches)
    return urls


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith(("file://", "local://"))


def _local_path(url: str) -> str:
    path = url.partition("://")[2] if "://" in url else url
    return os.path.expanduser(path)


def _filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL (fsspec keeps one instance per process) and the path in it."""
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = _EXTRA_OF_PROTOCOL.get(url.partition("://")[0])
        remedy = f"pip install 'neuron-atlas[{extra}]'" if extra else str(error)
        raise ValueError(f"{url}: the package for this protocol is not installed: {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}; expected a local path or a URL that fsspec knows") from error


@contextlib.contextmanager
def _explained(url: str, action: str) -> Iterator[None]:
    """Turn an operating-system error that the user can mend into a StorageError that says how."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) and action != "write":
            raise
        # Remote file systems raise PermissionError without a number.
        number = error.errno or (errno.EACCES if isinstance(error, PermissionError) else None)
        remedy = _REMEDIES.get(number or 0, "check that the place exists and can be reached")
        reason = error.strerror or str(error)
        raise StorageError(number or errno.EIO, f"cannot {action} {url}: {reason}; {remedy}") from error


def _write_local(full: str, data: bytes) -> None:
    folder = os.path.dirname(full)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{_host()}-{os.getpid()}-{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, full)
    except BaseException:
        # The first error is the one to report; a temporary that cannot be removed is left to `sweep`.
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _is_abandoned(name: str, age_s: float, stale_after_s: float) -> bool:
    host, _, rest = name.removeprefix(TEMPORARY_PREFIX).partition("-")
    pid = rest.partition("-")[0]
    if name.startswith(TEMPORARY_PREFIX) and host == _host() and pid.isdigit():
        return not _is_running(int(pid))
    return age_s > stale_after_s


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return socket.gethostname().replace("-", "_")
