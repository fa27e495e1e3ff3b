"""Class names: the text that stands for a class index, and the other names by which people call the class."""

import codecs
import re
from typing import Final

from pipeline.errors import UserError
from pipeline.io.root import Root, StorageError

IMAGENET: Final = "imagenet1k"
_BYTE_ORDER_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SYNSET_LINE: Final = re.compile(r"(n[0-9]{8})[\s,:]+(.+)")  # a line of ImageNet's own synset_words.txt


def class_names(labels: str, num_classes: int) -> list[str]:
    """Names of the classes of a model, by class index.

    Args:
        labels: `imagenet1k`, or the path or URL of a text file with one name per line.
        num_classes: how many the model has; 0 takes the file as it is, for the labels of the data.

    Raises:
        UserError: there is no such file, it is not text, a line is empty, or there are not as many as classes.
    """
    if labels == IMAGENET:
        if num_classes != 1000:
            return [f"class {index}" for index in range(num_classes)]
        return _imagenet_names()
    names = read_class_list(labels)
    if num_classes and len(names) != num_classes:
        raise UserError(
            f'model.labels = "{labels}" has {len(names)} lines, the model has {num_classes} classes; '
            "give one name per line, in the order of the class indices"
        )
    return names


def read_class_list(labels: str) -> list[str]:
    """The class names of a text file, one per line.

    Raises:
        UserError: there is no such file, it is not text, or a line but the last ones is empty.
    """
    folder, _, name = labels.rpartition("/")
    root = Root.open(folder or ("/" if labels.startswith("/") else "."))
    if not name or not root.exists(name):
        raise UserError(f'model.labels = "{labels}": there is no such file; give "{IMAGENET}" or a text file')
    try:
        data = root.read_bytes(name)
    except StorageError as error:
        if not isinstance(error.__cause__, IsADirectoryError):
            raise
        raise UserError(f'model.labels = "{labels}" is a folder; give "{IMAGENET}" or a text file') from None
    lines = lines_of(data, f'model.labels = "{labels}"')
    if not lines:
        raise UserError(f'model.labels = "{labels}" is empty; give one name per line')
    if "" in lines:
        raise UserError(
            f'model.labels = "{labels}": line {lines.index("") + 1} is empty, so the names after it would shift; '
            "give one name per line, in the order of the class indices"
        )
    return lines


def known_names(labels: str) -> list[list[str]]:
    """For each class its name, then other names: of ImageNet the WordNet id and synonyms, of a file those in its line.

    Args:
        labels: as in `class_names`.

    Raises:
        UserError: as `read_class_list`.
    """
    if labels == IMAGENET:
        from timm.data import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        synonyms = [text.split(", ") for text in info.label_descriptions()]
        return [
            [name, synset, *others]
            for name, synset, others in zip(_imagenet_names(), info.label_names(), synonyms, strict=True)
        ]
    return [_names_in(line) for line in read_class_list(labels)]


def _names_in(line: str) -> list[str]:
    """`n01440764 tench, Tinca tinca`, or a part of that."""
    synset = _SYNSET_LINE.fullmatch(line)
    names = synset[2] if synset else line
    return [names, *names.split(","), *([synset[1]] if synset else [])]


def _imagenet_names() -> list[str]:
    from torchvision.models import ResNet50_Weights  # metadata only: nothing is downloaded

    return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def lines_of(data: bytes, what: str) -> list[str]:
    """The lines of a text file without the space around them, and without empty ones at the end.

    Args:
        data: text in UTF-8, or with a byte order mark in UTF-16 or UTF-32; the mark is no part of the first line.
        what: the file, for messages.

    Raises:
        UserError: it is not such a text.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{what} is not {encoding.upper()} (line {line}: {error.reason}); save it as UTF-8 text"
        ) from None
    if "\0" in text:
        raise UserError(f"{what} is not text in UTF-8 (it holds zero bytes); save it as UTF-8 text")
    # Not `splitlines`: a name may hold a character that Unicode counts as the end of a line.
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
