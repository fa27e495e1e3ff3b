"""Parts of a table of tensors that have the names of a network, whatever a trainer put before them.

Nothing here knows the prefixes of trainers: one fits if all names of the network stand behind it, and no others.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor, nn

StateDict = Mapping[str, Tensor]
Rename = Callable[[StateDict], StateDict | None]

_MAX_PREFIX_PARTS: Final = 3  # of names that are renamed: `module.model.`
_AND: Final = '" and "'  # between the two prefixes of a trunk and a head
_AVERAGES: Final = {"ema", "swa", "polyak", "averaged", "average", "avg", "shadow"}
_NO_AVERAGES: Final = {"non", "no", "without", "raw", "current", "online"}
# Counters that thop registers as buffers; they are float64, other counters are integers.
_THOP_COUNTERS: Final = ("total_ops", "total_params")
# Modules that wrap others and keep their names, anywhere in a network (torch.compile, FSDP, activation checkpointing).
_WRAPPERS: Final = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A dict with tensors in a checkpoint.

    Attributes:
        keys: that lead to it; none for the checkpoint itself.
        tensors: name → tensor.
    """

    keys: tuple[Any, ...]
    tensors: StateDict

    @property
    def path(self) -> str:
        """The keys as text."""
        return ".".join(map(str, self.keys))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A table, or a part of one, that has the names of a network.

    Attributes:
        table: where it is from.
        prefix: what stands before the network's names; two where the classifier has another one.
        state: the network's names → tensors.
        is_average: whether these are weights averaged over training steps.
        left_out: names of the table that are not the network's.
    """

    table: Table
    prefix: str
    state: StateDict
    is_average: bool
    left_out: Collection[str] = field(default=())

    @property
    def place(self) -> str:
        """For people: `"state_dict", prefix "module."`."""
        parts = [f'"{self.table.path}"'] if self.table.keys else []
        if self.prefix:
            parts.append(f'{"prefixes" if _AND in self.prefix else "prefix"} "{self.prefix}"')
        return ", ".join(parts) or "the plain names"


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of a network: all, those that may be missing, its buffers, and those that may be too many."""

    expected: Mapping[str, Tensor]
    optional: frozenset[str]
    buffers: frozenset[str]
    surplus: Callable[[], Collection[str]]

    @staticmethod
    def of(module: nn.Module, surplus: Callable[[], Collection[str]]) -> "Names":
        expected = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        integers = {name for name, value in expected.items() if not (value.is_floating_point() or value.is_complex())}
        return Names(
            expected=expected,
            optional=frozenset(integers - parameters),
            buffers=frozenset(expected.keys() - parameters),
            surplus=surplus,
        )

    @property
    def required(self) -> list[str]:
        """In the network's order."""
        return [name for name in self.expected if name not in self.optional]

    def take(self, state: StateDict, *, is_average: bool) -> StateDict | None:
        """The network's part of `state`, if its names are those of the network, else None.

        Of an average all buffers may be missing: some trainers average parameters alone.
        """
        missing = self.expected.keys() - state.keys() - self.optional
        if missing and not (is_average and missing <= self.buffers):
            return None
        unknown = [name for name in state if name not in self.expected and not _is_counter(name, state[name])]
        if unknown and not set(unknown) <= set(self.surplus()):
            return None
        return {name: state[name] for name in self.expected if name in state}


def find_fits(table: Table, names: Names, renames: Sequence[Rename]) -> list[Fit]:
    """The parts of a table that fit: by the network's own names, under one prefix or two; renamed if none does."""
    if not names.required or 2 * len(table.tensors) < len(names.required):
        return []
    originals = {_WRAPPERS.sub("", name): name for name in table.tensors}
    tensors = {name: table.tensors[original] for name, original in originals.items()}

    def fit(prefix: str, state: StateDict, rest: Collection[str]) -> Fit | None:
        averaged = is_average(f"{table.path}.{prefix}") or any(name.endswith("n_averaged") for name in tensors)
        taken = names.take(state, is_average=averaged)
        if taken is None:
            return None
        left_out = sorted(name for name in rest if not _is_counter(name, tensors[name]))
        original = originals.get(prefix + names.required[0], "")
        shown = original.removesuffix(names.required[0]) if original.endswith(names.required[0]) else prefix
        return Fit(table=table, prefix=shown or prefix, state=taken, is_average=averaged, left_out=left_out)

    prefixes = _prefixes(tensors, names)
    candidates = [(prefix, _below(prefix, tensors)) for prefix in prefixes]
    candidates += _by_two_prefixes(tensors, names, prefixes)
    found = []
    for prefix, state in candidates:
        used = {id(value) for name, value in state.items() if name in names.expected}
        found.append(fit(prefix, state, [name for name, value in tensors.items() if id(value) not in used]))
    if not any(found):
        for prefix in _wrapping_prefixes(tensors):
            state, rest = _below(prefix, tensors), [name for name in tensors if not name.startswith(prefix)]
            found += [fit(prefix, renamed, rest) for rename in renames if (renamed := rename(state)) is not None]
    return [each for each in found if each is not None]


