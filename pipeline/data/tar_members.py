"""The members of a tar, read strictly: each is given, or the tar is refused as damaged.

Python's tarfile reads headers of every kind (ustar, GNU, PAX), but it ends quietly at a hole, at garbage and after the
first of several archives, as other readers do. Here a tar ends at its end mark and the padding of its last record;
what follows is another archive, or damage.
"""

import io
import posixpath
import tarfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pipeline.errors import UserError

# An archive ends with two blocks of zeros and is padded to whole records. 20 blocks are the default of GNU tar and
# Python (POSIX.1-2017, pax, "ustar Interchange Format").
_END_MARK_BYTES: Final = 2 * tarfile.BLOCKSIZE
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_EXTENDED: Final = b"xgX"  # PAX records before the header that they extend
_LONG: Final = b"LK"  # GNU: a long name, a long link target
_FOREIGN: Final = (b"M", b"V", b"D", b"N")  # GNU: parts of other volumes, labels, lists of folders, old long names


class DamagedShardError(UserError):
    """A tar shard that ends early, holds garbage between its members, or is no tar: none of its members is used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """One member that is no folder.

    Attributes:
        name: as UTF-8; other bytes are escaped, so that different names stay different.
        offset: first byte of its data in the file; of a link, of the data that it leads to.
        size: length of the data in bytes.
        is_link: whether the data are those of another member.
        fault: why it has no data that lie in one piece, as (reason, detail); None if it has.
    """

    name: str
    offset: int = 0
    size: int = 0
    is_link: bool = False
    fault: tuple[str, str] | None = None


def read_members(url: str, file: BinaryIO) -> Iterator[TarMember]:
    """Yield the members of all archives in a file in order. Their data may be read from `file` meanwhile.

    Args:
        url: of the file, for messages.
        file: seekable; it is read forwards but for links to members that follow, which need a look ahead.

    Raises:
        DamagedShardError: when the damage is reached, after the members before it.
    """
    # First, since a remote file drops what it has read ahead when it seeks to the end.
    file_size = file.seek(0, io.SEEK_END)
    _check_beginning(url, file)
    links = _Links(lambda: _headers(url, file, file_size))
    for header in _headers(url, file, file_size):
        links.add(header)
        yield links.resolve(header) if header.target else header.member


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """A member, and where it leads if it is a link ("" if it is none)."""

    member: TarMember
    target: str = ""


class _Links:
    """Finds what links lead to among the members of the same file."""

    def __init__(self, read_all: Callable[[], Iterator[_Header]]) -> None:
        self._read_all = read_all
        self._known: dict[str, _Header] = {}
        self._is_complete = False

    def add(self, header: _Header) -> None:
        """Note a member that was read; of several with one name links mean the last before them."""
        self._known[posixpath.normpath(header.member.name)] = header

    def resolve(self, link: _Header) -> TarMember:
        """The member at the end of a chain of links, under the name of the first."""
        name, passed = link.member.name, set[str]()
        target = link
        while target.target:
            found = None if target.target in passed else self._find(target.target)
            if found is None:
                detail = f"{name} is a link to {link.target}, which is no member of this tar: pack the files themselves"
                return TarMember(name=name, fault=("broken-link", f"{detail} (tar --dereference --hard-dereference)"))
            passed.add(target.target)
            target = found
        member = target.member
        return TarMember(name=name, offset=member.offset, size=member.size, is_link=True, fault=member.fault)

    def _find(self, path: str) -> _Header | None:
        if path not in self._known and not self._is_complete:
            for header in self._read_all():
                self._known.setdefault(posixpath.normpath(header.member.name), header)
            self._is_complete = True
        return self._known.get(path)


def _headers(url: str, file: BinaryIO, file_size: int) -> Iterator[_Header]:
    """The members of all archives."""
    start = 0
    while True:
        end = yield from _headers_of_archive(url, file, start, file_size)
        padded = start + -(-(end - start + _END_MARK_BYTES) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
        file.seek(end)
        padding = file.read(padded - end)
        if len(padding) < tarfile.BLOCKSIZE:
            raise _damaged(url, f"it ends at byte {file_size}, without the end mark of a tar")
        if any(padding):
            detail = f"after the zeros of an end mark at byte {end} there are other bytes before the end of its record"
            raise _damaged(url, detail)
        if padded >= file_size:
            return
        start = padded
        if not any(file.read(tarfile.BLOCKSIZE)):
            raise _damaged(url, f"zeros from byte {end} on, where members or the end of the file are expected")


def _headers_of_archive(url: str, file: BinaryIO, start: int, file_size: int) -> Generator[_Header, None, int]:
    """The members of the archive at byte `start`; returns the byte of its end mark."""
    tar: tarfile.TarFile | None = None
    position = start
    while True:
        try:
            if tar is None:
                file.seek(start)
                tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
            header = tar.next()
        # Only tarfile at work on a header runs here: what it raises, but for OSError, is the data's.
        except (tarfile.TarError, ValueError, OverflowError, LookupError) as error:
            raise _damaged(url, f"no tar header at byte {position}: {error}") from error
        if header is None:
            file.seek(position)
            block = file.read(tarfile.BLOCKSIZE)
            if any(block):
                where = "the file ends inside it" if len(block) < tarfile.BLOCKSIZE else "other bytes stand there"
                raise _damaged(url, f"no tar header at byte {position}: {where}")
            return position
        name = _readable(header.name)
        if header.size < 0 or tar.offset <= position:
            raise _damaged(url, f"the header at byte {position} has an impossible size")
        if tar.offset > file_size:
            raise _damaged(url, f"it ends at byte {file_size}, inside {name}")
        _check_extended(url, file, position, header.offset_data)
        position = tar.offset
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header of the shard
        if not header.isdir():
            yield _header(header, name)


def _header(header: tarfile.TarInfo, name: str) -> _Header:
    if header.islnk() or header.issym():
        folder = posixpath.dirname(name) if header.issym() else ""
        target = posixpath.normpath(posixpath.join(folder, _readable(header.linkname)))
        return _Header(member=TarMember(name=name), target=target)
    fault = None
    if header.issparse():
        fault = "sparse-member", f"{name} is stored with holes left out: write the tar without --sparse"
    elif header.ischr() or header.isblk() or header.isfifo() or header.type in _FOREIGN:
        fault = "not-a-file", f"{name} is no file but a member of type {header.type!r}"
    return _Header(member=TarMember(name=name, offset=header.offset_data, size=header.size, fault=fault))


def _check_beginning(url: str, file: BinaryIO) -> None:
    """Say what a file is that is no tar, where its first bytes tell."""
    file.seek(0)
    start = file.read(tarfile.BLOCKSIZE)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise DamagedShardError(
                f"{url} is compressed with {name}: images inside it cannot be read by byte range. "
                "Unpack it to a plain .tar (images hardly shrink) and name that in data.shards"
            )
    if not start:
        raise _damaged(url, "it is empty")
    if start.startswith(b"version https://git-lfs"):
        raise _damaged(url, "it is a pointer of Git LFS and not the file itself; get it with `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise _damaged(url, "it is a web page (an error of the server, most likely) and no tar")


def _check_extended(url: str, file: BinaryIO, start: int, end: int) -> None:
    """Check the long names and PAX records before a header: no checksum covers them, and tarfile guesses."""
    while end - start > tarfile.BLOCKSIZE:
        file.seek(start)
        block = file.read(tarfile.BLOCKSIZE)
        kind = block[156:157]
        if not kind or kind not in _EXTENDED + _LONG:
            return  # blocks of a map of holes follow
        size = tarfile.nti(block[124:136])  # type: ignore[attr-defined]
        body = file.read(size)
        is_whole = _are_pax_records(body) if kind in _EXTENDED else b"\0" not in body.rstrip(b"\0")
        if not is_whole:
            raise _damaged(url, f"the extended header at byte {start} cannot be read")
        start += tarfile.BLOCKSIZE + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _are_pax_records(body: bytes) -> bool:
    """Whether bytes are records "LENGTH KEYWORD=VALUE\\n", each of LENGTH bytes."""
    while body:
        digits = body[:20].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = body[:length]
        if not (length and len(record) == length and record.endswith(b"\n") and b"=" in record):
            return False
        body = body[length:]
    return True


def _readable(name: str) -> str:
    if name.isascii():  # nearly always
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _damaged(url: str, detail: str) -> DamagedShardError:
    return DamagedShardError(f"{url} is damaged: {detail}")
