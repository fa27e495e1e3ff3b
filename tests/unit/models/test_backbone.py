"""Whole runs of what is no classifier of RGB images: backbones, tokens and heads of a transformer, other channels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from jobs.run.run_folder import STAGES
from jobs.runner import run_stages
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.models import torchvision_operators
from pipeline.recipe.recipe import Recipe, RecipeError
from tests.support.tiny_networks import TinyResidualNet
from tests.support.tiny_run import recipe_toml, write_data

torchvision_operators.declare()


class Backbone(TinyResidualNet):
    """Stages whose output is a dict of maps, as detection trunks have it."""

    input_size_px = 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        x = torch.relu(self.bn(self.stem(x)))
        return {"last": self.stage3(self.stage2(self.stage1(x)))}


class ChannelNet(TinyResidualNet):
    """The same classifier on images of another number of channels."""

    input_size_px = 32

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.stem = nn.Conv2d(in_chans, 8, 3, stride=2, padding=1, bias=False)


def small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    module = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5
    )
    nn.init.normal_(module.heads.head.weight)
    module.input_size_px = 32
    return module


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_data(tmp_path_factory.mktemp("data"), num_shards=1, per_shard=10)


def recipe_for(shards: str, out: Path, factory: str, layers: list[str], neurons: dict[str, str], **keys: Any) -> Recipe:
    text = recipe_toml(shards, out)
    head, _, rest = text.partition("[[neurons]]")
    tail = rest[rest.index("[targets]") :]
    blocks = "".join(f'[[neurons]]\nlayer = "{layer}"\nunits = "{units}"\n' for layer, units in neurons.items())
    overrides = {
        "model.name": f"python:{__name__}:{factory}",
        "statistics.layers": layers,
        "visualize.steps": 1,
    } | keys
    return Recipe.from_toml(head + blocks + tail, [f"{name}={value}" for name, value in overrides.items()])


def rows_of(out: Path, layer: str) -> list[dict[str, Any]]:
    return read_rows(Root.open(out), f"layers/{layer}.parquet")


def run(recipe: Recipe) -> None:
    run_stages(recipe, STAGES, address="inline", echo=lambda line: None)


def test_a_backbone_goes_through_every_stage(shards: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(recipe_for(shards, out, "Backbone", ["stage1", "stage3"], {"stage3": "0:2"}))
    assert validate(str(out)) == []
    atlas = Root.open(out).read_json("atlas.json")
    assert (atlas["model"]["num_classes"], atlas["model"]["classifier_layer"]) == (0, None)
    rows = rows_of(out, "stage3")
    assert [row["unit"] for row in rows] == [0, 1]
    for row in rows:
        assert row["status"] in ("ok", "weak")
        assert (row["predicted_label"], row["accuracy_top1"]) == ("", None)
        assert row["activation_percentile"] is not None
        assert len(row["reference_keys"]) == 4
        assert set(row["reference_labels"]) == {""}  # of ten labels nothing is known but their numbers
    store = StatisticsStore.open(Root.open(out))
    top_image = store.top_images("stage3", 0)[0]
    assert top_image.label >= 0
    assert top_image.top1 == -1


def test_the_labels_of_the_data_may_have_names_of_their_own(shards: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("".join(f"kind {i}\n" for i in range(5)))
    out = tmp_path / "out"
    run(
        recipe_for(
            shards, out, "Backbone", ["stage3"], {"stage3": "0"}, **{"model.labels": str(tmp_path / "names.txt")}
        )
    )
    (row,) = rows_of(out, "stage3")
    assert all(label.startswith("kind ") for label in row["reference_labels"])


def test_classes_of_a_backbone_are_a_clear_error(shards: str, tmp_path: Path) -> None:
    recipe = recipe_for(shards, tmp_path / "out", "Backbone", ["stage3"], {"classifier": "all"})
    with pytest.raises(RecipeError, match=r'has no classifier, so "classifier" names no layer'):
        run(recipe)


def test_tokens_and_heads_of_a_transformer_go_through_every_stage(shards: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    block = "encoder.layers.encoder_layer_1"
    heads = f"{block}.self_attention.heads"
    hidden = f"{block}.mlp.1"
    recipe = recipe_for(
        shards, out, "small_vit", [block, heads, hidden], {block: "0", heads: "3", hidden: "5", "classifier": "0"},
        **{"targets.relevance": "gradient_x_activation"},
    )  # fmt: skip
    run(recipe)
    assert validate(str(out)) == []
    for layer in (block, heads, hidden):
        (row,) = rows_of(out, layer)
        assert row["status"] in ("ok", "weak")
        assert len(row["reference_positions"]) == 4 * len(row["reference_keys"])  # a box on each, of the patch
    positions = StatisticsStore.open(Root.open(out)).top_images(block, 0)
    assert all(max(top_image.position) < 4 for top_image in positions)


@pytest.mark.parametrize("num_channels", [1, 4])
def test_images_of_other_channels_go_through_every_stage(shards: str, tmp_path: Path, num_channels: int) -> None:
    out = tmp_path / "out"
    options = {"model.options": f"{{ in_chans = {num_channels} }}"}
    run(recipe_for(shards, out, "ChannelNet", ["stage2"], {"classifier": "0", "stage2": "1"}, **options))
    assert validate(str(out)) == []
    (row,) = rows_of(out, "stage2")
    assert row["status"] in ("ok", "weak")
    with Image.open(out / row["image_path"]) as visualization:
        assert visualization.mode == {1: "RGB", 4: "RGBA"}[num_channels]
