"""The images of a layer in a few archives, for hosts that limit the number of files.

    packs/<folder>/<layer>-0000.zip, -0001.zip, …   standard ZIPs whose members are *stored*, not compressed
    packs/<folder>/<layer>.parquet                  the place of each image: PACK_SCHEMA

A member's bytes are in the archive unchanged, so that one HTTP Range request reads an image, and every unzip program
opens the archives too. Only PACKED_FOLDERS are packed, which have several files per neuron; a contact sheet is one file
for 64 neurons and stays one. Equal images give equal bytes: names are sorted, times are fixed.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.atlas.format.schema import check_atlas_path
from pipeline.errors import UserError
from pipeline.io.parquet import column_types, parse_table, table_bytes
from pipeline.io.root import Root

PACKS_FOLDER: Final = "packs"
PACKED_FOLDERS: Final = ("images", "examples")
# The smallest limit for one file that we know is 25 MiB (host_limits); a single image is never split.
MAX_ARCHIVE_BYTES: Final = 20_000_000
PACK_SCHEMA: Final[dict[str, str]] = {
    "path": "string",  # of the image in the atlas, as its tables name it
    "archive": "string",  # path of the ZIP in the atlas
    "offset": "int32",  # of the image's first byte in the ZIP
    "bytes": "int32",  # of the image
    "archive_bytes": "int32",  # of the whole ZIP
}

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time of a ZIP
# PKWARE APPNOTE 6.3.10, 4.3.7: a local file header has 30 bytes, the last four are the lengths of name and extra field.
_LOCAL_HEADER_BYTES: Final = 30
# Local header, entry of the central directory (46 bytes) and the name in both.
_OVERHEAD_BYTES: Final = 30 + 46
_END_BYTES: Final = 22  # of the end record of the archive


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one packed image lies."""

    archive: str
    offset: int
    size_bytes: int
    archive_bytes: int


def is_packed_path(path: str) -> bool:
    """Whether a file of an atlas goes into an archive when the atlas is packed."""
    return path.split("/")[0] in PACKED_FOLDERS


def index_path(path: str) -> str:
    """Where the index that names an image lies."""
    folder, layer, _ = path.split("/", 2)
    return f"{PACKS_FOLDER}/{folder}/{layer}.parquet"


def packed_files(
    paths: Iterable[str], read: Callable[[str], bytes], *, max_archive_bytes: int = MAX_ARCHIVE_BYTES
) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of the archives and indexes that hold the images `paths`, one archive in memory at a time.

    Args:
        paths: images of an atlas, `is_packed_path` each.
        read: gives the bytes of an image.
        max_archive_bytes: bound of an archive; one with a single image may be larger.
    """
    groups: dict[str, list[str]] = {}
    for path in sorted(paths):
        groups.setdefault(index_path(path), []).append(path)
    for index, members in sorted(groups.items()):
        rows: list[dict[str, Any]] = []
        for number, images in enumerate(_archive_members(members, read, max_archive_bytes)):
            archive = f"{index.removesuffix('.parquet')}-{number:04d}.zip"
            data, found = _archive(archive, images)
            rows += found
            yield archive, data
        yield index, table_bytes(rows, PACK_SCHEMA)


def _archive_members(
    members: Sequence[str], read: Callable[[str], bytes], max_archive_bytes: int
) -> Iterator[list[tuple[str, bytes]]]:
    group: list[tuple[str, bytes]] = []
    size = _END_BYTES
    for path in members:
        data = read(path)
        needed = len(data) + _OVERHEAD_BYTES + 2 * len(path)
        if group and size + needed > max_archive_bytes:
            yield group
            group, size = [], _END_BYTES
        group.append((path, data))
        size += needed
    yield group


def _archive(archive: str, images: Sequence[tuple[str, bytes]]) -> tuple[bytes, list[dict[str, Any]]]:
    """A ZIP of images under their paths, and its rows of the index."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as opened:
        for path, data in images:
            opened.writestr(zipfile.ZipInfo(path, _EPOCH), data)
        places = [(info.filename, info.header_offset, info.file_size) for info in opened.infolist()]
    whole = buffer.getvalue()
    rows = [
        {
            "path": path,
            "archive": archive,
            "offset": _data_offset(whole, header),
            "bytes": size,
            "archive_bytes": len(whole),
        }
        for path, header, size in places
    ]
    return whole, rows


def _data_offset(archive: bytes, header_offset: int) -> int:
    """Where a member's bytes begin, behind its local header."""
    name_length, extra_length = struct.unpack_from("<HH", archive, header_offset + _LOCAL_HEADER_BYTES - 4)
    return header_offset + _LOCAL_HEADER_BYTES + name_length + extra_length


