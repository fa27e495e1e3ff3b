"""Overrides from the command line: `--set section.key=value` on a recipe's TOML table."""

import tomllib
from typing import Any

from pipeline.recipe.section import RecipeError


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
