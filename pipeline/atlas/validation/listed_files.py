"""The files of an untrusted atlas: only those that atlas.json lists are read, and only within bounds."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pipeline.atlas.format.file_list import FileList
from pipeline.atlas.site.packing import PACKS_FOLDER, PackedAtlas, pack_problems
from pipeline.errors import UserError
from pipeline.io.prefetch import ahead
from pipeline.io.root import Root

MAX_MANIFEST_BYTES: Final = 512 << 20  # three million listed files of 140 bytes each
MAX_FILE_BYTES: Final = 256 << 20  # far above any part of an atlas
_READERS: Final = 4
_FILES_AHEAD: Final = 16
_COUNTED_AT_ONCE: Final = 64  # files

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong: the file (relative to what was validated) and the problem."""

    path: str
    message: str

    def __str__(self) -> str:
        # Text from the folder must not control the terminal.
        text = f"{self.path}: {self.message}"
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ListedFiles:
    """The files of one atlas folder; `faults` collects what is wrong with them.

    Attributes:
        faults: so far.
        listed: the entries of atlas.json.
        left: paths of listed files that were not read yet, in order.

    Args:
        root: the atlas folder.
        packed: whether its images are in archives.
        advance: called with the number of files read since the last call.
    """

    def __init__(self, root: Root, *, packed: bool = False, advance: Callable[[int], None] = lambda _: None) -> None:
        self.root = root
        self.advance = advance
        self.packed = PackedAtlas(root) if packed else None
        self.faults: list[Fault] = []
        self.listed = FileList()
        self.left: dict[str, None] = {}
        self._num_uncounted = 0

    def take_list(self, files: FileList) -> None:
        """Take the `files` of a manifest without problems."""
        self.listed = files
        self.left = dict.fromkeys(files.paths)

    def add(self, path: str, message: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(path, message))

    def check_packs(self) -> bool:
        """Whether the archives of images, if there are any, are valid."""
        if self.packed is None:
            return True
        before = len(self.faults)
        for name in self.root.walk(PACKS_FOLDER):
            path = f"{PACKS_FOLDER}/{name}"
            try:
                refuse_links(self.root, path)
                if self.root.size_bytes(path) > MAX_FILE_BYTES:
                    self.add(path, f"has more than {MAX_FILE_BYTES} bytes")
            except OSError as error:
                self.add(path, f"cannot be read: {error}")
        if len(self.faults) == before:
            self.faults += [Fault(path, problem) for path, problem in pack_problems(self.packed)]
        return len(self.faults) == before

    def check_unlisted(self, folders: Sequence[str]) -> None:
        """Note files in the folders that are not listed."""
        for folder in folders:
            for name in self.packed.walk() if self.packed else self.root.walk(folder):
                path = f"{folder}/{name}" if folder else name
                if path not in self.listed and path != "atlas.json":
                    self.add(path, "not listed in atlas.json; if it is newer, run `neuron-atlas build` again")

    def intact(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of the listed files among `paths` that have the listed size and sha256; others become faults."""
        return self.seen(paths, lambda _, data: data)

    def seen(self, paths: Iterable[str], see: Callable[[str, bytes], T | Fault]) -> Iterator[tuple[str, T]]:
        """(path, what `see` makes of path and bytes) of the intact ones; a fault that it finds is noted.

        Args:
            paths: see `intact`.
            see: runs in threads, so that images are decoded in parallel.
        """

        def read(path: str) -> T | Fault:
            data = self._read_listed(path)
            return data if isinstance(data, Fault) else see(path, data)

        listed = [path for path in paths if path in self.listed]
        for path, found in ahead(read, listed, threads=_READERS, most=_FILES_AHEAD):
            if path in self.left:
                del self.left[path]
                self._count()
            if isinstance(found, Fault):
                self.faults.append(found)
            else:
                yield path, found

    def _count(self) -> None:
        self._num_uncounted += 1
        if self._num_uncounted == _COUNTED_AT_ONCE or not self.left:
            self.advance(self._num_uncounted)
            self._num_uncounted = 0

    def _read_listed(self, path: str) -> bytes | Fault:
        entry, files = self.listed[path], self.packed or self.root
        try:
            refuse_links(self.root, self.packed.holder(path) if self.packed else path)
            size = files.size_bytes(path)
            if size > MAX_FILE_BYTES:
                return Fault(path, f"has {size} bytes, more than any part of an atlas")
            if size != entry["bytes"]:
                return Fault(path, f"has {size} bytes, atlas.json says {entry['bytes']}: cut or replaced")
            data = files.read_bytes(path)
        except FileNotFoundError:
            return Fault(path, "missing, though atlas.json lists it")
        except OSError as error:
            return Fault(path, f"cannot be read: {error}")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            return Fault(path, "sha256 differs from atlas.json: damaged or replaced")
        return data


def parsed(data: bytes) -> Any:
    """The JSON value, None for other text."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def refuse_links(root: Root, path: str) -> None:
    """Raise OSError if a local file is a link out of the folder or no plain file (a device, a pipe)."""
    if not root.is_local:
        return
    file = (root.local_path / path).resolve(strict=True)
    if not file.is_relative_to(root.local_path.resolve()) or not file.is_file():
        raise OSError("a link out of the folder, or not a plain file")


def read_json(root: Root, path: str, faults: list[Fault]) -> dict[str, Any] | None:
    """The JSON object, or None with a fault."""
    try:
        refuse_links(root, path)
        size = root.size_bytes(path)
        if size > MAX_MANIFEST_BYTES:
            raise UserError(f"{size} bytes, at most {MAX_MANIFEST_BYTES} are expected")
        value = json.loads(root.read_bytes(path))
        if not isinstance(value, dict):
            raise UserError(f"a {type(value).__name__}, expected an object")
    except FileNotFoundError:
        faults.append(Fault(path, "missing"))
        return None
    except (OSError, ValueError, RecursionError) as error:
        faults.append(Fault(path, f"not readable: {error}"))
        return None
    return value
