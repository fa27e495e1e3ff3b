"""Tar shards: stream their samples, or read one image of them by byte range.

The form is webdataset's: the members of a sample follow each other and share the part of their names before
the first dot (`n01440764_10026.jpg`, `.cls`, `.json`), so the public ImageNet shards are read unchanged.
Streaming is a webdataset pipeline whose tar stage is ours, because we also keep each image's byte range.

What is wrong with the *data* is reported sample by sample and bounded by `ErrorBudget`; an error of the
*code* (or of the network) is never taken for a bad sample and goes through.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

import webdataset as wds
from webdataset.tariterators import base_plus_ext, group_by_keys

from pipeline.data.captions import caption_fields, find_caption
from pipeline.data.sample_errors import ErrorBudget, SkippedSample, TooManyBadSamples
from pipeline.data.shard_writing import NewSample, ShardReport, unique_slugs, write_shards, write_tar_shards
from pipeline.errors import UserError
from pipeline.io.root import open_for_reading, read_range

__all__ = [
    "ErrorBudget",
    "NewSample",
    "Sample",
    "ShardReport",
    "SkippedSample",
    "TooManyBadSamples",
    "iterate_samples",
    "read_image_bytes",
    "sample_id",
    "split_sample_id",
    "unique_slugs",
    "write_shards",
    "write_tar_shards",
]

INDEX_BITS = 24  # samples per tar shard that a sample id can hold: 16.7 million
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_META = re.compile(r"__[^/]*__($|/)")  # webdataset's own notes in a shard


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a tar shard, not decoded yet.

    Attributes:
        key: the sample's name in the shard.
        tar_shard: URL of the shard.
        index: position in the shard, good and bad samples counted.
        offset: first byte of the image's data in the shard.
        size: length of the image's data in bytes.
        label: class index, or None for an unlabeled sample.
        image: the file, as stored.
        caption: one line of text, "" for a sample without one; None where captions were not asked for.
    """

    key: str
    tar_shard: str
    index: int
    offset: int
    size: int
    label: int | None
    image: bytes = field(repr=False)
    caption: str | None = None


def sample_id(shard_index: int, index: int) -> int:
    """Return the number of a sample in the whole data set; it sorts by tar shard, then by position.

    Raises:
        UserError: the shard or the position is out of range.
    """
    if not (0 <= shard_index < 1 << (63 - INDEX_BITS) and 0 <= index < 1 << INDEX_BITS):
        raise UserError(f"shard {shard_index}, sample {index}: expected numbers ≥ 0, the second below 2^{INDEX_BITS}")
    return shard_index << INDEX_BITS | index


def split_sample_id(number: int) -> tuple[int, int]:
    """Return the (shard index, index in the shard) of a sample id."""
    return number >> INDEX_BITS, number & ((1 << INDEX_BITS) - 1)


def read_image_bytes(tar_shard_url: str, offset: int, size: int) -> bytes:
    """Return the image file at a byte range of a tar shard, as stored.

    Raises:
        FileNotFoundError, StorageError: the shard is gone, shorter than it was, or cannot be read.
    """
    return read_range(tar_shard_url, offset, size)


def iterate_samples(
    url: str,
    *,
    image_key: str = "jpg;jpeg;png;webp",
    label_key: str = "cls",
    caption_key: str = "",
    num_classes: int | None,
    on_skip: Callable[[SkippedSample], None],
) -> Iterator[Sample]:
    """Stream the samples of one tar shard in order.

    A sample without a label is yielded with label None. Reported to `on_skip` instead of yielded are:
    `no-image`; `bad-label` (not a whole number, or outside the classes); `duplicate-key`; and at the end of a
    shard that stops early, `truncated-shard` (its file was cut) or `corrupt-shard` (no tar header where one
    must be). The sample under the cut is dropped, since its label may lie behind it.

    Args:
        url: local path or fsspec URL of an uncompressed tar.
        image_key: member suffixes that hold the image, separated by `;`, in order of preference.
        label_key: member suffixes that hold the class index as text.
        caption_key: where the caption stands, member suffixes or `json:KEY`; "" for no captions. See `captions`.
        num_classes: classes of the model; None takes any label ≥ 0.
        on_skip: called with each sample that is left out.

    Raises:
        UserError: the shard is compressed.
        FileNotFoundError, StorageError: the shard is missing or cannot be read.
    """
    read = _SampleReader(url, image_key, label_key, caption_key, num_classes)
    with open_for_reading(url) as file:
        members = _Members(file, requested=read.max_bytes)
        _check_uncompressed(url, file)
        seen: set[str] = set()
        index = 0
        for group in _groups(members):
            found = read(group, index, is_repeated=group["__key__"] in seen)
            if isinstance(found, SkippedSample):
                on_skip(found)
            else:
                yield found
            seen.add(group["__key__"])
            index += 1
            if members.take_duplicate():
                on_skip(read.skipped(group["__key__"], index, "duplicate-key", "its members stand twice in a row"))
                index += 1
        if (fault := members.fault) is not None:
            on_skip(read.skipped(fault.key, index, fault.reason, fault.detail))


