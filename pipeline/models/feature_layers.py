"""Feature layers: where distributions are aligned. The published ones by name, otherwise found in the network.

Every published choice is the stem plus the end of each of four stages; for a network without an entry here the same
layers are found from its modules and the shapes of their outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from pipeline.errors import UserError
from pipeline.models.calls import LayerNames
from pipeline.models.probe import Shape
from pipeline.models.tokens import token_grid


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

# Intermediate neurons: the stem counts a tenth, the last stage is left out (VITAL's code).
INTERMEDIATE_WEIGHTS = (0.1, 1.0, 1.0, 1.0, 0.0)
_NUM_STAGES = 4
# Children that are the stem by name, however many convolutions it has; its first one stands for it.
_STEM_NAMES = ("stem", "patch_embed")
# From a larger map than this to a single position is global pooling, not a stage.
_MAX_SIDE_BEFORE_ONE = 2


def default_feature_layers(
    name: str, module: nn.Module, shapes: Mapping[str, Shape], classifier: str | None
) -> list[FeatureLayer]:
    """The feature layers of a model: the published ones, else its first convolution and the ends of four stages.

    A stage is a run of blocks of one resolution; where there are more than four, the last four count. Where there are
    fewer, the longest are divided evenly, which makes blocks 2, 5, 8 and 11 of a ViT with twelve, as in DPT.

    Args:
        name: the model's name, `timm:…`, `torchvision:…` or `python:…`.
        module: the network.
        shapes: layer → feature shape without the batch axis, in order of completion in the forward pass.
        classifier: the layer of the class logits, if there is one.

    Raises:
        UserError: the network shows no blocks; the remedy is to name the layers.

    Reference: Görgün et al., VITAL, ICCV 2025; Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021.
    """
    if name in PUBLISHED:
        return list(PUBLISHED[name])
    network = _Network(module, shapes, classifier)
    blocks = network.stage_ends()
    if not blocks:
        raise UserError(
            f'no feature layers are known for "{name}" and none could be found; name them in [targets] feature_layers, '
            "or in a notebook by visualize(…, feature_layers=…)"
        )
    stem = [] if network.stem is None else [network.stem]
    return [FeatureLayer(layer=layer) for layer in dict.fromkeys([*stem, *blocks])]


class _Network:
    """The blocks of a network, read off its modules and the shapes of their outputs."""

    def __init__(self, module: nn.Module, shapes: Mapping[str, Shape], classifier: str | None) -> None:
        names = LayerNames(module)
        listed = {name: child for name, child in names.modules.items() if names.layer(child) == name}
        self._modules = {"": module} | listed
        self._called = {layer: names.call(layer)[0] for layer in shapes}
        self._shapes = shapes
        self._classifier = classifier
        self._resolutions = {layer: self._resolution(module, layer) for layer in shapes}
        self.stem = next((layer for layer in shapes if isinstance(self._called[layer], nn.Conv2d)), None)

    def _resolution(self, module: nn.Module, layer: str) -> tuple[int, ...]:
        """(H, W) of maps and of tokens that form a grid, (T,) of others, () of vectors."""
        grid = token_grid(module, layer, self._shapes)
        return self._shapes[layer][1:] if grid is None else (grid.height, grid.width)

    def stage_ends(self) -> list[str]:
        """The last block of each of four stages, or of as many as there are blocks."""
        order = list(self._shapes)
        every_leaf = [layer for layer in order if _is_leaf(self._called[layer])]
        blocks = sorted(self._blocks("") or self._convolutions(every_leaf), key=order.index)
        stages = self._without_pooled([list(run) for _, run in groupby(blocks, self._resolutions.get)])
        stages = stages[-_NUM_STAGES:]
        if len(stages) < _NUM_STAGES:
            stages = [[block for path in stage for block in self._chain(path)] for stage in stages]
        parts = [1] * len(stages)
        while sum(parts) < min(_NUM_STAGES, sum(map(len, stages))):
            longest = max(range(len(stages)), key=lambda i: len(stages[i]) / parts[i])
            parts[longest] += 1
        return [
            stage[-(-len(stage) * (part + 1) // count) - 1]  # the end of each part, rounded up
            for stage, count in zip(stages, parts, strict=True)
            for part in range(count)
        ]

    def _without_pooled(self, stages: list[list[str]]) -> list[list[str]]:
        """Leave out what follows global pooling, and vectors."""
        kept: list[list[str]] = []
        for stage in stages:
            resolution = self._resolutions[stage[0]]
            before = max(self._resolutions[kept[-1][0]]) if kept else 1
            if resolution and (max(resolution) > 1 or before <= _MAX_SIDE_BEFORE_ONE):
                kept.append(stage)
        return kept

    def _blocks(self, prefix: str) -> list[str]:
        """Children that compute; one that spans several stages is opened, one with the stem or classifier left out."""
        found: list[str] = []
        for child_name, child in self._modules[prefix].named_children():
            path = f"{prefix}.{child_name}" if prefix else child_name
            if path not in self._modules or child_name in _STEM_NAMES or not _computes(child) or _is_leaf(child):
                continue  # an object that has another name is found there
            inside = (self._blocks(path) if prefix.count(".") < 2 else []) or self._leaves_of(path)
            spans_stages = len({self._resolutions[layer] for layer in inside}) >= _NUM_STAGES - 1
            holds_ends = any(end is not None and f"{end}.".startswith(f"{path}.") for end in self._ends())
            if path not in self._shapes or spans_stages:
                found += inside
            elif not holds_ends:
                found.append(path)
        return found

    def _ends(self) -> tuple[str | None, str | None]:
        return self.stem, self._classifier

    def _leaves_of(self, path: str) -> list[str]:
        """Of a Sequential of single layers (VGG, AlexNet): its convolutions; nothing of another module."""
        children = dict(self._modules[path].named_children())
        if not all(_is_leaf(child) and f"{path}.{name}" in self._shapes for name, child in children.items()):
            return []
        return self._convolutions([layer for layer in self._shapes if self._called[layer] in children.values()])

    def _convolutions(self, layers: Sequence[str]) -> list[str]:
        """Of single layers, in order: each convolution with what follows it at its own shape."""
        found: list[str] = []
        shape: Shape = ()
        for layer in layers:
            if isinstance(self._called[layer], nn.Conv2d):
                shape = self._shapes[layer]
                found.append(layer)
            elif found and self._shapes[layer] == shape:
                found[-1] = layer
            else:
                shape = ()  # a pooling: what follows before the next convolution belongs to none
        return found

    def _chain(self, path: str) -> list[str]:
        """The blocks that a stage runs one after the other, or the stage itself."""
        if path not in self._modules:  # a further call of a module
            return [path]
        module = self._modules[path]
        if isinstance(module, nn.Sequential | nn.ModuleList):
            children = [
                f"{path}.{name}"
                for name, child in module.named_children()
                if _computes(child) and f"{path}.{name}" in self._modules
            ]
            own = self._resolutions.get(path)
            same = [child for child in children if child in self._shapes and self._resolutions[child] == own]
            return same or [path]
        for child_name, child in module.named_children():
            if isinstance(child, nn.Sequential | nn.ModuleList) and f"{path}.{child_name}" in self._modules:
                blocks = self._chain(f"{path}.{child_name}")
                if len(blocks) > 1:
                    return blocks
        return [path]


def _computes(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules())


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None
