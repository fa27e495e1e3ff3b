"""The JSON Schema of recipes: it takes the recipes that we take, refuses typing errors, and describes every key."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft7Validator

from jobs.cli import main
from pipeline.recipe.overrides import apply_override
from pipeline.recipe.recipe import Recipe
from tests.support.minimal_recipe import MINIMAL, tiny
from tests.support.paths import ROOT

RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.toml"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return Recipe.json_schema()


def mistakes(schema: dict[str, Any], table: dict[str, Any]) -> list[str]:
    return [error.message for error in Draft7Validator(schema).iter_errors(table)]


def with_override(override: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(MINIMAL)
    apply_override(table, override)
    return table


def test_the_command_prints_a_valid_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    Draft7Validator.check_schema(printed)
    assert printed.pop("$schema") == Draft7Validator.META_SCHEMA["$schema"]
    assert printed == Recipe.json_schema()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipes_that_ship_are_valid(schema: dict[str, Any], path: Any) -> None:
    recipe = Recipe.from_toml(path.read_text(encoding="utf-8"))
    assert not mistakes(schema, tomllib.loads(path.read_text(encoding="utf-8")))
    assert not mistakes(schema, tomllib.loads(recipe.to_toml()))


def test_the_examples_of_the_recipe_s_page_are_valid(schema: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    for block in blocks:
        table = tomllib.loads(MINIMAL) | tomllib.loads(block)
        Recipe.from_table(table)
        assert not mistakes(schema, table)


@pytest.mark.parametrize(
    "override",
    [
        "sede=1",
        "seed=-1",
        "schema=recipe/1",
        "model.nam=x",
        "data.shards=[]",
        "statistics.top_k=1.5",
        "neurons=[{layer='a', unit='all'}]",
        "neurons=[{layer='a', units='1-3'}]",
        "targets.relevance=lpr",
        "targets.feature_layers=[{layer='a', wieght=1}]",
        "visualize.methods=['vital', 'vital']",
        "visualize.learning_rat=1",
        "visualize.learning_rate=-1",
        "visualize.options={}",
        "visualize.maco.num_crop=3",
        "visualize.maco.parameterization=pixels",
        "evaluate.clip={name='open_clip:ViT-B-32'}",
        "compute.gpus_per_task=all",
    ],
)
def test_a_typing_error_is_refused_by_the_schema_as_by_the_recipe(schema: dict[str, Any], override: str) -> None:
    with pytest.raises(ValueError, match=re.escape(override.partition("=")[0].split(".")[-1][:3])):
        tiny(override)
    assert mistakes(schema, with_override(override))


@pytest.mark.parametrize(
    "override",
    [
        "data.shards=['a.tar']",
        "neurons=[{layer='a', units=3}]",
        "neurons=[{layer='a', units=[3, 7]}]",
        "targets.feature_layers=['a', {layer='b', weight=2}]",
        "visualize.methods=maco",
        "visualize.maco.num_crops=3",
        "visualize.batch_size=4",
        "evaluate.held_out_models=['timm:resnet18', {name='torchvision:resnet50', weights='random'}]",
        "model.options={num_classes=0, dims=[1, 2]}",
    ],
)
def test_every_form_that_a_recipe_takes_is_valid_in_the_schema(schema: dict[str, Any], override: str) -> None:
    assert not mistakes(schema, with_override(override))
    assert not mistakes(schema, tomllib.loads(tiny(override).to_toml()))


def test_every_key_is_described(schema: dict[str, Any]) -> None:
    def missing(node: dict[str, Any], place: str) -> Iterator[str]:
        for key, value in node.get("properties", {}).items():
            if "properties" in value:
                yield from missing(value, f"{place}.{key}")
            elif not value.get("description") and "$ref" not in str(value):
                yield f"{place}.{key}"

    sections = {name: node for name, node in schema["$defs"].items() if "properties" in node}
    assert len(sections) > 12
    assert not [found for name, node in sections.items() for found in missing(node, name)]
    for node in sections.values():
        assert node["additionalProperties"] is False
