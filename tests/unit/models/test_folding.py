"""Folding: the same features from fewer operations, or the network as it was."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import features_of, load_model
from pipeline.models.folding import fold_batch_norms
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target

EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def calibrate(module: nn.Module) -> nn.Module:
    """Statistics, weights and biases that are not those of the initialization."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(norm.bias, std=0.2, generator=generator)
            norm.reset_running_stats()
            norm.momentum = None
    module.train()
    with torch.no_grad():
        module(torch.randn(4, 3, 64, 64, generator=generator))
    return module.eval().requires_grad_(False)


def num_norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


class Small(nn.Module):
    """A convolution, its BatchNorm and what is done with both."""

    def __init__(self, forward: Callable[["Small", Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self._forward = forward

    def forward(self, images: Tensor) -> Tensor:
        return self._forward(self, images)


@pytest.mark.parametrize(
    ("name", "layers", "left"),
    [
        ("torchvision:resnet18", ["conv1", "layer2.0.bn1", "layer2.0.conv2", "layer4"], 2),
        ("timm:tf_efficientnet_lite0", ["conv_stem", "blocks.2", "classifier"], 1),
    ],
)
def test_the_features_asked_for_and_their_gradient_stay(name: str, layers: list[str], left: int) -> None:
    module = calibrate(load_model(name, "random").module).double()  # else rounding turns a ReLU here and there
    folded = fold_batch_norms(module, EXAMPLE.double(), layers)
    assert num_norms(module) > 0
    assert num_norms(folded) == left
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5)).double().requires_grad_()
    for layer in layers:
        before, after = (features_of(net, images, [layer])[layer] for net in (module, folded))
        torch.testing.assert_close(after, before)
        gradients = [torch.autograd.grad(features.square().sum(), images)[0] for features in (before, after)]
        torch.testing.assert_close(gradients[1], gradients[0])
    assert not any(parameter.requires_grad for parameter in folded.parameters())


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param(lambda net, x: net.norm(net.conv(net.conv(x))), id="convolution-twice"),
        pytest.param(lambda net, x: net.norm(net.norm(net.conv(x))), id="norm-twice"),
        pytest.param(lambda net, x: net.norm(net.conv(x).relu_()), id="changed-in-place"),
        pytest.param(lambda net, x: net.norm(net.conv(x) + 1), id="not-its-output"),
        pytest.param(lambda net, x: (y := net.conv(x)) + net.norm(y), id="output-used-beside-it"),
    ],
)
def test_what_may_not_be_folded_stays_the_network_itself(forward: Callable[[Small, Tensor], Tensor]) -> None:
    module = calibrate(nn.Sequential(Small(forward)))
    assert fold_batch_norms(module, EXAMPLE, ["0"]) is module


def test_only_an_objective_with_steps_without_relevance_folds() -> None:
    model = load_model("torchvision:resnet18", "random", input_size_px=64)
    for layer, options, is_folded in (
        ("layer3", preset("published"), False),
        ("layer3", preset("fast"), True),
        (model.classifier_layer, preset("published"), True),
    ):
        plan = plan_alignment(model, layer, options)
        target = reference_target(model, plan, 0, EXAMPLE)
        model.forget_measurements()
        with mock.patch.object(model, "folded", wraps=model.folded) as fold:
            AlignmentObjective(model, layer, [0], [target], options)
        assert fold.called == is_folded


def test_weights_that_are_not_used_as_they_are_stay() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.conv2d(images, self.weight / self.weight.std(), self.bias)

    module = calibrate(nn.Sequential(Standardized(3, 4, 3), nn.BatchNorm2d(4)))
    assert fold_batch_norms(module, EXAMPLE, ["1"]) is module


def test_a_model_keeps_what_it_folded_last_until_it_changes() -> None:
    model = load_model("torchvision:resnet18", "random", input_size_px=64)
    folded = model.folded(["layer1", "fc"])
    assert num_norms(folded) == 0
    assert model.folded(["fc", "layer1"]) is folded
    assert num_norms(model.folded(["conv1"])) > 0
    again = model.folded(["layer1", "fc"])
    assert again is not folded
    model.forget_measurements()
    assert model.folded(["layer1", "fc"]) is not again
    assert model.in_precision("bfloat16").folded(["fc"]) is model.in_precision("bfloat16").module
