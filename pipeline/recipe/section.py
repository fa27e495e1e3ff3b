"""A part of a recipe as a frozen, strict pydantic model; its mistakes are worded in one place.

The JSON Schema of a section also words its errors: what is expected of a key is read from its part of the schema.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from pipeline.errors import UserError
from pipeline.neurons import nearest


class RecipeError(UserError):
    """A recipe that cannot be run; the message names the key, the value and what was expected."""


class _TomlSchema(GenerateJsonSchema):
    """JSON Schema of TOML, which has no null, in which every title says what is expected of the value."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return whether a field without a title gets one made of its name."""
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Leave null out: the key is left out instead."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Leave out defaults that are null."""
        inner = schema["schema"]
        return self.generate_inner(inner) if schema.get("default", ...) is None else super().default_schema(schema)


class Section(BaseModel):
    """A part of a recipe, checked when an instance is made, from a TOML table or in Python."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
    section: ClassVar[str] = ""  # the title of the class without brackets

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Name the section after its title."""
        cls.section = (cls.model_config.get("title") or "").strip("[]")

    def __init__(self, /, **values: Any) -> None:
        """Check and normalize the values.

        Raises:
            RecipeError: a key is unknown or missing, or a value is not what is expected.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _recipe_error(type(self), values, error) from None

    def replace(self, **changes: Any) -> Self:
        """Return the section with other values for some keys, checked anew."""
        values = {item.alias or name: getattr(self, name) for name, item in type(self).model_fields.items()}
        return type(self)(**{**values, **(self.model_extra or {}), **changes})

    def to_table(self) -> dict[str, Any]:
        """Return the section in the types that TOML and JSON share; keys without a value are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of the section's table, in keywords of draft 7."""
        return cls.model_json_schema(schema_generator=_TomlSchema)


def dotted(section: str, key: str) -> str:
    """Return a key's full name, `section.key`."""
    return f"{section}.{key}" if section else key


def _recipe_error(section: type[Section], values: Mapping[str, Any], error: ValidationError) -> RecipeError:
    """Word what pydantic found: an unknown key first, then the first value that is wrong."""
    found = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    for item in found:
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, RecipeError):  # from a section within this one, or a check of several keys
            return cause
    key, *within = found[0]["loc"]
    name, schema = dotted(section.section, str(key)), section.json_schema()
    if found[0]["type"] == "missing":
        return RecipeError(f"{name} is missing: the recipe must give it")
    if found[0]["type"] == "extra_forbidden":
        return unknown_key(section.section, str(key), values[str(key)], list(schema["properties"]))
    node, value = schema["properties"][key], values[str(key)]
    expected, hint = _in_words(node, schema), _hint(node, found[0]["input"])
    items = _items(node)
    if items and any(isinstance(part, int) for part in within):
        expected += f"; {found[0]['input']!r} is not {_in_words(items, schema)}"
    return RecipeError(f"{name} = {value!r}{hint}: expected {expected}")


def unknown_key(section: str, key: str, value: Any, known: list[str]) -> RecipeError:
    """Return the error of a key that a section does not have."""
    return RecipeError(
        f"{dotted(section, key)} = {value!r}: there is no such key{nearest(key, known)}; expected {', '.join(known)}"
    )


def _items(node: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of a list's items, None if no list is allowed."""
    return next((form["items"] for form in node.get("anyOf", [node]) if "items" in form), None)


def _hint(node: Mapping[str, Any], value: Any) -> str:
    words = (_items(node) or node).get("enum", ())
    return nearest(value, words) if isinstance(value, str) else ""


def _in_words(node: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """Return what a part of a JSON Schema allows, in words."""
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
        return f"a table {node['title']}" if node["title"][0] == "[" else f"a table of {', '.join(node['properties'])}"
    match node:
        case {"title": title}:
            return str(title)
        case {"anyOf": forms}:
            return " or ".join(_in_words(form, root) for form in forms)
        case {"enum": words}:
            return f"one of {', '.join(words)}"
        case {"const": word}:
            return f'"{word}"'
        case {"type": "boolean"}:
            return "true or false"
        case {"type": "integer"}:
            return f"a whole number{_bounds(node)}"
        case {"type": "number"}:
            return f"a number{_bounds(node)}"
    return "a text in quotes"


def _bounds(node: Mapping[str, Any]) -> str:
    match node:
        case {"minimum": low, "maximum": high}:
            return f" from {low} to {high}"
        case {"minimum": low}:
            return f" of at least {low}"
    return ""
