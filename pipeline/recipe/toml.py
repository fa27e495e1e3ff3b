"""The TOML of a recipe: overrides from the command line going in, sections as lines coming out."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pipeline.recipe.fields import RecipeError, Section


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set one key of a recipe's TOML table in place, from `section.key=value` or `section.table.key=value`.

    Raises:
        RecipeError: the override has another form.
    """
    name, equals, value_text = override.partition("=")
    parts = [part.strip() for part in name.split(".")]
    depth_allowed = 3 if parts[0] == "visualize" else 2  # the tables of methods are the only sections within sections
    if not equals or not all(parts) or len(parts) > depth_allowed:
        raise RecipeError(f"override {override!r}: expected section.key=value, e.g. visualize.steps=500")
    target = table
    for depth, part in enumerate(parts[:-1], start=1):
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            place = ".".join(parts[:depth])
            raise RecipeError(f"override {override!r}: {place} is not a section with keys; set it as a whole")
    target[parts[-1]] = _override_value(value_text.strip())


def _override_value(text: str) -> Any:
    """Read a value as TOML; what is none (a path, a bare word, a date) is taken as a string."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    is_plain = set(table) == {"value"} and isinstance(table["value"], bool | int | float | str | list | dict)
    return table["value"] if is_plain else text


def key_lines(section: Section) -> list[str]:
    """Return the keys of a section as lines of TOML, its sub-tables last; keys without a value are left out."""
    lines = []
    for item in fields(section):
        value = getattr(section, item.name)
        if item.name == "options" and section.section == "visualize":  # they are keys of the section itself
            lines += _option_lines(value)
        elif item.name == "method_options":
            for method in sorted(value):
                lines += ["", f"[{section.section}.{method}]", *_option_lines(value[method])]
        elif value is not None:
            lines.append(f"{item.name} = {toml_value(value)}")
    return lines


def _option_lines(options: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {toml_value(options[name])}" for name in sorted(options)]


def toml_value(value: Any) -> str:
    """Return a value in TOML's syntax."""
    value = plain(value)
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        case dict() if not value:
            return "{}"
        case dict():
            return "{ " + ", ".join(f"{name} = {toml_value(item)}" for name, item in value.items()) + " }"
    raise TypeError(f"no TOML for {type(value).__name__}")


def plain(value: Any) -> Any:
    """Return a value in terms of TOML's and JSON's own types."""
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
