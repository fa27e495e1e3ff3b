"""A folder of images on this machine: which files are data, and to which class folder each belongs."""

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.data.captions import MAX_TEXT_BYTES, one_line
from pipeline.data.class_folders import ClassFolders, FolderNaming, classes_of_folders
from pipeline.data.side_files import is_side_folder
from pipeline.errors import UserError

IMAGE_SUFFIXES: Final = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The files of a folder of images, as paths relative to it, sorted.

    Attributes:
        folder: the folder.
        images: files that are images by their names.
        captions: text files that have an image beside them.
        classes: the class subfolders; None without any, or where labels were given.
        labels: class index by path, given instead of the subfolders.
        num_ignored: files of other kinds.
        passed_over: what else is not data, one sentence each.
    """

    folder: Path
    images: Sequence[Path]
    captions: Set[Path]
    classes: ClassFolders | None
    labels: Mapping[str, int] | None
    num_ignored: int
    passed_over: tuple[str, ...]

    def class_name(self, path: Path) -> str:
        """The class subfolder of an image; nothing if it lies flat."""
        return class_folder(path) if self.classes else ""

    def label(self, path: Path) -> int | None:
        """The class index of an image."""
        if self.labels is not None:
            return self.labels.get(path.as_posix())
        return self.classes.labels[class_folder(path)] if self.classes and class_folder(path) else None

    def description(self, path: Path) -> dict[str, str]:
        """What the JSON of a sample holds: file, class and caption, as far as there are any."""
        description = {"file": readable(path.as_posix()), "class_name": self.class_name(path)}
        if (text := path.with_suffix(".txt")) in self.captions:
            description["caption"] = _read_caption(self.folder / text)
        return {key: value for key, value in description.items() if value}


def find_images(folder: Path, labels: Mapping[str, int] | None, naming: FolderNaming) -> ImageFolder:
    """Look through a folder and its subfolders, links included.

    Passed over are hidden files and folders, folders that systems keep for themselves, and links to a folder above.

    Args:
        folder: of images, or of class subfolders.
        labels: class index by path, used instead of the subfolders.
        naming: what the subfolders may be called.

    Raises:
        UserError: there is no such folder, no image in it, or its subfolders fit no class.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: expected one with images or class subfolders")
    found = _Found()
    files = sorted(path.relative_to(folder) for path in _walk(folder, found, frozenset()))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise UserError(f"{folder} holds no images: expected {', '.join(IMAGE_SUFFIXES)} files")
    beside = {path.with_suffix(".txt") for path in images} & set(files)
    captions = {path for path in beside if (folder / path).is_file()}  # no dead link, no pipe
    class_folders = {class_folder(path) for path in images} - {""}
    classes = None
    if class_folders and labels is None:
        every = {one_form(path.relative_to(folder).parts[0]) for path in found.folders}
        classes = classes_of_folders(class_folders, naming, every - class_folders)
    return ImageFolder(
        folder=folder,
        images=images,
        captions=captions,
        classes=classes,
        labels=labels,
        num_ignored=len(files) - len(images) - len(captions),
        passed_over=tuple(found.describe(folder)),
    )


def class_folder(path: Path) -> str:
    """The class subfolder of an image by its relative path, in one Unicode form; "" if the image lies flat."""
    return one_form(path.parts[0]) if len(path.parts) > 1 else ""


def one_form(name: str) -> str:
    """A folder's name on one line, in the composed Unicode form: macOS writes é as two characters, others as one."""
    return one_line(unicodedata.normalize("NFC", readable(name)))


def readable(name: str) -> str:
    r"""A file name as text that can be printed and stored; bytes that are not UTF-8 become `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclass(kw_only=True)
class _Found:
    """What a walk comes by besides files."""

    folders: list[Path] = field(default_factory=list)
    no_data: list[Path] = field(default_factory=list)
    cycles: list[Path] = field(default_factory=list)
    num_hidden: int = 0

    def describe(self, folder: Path) -> Iterator[str]:
        """What was passed over, in sentences."""

        def named(paths: Sequence[Path]) -> str:
            names = sorted(readable(path.relative_to(folder).as_posix()) for path in paths)
            return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

        if self.no_data:
            yield f"passed over folders that hold no data: {named(self.no_data)}"
        if self.cycles:
            yield f"passed over links to a folder above: {named(self.cycles)}"
        if self.num_hidden:
            yield f"passed over {self.num_hidden} hidden files"


def _walk(folder: Path, found: _Found, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """The files below a folder; `above` are device and inode of the folders on the way to it."""
    above |= {_identity(folder)}
    for path in folder.iterdir():
        is_folder = os.path.isdir(path)  # of a dead link and of a link to itself, no
        if is_folder and is_side_folder(path.name):
            found.no_data.append(path)
        elif path.name.startswith("."):
            found.num_hidden += 1
        elif not is_folder:
            yield path
        elif _identity(path) in above:
            found.cycles.append(path)
        else:
            found.folders.append(path)
            yield from _walk(path, found, above)


def _identity(folder: Path) -> tuple[int, int]:
    """Device and inode, the same whatever link leads there."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _read_caption(path: Path) -> str:
    with open(path, "rb") as file:
        return one_line(file.read(MAX_TEXT_BYTES).decode("utf-8-sig", "replace"))
