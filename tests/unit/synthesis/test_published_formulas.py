"""The published formulas, written out module by module in float64, against the functions that we use.

Nothing here is shared with `pipeline`: every linear operation is taken as its matrix, made from images with a single 1,
and relevance is carried through ResNet's bottlenecks and DenseNet's layers by hand. `benchmarks/published_code.py`
compares with the authors' own code, in full size.

Formulas: Görgün et al., VITAL, ICCV 2025, arXiv 2503.22399, supplement, and the authors' code.
"""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.alignment.losses import sort_matching, sorted_target
from pipeline.attribution.normalization import channel_importance, normalize_relevance
from pipeline.attribution.relevance import relevance
from pipeline.models import FeatureLayer, Model, Preprocessing, torchvision_operators
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.step import losses_of

torchvision_operators.declare()
from torchvision.models.densenet import DenseNet  # noqa: E402
from torchvision.models.resnet import Bottleneck  # noqa: E402

DOUBLE = torch.float64
EPSILON = 1e-5  # of all divisions by contributions
RELEVANCE_EPSILON = 1e-6  # of the min-max normalizations
SIZE_PX = 32
Linear = Callable[[Tensor], Tensor]


class TinyResNet(nn.Module):
    """ResNet-50 in small: its stem and four stages of bottlenecks, with and without projection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Bottleneck(8, 3, downsample=projection(8, 12, 1)), Bottleneck(12, 3))
        self.layer2 = nn.Sequential(Bottleneck(12, 4, 2, projection(12, 16, 2)))
        self.layer3 = nn.Sequential(Bottleneck(16, 4))
        self.layer4 = nn.Sequential(Bottleneck(16, 4), Bottleneck(16, 4))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.conv1.weight.dtype)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Activations that vary with the image, and units that are silent on parts of it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, mean=-0.2, std=0.4)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval().requires_grad_(False)


@pytest.fixture
def resnet() -> nn.Module:
    torch.manual_seed(3)
    return with_random_statistics(TinyResNet())


@pytest.fixture
def densenet() -> nn.Module:
    torch.manual_seed(0)
    network = DenseNet(growth_rate=4, block_config=(2, 2, 2), num_init_features=8, bn_size=2, num_classes=5)
    return with_random_statistics(network).double()


def images(count: int, seed: int = 0) -> Tensor:
    """Float64, of values that float32 holds."""
    return torch.randn(count, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(seed)).double()


# The rules


def matrix(linear: Linear, shape: torch.Size) -> Tensor:
    """The matrix [outputs, inputs] of a linear operation on one image of a shape."""
    return linear(torch.eye(math.prod(shape), dtype=DOUBLE).view(-1, *shape)).flatten(1).T


def share(linear: Linear, x: Tensor, flow: Tensor) -> Tensor:
    """R_i = Σ_o x_i M_oi R_o / (Σ_j M_oj x_j + ε)."""
    M_OI = matrix(linear, x.shape[1:])
    contributions_BOI = M_OI * x.flatten(1)[:, None]
    shares_BOI = contributions_BOI / (contributions_BOI.sum(2, keepdim=True) + EPSILON)
    return torch.einsum("boi,bo->bi", shares_BOI, flow.flatten(1)).view_as(x)


def z_plus(convolution: nn.Conv2d, x: Tensor, flow: Tensor) -> Tensor:
    assert convolution.bias is None
    positive = convolution.weight.clamp(min=0)
    return share(lambda p: F.conv2d(p, positive, None, convolution.stride, convolution.padding), x, flow)


def through_stem(unpooled: Tensor, flow: Tensor) -> Tensor:
    """Max pooling as average pooling 2×2; ReLU and BatchNorm pass relevance on."""
    return share(lambda p: F.avg_pool2d(p, 2), unpooled, flow)


def through_bottleneck(block: Bottleneck, x: Tensor, flow: Tensor) -> Tensor:
    first = F.relu(block.bn1(block.conv1(x)))
    second = F.relu(block.bn2(block.conv2(first)))
    main = block.bn3(block.conv3(second))
    skip = x if block.downsample is None else block.downsample(x)
    of_main = main.abs() / (main.abs() + skip.abs())
    to_main = z_plus(block.conv1, x, z_plus(block.conv2, first, z_plus(block.conv3, second, flow * of_main)))
    to_skip = flow * (1 - of_main)
    return to_main + (to_skip if block.downsample is None else z_plus(block.downsample[0], x, to_skip))


def through_dense_layer(layer: nn.Module, x: Tensor, flow: Tensor) -> Tensor:
    """`flow` is of the concatenation of x and the layer's own output."""
    before, own = flow.split([x.shape[1], flow.shape[1] - x.shape[1]], dim=1)
    first = F.relu(layer.norm1(x))
    second = F.relu(layer.norm2(layer.conv1(first)))
    return before + z_plus(layer.conv1, first, z_plus(layer.conv2, second, own))


