"""Checks of recipe values: each takes what TOML gave and returns the value to keep, or says what is wanted.

A section's field carries its check, so a recipe is validated in the one place where its dataclass is made,
whether from TOML or from Python.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Self

from pipeline.errors import UserError
from pipeline.neurons import nearest

Check = Callable[[Any], Any]

MODEL_NAME = r"(timm:\S+|torchvision:\S+|python:[\w.]+:\w+)"  # what `load_model` takes


class RecipeError(UserError):
    """A recipe that cannot be run; the message names the key, the value and what was expected."""


class Unexpected(Exception):  # noqa: N818 - never leaves this module and recipe.py: turned into RecipeError
    """Raised by a check: its text is what was expected, plus the part of the value that is wrong."""

    def __init__(self, expected: str, hint: str = "") -> None:
        super().__init__(expected)
        self.hint = hint


def key(check: Check, default: Any = MISSING, *, factory: Any = MISSING) -> Any:
    """Declare a recipe key: a dataclass field with its check, required if it has no default or factory."""
    metadata = {"check": check}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a recipe: fields declared by `key`, checked and normalized when an instance is made."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in fields(self):
            checked = run_check(item.metadata["check"], getattr(self, item.name), dotted(self.section, item.name))
            object.__setattr__(self, item.name, checked)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Make the section from its TOML table.

        Raises:
            RecipeError: a key is unknown or missing, or a value is not what is expected.
        """
        reject_unknown(table, known_keys(cls), cls.section)
        require(table, cls)
        return cls(**table)


def dotted(section: str, name: str) -> str:
    """Return a key's full name, `section.name`."""
    return f"{section}.{name}" if section else name


def run_check(check: Check, value: Any, name: str) -> Any:
    """Return the checked value of a key.

    Raises:
        RecipeError: the value is not what is expected of the key.
    """
    try:
        return check(value)
    except Unexpected as error:
        raise RecipeError(f"{name} = {value!r}{error.hint}: expected {error}") from None


def text(*, pattern: str = "", expected: str = "a non-empty text in quotes", may_be_empty: bool = False) -> Check:
    """Return a check for a string, of a certain form if a pattern is given."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not (value.strip() or may_be_empty):
            raise Unexpected(expected)
        if pattern and not re.fullmatch(pattern, value):
            raise Unexpected(expected)
        return value

    return check


def choice(*names: str) -> Check:
    """Return a check for one of a few words."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise Unexpected(f"one of {', '.join(names)}", nearest(str(value), names))
        return value

    return check


def whole(*, minimum: int, maximum: int | None = None) -> Check:
    """Return a check for an integer within bounds."""

    def check(value: Any) -> int:
        in_bounds = is_whole(value) and minimum <= value and (maximum is None or value <= maximum)
        if not in_bounds:
            bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
            raise Unexpected(f"a whole number {bounds}")
        return int(value)

    return check


def number(*, minimum: float, maximum: float = math.inf, above_minimum: bool = False) -> Check:
    """Return a check for a finite number within bounds; integers become floats."""

    def check(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (is_number and minimum <= value <= maximum) or (above_minimum and value == minimum):
            low = "above" if above_minimum else "of at least"
            bounds = f"{low} {minimum:g}" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"
            raise Unexpected(f"a number {bounds}")
        return float(value)

    return check


def flag() -> Check:
    """true or false."""

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise Unexpected("true or false")
        return value

    return check


def either(word: str | None, check_other: Check) -> Check:
    """Return a check for a certain word (None: for a key that is left out), or else another check."""

    def check(value: Any) -> Any:
        if value == word and isinstance(value, str | None):
            return value
        try:
            return check_other(value)
        except Unexpected as error:
            raise Unexpected(f'"{word}" or {error}' if word else str(error), error.hint) from None

    return check


def many(check_item: Check, *, what: str, minimum: int = 0, unique: bool = False) -> Check:
    """Return a check for a list (kept as a tuple) of items that pass a check; one string is a list of one."""

    def check(value: Any) -> tuple[Any, ...]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or len(items) < minimum:
            raise Unexpected(f"a list of {what}" + (f", at least {minimum}" if minimum else ""))
        checked = []
        for item in items:
            try:
                checked.append(check_item(item))
            except Unexpected as error:
                raise Unexpected(f"a list of {what}; {item!r} is not {error}", error.hint) from None
        if unique and len(set(checked)) < len(checked):
            raise Unexpected(f"a list of {what}, each once")
        return tuple(checked)

    return check


def keywords() -> Check:
    """Return a check for a table of keyword arguments, whose values TOML and JSON know alike."""

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(str(name).isidentifier() for name in value):
            raise Unexpected("a table of keyword arguments, such as { num_classes = 0 }")
        for name, item in value.items():
            if not isinstance(item, bool | int | float | str | list | tuple | Mapping):
                raise Unexpected(f"a table of keyword arguments; {name} = {item!r} is no number, text, list or table")
        return dict(value)

    return check


def is_whole(value: Any) -> bool:
    """Whether a value is an integer; TOML's true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def known_keys(section_type: type[Section]) -> list[str]:
    """Return the keys of a section, in order."""
    return [item.name for item in fields(section_type)]


def reject_unknown(table: Mapping[str, Any], known: Sequence[str], section: str) -> None:
    """Raise RecipeError if a table holds a key that is not known."""
    for name, value in table.items():
        if name not in known:
            raise RecipeError(
                f"{dotted(section, name)} = {value!r}: there is no such key{nearest(name, known)}; "
                f"expected {', '.join(known)}"
            )


def require(table: Mapping[str, Any], section_type: type[Section]) -> None:
    """Raise RecipeError if a table lacks a key that has no default."""
    for item in fields(section_type):
        if item.default is MISSING and item.default_factory is MISSING and item.name not in table:
            raise RecipeError(f"{dotted(section_type.section, item.name)} is missing: the recipe must give it")
