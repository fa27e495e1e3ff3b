"""The members of a tar shard by their keys, and the sample that each group of them makes."""

import codecs
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final

import webdataset as wds
from webdataset.tariterators import base_plus_ext, group_by_keys

from pipeline.data.captions import caption_fields, find_caption
from pipeline.data.sample import Sample
from pipeline.data.sample_errors import SkippedSample
from pipeline.data.side_files import is_side_file
from pipeline.data.tar_members import TarMember, read_members
from pipeline.io.root import read_range

_META: Final = re.compile(r"__[^/]*__($|/)")  # webdataset's own notes in a shard


class SampleReader:
    """Makes samples of the members that share a key, or says why an image cannot be used."""

    def __init__(self, url: str, image_key: str, label_key: str, caption_key: str, num_classes: int | None) -> None:
        self._url, self._num_classes = url, num_classes
        self._image_suffixes, self._label_suffixes = _suffixes(image_key), _suffixes(label_key)
        self._captions = caption_fields(caption_key)
        self._extensions = tuple(f".{suffix}" for suffix in self._image_suffixes if "." not in suffix)
        self._beside: dict[str, list[SkippedSample]] = defaultdict(list)  # by suffix: images beside those of samples

    @property
    def max_bytes(self) -> dict[str, int | None]:
        """Suffix → how many bytes of such a member are read at most, None for all; other members are not read."""
        bounds: dict[str, int | None] = {}
        for caption in self._captions:
            bounds[caption.suffix] = max(bounds.get(caption.suffix) or 0, caption.max_bytes)
        return bounds | dict.fromkeys([*self._image_suffixes, *self._label_suffixes])

    def is_image(self, name: str) -> bool:
        """Whether a member is an image: its suffix is one of `image_key`, or ends in one that has no dot itself."""
        file_name = name.rpartition("/")[2].lower()
        suffix = file_name.partition(".")[2]
        return suffix in self._image_suffixes or file_name.endswith(self._extensions)

    def __call__(self, group: Mapping[str, Any], index: int, *, is_repeated: bool) -> Iterator[Sample | SkippedSample]:
        """What becomes of the image of a key, and of each further image under it."""
        key = group["__key__"]
        images = {name: member for name, member in group.items() if isinstance(member, Member) and member.is_image}
        chosen = next((suffix for suffix in self._image_suffixes if suffix in group), None)
        if is_repeated:
            detail = "an earlier sample has this key; the members of one sample must follow each other"
            for _ in images or [""]:
                yield self.skipped(key, index, "duplicate-key", detail, num_images=min(1, len(images)))
            return
        if not images:
            expected = " or ".join(self._image_suffixes)
            yield self.skipped(key, index, "no-image", f"no member with suffix {expected}", num_images=0)
            return
        if chosen is not None:
            yield self._sample(group, group[chosen], index)
        for suffix, image in images.items():
            if suffix == chosen:
                continue
            if image.fault is not None:
                yield self.skipped(key, index, *image.fault)
            elif suffix in self._image_suffixes:
                yield self.skipped(key, index, "other-format", f"{key}.{chosen} is used", is_bad=False)
            else:
                dotted = self.skipped(key, index, "dotted-name", _dotted(image.name, key, suffix))
                if chosen is None:
                    yield dotted
                else:
                    self._beside[suffix].append(dotted)

    def annotations(self, num_samples: int) -> Iterator[SkippedSample]:
        """The images beside those of samples: annotations if most samples have one of that suffix, else lost images."""
        for suffix, found in self._beside.items():
            is_annotation = 2 * len(found) >= num_samples and not suffix.rpartition(".")[0].isdigit()
            for skip in found:
                yield (
                    self.skipped(skip.key, skip.index, "annotation", f"most samples have {suffix}", is_bad=False)
                    if is_annotation
                    else skip
                )

    def skipped(
        self, key: str, index: int, reason: str, detail: str, *, num_images: int = 1, is_bad: bool = True
    ) -> SkippedSample:
        """An image of this shard that is left out."""
        return SkippedSample(
            key=key,
            tar_shard=self._url,
            index=index,
            reason=reason,
            detail=detail,
            num_images=num_images,
            is_bad=is_bad,
        )

    def _sample(self, group: Mapping[str, Any], image: "Member", index: int) -> Sample | SkippedSample:
        key = group["__key__"]
        if image.fault is not None:
            return self.skipped(key, index, *image.fault)
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


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a shard: where its data begin, and the data if they were asked for; `fault` if it has none."""

    name: str
    offset: int
    data: bytes
    is_image: bool
    fault: tuple[str, str] | None


class ShardMembers:
    """Reads the tar, and lets webdataset group its files by key."""

    def __init__(self, url: str, file: BinaryIO, read: SampleReader, on_skip: Callable[[SkippedSample], None]) -> None:
        self.num_images = 0  # of any name and kind
        self._url, self._file, self._read, self._on_skip = url, file, read, on_skip
        self._max_bytes = read.max_bytes
        self._last: Member | None = None
        self._duplicates: list[Member] = []

    def groups(self) -> Iterator[Mapping[str, Any]]:
        """Yield the members that share a key and follow each other: suffix → member, and `__key__`."""
        yield from wds.DataPipeline(self._files, partial(group_by_keys, handler=self._note_duplicate))

    def _files(self) -> Iterator[dict[str, Any]]:
        """Yield the members as webdataset's grouping expects them."""
        for index, member in enumerate(read_members(self._url, self._file)):
            is_image = self._read.is_image(member.name)
            self.num_images += is_image
            key, suffix = base_plus_ext(member.name)
            if (reason := _no_data(member.name)) is not None:
                if is_image:
                    detail = f"{member.name} is none of the images"
                    self._on_skip(self._read.skipped(member.name, index, reason, detail, is_bad=False))
                continue
            if key is None:
                continue
            self._last = Member(
                name=member.name,
                offset=member.offset,
                data=self._data(member, suffix.lower()),
                is_image=is_image,
                fault=member.fault,
            )
            yield {"fname": member.name, "data": self._last, "__url__": ""}

    def _data(self, member: TarMember, suffix: str) -> bytes:
        if suffix not in self._max_bytes or member.fault is not None:
            return b""
        bound = self._max_bytes[suffix]
        size = member.size if bound is None else min(bound, member.size)
        if member.is_link:
            # Not from the stream: a jump back would drop what a remote file has read ahead.
            return read_range(self._url, member.offset, size)
        self._file.seek(member.offset)
        return self._file.read(size)

    def _note_duplicate(self, error: Exception) -> bool:
        """Handle an error of webdataset's grouping: a repeated member is bad data, all else a code error."""
        if isinstance(error, ValueError) and "duplicate file name" in str(error.args[0]):
            assert self._last is not None
            self._duplicates.append(self._last)
            return True
        raise error

    def take_duplicates(self) -> list[int]:
        """The members of the sample just yielded that stood there twice, 1 for each image; asking forgets them.

        One that is no image counts, as 0, if there is no image.
        """
        found, self._duplicates = self._duplicates, []
        return [1 for member in found if member.is_image] or [0] * bool(found)


