"""Feature layers of every family: the published ones to the letter, for the others the stem and four stages."""

import pytest
import torch
from torch import nn

from pipeline.models import Model, Preprocessing, load_model, torchvision_operators
from pipeline.models.feature_layers import PUBLISHED, FeatureLayer

torchvision_operators.declare()

NARROW_VIT = {"embed_dim": 24, "num_heads": 3}
NARROW_CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 24)}


def layers_of(model: Model) -> list[str]:
    return [feature.layer for feature in model.default_feature_layers()]


# The five networks of the VITAL paper and the nodes of a sixth, written off its supplement: layers, weights of classes.
SUPPLEMENT = {
    "resnet50": "conv1:1 layer1:1 layer2:1 layer3:1 layer4:1",
    "densenet121": (
        "features.conv0:1 features.denseblock1:1 features.denseblock2:1 features.denseblock3:1 features.denseblock4:100"
    ),
    "convnext_base": "features.0:10 features.2.1:1 features.4.1:1 features.6.1:1 features.7.2:1",
    "vit_l_16": " ".join(
        ["conv_proj:1", *(f"encoder.layers.encoder_layer_{i}:1" for i in (2, 9, 20, 23))],
    ),
    "vit_l_32": " ".join(
        [
            "conv_proj:1",
            *(f"encoder.layers.encoder_layer_{i}:1" for i in (2, 9, 20)),
            "encoder.layers.encoder_layer_23:0.1",
        ]
    ),
    "vit_b_16": " ".join(["conv_proj:1", *(f"encoder.layers.encoder_layer_{i}:1" for i in (0, 4, 8, 11))]),
}


@pytest.mark.parametrize("name", SUPPLEMENT)
def test_the_published_networks_are_aligned_where_the_paper_says(name: str) -> None:
    from torchvision.models import get_model

    expected = [part.rpartition(":") for part in SUPPLEMENT[name].split()]
    assert PUBLISHED[f"torchvision:{name}"] == [
        FeatureLayer(layer=layer, weight=float(weight)) for layer, _, weight in expected
    ]
    with torch.device("meta"):  # names without memory
        modules = dict(get_model(name, weights=None).named_modules())
    assert all(layer in modules for layer, _, _ in expected)


