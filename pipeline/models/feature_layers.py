"""Feature layers: where distributions are aligned. The published ones by name, otherwise found in the network.

Every published choice is the stem plus the end of each of four stages (METHOD 4); for a network without an
entry here the same picture is read off its own modules.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

Shape = tuple[int, ...]  # (C, H, W), (C, T) or (C,)


@dataclass(frozen=True, kw_only=True)
class FeatureLayer:
    """A layer whose distribution is aligned, and the weight of its loss."""

    layer: str
    weight: float = 1.0


def _weighted(layers: list[str], weights: list[float]) -> list[FeatureLayer]:
    return [FeatureLayer(layer=layer, weight=weight) for layer, weight in zip(layers, weights, strict=True)]


# Layers and class-neuron weights of the published code, torchvision names.
# Reference: Görgün et al., VITAL, ICCV 2025, supplement (implementation details) and the authors' code.
PUBLISHED: Mapping[str, list[FeatureLayer]] = {
    "torchvision:resnet50": _weighted(["conv1", "layer1", "layer2", "layer3", "layer4"], [1, 1, 1, 1, 1]),
    "torchvision:densenet121": _weighted(
        ["features.conv0", *(f"features.denseblock{i}" for i in range(1, 5))], [1, 1, 1, 1, 100]
    ),
    "torchvision:convnext_base": _weighted(
        ["features.0", "features.2.1", "features.4.1", "features.6.1", "features.7.2"], [10, 1, 1, 1, 1]
    ),
    "torchvision:vit_l_16": _weighted(
        ["conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in (2, 9, 20, 23))], [1, 1, 1, 1, 1]
    ),
    "torchvision:vit_l_32": _weighted(
        ["conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in (2, 9, 20, 23))], [1, 1, 1, 1, 0.1]
    ),
    "torchvision:vit_b_16": _weighted(
        ["conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in (0, 4, 8, 11))], [1, 1, 1, 1, 1]
    ),
}

# Inner neurons: the stem counts a tenth, the last stage is left out (METHOD 4).
INNER_WEIGHTS = (0.1, 1.0, 1.0, 1.0, 0.0)
_NUM_TRANSFORMER_BLOCKS = 4


def default_feature_layers(name: str, module: nn.Module, shapes: Mapping[str, Shape]) -> list[FeatureLayer]:
    """The feature layers of a model: the published ones, else its stem and the end of each stage.

    Args:
        name: the model's name, `timm:…`, `torchvision:…` or `python:…`.
        module: the network.
        shapes: layer → feature shape without the batch axis, in order of completion in the forward pass.

    Raises:
        ValueError: the network shows no stem and stages; the remedy is to name the layers.
    """
    if name in PUBLISHED:
        return list(PUBLISHED[name])
    modules = dict(module.named_modules())
    stem = next((layer for layer in shapes if isinstance(modules[layer], nn.Conv2d)), None)
    stages = [layer for layer in _stages(modules, shapes) if stem is None or shapes[layer][1:] != shapes[stem][1:]]
    if stem is None or not stages:
        raise ValueError(
            f'no feature layers are known for "{name}" and none could be found; name them in [targets] feature_layers'
        )
    return [FeatureLayer(layer=layer) for layer in dict.fromkeys([stem, *stages])]


def _stages(modules: Mapping[str, nn.Module], shapes: Mapping[str, Shape]) -> list[str]:
    """The last block container at each resolution; for a network of one resolution, evenly spaced blocks."""
    containers = _block_containers("", modules, shapes)
    last_at_resolution = {shapes[layer][1:]: layer for layer in containers if len(shapes[layer]) == 3}
    if len(last_at_resolution) >= 3:
        order = list(shapes)
        return sorted(last_at_resolution.values(), key=order.index)
    blocks = [layer for layer in containers if len(shapes[layer]) > 1]
    step = max(1, (len(blocks) - 1) / max(1, _NUM_TRANSFORMER_BLOCKS - 1))
    return list(
        dict.fromkeys(blocks[round(i * step)] for i in range(_NUM_TRANSFORMER_BLOCKS) if round(i * step) < len(blocks))
    )


def _block_containers(prefix: str, modules: Mapping[str, nn.Module], shapes: Mapping[str, Shape]) -> list[str]:
    """Children that compute, in forward order; a child that spans several resolutions or blocks is opened."""
    found: list[str] = []
    for child_name, child in modules[prefix].named_children():
        path = f"{prefix}.{child_name}" if prefix else child_name
        if not any(isinstance(part, nn.Conv2d | nn.Linear) for part in child.modules()) or not list(child.children()):
            continue
        inner = _block_containers(path, modules, shapes) if prefix.count(".") < 2 else []
        resolutions = {shapes[layer][1:] for layer in inner if layer in shapes}
        tokens = [layer for layer in inner if layer in shapes and len(shapes[layer]) == 2]
        spans_stages = len(resolutions) >= 3
        is_transformer = len(tokens) >= _NUM_TRANSFORMER_BLOCKS and isinstance(child, nn.Sequential | nn.ModuleList)
        if spans_stages or is_transformer or path not in shapes:
            found += [layer for layer in inner if layer in shapes]
        else:
            found.append(path)
    return found
