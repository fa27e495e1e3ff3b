"""Storage: where a run reads and writes, local or remote, through fsspec.

Every write is atomic. A local file is written beside its place under a temporary name, flushed to the disk
and renamed; a remote one is a single upload. So a reader sees the old file or the new one, never a part, and
a full disk or a killed process loses nothing that was written before.
"""

import contextlib
import errno
import json
import os
import posixpath
import shutil
import socket
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.errors import UserError
from pipeline.io import remote
from pipeline.io.errors import StorageError
from pipeline.io.urls import expand_urls, explaining, is_local, local_path, open_for_reading, read_range

__all__ = ["Root", "StorageError", "check_path", "expand_urls", "is_temporary", "open_for_reading", "read_range"]

# Inside `Root`, `list` is the method.
Names: TypeAlias = list[str]

TEMPORARY_PREFIX = ".partial-"
# Zarr's local store leaves such names when it is killed between write and rename (zarr 3.1).
ZARR_TEMPORARY_SUFFIX = ".partial"
# A temporary that names no living process of this host is swept at once, any other one only after this time.
STALE_AFTER_S = 3600.0
# How long a store's listing may lag behind its objects, and how often it is asked meanwhile.
LISTING_TIMEOUT_S = 60.0
LISTING_POLL_S = 0.5


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
            UserError: the URL is empty, its protocol unknown, or the package for its protocol not installed.
        """
        text = os.fspath(url)
        if not text or "\0" in text:
            raise UserError(f"storage root {text!r}: expected a folder or a URL such as s3://bucket/folder")
        if is_local(text):
            # Absolute, because a worker may run in another current folder.
            return Root(os.path.abspath(local_path(text)))
        remote.filesystem(text)  # raises now if it cannot be used
        return Root(text.rstrip("/") if not text.endswith("://") else text)

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return is_local(self.url)

    @property
    def local_path(self) -> Path:
        """The root as a local path.

        Raises:
            UserError: the root is remote.
        """
        if not self.is_local:
            raise UserError(f"{self.url} is not a local folder: copy it to this machine first")
        return Path(self.url)

    def join(self, *parts: str) -> "Root":
        """Return the root of a folder below this one.

        Raises:
            UserError: a part would leave the root or is not a plain relative path.
        """
        return Root(self._full("/".join(check_path(part) for part in parts)))

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or folder at `path`."""
        full = self._full(path)
        return os.path.exists(full) if self.is_local else remote.exists(full)

    def size_bytes(self, path: str) -> int:
        """Return the size of a file in bytes. Raises FileNotFoundError if it is absent."""
        full = self._full(path)
        if not self.is_local:
            return remote.size_bytes(full)
        with explaining(full, "read"):
            return os.path.getsize(full)

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
            raise UserError(f"a file path below {self.url} is needed, got an empty one")
        if not self.is_local:
            remote.put(full, data)
            return
        with explaining(full, "write"):
            _write_local(full, data)

    def write_text(self, path: str, text: str) -> None:
        """Write text as UTF-8, atomically."""
        self.write_bytes(path, text.encode("utf-8"))

    def write_json(self, path: str, obj: Any) -> None:
        """Write a value as JSON with sorted keys, atomically: equal values give equal bytes."""
        self.write_text(path, json.dumps(obj, sort_keys=True, indent=1, ensure_ascii=False) + "\n")

    def append_text(self, path: str, text: str) -> None:
        """Add text to the end of a file of a local root (a log: a killed writer may leave half a line).

        Raises:
            UserError: the root is remote; object stores cannot append.
            StorageError: the disk is full, read-only or not ours.
        """
        file = self.local_path / check_path(path)
        with explaining(str(file), "write"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as opened:
                opened.write(text)

    def list(self, path: str = "") -> Names:
        """Return the sorted names in a folder, without temporaries; none if there is no such folder."""
        full = self._full(path)
        if self.is_local:
            with explaining(full, "list"):
                names = os.listdir(full) if os.path.isdir(full) else []
        else:
            names = remote.names(full)
        return sorted(name for name in names if not is_temporary(name))

    def wait_until_listed(self, folder: str, names: Collection[str], *, timeout_s: float = LISTING_TIMEOUT_S) -> None:
        """Return once `list(folder)` shows all of `names`, which their writers have committed.

        S3 shows an object as soon as it is written; some stores that speak its protocol lag. A stage waits at its
        end, so that the next one, which lists what is committed, sees all of it. On a local root nothing is asked.

        Raises:
            StorageError: a name is not listed after `timeout_s`; the first missing one is named.
        """
        if self.is_local or not names:
            return
        deadline = time.monotonic() + timeout_s
        while missing := set(names).difference(self.list(folder)):
            if time.monotonic() > deadline:
                raise StorageError(
                    errno.EIO,
                    f"{self.url}/{folder}: {min(missing)} was written but is not listed after {timeout_s:g} s "
                    f"({len(missing)} of {len(names)} are missing): the store's listings lag; run the command again",
                )
            time.sleep(LISTING_POLL_S)

    def walk(self, path: str = "") -> Names:
        """Return all files below a folder as sorted paths relative to it, without temporaries."""
        full = self._full(path)
        if self.is_local:
            paths = [
                os.path.relpath(os.path.join(folder, name), full).replace(os.sep, "/")
                for folder, _, names in os.walk(full)
                for name in names
            ]
        else:
            paths = remote.files_below(full)
        return sorted(p for p in paths if not is_temporary(posixpath.basename(p)))

    def remove(self, path: str) -> None:
        """Remove a file or a whole folder; one that is missing is fine."""
        full = self._full(path)
        if not self.is_local:
            remote.remove(full)
            return
        with explaining(full, "remove"):
            if os.path.isdir(full) and not os.path.islink(full):
                shutil.rmtree(full)
            else:
                Path(full).unlink(missing_ok=True)

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
                with contextlib.suppress(FileNotFoundError), explaining(str(file), "remove"):
                    if _is_abandoned(name, time.time() - file.stat().st_mtime, stale_after_s):
                        file.unlink()
                        removed += 1
        return removed

    def _full(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{check_path(path)}" if path else self.url


def check_path(path: str) -> str:
    """Return `path` if it is a relative path with forward slashes that stays below its root.

    Raises:
        UserError: it is empty, absolute, or contains `..`, a backslash, NUL or an empty part.
    """
    bad = not path or "\\" in path or "\0" in path or any(p in ("", ".", "..") for p in path.split("/"))
    if bad:
        raise UserError(f"path {path!r}: expected a relative path with forward slashes and no '.' or '..' part")
    return path


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a write in progress (ours or Zarr's)."""
    return name.startswith(TEMPORARY_PREFIX) or name.endswith(ZARR_TEMPORARY_SUFFIX)


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