# name, input size, options, classifier, feature layers
FAMILIES = [
    ("torchvision:resnet18", 64, {}, "fc", "conv1 layer1 layer2 layer3 layer4"),
    (
        "torchvision:squeezenet1_1", 80, {}, "classifier.3",
        "features.0 features.4 features.7 features.10 features.12",
    ),
    (
        "torchvision:mobilenet_v3_small", 64, {}, "classifier.3",
        "features.0.0 features.1 features.3 features.8 features.12",
    ),
    (
        "torchvision:efficientnet_b0", 64, {}, "classifier.1",
        "features.0.0 features.2 features.3 features.5 features.8",
    ),
    (
        "torchvision:regnet_y_400mf", 64, {}, "fc",
        "stem.0 trunk_output.block1 trunk_output.block2 trunk_output.block3 trunk_output.block4",
    ),
    ("torchvision:swin_t", 64, {}, "head", "features.0.0 features.1 features.3 features.5 features.7"),
    ("timm:resnet18", 64, {}, "fc", "conv1 layer1 layer2 layer3 layer4"),
    (
        "timm:resnetv2_50", 64, {"layers": (1, 1, 2, 1), "channels": (16, 32, 48, 64)}, "head.fc",
        "stem.conv stages.0 stages.1 stages.2 stages.3",
    ),
    ("timm:convnext_tiny", 64, NARROW_CONVNEXT, "head.fc", "stem.0 stages.0 stages.1 stages.2 stages.3"),
    ("timm:vit_tiny_patch16_224", 48, NARROW_VIT, "head", "patch_embed.proj blocks.2 blocks.5 blocks.8 blocks.11"),
    ("timm:vit_small_patch14_dinov2", 42, NARROW_VIT, None, "patch_embed.proj blocks.2 blocks.5 blocks.8 blocks.11"),
    ("timm:vit_base_patch16_clip_224", 48, NARROW_VIT, "head", "patch_embed.proj blocks.2 blocks.5 blocks.8 blocks.11"),
    ("timm:vit_base_patch16_siglip_224", 48, NARROW_VIT, None, "patch_embed.proj blocks.2 blocks.5 blocks.8 blocks.11"),
    (
        "timm:vit_tiny_patch16_224", 48, NARROW_VIT | {"depth": 6}, "head",
        "patch_embed.proj blocks.1 blocks.2 blocks.4 blocks.5",
    ),
    (
        "timm:swin_tiny_patch4_window7_224", 64, {"embed_dim": 12, "depths": (2, 2, 2, 2)}, "head.fc",
        "patch_embed.proj layers.0 layers.1 layers.2 layers.3",
    ),
    ("timm:tf_efficientnet_lite0", 64, {}, "classifier", "conv_stem blocks.1 blocks.2 blocks.4 blocks.6"),
    ("timm:mobilenetv3_large_100", 64, {}, "classifier", "conv_stem blocks.1 blocks.2 blocks.4 blocks.6"),
    ("timm:regnety_004", 64, {}, "head.fc", "stem.conv s1 s2 s3 s4"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size_px", "options", "classifier", "expected"), FAMILIES)
def test_other_networks_are_aligned_at_their_stem_and_four_stages(
    name: str, size_px: int, options: dict, classifier: str | None, expected: str
) -> None:
    model = load_model(name, "random", input_size_px=size_px, options=options)
    assert layers_of(model) == expected.split()
    assert model.classifier_layer == classifier
    assert all(feature.weight == 1.0 for feature in model.default_feature_layers())
    # Every one of them has a place on the image, and none is coarser than the one before it is fine.
    sides = [model.map_shape(layer)[0] for layer in layers_of(model)]
    assert sides == sorted(sides, reverse=True)


def test_without_its_classifier_a_network_is_aligned_at_the_same_layers() -> None:
    for name in ("timm:resnet18", "timm:vit_tiny_patch16_224"):
        options = NARROW_VIT if "vit" in name else {}
        with_head = load_model(name, "random", input_size_px=64, options=options)
        without = load_model(name, "random", input_size_px=64, options=options | {"num_classes": 0})
        assert (with_head.has_classifier, without.has_classifier) == (True, False)
        assert layers_of(with_head) == layers_of(without)


def model_of(module: nn.Module, size_px: int) -> Model:
    preprocessing = Preprocessing(
        input_size_px=size_px, crop_fraction=1.0, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return Model(name="python:own:net", module=module, preprocessing=preprocessing, labels="", device="cpu")


def vgg_like() -> nn.Module:
    """VGG's plan with few channels: one Sequential of single layers."""
    parts: list[nn.Module] = []
    channels = 3
    for width, convolutions in ((2, 2), (3, 2), (4, 3), (5, 3), (5, 3)):
        for _ in range(convolutions):
            parts += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        parts.append(nn.MaxPool2d(2))
    features = nn.Sequential(*parts)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4))
    module = nn.Sequential()
    module.add_module("features", features)
    module.add_module("classifier", classifier)
    return module


def test_a_network_of_single_layers_is_divided_before_its_poolings() -> None:
    assert layers_of(model_of(vgg_like(), 32)) == [
        "features.0", "features.8", "features.15", "features.22", "features.29",
    ]  # fmt: skip


def test_a_network_of_one_resolution_is_divided_evenly() -> None:
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(8)]
    module = nn.Sequential()
    module.add_module("conv", nn.Conv2d(3, 4, 4, stride=4))
    module.add_module("blocks", nn.Sequential(*blocks))
    assert layers_of(model_of(module, 16)) == ["conv", "blocks.1", "blocks.3", "blocks.5", "blocks.7"]


def test_the_smallest_input_keeps_all_stages() -> None:
    model = load_model("torchvision:resnet18", "random", input_size_px=32)
    assert model.feature_shape("layer4") == (512, 1, 1)
    assert layers_of(model) == ["conv1", "layer1", "layer2", "layer3", "layer4"]


def test_a_network_without_blocks_asks_for_layers() -> None:
    with pytest.raises(ValueError, match=r'"python:own:net".*name them in \[targets\] feature_layers'):
        model_of(nn.Conv2d(3, 4, 3), 8).default_feature_layers()
