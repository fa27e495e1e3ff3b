"""Files named by any local path or fsspec URL: expand patterns to them, open them, read ranges of them."""

import errno
import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import braceexpand

from pipeline.errors import UserError
from pipeline.io import remote
from pipeline.io.errors import StorageError, explained


def is_local(url: str) -> bool:
    """Whether a path or URL is one of this machine's file system."""
    return "://" not in url or url.startswith(("file://", "local://"))


def local_path(url: str) -> str:
    """The path of a local URL, with `~` expanded."""
    path = url.partition("://")[2] if "://" in url else url
    return os.path.expanduser(path)


@contextmanager
def explaining(path: str, action: str) -> Iterator[None]:
    """Turn the operating system's errors at a local path into StorageErrors that say the remedy."""
    try:
        yield
    except OSError as error:
        explanation = explained(error, path, action)
        if explanation is error:
            raise
        raise explanation from error


def read_range(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """Return `size` bytes (None: all that follow) from `offset` of a file at a local path or fsspec URL.

    Raises:
        UserError: the range is negative.
        FileNotFoundError: there is no such file.
        StorageError: the file ends inside the range, or cannot be read.
    """
    if offset < 0 or (size is not None and size < 0):
        raise UserError(f"byte range offset={offset}, size={size}: expected numbers of at least 0")
    if is_local(url):
        with explaining(url, "read"), open(local_path(url), "rb") as file:
            file.seek(offset)
            data = file.read() if size is None else file.read(size)
    else:
        data = remote.get(url, offset, size)
    if size is not None and len(data) != size:
        raise StorageError(
            errno.EIO,
            f"{url}: bytes {offset}–{offset + size} are needed but the file gave only {len(data)}; "
            "it changed since it was read first: restore it, or collect the statistics again",
        )
    return data


def open_for_reading(url: str) -> BinaryIO:
    """Open any local path or fsspec URL as a seekable binary file, to be used in a `with` statement.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the file cannot be opened; a remote one raises it while it is read, too.
    """
    if not is_local(url):
        return remote.open_file(url)
    with explaining(url, "read"):
        return open(local_path(url), "rb")


def expand_urls(pattern: str | Sequence[str]) -> list[str]:
    """Return the files that a pattern names: braces `{0000..1023}`, globs, fsspec URLs, or a list of these.

    Order is that of the list, then of the braces; the matches of one glob are sorted. Local paths come back
    absolute. A local file that exists under the very name is taken as it is, so brackets in names do no harm.

    Raises:
        UserError: a pattern is malformed, a glob matches nothing, a local file is missing, or one file is
            named twice.
    """
    patterns = [pattern] if isinstance(pattern, str) else [*pattern]
    if not patterns:
        raise UserError("no file pattern given: expected at least one path, glob or URL")
    urls = [url for item in patterns for url in _expand_one(item)]
    seen: set[str] = set()
    for url in urls:
        if url in seen:
            raise UserError(f"{url} is named twice by {pattern!r}: its samples would count twice")
        seen.add(url)
    return urls


def _expand_one(pattern: str) -> list[str]:
    if not pattern:
        raise UserError("an empty file pattern: expected a path, glob or URL")
    if is_local(pattern) and os.path.exists(local_path(pattern)):
        return [os.path.abspath(local_path(pattern))]
    try:
        names = list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"file pattern {pattern!r}: the braces are not balanced") from error
    urls: list[str] = []
    for name in names:
        has_glob = glob.has_magic(name)
        if is_local(name):
            path = os.path.abspath(local_path(name))
            matches = sorted(glob.glob(path, recursive=True)) if has_glob else [path]
            matches = [match for match in matches if os.path.isfile(match)]
        elif has_glob:
            matches = remote.matches(name)
        else:
            # One request for each of perhaps thousands of remote files: the first read reports a missing one.
            matches = [name]
        if not matches:
            what = "matches no file" if has_glob else "does not exist"
            within = "" if name == pattern else f" (from {pattern!r})"
            raise UserError(f"{name}{within} {what}: check the path, relative to {os.getcwd()}")
        urls.extend(matches)
    return urls
