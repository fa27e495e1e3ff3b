"""Writing tar shards: a folder of images becomes `NAME-000000.tar`, … in webdataset's form.

Nothing of the moment or of the writer goes into a shard, so equal images give equal bytes.
"""

import io
import json
import os
import re
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.captions import MAX_TEXT_BYTES, one_line
from pipeline.data.sample_errors import SkippedSample
from pipeline.errors import UserError
from pipeline.io.images import BadImage, decode_image
from pipeline.io.root import Root

_IMAGE_SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}


@dataclass(frozen=True, kw_only=True)
class NewSample:
    """One sample to be written: the image's file, its class index if it has one, and a JSON description."""

    key: str
    suffix: str
    image: bytes = field(repr=False)
    label: int | None
    description: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What `write_shards` wrote, and what it left out.

    Attributes:
        shards: names of the tar shards, in order.
        num_samples: samples in them.
        num_bytes: their size in bytes.
        class_names: by class index; empty without class folders.
        skipped: images that cannot be decoded.
        num_ignored: files that are neither images nor captions by their names.
    """

    shards: tuple[str, ...]
    num_samples: int
    num_bytes: int
    class_names: tuple[str, ...]
    skipped: tuple[SkippedSample, ...]
    num_ignored: int

    def __str__(self) -> str:
        lines = [
            f"{self.num_samples} samples in {len(self.shards)} tar shards, {self.num_bytes / 1e6:.1f} MB, "
            f"{len(self.class_names) or 'no'} class folders"
        ]
        if self.num_ignored:
            lines.append(f"{self.num_ignored} files ignored: no {', '.join(_IMAGE_SUFFIXES)} in their names")
        lines += [f"left out {skip.detail} ({skip.reason})" for skip in self.skipped]
        return "\n".join(lines)


def write_shards(
    images_folder: str | Path,
    out_folder: str | Path,
    *,
    name: str,
    max_samples: int = 1000,
    max_bytes: int = 256 * 1024 * 1024,
    labels: Mapping[str, int] | None = None,
) -> ShardReport:
    """Pack a folder of images into tar shards `NAME-000000.tar`, …; the same folder gives the same bytes.

    With class subfolders, a class's index is its place among the sorted folder names, and `NAME-classes.txt` lists
    them; images that lie flat get no label. Every image is decoded once and left out if that fails. The text in a
    `cat.txt` beside `cat.jpg` becomes its caption, for `data.caption_key = "json:caption"`.

    Args:
        images_folder: local folder with .jpg, .jpeg, .png and .webp files.
        out_folder: local folder or fsspec URL.
        name: beginning of the shards' names.
        max_samples: samples per shard at most.
        max_bytes: bytes per shard at most; a shard is built in memory.
        labels: class index by path relative to `images_folder`, used instead of the subfolders.

    Raises:
        UserError: no such folder, no images in it, or shards of an earlier, larger run remain.
        StorageError: the output cannot be written.
    """
    source, out = _find_images(Path(images_folder), labels), Root.open(str(out_folder))
    skipped: list[SkippedSample] = []
    samples = _new_samples(source, skipped)
    shards, num_samples = write_tar_shards(samples, out, name=name, max_samples=max_samples, max_bytes=max_bytes)
    if source.classes:
        out.write_text(f"{name}-classes.txt", "".join(f"{class_name}\n" for class_name in source.classes))
    return ShardReport(
        shards=tuple(shards),
        num_samples=num_samples,
        num_bytes=sum(out.size_bytes(shard) for shard in shards),
        class_names=source.classes,
        skipped=tuple(skipped),
        num_ignored=source.num_ignored,
    )


@dataclass(frozen=True, kw_only=True)
class _ImageFolder:
    """The files of a folder of images, as paths relative to it, sorted.

    Attributes:
        folder: the folder.
        images: files that are images by their names.
        captions: text files that have an image beside them.
        classes: names of the class subfolders; empty where labels were given.
        labels: class index by path, given instead of the subfolders.
        num_ignored: files of other kinds.
    """

    folder: Path
    images: Sequence[Path]
    captions: Set[Path]
    classes: tuple[str, ...]
    labels: Mapping[str, int] | None
    num_ignored: int

    def class_name(self, path: Path) -> str:
        """The class subfolder of an image; nothing if it lies flat."""
        return path.parts[0] if self.classes and len(path.parts) > 1 else ""

    def label(self, path: Path) -> int | None:
        """The class index of an image."""
        if self.labels is not None:
            return self.labels.get(path.as_posix())
        class_name = self.class_name(path)
        return self.classes.index(class_name) if class_name else None

    def description(self, path: Path) -> dict[str, str]:
        """What the JSON of a sample holds: file, class and caption, as far as there are any."""
        description = {"file": path.as_posix(), "class_name": self.class_name(path)}
        if (text := path.with_suffix(".txt")) in self.captions:
            description["caption"] = _read_caption(self.folder / text)
        return {key: value for key, value in description.items() if value}


def _find_images(folder: Path, labels: Mapping[str, int] | None) -> _ImageFolder:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: expected one with images or class subfolders")
    files = sorted(
        path.relative_to(folder)
        for path in (Path(top, file) for top, _, names in os.walk(folder, followlinks=True) for file in names)
        if not path.name.startswith(".")
    )
    images = [path for path in files if path.suffix.lower() in _IMAGE_SUFFIXES]
    if not images:
        raise UserError(f"{folder} holds no images: expected {', '.join(_IMAGE_SUFFIXES)} files")
    captions = {path.with_suffix(".txt") for path in images} & set(files)
    return _ImageFolder(
        folder=folder,
        images=images,
        captions=captions,
        classes=() if labels is not None else tuple(sorted({path.parts[0] for path in images if len(path.parts) > 1})),
        labels=labels,
        num_ignored=len(files) - len(images) - len(captions),
    )


def _new_samples(source: _ImageFolder, skipped: list[SkippedSample]) -> Iterator[NewSample]:
    """The samples of a folder; images that cannot be decoded go to `skipped`."""
    keys = unique_slugs([path.with_suffix("").as_posix() for path in source.images])
    for index, (path, key) in enumerate(zip(source.images, keys, strict=True)):
        data = (source.folder / path).read_bytes()
        try:
            decode_image(data)
        except BadImage as error:
            detail = f"{path}: {error.detail}"
            skipped.append(SkippedSample(key=key, tar_shard="", index=index, reason=error.reason, detail=detail))
            continue
        yield NewSample(
            key=key,
            suffix=_IMAGE_SUFFIXES[path.suffix.lower()],
            image=data,
            label=source.label(path),
            description=source.description(path),
        )


def write_tar_shards(
    samples: Iterable[NewSample], out: Root, *, name: str, max_samples: int, max_bytes: int
) -> tuple[list[str], int]:
    """Write samples into as many tar shards as the bounds ask for; return their names and the sample count.

    Raises:
        UserError: a bound is below 1, or `out` holds shards of this name that this run does not replace.
        StorageError: the output cannot be written; the shards written before stay whole.
    """
    if max_samples < 1 or max_bytes < 1:
        raise UserError(f"max_samples = {max_samples}, max_bytes = {max_bytes}: expected at least 1")
    shards: list[str] = []
    num_samples = 0
    for batch in _batches(samples, max_samples, max_bytes):
        shards.append(f"{name}-{len(shards):06d}.tar")
        out.write_bytes(shards[-1], _pack(batch))
        num_samples += len(batch)
    pattern = re.compile(re.escape(name) + r"-[0-9]{6,}\.tar")
    older = sorted(set(filter(pattern.fullmatch, out.list())) - set(shards))
    if older:
        raise UserError(
            f"{out.url} holds older shards of the name {name!r} ({', '.join(older[:3])}): remove them, they "
            "would be read as part of this data set"
        )
    return shards, num_samples


def unique_slugs(names: Iterable[str]) -> list[str]:
    """Return a readable key for each name: ASCII letters, digits, `_` and `-`; repeated ones are numbered."""
    slugs: list[str] = []
    taken: set[str] = set()
    for text in names:
        ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        base = re.sub(r"[^A-Za-z0-9_]+", "-", ascii_text).strip("-_")[:80].rstrip("-_") or "image"
        slug, number = base, 1
        while slug in taken:
            number += 1
            slug = f"{base}-{number}"
        taken.add(slug)
        slugs.append(slug)
    return slugs


def _read_caption(path: Path) -> str:
    with open(path, "rb") as file:
        return one_line(file.read(MAX_TEXT_BYTES).decode("utf-8-sig", "replace"))


def _pack(samples: Iterable[NewSample]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for suffix, data in sorted(_members_of(sample).items()):
                # A new TarInfo has time 0, user and group 0 and no names, mode 0644.
                header = tarfile.TarInfo(f"{sample.key}.{suffix}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def _members_of(sample: NewSample) -> dict[str, bytes]:
    description = json.dumps(sample.description, sort_keys=True, ensure_ascii=False).encode("utf-8")
    label = {} if sample.label is None else {"cls": str(sample.label).encode()}
    return {sample.suffix: sample.image, "json": description, **label}


def _batches(samples: Iterable[NewSample], max_samples: int, max_bytes: int) -> Iterator[list[NewSample]]:
    batch: list[NewSample] = []
    num_bytes = tarfile.RECORDSIZE  # at most this much closes a tar
    for sample in samples:
        size = sum(
            tarfile.BLOCKSIZE + -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            for data in _members_of(sample).values()
        )
        if batch and (len(batch) == max_samples or num_bytes + size > max_bytes):
            yield batch
            batch, num_bytes = [], tarfile.RECORDSIZE
        batch.append(sample)
        num_bytes += size
    if batch:
        yield batch