class _SampleReader:
    """Makes a sample of the members that share a key, or says why it cannot be used."""

    def __init__(self, url: str, image_key: str, label_key: str, caption_key: str, num_classes: int | None) -> None:
        self._url, self._num_classes = url, num_classes
        self._image_suffixes, self._label_suffixes = _suffixes(image_key), _suffixes(label_key)
        self._captions = caption_fields(caption_key)

    @property
    def max_bytes(self) -> dict[str, int | None]:
        """Suffix → how many bytes of such a member are read at most, None for all; other members are not read."""
        bounds: dict[str, int | None] = {}
        for caption in self._captions:
            bounds[caption.suffix] = max(bounds.get(caption.suffix) or 0, caption.max_bytes)
        return bounds | dict.fromkeys([*self._image_suffixes, *self._label_suffixes])

    def __call__(self, group: Mapping[str, Any], index: int, *, is_repeated: bool) -> Sample | SkippedSample:
        key = group["__key__"]
        if is_repeated:
            return self.skipped(key, index, "duplicate-key", "an earlier sample has this key")
        image = _first(group, self._image_suffixes)
        if image is None:
            expected = " or ".join(self._image_suffixes)
            return self.skipped(key, index, "no-image", f"no member with suffix {expected}")
        label = _parse_label(_first(group, self._label_suffixes), self._num_classes)
        if isinstance(label, str):
            return self.skipped(key, index, "bad-label", label)
        return Sample(
            key=key,
            tar_shard=self._url,
            index=index,
            offset=image.offset,
            size=len(image.data),
            label=label,
            image=image.data,
            caption=find_caption(self._captions, partial(_data_of, group)) if self._captions else None,
        )

    def skipped(self, key: str, index: int, reason: str, detail: str) -> SkippedSample:
        """A sample of this shard that is left out."""
        return SkippedSample(key=key, tar_shard=self._url, index=index, reason=reason, detail=detail)