def through_transition(transition: nn.Module, x: Tensor, flow: Tensor) -> Tensor:
    upsampled = flow.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    return z_plus(transition.conv, F.relu(transition.norm(x)), upsampled)


def own_map(features: Tensor, units: list[int]) -> Tensor:
    """The seed of `lrp`: the unit's own activation map, all else 0."""
    seeds = zip(features, units, strict=True)
    return torch.stack([F.one_hot(torch.tensor(unit), len(maps)).view(-1, 1, 1) * maps for maps, unit in seeds])


def purest_position(features: Tensor, units: list[int]) -> Tensor:
    """The seed of `lrp_restricted`: 1 where the channel vector is most similar to the unit's basis vector."""
    flow = torch.zeros_like(features)
    for image, unit in enumerate(units):
        height, width = features.shape[2:]
        positions = [(y, x) for y in range(height) for x in range(width)]
        vectors = {(y, x): features[image, :, y, x] for y, x in positions}
        y, x = max(positions, key=lambda at: float(vectors[at][unit] / vectors[at].norm().clamp(min=1e-8)))
        flow[image, unit, y, x] = 1
    return flow


def resnet_relevance(network: nn.Module, x: Tensor, units: list[int], seed: Callable = own_map) -> dict[str, Tensor]:
    """Relevance of units of layer4 at the four published feature layers."""
    unpooled = F.relu(network.bn1(network.conv1(x)))
    features, steps = F.max_pool2d(unpooled, 3, 2, 1), []
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for block in getattr(network, stage):
            steps.append((stage, block, features))
            features = block(features)
    flow, maps = seed(features, units), {}
    for stage, block, inputs in reversed(steps):
        maps.setdefault(stage, flow)
        flow = through_bottleneck(block, inputs, flow)
    # The 3×3 maximum may come from beside the 2×2 window: what arrives at a silent window is lost.
    silent = F.avg_pool2d(unpooled, 2) == 0
    assert flow[silent].any()
    return {"conv1": through_stem(unpooled, flow), **{stage: maps[stage] for stage in ("layer1", "layer2", "layer3")}}


@pytest.mark.parametrize(("rule", "seed"), [("lrp", own_map), ("lrp_restricted", purest_position)])
def test_relevance_of_resnet(resnet: nn.Module, rule: str, seed: Callable) -> None:
    network, x, units = resnet.double(), images(2), [2, 9]
    expected = resnet_relevance(network, x, units, seed)
    actual = relevance(network, x, layer="layer4", units=units, feature_layers=list(expected), rule=rule)
    for stage, value in expected.items():
        assert value.flatten(1).abs().sum(1).gt(0).all()
        # Ours adds 1e-12 to both terms of a split, lest two zeros give NaN.
        torch.testing.assert_close(
            actual[stage], value, rtol=1e-9, atol=1e-10, msg=lambda text, stage=stage: f"{stage}: {text}"
        )


