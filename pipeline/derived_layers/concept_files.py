"""Files of concepts: arrays read by name from .safetensors and .npz, never by unpickling, and labels from text."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.io.root import Root
from pipeline.models.labels import lines_of
from pipeline.neurons import nearest

# A guard against running out of memory, not a limit of the method: 65,536 directions of 4,096 units are 1 GiB.
MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class ConceptArrays:
    """A set of concepts in a file: directions `[K, C]` or as they are stored, bias, center; and its hash."""

    directions: Tensor
    bias: Tensor | None
    center: Tensor | None
    sha256: str


def read_concepts(location: str, *, key: str = "", bias: str = "", center: str = "") -> ConceptArrays:
    """Read the arrays of a set of concepts.

    Args:
        location: path or URL of a .safetensors or .npz file.
        key: name of the directions' array; may be left out if the file holds no other.
        bias: name of the bias' array; nothing for none.
        center: name of the center's array; nothing for none.

    Raises:
        UserError: no such file or array, a file of another kind, a damaged or an all too large one, or an array of
            anything but numbers.
    """
    folder, _, name = location.rpartition("/")
    root = Root.open(folder or ("/" if location.startswith("/") else "."))
    if not name.endswith((".safetensors", ".npz")):
        raise UserError(f'"{location}": expected a .safetensors or .npz file with one row for each concept')
    if not root.exists(name):
        raise UserError(f'"{location}": there is no such file; check the path')
    if (size := root.size_bytes(name)) > MAX_FILE_BYTES:
        raise UserError(
            f'"{location}" has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read; keep fewer arrays in it'
        )
    data = root.read_bytes(name)
    read = _safetensors_reader if name.endswith(".safetensors") else _npz_reader
    shapes, array = read(data, location)
    if not key and len(shapes) > 1:
        raise UserError(f'"{location}" holds several arrays, {_listed(shapes)}: name that of the directions in `key`')
    requested = [key or next(iter(shapes), "directions"), bias, center]
    for one in requested:
        if one and one not in shapes:
            raise UserError(f'"{location}" has no array "{one}"{nearest(one, shapes)}: it holds {_listed(shapes)}')
    directions, offsets, middle = (array(one) if one else None for one in requested)
    assert directions is not None
    return ConceptArrays(directions=directions, bias=offsets, center=middle, sha256=hashlib.sha256(data).hexdigest())


def read_labels(location: str) -> list[str]:
    """The lines of a local or remote text file, one label per concept.

    Raises:
        UserError: there is no such file, or it is not text in UTF-8.
    """
    folder, _, name = location.rpartition("/")
    root = Root.open(folder or ("/" if location.startswith("/") else "."))
    if not root.exists(name):
        raise UserError(
            f'labels = "{location}": there is no such file; give a list, or a text file of one label a line'
        )
    return lines_of(root.read_bytes(name), f'labels = "{location}"')


Shapes = Mapping[str, str]  # name of an array → its shape in words, or "" where that is not known without reading it
Reader = Callable[[str], Tensor]


def _safetensors_reader(data: bytes, location: str) -> tuple[Shapes, Reader]:
    try:
        arrays = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise UserError(f'"{location}" is no valid safetensors file: {error}') from error
    return {name: str(list(value.shape)) for name, value in arrays.items()}, lambda name: _real(
        arrays[name], location, name
    )


def _npz_reader(data: bytes, location: str) -> tuple[Shapes, Reader]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise UserError(f'"{location}" is no valid npz file: {error}; write it with numpy.savez') from error
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def read(name: str) -> Tensor:
        # The size is checked before anything is unpacked: a few bytes may stand for very many.
        if members[name].file_size > MAX_FILE_BYTES:
            raise UserError(f'"{location}", array "{name}" has {members[name].file_size:,} bytes: too many to read')
        try:
            array = np.lib.format.read_array(io.BytesIO(archive.read(members[name])), allow_pickle=False)
        except (ValueError, zipfile.BadZipFile) as error:
            raise UserError(f'"{location}", array "{name}" cannot be read: {error}') from error
        if array.dtype.kind not in "fiub":
            raise UserError(f'"{location}", array "{name}" is of type {array.dtype}; expected real numbers')
        return torch.from_numpy(array.astype(np.float32))

    return dict.fromkeys(members, ""), read


def _real(array: Tensor, location: str, name: str) -> Tensor:
    if array.is_complex():
        raise UserError(f'"{location}", array "{name}" is of type {array.dtype}; expected real numbers')
    return array.float()


def _listed(shapes: Shapes) -> str:
    shown = [f"{name} {shape}".strip() for name, shape in sorted(shapes.items())[:12]]
    return ", ".join(shown) + (", …" if len(shapes) > len(shown) else "") if shown else "none"