def _no_data(name: str) -> str | None:
    """Why a member is no part of a data set whatever is in it, or None."""
    if _META.match(name):
        return "webdataset-note"
    return "hidden-file" if is_side_file(name) else None


def _dotted(name: str, key: str, suffix: str) -> str:
    return (
        f'the key of {name} ends at its first dot: it is "{key}", and "{suffix}" is no suffix of data.image_key. '
        "Rename the files without further dots, pack them with `neuron-atlas shards`, or name the suffix there"
    )


def _suffixes(keys: str) -> list[str]:
    return [key.strip().lower() for key in keys.split(";") if key.strip()]


def _first(group: Mapping[str, Any], suffixes: list[str]) -> Member | None:
    return next((group[suffix] for suffix in suffixes if suffix in group), None)


def _data_of(group: Mapping[str, Any], suffix: str) -> bytes | None:
    return group[suffix].data if suffix in group and group[suffix].fault is None else None


def _parse_label(member: Member | None, num_classes: int | None) -> int | str | None:
    """Return the class index, None for an unlabeled sample, or what is wrong with the label as text."""
    if member is None:
        return None
    if member.fault is not None:
        return f"label: {member.fault[1]}"
    data = member.data.removeprefix(codecs.BOM_UTF8)
    if not re.fullmatch(rb"\s*[0-9]{1,18}\s*", data):
        return f"label {_label_fault(data)}: expected a class index such as 207"
    label = int(data)
    if num_classes is not None and label >= num_classes:
        return f"label {label}: the model has classes 0 to {num_classes - 1}"
    return label


def _label_fault(data: bytes) -> str:
    """What a label is that is no class index."""
    text = data.decode("utf-8", "backslashreplace").strip()
    shown = repr(text[:40])
    if data[:1] == b"\x80":
        return "is a pickled Python object, not text"
    if not text:
        return "is empty"
    if re.fullmatch(r"-[0-9]+", text):
        return f"{shown} is negative (leave the member out of samples without a label)"
    if re.fullmatch(r"[+-]?[0-9]*\.[0-9]*(e[+-]?[0-9]+)?", text):
        return f"{shown} is a decimal number"
    if re.fullmatch(r"[0-9]+([\s,;]+[0-9]+)+", text):
        return f"{shown} is several numbers"
    return f"{shown} is no number"
