"""Types of recipe values: what a key may hold, with the words for it that errors and the JSON Schema give."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pipeline.recipe.section import Section


def form(pattern: str, expected: str) -> Any:
    """Return a text's form, to annotate `str` with: the pattern of the whole text, and words for it."""
    return Field(pattern=f"^({pattern})$", title=expected)


Text = Annotated[str, Field(pattern=r"\S", title="a non-empty text in quotes")]
# Modules may be called anything; dots stand between them. A glob has the same form.
LAYER_FORM = r"[^.\x00-\x1f]+(\.[^.\x00-\x1f]+)*"
LayerName = Annotated[str, form(LAYER_FORM, 'an exact layer name such as "blocks.5"')]
ModelName = Annotated[
    str,
    form(
        r"timm:\S+|torchvision:\S+|python:[\w.]+:\w+",
        "timm:NAME, torchvision:NAME or python:package.module:factory",
    ),
]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Listed:
    """Annotates a tuple: TOML gives a list, and a single text stands for a list of one."""

    what: str
    minimum: int = 0
    unique: bool = False
    or_single: bool = True

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Make a tuple of what TOML gives, before the items are checked, and count them after it."""
        counted = core_schema.no_info_after_validator_function(self._counted, handler(source))
        return core_schema.no_info_before_validator_function(self._as_tuple, counted)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the list, and the single text that stands for one."""
        array = handler(schema) | ({"minItems": self.minimum} if self.minimum else {})
        array |= {"uniqueItems": True} if self.unique else {}
        title = f"a list of {self.what}" + (f", at least {self.minimum}" if self.minimum else "")
        title += ", each once" if self.unique else ""
        if not self.or_single or "$ref" in array["items"]:
            return {**array, "title": title}
        return {"anyOf": [array["items"], array], "title": title}

    def _as_tuple(self, value: Any) -> Any:
        if isinstance(value, str) and self.or_single:
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    def _counted(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(items) < self.minimum or (self.unique and len(set(items)) < len(items)):
            raise PydanticCustomError("items", "too few items, or one of them twice")
        return items


@dataclass(frozen=True)
class Shorthand:
    """Annotates a section that may be written as one text, the value of its main key."""

    key: str

    def __get_pydantic_core_schema__(self, source: type[Section], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Make a table of a text."""
        return core_schema.no_info_before_validator_function(
            lambda value: {self.key: value} if isinstance(value, str) else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe both forms."""
        table = handler(schema)
        return {"anyOf": [handler.resolve_ref_schema(table)["properties"][self.key], table]}