class PackedAtlas:
    """Reads the files of a packed atlas by the paths that atlas.json lists, as `Root` does for a plain one."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._places: dict[str, Place] | None = None

    def places(self) -> Mapping[str, Place]:
        """Every packed image by its path.

        Raises:
            UserError: an index is damaged, or names a place that cannot be.
        """
        if self._places is None:
            names = [name for name in self.root.walk(PACKS_FOLDER) if name.endswith(".parquet")]
            self._places = {}
            for name in names:
                self._places |= _read_index(self.root, f"{PACKS_FOLDER}/{name}")
        return self._places

    def walk(self) -> list[str]:
        """Paths of all files as a plain atlas would have them, sorted; what belongs to the packing is left out."""
        plain = [path for path in self.root.walk() if not path.startswith(f"{PACKS_FOLDER}/")]
        return sorted([*plain, *self.places()])

    def size_bytes(self, path: str) -> int:
        """Size of a file in bytes. Raises FileNotFoundError if it is absent."""
        return self._place(path).size_bytes if is_packed_path(path) else self.root.size_bytes(path)

    def read_bytes(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError if it is absent."""
        if not is_packed_path(path):
            return self.root.read_bytes(path)
        place = self._place(path)
        return self.root.read_bytes(place.archive, offset=place.offset, size=place.size_bytes)

    def holder(self, path: str) -> str:
        """The file in the folder that holds `path`: itself, or its archive."""
        return self._place(path).archive if is_packed_path(path) else path

    def _place(self, path: str) -> Place:
        place = self.places().get(path)
        if place is None:
            raise FileNotFoundError(f"{path}: in no archive below {self.root.url}/{PACKS_FOLDER}")
        return place


def _read_index(root: Root, path: str) -> dict[str, Place]:
    data = root.read_bytes(path)
    types = column_types(data, source=path)
    if types != PACK_SCHEMA:
        raise UserError(f"{path}: columns {types}, expected {PACK_SCHEMA}")
    table = parse_table(data, source=path)
    if any(None in values for values in table.values()):
        raise UserError(f"{path}: has empty cells")
    places = {}
    for name, archive, offset, size, whole in zip(*(table[column] for column in PACK_SCHEMA), strict=True):
        check_atlas_path(archive, folder=PACKS_FOLDER)
        if not is_packed_path(check_atlas_path(name)) or index_path(name) != path:
            raise UserError(f"{path}: names {name[:200]!r}, which is not of this layer and folder")
        if not 0 <= offset <= offset + size <= whole:
            raise UserError(f"{path}: {name} at {offset} with {size} bytes of {whole}, outside of its archive")
        places[name] = Place(archive=archive, offset=int(offset), size_bytes=int(size), archive_bytes=int(whole))
    return places


def pack_problems(atlas: PackedAtlas) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it): archives that are no ZIPs or hold other members than the indexes say."""
    try:
        places = atlas.places()
    except (UserError, OSError) as error:
        yield PACKS_FOLDER, str(error)
        return
    by_archive: dict[str, dict[str, Place]] = {}
    for path, place in places.items():
        by_archive.setdefault(place.archive, {})[path] = place
    there = {f"{PACKS_FOLDER}/{name}" for name in atlas.root.walk(PACKS_FOLDER) if not name.endswith(".parquet")}
    for archive in sorted(there - set(by_archive)):
        yield archive, "no index names it; publish again to remove it"
    for archive, members in sorted(by_archive.items()):
        if archive not in there:
            yield archive, "missing, though an index names it"
            continue
        try:
            yield from ((archive, problem) for problem in _archive_problems(atlas.root.read_bytes(archive), members))
        except (zipfile.BadZipFile, struct.error, OSError) as error:
            yield archive, f"not a ZIP that can be read: {error}"


def _archive_problems(data: bytes, members: Mapping[str, Place]) -> Iterator[str]:
    sizes = {place.archive_bytes for place in members.values()}
    if sizes != {len(data)}:
        yield f"has {len(data)} bytes, its index says {sorted(sizes)}"
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        found = {}
        for info in opened.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                yield f"{info.filename[:200]!r} is compressed, so that no part of it can be shown"
            found[info.filename] = (_data_offset(data, info.header_offset), info.file_size)
    requested = {path: (place.offset, place.size_bytes) for path, place in members.items()}
    for path in sorted(set(found) | set(requested)):
        if found.get(path) != requested.get(path):
            places = f"{found.get(path, 'no place')}, its index says {requested.get(path, 'nothing')}"
            yield f"{path[:200]!r} lies at {places}"
