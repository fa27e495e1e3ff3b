"""Writing tar shards: a folder of images becomes `NAME-000000.tar`, … in webdataset's form.

Nothing of the moment or of the writer goes into a shard, so equal images give equal bytes.
"""

import errno
import io
import json
import re
import stat
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.data.class_folders import ClassFolders, FolderNaming
from pipeline.data.image_folder import IMAGE_SUFFIXES, ImageFolder, find_images, readable
from pipeline.data.sample_errors import SkippedSample
from pipeline.errors import UserError
from pipeline.io.images import BadImage, decode_image
from pipeline.io.root import Root

_SORTED: Final = FolderNaming(in_order=True)


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
        classes: class folders and their class indices; None without class folders.
        skipped: images that cannot be read or decoded.
        num_ignored: files that are neither images nor captions by their names.
        passed_over: what else lies in the folder and is not data, one sentence each.
    """

    shards: tuple[str, ...]
    num_samples: int
    num_bytes: int
    classes: ClassFolders | None
    skipped: tuple[SkippedSample, ...]
    num_ignored: int
    passed_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.num_samples} samples in {len(self.shards)} tar shards, {self.num_bytes / 1e6:.1f} MB, "
            f"{len(self.classes.labels) if self.classes else 'no'} class folders"
        ]
        if self.num_ignored:
            lines.append(f"{self.num_ignored} files ignored: no {', '.join(IMAGE_SUFFIXES)} in their names")
        lines += self.passed_over
        lines += [f"left out {skip.detail} ({skip.reason})" for skip in self.skipped]
        if self.classes:
            lines.append(str(self.classes))
        return "\n".join(lines)


def write_shards(
    images_folder: str | Path,
    out_folder: str | Path,
    *,
    name: str,
    max_samples: int = 1000,
    max_bytes: int = 256 * 1024 * 1024,
    labels: Mapping[str, int] | None = None,
    naming: FolderNaming = _SORTED,
) -> ShardReport:
    """Pack a folder of images into tar shards `NAME-000000.tar`, …; the same folder gives the same bytes.

    With class subfolders, `naming` decides what a class's index is, and `NAME-classes.tsv` lists index and folder;
    where an index is a place in the sorted list, `NAME-classes.txt` lists the folders for `model.labels`. Images that
    lie flat get no label. Every image is decoded once and left out if that fails. The text in a `cat.txt` beside
    `cat.jpg` becomes its caption, for `data.caption_key = "json:caption"`.

    Args:
        images_folder: local folder with .jpg, .jpeg, .png and .webp files.
        out_folder: local folder or fsspec URL.
        name: beginning of the shards' names.
        max_samples: samples per shard at most.
        max_bytes: bytes per shard at most; a shard is built in memory.
        labels: class index by path relative to `images_folder`, used instead of the subfolders.
        naming: what the subfolders may be called; by default anything, and they are taken in sorted order.

    Raises:
        UserError: no such folder, no usable image in it, subfolders that fit no class (see `classes_of_folders`), or
            shards of an earlier, larger run remain.
        StorageError: the output cannot be written.
    """
    source, out = find_images(Path(images_folder), labels, naming), Root.open(str(out_folder))
    skipped: list[SkippedSample] = []
    samples = _new_samples(source, skipped)
    shards, num_samples = write_tar_shards(samples, out, name=name, max_samples=max_samples, max_bytes=max_bytes)
    if not num_samples:
        reason = f"{skipped[0].detail} ({skipped[0].reason})"
        raise UserError(f"none of the {len(skipped)} images in {source.folder} can be used: {reason}")
    _write_classes(out, name, source.classes)
    return ShardReport(
        shards=tuple(shards),
        num_samples=num_samples,
        num_bytes=sum(out.size_bytes(shard) for shard in shards),
        classes=source.classes,
        skipped=tuple(skipped),
        num_ignored=source.num_ignored,
        passed_over=source.passed_over,
    )


def _write_classes(out: Root, name: str, classes: ClassFolders | None) -> None:
    """Keep the class list beside the shards; one that an earlier run left does not stay."""
    order = classes is not None and classes.is_order
    tables = {
        f"{name}-classes.tsv": classes.table() if classes else "",
        f"{name}-classes.txt": "".join(f"{folder}\n" for folder in classes.labels) if classes and order else "",
    }
    for file, text in tables.items():
        if text:
            out.write_text(file, text)
        elif out.exists(file):
            out.remove(file)


def _new_samples(source: ImageFolder, skipped: list[SkippedSample]) -> Iterator[NewSample]:
    """The samples of a folder; images that cannot be read or decoded go to `skipped`."""
    keys = unique_slugs([path.with_suffix("").as_posix() for path in source.images])
    for index, (path, key) in enumerate(zip(source.images, keys, strict=True)):
        try:
            data = _read_file(source.folder / path)
            decode_image(data)
        except (OSError, BadImage) as error:
            reason, detail = (
                ("unreadable", error.strerror or str(error))
                if isinstance(error, OSError)
                else (error.reason, error.detail)
            )
            detail = f"{readable(path.as_posix())}: {detail}"
            skipped.append(SkippedSample(key=key, tar_shard="", index=index, reason=reason, detail=detail))
            continue
        yield NewSample(
            key=key,
            suffix=IMAGE_SUFFIXES[path.suffix.lower()],
            image=data,
            label=source.label(path),
            description=source.description(path),
        )


def _read_file(path: Path) -> bytes:
    """The bytes of a file. Raises OSError also of what is no file: reading a pipe would never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return path.read_bytes()


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
