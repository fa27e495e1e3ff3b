"""Recipes of an earlier version: every old name is refused with the name of today."""

import tomllib
from typing import Any

import pytest

from pipeline.recipe.recipe import Recipe, RecipeError
from pipeline.recipe.renamed import RENAMED_KEYS, RENAMED_VALUES, SCHEMA
from tests.support.minimal_recipe import MINIMAL, tiny


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_an_old_key_is_refused_with_the_new_one(old: str, new: str) -> None:
    section, _, key = old.rpartition(".")
    table: Any = {key: "x"}
    if section:
        table = {section: [table] if section in ("circuits", "combinations") else table}
    with pytest.raises(RecipeError, match=rf"{old} is now {new}\b"):
        Recipe.from_table({**tomllib.loads(MINIMAL), **table})


@pytest.mark.parametrize(("key", "old", "new"), [(k, o, n) for k, v in RENAMED_VALUES.items() for o, n in v.items()])
def test_an_old_value_is_refused_with_the_new_one(key: str, old: str, new: str) -> None:
    with pytest.raises(RecipeError, match=rf'{key} = "{old}" is now "{new}"'):
        tiny(f"{key}={old}")
    tiny(f"{key}={new}")


def test_the_new_keys_exist() -> None:
    known = str(Recipe.json_schema())
    assert not [new for new in RENAMED_KEYS.values() if f"'{new}': " not in known]


def test_a_method_s_table_has_the_section_s_old_keys() -> None:
    with pytest.raises(RecipeError, match=r"visualize\.maco\.phase_spread is now phase_std"):
        tiny("visualize.maco.phase_spread=2.0")


def test_all_old_names_are_named_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        tiny("schema=recipe/1", "evaluate.num_photographs=9", "circuits=[{name='a', unit='b:1', given='c:2'}]")
    for part in ["recipe: ", f'"{SCHEMA}"', "num_dataset_images", "circuits is now", "circuits.given is now"]:
        assert part in str(caught.value)
