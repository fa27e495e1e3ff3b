"""Names of earlier recipes: a recipe that uses one is refused with the name of today."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pipeline.recipe.section import RecipeError, dotted

SCHEMA: Final[Literal["recipe/2"]] = "recipe/2"

# Full name of an earlier key → name of today in the same section. [visualize.METHOD] has the keys of [visualize].
RENAMED_KEYS: Final[Mapping[str, str]] = {
    "circuits": "combinations",
    "combinations.given": "conditioned_on",
    "circuits.given": "conditioned_on",
    "evaluate.num_photographs": "num_dataset_images",
    "evaluate.num_exemplars": "num_top_images",
    "visualize.spectrum_gain": "contrast",
    "visualize.phase_spread": "phase_std",
}
# Key → earlier value → value of today.
RENAMED_VALUES: Final[Mapping[str, Mapping[str, str]]] = {
    "schema": {"recipe/1": SCHEMA},
    "targets.relevance": {"gradient": "gradient_x_activation"},
}


def require_current_names(table: Mapping[str, Any]) -> None:
    """Refuse a recipe's table that uses earlier names.

    Raises:
        RecipeError: with every earlier name that is used and the name of today.
    """
    renamed = list(_renamed(table, ""))
    if renamed:
        raise RecipeError(f"written for an earlier version, with names that have changed: {'; '.join(renamed)}")


def _renamed(table: Mapping[str, Any], section: str) -> Iterator[str]:
    shared = "visualize" if section.startswith("visualize.") else section
    for key, value in table.items():
        name, known_as = dotted(section, key), dotted(shared, key)
        if known_as in RENAMED_KEYS:
            yield f"{name} is now {RENAMED_KEYS[known_as]}"
        if isinstance(value, str) and value in RENAMED_VALUES.get(known_as, {}):
            yield f'{name} = "{value}" is now "{RENAMED_VALUES[known_as][value]}"'
        for block in value if isinstance(value, list) else [value]:
            if isinstance(block, Mapping):
                yield from _renamed(block, name)