def test_relevance_of_densenet(densenet: nn.Module) -> None:
    x, units, features = images(2), [0, 14], densenet.features
    unpooled = F.relu(features.norm0(features.conv0(x)))
    inputs, steps = F.max_pool2d(unpooled, 3, 2, 1), []
    for name in ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3"):
        part = features.get_submodule(name)
        for layer in [part] if name.startswith("transition") else part.values():
            steps.append((name, layer, inputs))
            inputs = layer(inputs) if layer is part else torch.cat([inputs, layer(inputs)], 1)
    flow, expected = own_map(inputs, units), {}
    assert (flow < 0).any()  # a dense block ends in convolutions: activation maps and their relevance have two signs
    for name, layer, before in reversed(steps):
        expected.setdefault(f"features.{name}", flow)
        flow = (through_transition if name.startswith("transition") else through_dense_layer)(layer, before, flow)
    expected["features.conv0"] = through_stem(unpooled, flow)

    names = ["features.conv0", "features.denseblock1", "features.denseblock2", "features.denseblock3"]
    actual = relevance(densenet, x, layer="features.denseblock3", units=units, feature_layers=names)
    for name in names:
        torch.testing.assert_close(
            actual[name], expected[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_guided_backpropagation_of_resnet(resnet: nn.Module) -> None:
    """The chain rule by matrices, clamped at the input of every ReLU and at the feature layer."""
    network, x, units = resnet.double(), images(2), [2, 9]

    def back(convolution: nn.Module, norm: nn.Module, inputs: Tensor, flow: Tensor) -> Tensor:
        slope = norm(convolution(torch.zeros_like(inputs[:1])))
        M_OI = matrix(lambda p: norm(convolution(p)) - slope, inputs.shape[1:])
        return (flow.flatten(1) @ M_OI).view_as(inputs)

    layer3 = network.layer3(network.layer2(network.layer1(network.maxpool(F.relu(network.bn1(network.conv1(x)))))))
    between = network.layer4[0](layer3)
    last = network.layer4[1](between)
    flow = torch.zeros_like(last)
    flow[[0, 1], units] = 1 / last[0, 0].numel()  # the target is the spatial mean
    for block, inputs, output in ((network.layer4[1], between, last), (network.layer4[0], layer3, between)):
        first = block.bn1(block.conv1(inputs))
        second = block.bn2(block.conv2(F.relu(first)))
        flow = (flow * (output > 0)).clamp(min=0)
        to_second = (back(block.conv3, block.bn3, second, flow) * (second > 0)).clamp(min=0)
        to_first = (back(block.conv2, block.bn2, first, to_second) * (first > 0)).clamp(min=0)
        flow = flow + back(block.conv1, block.bn1, inputs, to_first)
    assert (flow < 0).any()
    actual = relevance(network, x, layer="layer4", units=units, feature_layers=["layer3"], rule="guided_backprop")
    torch.testing.assert_close(actual["layer3"], flow.clamp(min=0), rtol=1e-9, atol=1e-12)


# From relevance to the loss


def published_weights(maps: Tensor) -> Tensor:
    """Min-max normalization of each channel [R, C, H, W] over space."""
    lowest = maps - maps.amin((2, 3), keepdim=True)
    return lowest / (lowest.amax((2, 3), keepdim=True) + RELEVANCE_EPSILON)


def published_importance(maps: Tensor) -> Tensor:
    """Spatial maxima [R, C, H, W] → [R, C], min-max normalized over channels."""
    peaks = maps.amax((2, 3))
    peaks = peaks - peaks.amin(1, keepdim=True)
    return peaks / (peaks.amax(1, keepdim=True) + RELEVANCE_EPSILON)


def published_sort_matching(features: Tensor, references: Tensor, importance: Tensor | None = None) -> Tensor:
    """The target scattered through the inverse permutation.

    Features [C, N], references [R, C, N], importance [R, C].
    """
    place = features.argsort(dim=-1).argsort(dim=-1)
    target = references.sort(dim=-1).values.mean(0).gather(-1, place)
    squared = (features - target) ** 2
    return squared.mean() if importance is None else (squared[None] * importance[:, :, None]).mean()


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_normalization_of_relevance(scale: float) -> None:
    maps = scale * torch.randn(3, 4, 5, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalize_relevance(maps), published_weights(maps), rtol=1e-12, atol=0)
    torch.testing.assert_close(channel_importance(maps), published_importance(maps).mean(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_sort_matching_is_the_scatter_through_the_inverse_permutation(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 40, dtype=DOUBLE, generator=generator).requires_grad_()
    references = torch.randn(5, 3, 40, dtype=DOUBLE, generator=generator)
    importance = torch.rand(5, 3, dtype=DOUBLE, generator=generator) if weighted else None
    expected = torch.stack([published_sort_matching(one, references, importance) for one in features])
    actual = sort_matching(features, sorted_target(references), None if importance is None else importance.mean(0))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss.sum(), features)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def resnet_features(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    features = {"conv1": network.conv1(x)}
    x = F.max_pool2d(F.relu(network.bn1(features["conv1"])), 3, 2, 1)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        features[stage] = x = getattr(network, stage)(x)
    return features


@pytest.mark.parametrize(
    ("layer", "unit", "rule", "weights"),
    [
        ("layer4", 9, "lrp", {"conv1": 0.1, "layer1": 1.0, "layer2": 1.0, "layer3": 1.0}),
        ("fc", 1, "none", {"conv1": 1.0, "layer1": 1.0, "layer2": 1.0, "layer3": 1.0, "layer4": 100.0}),
    ],
)
def test_loss_and_input_gradient(
    resnet: nn.Module, layer: str, unit: int, rule: str, weights: dict[str, float]
) -> None:
    """The whole of the published objective, from the images to the gradient at the visualization.

    The network is in float64; images, targets and the gradient are float32.
    """
    exact, references, visualization = copy.deepcopy(resnet).double(), images(3), images(1, seed=1).requires_grad_()
    with torch.no_grad():
        real = resnet_features(exact, references)
    synthetic = resnet_features(exact, visualization)
    maps, own_maps = {}, {}
    if rule == "lrp":
        maps = resnet_relevance(exact, references, [unit] * 3)
        own_maps = resnet_relevance(exact, visualization.detach(), [unit])
    expected = torch.zeros((), dtype=DOUBLE)
    for name, weight in weights.items():
        aligned, goal, importance = synthetic[name], real[name], None
        if name in maps:
            aligned, goal = aligned * published_weights(own_maps[name]), goal * published_weights(maps[name])
            importance = published_importance(maps[name])
        loss = published_sort_matching(aligned[0].flatten(1), goal.flatten(2), importance)
        expected = expected + weight * loss
    (expected_gradient,) = torch.autograd.grad(expected, visualization)

    preprocessing = Preprocessing(
        input_size_px=SIZE_PX, crop_fraction=1.0, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    model = Model(
        name="python:tests.unit.synthesis.test_published_formulas:TinyResNet",
        module=resnet.double(),
        preprocessing=preprocessing,
        labels="imagenet1k",
        device="cpu",
    )
    layers = [FeatureLayer(layer=name, weight=weight) for name, weight in weights.items()]
    plan = plan_alignment(model, layer, preset("published"), rule=rule, feature_layers=layers)
    target = reference_target(model, plan, unit, references.float())
    objective = AlignmentObjective(model, layer, [unit], [target], preset("published"))
    own_visualization = visualization.detach().float().requires_grad_()
    actual = losses_of(objective, own_visualization).sum()
    (actual_gradient,) = torch.autograd.grad(actual, own_visualization)
    assert abs(actual.item() / expected.item() - 1) < 1e-6
    assert (actual_gradient - expected_gradient).norm() / expected_gradient.norm() < 1e-6
