"""Neurons: their ids, the units and layers a recipe names, and the seed of each one's visualization."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import UserError

_UNITS = re.compile(r"all|[0-9]*:[0-9]*|[0-9]+")
_UNIT_FORMS = '"all", a range such as "0:64", or a list of units such as [3, 7]'


@dataclass(frozen=True, order=True)
class Neuron:
    """One unit of one layer of one model; the order is that of the ids' parts, units by number."""

    model: str
    layer: str
    unit: int

    @property
    def id(self) -> str:
        """The address `MODEL/LAYER/UNIT`, for example `timm:resnet18/layer3/17`; see `layer_file_name`."""
        return f"{self.model}/{layer_file_name(self.layer)}/{self.unit}"

    @staticmethod
    def parse(neuron_id: str) -> "Neuron":
        """Return the neuron of an id. The model's name may contain slashes.

        Raises:
            UserError: the text is not `MODEL/LAYER/UNIT`.
        """
        parts = neuron_id.rsplit("/", 2)
        if len(parts) != 3 or not parts[0] or not re.fullmatch(r"0|[1-9][0-9]*", parts[2]):
            raise UserError(f"neuron id {neuron_id!r}: expected MODEL/LAYER/UNIT, e.g. timm:resnet18/layer3/17")
        return Neuron(parts[0], layer_of_file_name(parts[1]), int(parts[2]))


def layer_file_name(layer: str) -> str:
    """A layer's name as part of a file path or an address: of letters, digits, `_`, `.` and `-`.

    Modules may be called anything, such as `/features/0/Conv` of an ONNX file. A character of another kind is written
    as `-` and two hexadecimal digits for each of its bytes in UTF-8: `features/0` is `features-2F0`. `_-` goes before a
    name that begins with one, since no file name begins with `-`. The viewer does the same (`base/layername.js`).

    Raises:
        UserError: the name cannot be that of a module: it is empty, or has an empty part between dots.
    """
    if not all(layer.split(".")):
        raise UserError(f"layer name {layer!r}: expected a module path, with something between its dots")
    name = re.sub(r"[^A-Za-z0-9_.]", lambda match: "".join(f"-{byte:02X}" for byte in match[0].encode()), layer)
    return f"_-{name}" if name.startswith("-") else name


def layer_of_file_name(name: str) -> str:
    """Inverse of `layer_file_name`.

    Raises:
        UserError: it is the name of no layer.
    """
    try:
        layer = re.sub(
            r"(-[0-9A-F]{2})+",
            lambda match: bytes.fromhex(match[0].replace("-", "")).decode(),
            name.removeprefix("_-") if name.startswith("_--") else name,
        )
    except UnicodeDecodeError:
        layer = ""
    if not layer or layer_file_name(layer) != name:
        raise UserError(f"{name!r} is the name of no layer: expected letters, digits, '_', '.' and '-2F' for '/'")
    return layer


def layer_unit_name(unit: int) -> str:
    """Return a unit as it appears in file names: five digits, so that names sort by number."""
    return f"{unit:05d}"


def check_units(spec: object) -> str | tuple[int, ...]:
    """Return the units of a recipe if their form is right, whatever the size of the layer.

    The forms are "all", a half-open range "0:64" of which either end may be left out, one unit "3" or 3, and
    a list of units, which comes back ascending and without repetitions.

    Raises:
        UserError: it has none of these forms.
    """
    match spec:
        case str() if _UNITS.fullmatch(spec):
            return spec
        case int() if not isinstance(spec, bool) and spec >= 0:
            return (spec,)
        case list() | tuple() if spec and all(type(unit) is int and unit >= 0 for unit in spec):
            return tuple(sorted(set(spec)))
    raise UserError(f"units {spec!r}: expected {_UNIT_FORMS}")


def parse_units(spec: str | int | Sequence[int], num_units: int, layer: str) -> tuple[int, ...]:
    """Return the units of a layer that a recipe names, ascending and each once.

    Args:
        spec: one of the forms of `check_units`.
        num_units: how many units the layer has.
        layer: the layer's name, for the error message.

    Raises:
        UserError: the form is unknown, a unit lies outside the layer, or no unit is named.
    """
    form = check_units(spec)
    units: Sequence[int]
    if not isinstance(form, str):
        units = form
    elif form == "all":
        units = range(num_units)
    elif ":" in form:
        start, _, stop = form.partition(":")
        units = range(int(start or 0), int(stop or num_units))
    else:
        units = (int(form),)
    if not units or units[-1] >= num_units:
        raise UserError(
            f"units {spec!r} of layer {layer!r}, which has {num_units}: expected {_UNIT_FORMS}, from 0 to "
            f"{num_units - 1}"
        )
    return tuple(units)


def match_layers(patterns: Sequence[str], available: Sequence[str]) -> list[str]:
    """Return the available layers that match any pattern, in model order.

    As in paths, `*` and `?` stay within one part of the name and `**` crosses dots: `blocks.*` are the stages
    `blocks.0`, `blocks.1`, …, and `blocks.**` also everything inside them.

    Raises:
        UserError: a pattern matches no layer; the nearest names are given.
    """
    matched: set[str] = set()
    for pattern in patterns:
        regex = re.compile(_glob_regex(pattern))
        hits = [name for name in available if regex.fullmatch(name)]
        if not hits:
            raise UserError(
                f"layer pattern {pattern!r} matches no layer{nearest(pattern, available)}: the model has "
                f"{len(available)} layers, e.g. {', '.join(list(available)[:8])}"
            )
        matched.update(hits)
    return [name for name in available if name in matched]


def _glob_regex(pattern: str) -> str:
    """Translate a layer glob; `fnmatch` would let `*` run across dots."""
    translated = ""
    for token in re.findall(r"\*\*|\*|\?|\[[^\]]+\]|.", pattern, re.DOTALL):
        if token == "**":
            translated += ".*"
        elif token == "*":
            translated += "[^.]*"
        elif token == "?":
            translated += "[^.]"
        elif len(token) > 1:
            negated = token[1] == "!"
            characters = token[2:-1] if negated else token[1:-1]
            translated += "[" + ("^" if negated else "") + re.sub(r"([\\\[^&~|])", r"\\\1", characters) + "]"
        else:
            translated += re.escape(token)
    return translated


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return ` (did you mean "x"?)` for the candidate most like `name`, or nothing if none is near."""
    found = difflib.get_close_matches(name, list(candidates), n=1)
    return f' (did you mean "{found[0]}"?)' if found else ""


def neuron_seed(run_seed: int, method: str, layer: str, unit: int, seed_index: int) -> int:
    """Return the 63-bit seed of one visualization; it depends on no worker and on no order."""
    # JSON separates the parts unambiguously: ("a", "b.1") and ("a.b", "1") must not meet.
    text = json.dumps([run_seed, method, layer, unit, seed_index])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def evaluator_slug(name: str) -> str:
    """An evaluator's name as part of a column's name: `torchvision:squeezenet1_1` → `torchvision_squeezenet1_1`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
