"""The options of the synthesis methods as keys of [visualize] and of its tables [visualize.METHOD]."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import Field, create_model

from pipeline.recipe.section import RecipeError, Section


@cache
def option_table(section: str) -> type[Section]:
    """Return the model of a table of options, [visualize] or [visualize.METHOD]: every key may be left out.

    Names, types and descriptions are those of the options' dataclass in the synthesis.
    """
    # Imported here: the synthesis brings torch, and most recipes set none of its options.
    from pipeline.synthesis.methods.presets import SynthesisOptions

    types, descriptions = get_type_hints(SynthesisOptions), _attributes(SynthesisOptions)
    keys: dict[str, Any] = {}
    for item in fields(SynthesisOptions):
        bound = 0 if types[item.name] in (int, float) else None
        info = Field(default=None, ge=bound, description=descriptions[item.name])
        keys[item.name] = (types[item.name], info)
    return create_model(section, __base__=Section, __cls_kwargs__={"title": section}, **keys)


def require_valid(preset_name: str, method: str, options: Mapping[str, Any], *, place: str) -> None:
    """Refuse options that do not fit each other, or the preset that they are added to.

    Raises:
        RecipeError: names the place and the keys.
    """
    from pipeline.synthesis.methods.registry import preset

    try:
        preset(preset_name, method, **options)
    except ValueError as error:
        raise RecipeError(f"{place}{error}") from None


def _attributes(options: type) -> dict[str, str]:
    """Return the descriptions in a docstring's list of attributes, of which one may describe several."""
    text = (inspect.getdoc(options) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w.*?): (.*?)(?=\n {4}\S|\Z)", text, re.DOTALL | re.MULTILINE)
    return {name: " ".join(said.split()) for names, said in entries for name in names.split(", ")}
