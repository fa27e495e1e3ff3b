"""Class folders: which class index the images of a subfolder get, by the subfolder's name. Pure.

Folders may be called by names of the model's classes, by WordNet ids or by class indices. Only if they are called
otherwise, a class index is a folder's place in the sorted list, as in torchvision's `ImageFolder`.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.errors import UserError
from pipeline.neurons import nearest

NUM_SHOWN: Final = 5
_SPLITS: Final = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True, kw_only=True)
class FolderNaming:
    """What class folders may be called.

    Attributes:
        names: for each class its name, then its other names; none if they are not known.
        source: the list of names, for messages.
        required: whether every folder must be called by a name, an id or an index of a class.
        in_order: takes sorted order whatever the folders are called.
        first_number: what the first class is called where folders are called by numbers.
    """

    names: Sequence[Sequence[str]] = ()
    source: str = ""
    required: bool = False
    in_order: bool = False
    first_number: int = 0


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """The class index of each class folder.

    Attributes:
        labels: folder → class index, by index and then by name.
        how: by what it was found, a sentence.
        is_order: whether an index is nothing but a place in the sorted list.
        warnings: what a user should look at.
    """

    labels: Mapping[str, int]
    how: str
    is_order: bool
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = [f"{label} = {folder!r}" for folder, label in list(self.labels.items())[:NUM_SHOWN]]
        more = len(self.labels) - len(shown)
        lines = [f"class indices: {self.how}", f"  {', '.join(shown)}{f', and {more} more' if more else ''}"]
        return "\n".join([*lines, *(f"WARNING: {warning}" for warning in self.warnings)])

    def table(self) -> str:
        """One line for each folder: class index, tab, folder."""
        return "".join(f"{label}\t{folder}\n" for folder, label in self.labels.items())


def classes_of_folders(folders: Collection[str], naming: FolderNaming, empty: Collection[str] = ()) -> ClassFolders:
    """The class index of each class folder.

    Args:
        folders: those with images, at least one.
        naming: what they may be called.
        empty: those without; in the sorted list they keep their places, so that no other class moves.

    Raises:
        UserError: a folder fits several classes and all others fit one, or it fits none where that is required.
    """
    folders = sorted(set(folders))
    if naming.in_order:
        return _in_order(folders, empty, [])
    named, numbers = _by_name(folders, naming.names), _by_number(folders, naming.first_number)
    unknown = [folder for folder in folders if not named[folder]]
    ambiguous = [folder for folder in folders if len(named[folder]) > 1]
    if not unknown and not ambiguous:
        labels = {folder: next(iter(named[folder])) for folder in folders}
        return _mapped(labels, f"by the names of {naming.source}", _also_named(labels, naming.names))
    if numbers is not None:
        return _numbered(numbers, naming)
    if not unknown:
        fits = " and ".join(map(str, sorted(named[ambiguous[0]])))
        raise UserError(
            f"folder {ambiguous[0]!r} names the classes {fits} of {naming.source}: call it by its WordNet id or, like "
            "all others, by its class index; or take sorted order (--labels sorted)"
        )
    if naming.required:
        names = [name for of_class in naming.names for name in of_class]
        raise UserError(
            f"folder {unknown[0]!r} is neither a class of {naming.source} nor its index"
            f"{nearest(unknown[0].replace('_', ' '), names)}; {len(folders) - len(unknown)} of {len(folders)} folders "
            "are: rename the others, or take sorted order (--labels sorted)"
        )
    return _in_order(folders, empty, _why_in_order(folders, unknown, naming))


def fold_name(text: str) -> str:
    """A name without what people write differently: case, Unicode form, and what stands between the words."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _by_name(folders: Iterable[str], names: Sequence[Sequence[str]]) -> dict[str, set[int]]:
    """The classes that each folder names. A class's own name goes before other names of other classes."""
    exact, own, other = (defaultdict[str, set[int]](set) for _ in range(3))
    for index, (name, *others) in enumerate(names):
        exact[name].add(index)
        own[fold_name(name)].add(index)
        for text in others:
            other[fold_name(text)].add(index)
    keys = {folder: fold_name(folder) for folder in folders}
    return {
        folder: exact.get(folder) or (own.get(key) or other.get(key) if key else None) or set()
        for folder, key in keys.items()
    }