def misfit(tables: Sequence[Table], names: Names, source: str) -> str:
    """Why the table that shares most names with the network does not fit."""

    def nearest(table: Table) -> tuple[int, str]:
        prefixes = [*_prefixes(table.tensors, names), *_wrapping_prefixes(table.tensors)]
        counts = [(len(_below(prefix, table.tensors).keys() & names.expected.keys()), prefix) for prefix in prefixes]
        return max(counts, key=lambda count: (count[0], -len(count[1])))

    table = max(tables, key=lambda table: (nearest(table)[0], len(table.tensors)))
    prefix = nearest(table)[1]
    state = _below(prefix, table.tensors)
    missing = sorted(set(names.required) - state.keys())
    unknown = sorted(name for name in state.keys() - names.expected.keys() if not _is_counter(name, state[name]))
    where = f"of {Fit(table=table, prefix=prefix, state={}, is_average=False).place}: " if table.keys or prefix else ""
    return (
        f'model.weights = "{source}" does not fit the model: {where}{len(missing)} names are '
        f"missing (first: {missing[:3]}), {len(unknown)} are unknown (first: {unknown[:3]}); "
        "name the model these weights were made for"
    )


def _prefixes(tensors: StateDict, names: Names) -> list[str]:
    """What stands before the network's first name in a table, the shortest first."""
    if not names.required:
        return []
    anchor = names.required[0]
    found = {name[: -len(anchor)] for name in tensors if name == anchor or name.endswith(f".{anchor}")}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _below(prefix: str, tensors: StateDict) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _by_two_prefixes(
    tensors: StateDict, names: Names, prefixes: Sequence[str]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """A trunk and a head under names of their own, such as `backbone.` and `head.`: whole top-level modules each."""
    for trunk in prefixes:
        body = _below(trunk, tensors)
        rest = [name for name in names.required if name not in body]
        tops = {name.partition(".")[0] for name in rest}
        if not rest or len(rest) > len(names.required) // 2 or any(name.partition(".")[0] in tops for name in body):
            continue
        heads = {name[: -len(rest[0])] for name in tensors if name == rest[0] or name.endswith(f".{rest[0]}")}
        fitting = [head for head in heads if all(head + name in tensors for name in rest)]
        if len(fitting) == 1:
            prefix = f"{trunk}{_AND}{fitting[0]}" if fitting[0] else trunk
            yield prefix, body | {name: tensors[fitting[0] + name] for name in rest}


def _wrapping_prefixes(tensors: StateDict) -> list[str]:
    """Prefixes that at least half of the names have, shorter ones first."""
    found = [""]
    for num_parts in range(1, _MAX_PREFIX_PARTS + 1):
        starts: dict[str, int] = {}
        for name in tensors:
            parts = name.split(".")
            if len(parts) > num_parts:
                start = ".".join(parts[:num_parts]) + "."
                starts[start] = starts.get(start, 0) + 1
        found += [start for start, count in starts.items() if 2 * count >= len(tensors)]
    return found


def is_average(place: str) -> bool:
    """Whether the keys that lead to weights call them an average, such as `model_ema`, `swa_model.` or `netEMA`."""
    words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", place).lower()))
    return bool(words & _AVERAGES or any(re.fullmatch(r"(model|net)ema|ema(model|net)", word) for word in words)) and (
        not words & _NO_AVERAGES
    )


def _is_counter(name: str, value: Tensor | None) -> bool:
    """Whether a tensor holds no learned numbers: steps, operations, indices."""
    if name.rpartition(".")[2] in _THOP_COUNTERS:
        return True
    return value is not None and not (value.is_floating_point() or value.is_complex())
