"""`neuron-atlas layers`: what a recipe can name, with units, shapes and kinds."""

from pathlib import Path

import pytest

from jobs.cli import main
from jobs.commands.layers import LayerRow, describe_layers, list_layers, open_model
from pipeline.models import Model
from tests.support.tiny_run import recipe_toml


@pytest.fixture(scope="module")
def vit() -> Model:
    return open_model("timm:vit_tiny_patch16_224", input_size_px=48)


def rows_of(model: Model, *patterns: str) -> dict[str, LayerRow]:
    return {row.layer: row for row in list_layers(model, patterns)}


def test_a_transformer_s_layers_are_listed_with_kind_and_grid(vit: Model) -> None:
    rows = rows_of(vit)
    assert list(rows) == vit.layers()
    assert rows["patch_embed.proj"] == LayerRow(
        layer="patch_embed.proj", kind="map", num_units=192, shape="192 × 3 × 3", remark="feature layer"
    )
    assert rows["blocks.5.mlp.act"] == LayerRow(
        layer="blocks.5.mlp.act", kind="tokens", num_units=768, shape="768 × (1 + 3 × 3)", remark=""
    )
    assert rows["blocks.5.attn.heads"].kind == "heads"
    assert rows["blocks.5.attn.heads"].remark == "3 heads of 64 units"
    assert rows["blocks.5"].remark == "feature layer"
    assert rows["blocks.4"].remark == ""
    assert rows["head"] == LayerRow(layer="head", kind="logits", num_units=1000, shape="1000", remark="classifier")


def test_the_text_is_in_columns(vit: Model) -> None:
    text = describe_layers(vit, list_layers(vit, ["blocks.[45]", "head"]))
    assert text.splitlines() == [
        "timm:vit_tiny_patch16_224 at 48 px: 3 of 251 layers, 1000 classes",
        "layer     kind    units  shape",
        "blocks.4  tokens    192  192 × (1 + 3 × 3)",
        "blocks.5  tokens    192  192 × (1 + 3 × 3)  feature layer",
        "head      logits   1000  1000               classifier",
    ]


def test_the_command_prints_a_model_s_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "python:tests.support.tiny_run:small_net", "--filter", "stage*"]) == 0
    first, header, *lines = capsys.readouterr().out.splitlines()
    assert first == "python:tests.support.tiny_run:small_net at 32 px: 3 of 21 layers, 5 classes"
    assert header.split() == ["layer", "kind", "units", "shape"]
    assert lines[0].split() == ["stage1", "map", "8", "8", "×", "8", "×", "8", "feature", "layer"]
    assert (
        main(["layers", "python:tests.support.tiny_run:small_net", "--input-size-px", "64", "--filter", "stage1"]) == 0
    )
    assert "8 × 16 × 16" in capsys.readouterr().out


def test_the_model_may_be_a_recipe_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    text = recipe_toml("a.tar", "out").replace("[data]", "input_size_px = 48\n[data]")
    path.write_text(text, encoding="utf-8")
    assert main(["layers", str(path)]) == 0
    assert "python:tests.support.tiny_run:small_net at 48 px: 21 of 21 layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["resnet18"], 1, "expected timm:NAME, torchvision:NAME, python:package.module:factory, or the .toml file"),
        (["absent.toml"], 2, "there is no such recipe"),
        (["timm:resnet1"], 1, "did you mean"),
        (["python:tests.support.tiny_run:small_net", "--filter", "stag"], 1, "matches no layer"),
        (["python:tests.support.tiny_run:small_net", "--input-size-px", "0"], 2, "at least 1"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["layers", *arguments]) == code
    assert message in capsys.readouterr().err
