"""Folding: the same features from fewer operations, or the network as it was."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pipeline import relevance, visualize
from pipeline.models import features_of, load_model
from pipeline.models.folding import fold_batch_norms
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from tests.support.tiny_networks import model_around

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


class Standardized(nn.Conv2d):
    """Its weights are not used as they are."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight / self.weight.std(), self.bias)


class Circular(nn.Conv2d):
    """Patched in one object, as users make a network tileable."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.forward = lambda x: nn.functional.conv2d(x.roll(1, -1), self.weight.flip(-1), self.bias)


class Doubled(nn.BatchNorm2d):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


class ReadWeight(nn.Sequential):
    """A decoder with the encoder's weights."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self[0].weight.sum()


class Beside(nn.Sequential):
    """The convolution's output goes two ways."""

    def forward(self, images: Tensor) -> Tensor:
        y = self[0](images)
        return self[1](y) + y.mean(dim=(1, 2, 3), keepdim=True)


class Pairs(nn.Module):
    """A pair that may be folded before and after one that may not be."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Conv2d(4, 4, 1)
        self.middle, self.last_norm, self.fc = middle, nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.last_norm(self.last(self.middle(self.first(images)))).relu().mean(dim=(2, 3)))


def hooked(hook: str) -> nn.Module:
    """Hooks of the network's own that change what passes."""
    conv, norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    if hook == "before":
        norm.register_forward_pre_hook(lambda _m, inputs: (inputs[0] + 1,))
    else:
        conv.register_forward_hook(lambda _m, _i, output: output + 1)
    return nn.Sequential(conv, norm)


def pair(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    """The convolution is wrapped once it is made, by what takes it under `torch.nn.utils`."""
    return lambda: nn.Sequential(wrap(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "middle",
    [
        pytest.param(pair(nn.utils.weight_norm), id="weight_norm"),
        pytest.param(pair(nn.utils.spectral_norm), id="spectral_norm"),
        pytest.param(pair(nn.utils.parametrizations.weight_norm), id="parametrized-weight-norm"),
        pytest.param(pair(nn.utils.parametrizations.spectral_norm), id="parametrized-spectral-norm"),
        pytest.param(pair(nn.utils.parametrizations.orthogonal), id="orthogonal"),
        pytest.param(pair(lambda conv: prune.l1_unstructured(conv, "weight", amount=0.5)), id="pruned"),
        pytest.param(lambda: nn.Sequential(Standardized(4, 4, 3), nn.BatchNorm2d(4)), id="forward-of-its-own"),
        pytest.param(lambda: nn.Sequential(Circular(4, 4, 3), nn.BatchNorm2d(4)), id="patched-object"),
        pytest.param(lambda: nn.Sequential(nn.Conv2d(4, 4, 3), Doubled(4)), id="norm-of-its-own"),
        pytest.param(lambda: hooked("before"), id="pre-hook"),
        pytest.param(lambda: hooked("after"), id="hook"),
        pytest.param(lambda: ReadWeight(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)), id="weight-read-elsewhere"),
        pytest.param(lambda: Beside(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)), id="output-used-beside-it"),
    ],
)
@torch.random.fork_rng(devices=[])
def test_what_is_not_plain_runs_as_it_is_and_all_else_is_folded(middle: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = model_around(calibrate(Pairs(middle())))
    layers = [layer for layer in model.layers() if layer not in ("first.0", "last")]
    folded = model.folded(layers)
    assert num_norms(folded) == num_norms(model.module) - 2
    before, after = (features_of(module, EXAMPLE, layers) for module in (model.module, folded))
    for layer in layers:
        torch.testing.assert_close(after[layer], before[layer], rtol=1e-4, atol=1e-4)
    if not isinstance(model.module.middle[0], Circular):  # a patch is a closure over the object that it was made for
        narrow = model.in_precision("bfloat16").module(EXAMPLE)
        assert (narrow - model.module(EXAMPLE)).abs().max() < 0.1 * model.module(EXAMPLE).abs().max()
    neurons = [("last_norm", 2), ("fc", 1)]
    assert len(visualize(model, neurons, method="fourier", preset="fast", steps=2)) == 2
    maps = relevance(model.module, EXAMPLE, layer="fc", units=[0, 1], feature_layers=["first", "last_norm"])
    assert all(value.isfinite().all() for value in maps.values())


def test_layers_inside_a_norm_and_around_a_convolution_can_be_asked_for() -> None:
    model = load_model("timm:tf_efficientnet_lite0", "random", input_size_px=32)
    calibrate(model.module)
    norms = num_norms(model.module)
    for layers, left in ((["blocks.3.0.bn1.act"], 1), (["bn1.drop", "bn1"], 1), (["bn1", "blocks.3.0.bn1"], 0)):
        folded = model.folded(layers)
        assert num_norms(folded) == left < norms
        assert folded.get_submodule("blocks.2.0.bn1.act")  # a name that is there in every form
        before, after = (features_of(module, EXAMPLE, layers) for module in (model.module, folded))
        for layer in layers:
            torch.testing.assert_close(after[layer], before[layer], rtol=1e-3, atol=1e-4)
    around = calibrate(Pairs(nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4))))
    assert num_norms(fold_batch_norms(around, EXAMPLE, ["middle.0", "fc"])) == 1
    assert num_norms(fold_batch_norms(around, EXAMPLE, ["middle", "fc"])) == 0


def test_one_norm_under_two_names_is_folded_under_both() -> None:
    module = Pairs(nn.Identity())
    module.alias = module.last_norm
    folded = fold_batch_norms(calibrate(module), EXAMPLE, ["fc"])
    assert num_norms(folded) == 0
    torch.testing.assert_close(folded(EXAMPLE), module(EXAMPLE))


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