def _groups(members: "_Members") -> Iterator[dict[str, Any]]:
    """The members of each sample; without the last sample where its label may lie behind a fault of the shard."""
    usual_suffixes: set[str] = set()
    stages = (members.read, partial(group_by_keys, handler=members.note_duplicate))
    for group in wds.DataPipeline(*stages):
        suffixes = {name for name in group if not name.startswith("__")}
        # Once there is a fault, webdataset flushes the sample it was collecting: this one is the last.
        if members.fault is not None and members.fault.may_cover(group["__key__"], suffixes, usual_suffixes):
            return
        usual_suffixes = suffixes
        yield group


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One file of a shard: where its data begin, and the data if they were asked for."""

    offset: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class _Fault:
    """Why a shard stops early, and the sample whose member is broken ("" if its name is behind the fault)."""

    reason: str
    detail: str
    key: str = ""

    def may_cover(self, key: str, suffixes: set[str], usual_suffixes: set[str]) -> bool:
        """Whether members of sample `key` may lie behind the fault."""
        return key == self.key if self.key else suffixes != usual_suffixes


class _Members:
    """The first two stages of the pipeline: opens the tar and yields its files the way webdataset does."""

    def __init__(self, file: BinaryIO, requested: Mapping[str, int | None]) -> None:
        """`requested`: suffix → how many bytes of such a member are read at most, None for all."""
        self.fault: _Fault | None = None
        self._file = file
        # First, since a remote file drops what it has read ahead when it seeks to the end.
        self._file_size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self._requested = requested
        self._has_duplicate = False

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the members as webdataset's grouping expects them, and set `fault` if the tar stops early."""
        self._file.seek(0)
        key, position = "", -1
        tar: tarfile.TarFile | None = None
        while True:
            try:
                if tar is None:
                    tar = tarfile.open(fileobj=self._file, mode="r:", errors="replace")  # noqa: SIM115
                member = tar.next()
            # Only tarfile at work on a header runs here: what it raises, but for OSError, is the data's.
            except (tarfile.TarError, ValueError, OverflowError, LookupError) as error:
                self.fault = _header_fault(str(error), key)
                return
            if member is None:
                self.fault = self._fault_at(tar.offset)
                return
            if member.size < 0 or tar.offset <= position:
                self.fault = _Fault(reason="corrupt-shard", detail=f"impossible size at byte {member.offset}")
                return
            position = tar.offset
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header of the shard
            key, suffix = base_plus_ext(member.name)
            if key is None or not member.isreg() or member.issparse() or _META.match(member.name):
                key = ""
                continue
            if member.offset_data + member.size > self._file_size:
                cut = f"the file ends at byte {self._file_size}, inside {member.name}"
                self.fault = _Fault(reason="truncated-shard", detail=cut, key=key)
                return
            data = b""
            if suffix.lower() in self._requested:
                self._file.seek(member.offset_data)
                bound = self._requested[suffix.lower()]
                data = self._file.read(member.size if bound is None else min(bound, member.size))
            yield {
                "fname": member.name,
                "data": _Member(offset=member.offset_data, data=data),
                "__url__": "",
            }

    def note_duplicate(self, error: Exception) -> bool:
        """Handle an error of webdataset's grouping: a repeated member is bad data, all else a code error."""
        if isinstance(error, ValueError) and "duplicate file name" in str(error.args[0]):
            self._has_duplicate = True
            return True
        raise error

    def take_duplicate(self) -> bool:
        """Whether members of the sample just yielded stood there twice; asking resets it."""
        found, self._has_duplicate = self._has_duplicate, False
        return found

    def _fault_at(self, offset: int) -> _Fault | None:
        """Say why tarfile stopped: it ends quietly at the end mark, but also at garbage or at a cut."""
        self._file.seek(offset)
        block = self._file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            detail = f"the file ends at byte {offset + len(block)}, without the end mark of a tar"
            return _Fault(reason="truncated-shard", detail=detail)
        if any(block):
            return _Fault(reason="corrupt-shard", detail=f"no tar header at byte {offset}")
        return None


def _header_fault(message: str, key: str) -> _Fault:
    is_cut = any(word in message for word in ("truncated", "unexpected end", "empty file"))
    return _Fault(reason="truncated-shard" if is_cut else "corrupt-shard", detail=message, key=key)


def _check_uncompressed(url: str, file: BinaryIO) -> None:
    start = file.read(6)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(
                f"{url} is compressed with {name}: images inside it cannot be read by byte range. "
                "Unpack it to a plain .tar (images hardly shrink) and name that in data.shards"
            )


def _suffixes(keys: str) -> list[str]:
    return [key.strip().lower() for key in keys.split(";") if key.strip()]


def _first(group: Mapping[str, Any], suffixes: list[str]) -> _Member | None:
    return next((group[suffix] for suffix in suffixes if suffix in group), None)


def _data_of(group: Mapping[str, Any], suffix: str) -> bytes | None:
    return group[suffix].data if suffix in group else None


def _parse_label(member: _Member | None, num_classes: int | None) -> int | str | None:
    """Return the class index, None for an unlabeled sample, or what is wrong with the label as text."""
    if member is None:
        return None
    if not re.fullmatch(rb"\s*[0-9]{1,18}\s*", member.data):
        return f"label {member.data[:40]!r}: expected a class index such as 207"
    label = int(member.data)
    if num_classes is not None and label >= num_classes:
        return f"label {label}: the model has classes 0 to {num_classes - 1}"
    return label