def _also_named(labels: Mapping[str, int], names: Sequence[Sequence[str]]) -> list[str]:
    """Folders whose name is that of their class, and another name of a class without a folder."""
    others: defaultdict[str, set[int]] = defaultdict(set)
    for index, (_, *texts) in enumerate(names):
        for text in texts:
            others[fold_name(text)].add(index)
    return [
        f"{folder!r} is taken for class {label}; it is also another name of class {other} ({names[other][0]!r})"
        for folder, label in labels.items()
        for other in sorted(others.get(fold_name(folder), set()) - set(labels.values()))
    ]


def _by_number(folders: Iterable[str], first_number: int) -> dict[str, int] | None:
    """The class indices that the folders are called by, None if one is called otherwise."""
    numbers = {folder: int(folder) - first_number for folder in folders if re.fullmatch("[0-9]{1,9}", folder)}
    return numbers if len(numbers) == len(list(folders)) else None


def _numbered(labels: dict[str, int], naming: FolderNaming) -> ClassFolders:
    first, num_classes = naming.first_number, len(naming.names) if naming.required else None
    for folder, label in labels.items():
        if label < 0 or (num_classes is not None and label >= num_classes):
            last = "" if num_classes is None else f" to {num_classes - 1 + first}"
            raise UserError(f"folder {folder!r} is no class index: expected whole numbers from {first}{last}")
    warnings = []
    if first == 0 and min(labels.values()) == 1 and max(labels.values()) == len(labels):
        warnings.append(
            f"the folders are 1 to {len(labels)} and are taken for the class indices 1 to {len(labels)}. If they count "
            "from 1, and the first class is index 0, say --first-number 1"
        )
    return _mapped(labels, f"the numbers that the folders are called by{f', less {first}' if first else ''}", warnings)


def _mapped(labels: dict[str, int], how: str, warnings: Iterable[str]) -> ClassFolders:
    folders_of: defaultdict[int, list[str]] = defaultdict(list)
    for folder, label in labels.items():
        folders_of[label].append(folder)
    shared = [
        f"the folders {' and '.join(map(repr, folders))} are one class, {label}"
        for label, folders in sorted(folders_of.items())
        if len(folders) > 1
    ]
    ordered = dict(sorted(labels.items(), key=lambda entry: (entry[1], entry[0])))
    return ClassFolders(labels=ordered, how=how, is_order=False, warnings=(*warnings, *shared))


def _in_order(folders: Sequence[str], empty: Collection[str], warnings: list[str]) -> ClassFolders:
    every = sorted({*folders, *empty})
    how = f"the place of each folder in the sorted list of {len(every)}"
    labels = {folder: index for index, folder in enumerate(every)}
    warnings += [f"{folder!r} holds no images; it keeps its index {labels[folder]}" for folder in sorted(empty)]
    by_number = sorted(every, key=_natural_key)
    if by_number != every:
        first = next(i for i, (one, two) in enumerate(zip(every, by_number, strict=True)) if one != two)
        warnings.append(
            f"the folders are sorted as text, as torchvision does: {every[first]!r} comes before "
            f"{by_number[first]!r} and is class {first}. If the model counts them as numbers, give their names in that "
            "order: --labels FILE"
        )
    if {fold_name(folder) for folder in every} <= _SPLITS:
        warnings.append(
            f"{' and '.join(map(repr, every))} look like parts of a data set, not classes: give one of them"
        )
    return ClassFolders(labels=labels, how=how, is_order=True, warnings=tuple(warnings))


def _why_in_order(folders: Sequence[str], unknown: Sequence[str], naming: FolderNaming) -> list[str]:
    """What to tell a user whose folders are called by nothing that a model knows."""
    if not naming.names:
        return []
    shown = ", ".join(map(repr, unknown[:NUM_SHOWN])) + (", …" if len(unknown) > NUM_SHOWN else "")
    return [
        f"{len(unknown)} of {len(folders)} folders are no class of {naming.source} and no class index ({shown}), so a "
        "folder's index is its place in the sorted list. That fits a model trained on these very folders. For another, "
        "give its class names, one per line in the order of its classes: --labels FILE"
    ]


def _natural_key(text: str) -> list[tuple[int, str]]:
    """Orders numbers inside a text as numbers."""
    parts = re.split("([0-9]+)", text)
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)]
