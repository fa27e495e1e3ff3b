"""Relevance runs through every family of models, with random weights at small sizes: finite, alive, bounded."""

import pytest
import torch

from pipeline.attribution.relevance import relevance
from pipeline.models import torchvision_operators

torchvision_operators.declare()

import timm  # noqa: E402
import torchvision  # noqa: E402

# name, options, target layer, feature layers, input side in pixels
CNNS = [
    ("timm:resnet26", {}, "layer3", ["conv1", "layer1"], 32),  # bottlenecks
    ("torchvision:mobilenet_v3_small", {}, "features.8", ["features.0", "features.4"], 32),
    ("torchvision:efficientnet_b0", {}, "features.5", ["features.0", "features.3"], 32),
    ("torchvision:regnet_y_400mf", {}, "trunk_output.block3", ["stem", "trunk_output.block1"], 32),
    ("timm:resnetv2_50", {"layers": (2, 1, 2, 1)}, "stages.2", ["stem.conv", "stages.0"], 32),
    # Standardized weights and GroupNorm.
    ("timm:resnetv2_50x1_bit", {}, "stages.2", ["stem.conv", "stages.0"], 64),
    ("timm:vgg11_bn", {"mlp_ratio": 0.01}, "features.20", ["features.0", "features.8"], 32),
]
SMALL = {"depths": [2, 2, 2, 2]}
SIGNED = [
    ("timm:convnext_atto", {}, "stages.2", ["stem", "stages.0"], 64),
    ("timm:convnextv2_atto", {}, "stages.2", ["stem", "stages.0"], 64),
    ("torchvision:convnext_tiny", {}, "features.5", ["features.0", "features.3"], 64),
    ("torchvision:swin_t", SMALL, "features.5", ["features.0", "features.2", "features.3"], 112),
    ("timm:swin_tiny_patch4_window7_224", SMALL | {"img_size": 56}, "layers.2", ["patch_embed", "layers.1"], 56),
    ("timm:swinv2_tiny_window8_256", SMALL | {"img_size": 64}, "layers.2", ["patch_embed", "layers.1"], 64),
    ("timm:deit3_small_patch16_224", {"img_size": 64, "depth": 4}, "blocks.3", ["patch_embed", "blocks.1"], 64),
    ("timm:eva02_tiny_patch14_224", {"img_size": 56, "depth": 4}, "blocks.3", ["patch_embed", "blocks.1"], 56),
    ("timm:cait_xxs24_224", {"img_size": 64, "depth": 4}, "blocks.3", ["patch_embed", "blocks.1"], 64),  # talking heads
    ("timm:pvt_v2_b0", {}, "stages.2", ["patch_embed", "stages.0"], 64),
]
BOUND = 30  # of the sizes of all relevance together over those of the seed


def build(name, options):
    """Random weights, with biases and norms away from the zeros and ones that they start with."""
    library, _, name = name.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        network = timm.create_model(name, **options)
    elif options:  # a smaller Swin of the same code
        network = torchvision.models.SwinTransformer([4, 4], 48, num_heads=[3, 6, 6, 6], window_size=[7, 7], **options)
    else:
        network = torchvision.models.get_model(name, weights=None)
    for path, parameter in network.named_parameters():
        if path.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim == 1 and path.endswith("weight"):
            torch.nn.init.uniform_(parameter, 0.7, 1.3)
        elif "grn" in path:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(False).eval()


@pytest.mark.parametrize(("name", "options", "layer", "feature_layers", "size"), CNNS + SIGNED)
def test_relevance_is_finite_alive_and_bounded(name, options, layer, feature_layers, size):
    network, x = build(name, options), torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    is_signed = any(name == other[0] for other in SIGNED)
    for rule in ("lrp" if is_signed else "lrp_positive", "lrp_restricted"):
        maps = relevance(network, x, layer=layer, units=[3, 5], feature_layers=[*feature_layers, layer], rule=rule)
        assert all(value.isfinite().all() for value in maps.values())
        total = {path: value.flatten(1).abs().sum(1) for path, value in maps.items()}
        for feature_layer in feature_layers:
            assert (total[feature_layer] > 0.05 * total[layer]).all()
            assert (total[feature_layer] < BOUND * total[layer]).all()
            assert is_signed or (maps[feature_layer] >= 0).all()
