"""Channels-last where it only gains, contiguous where the network's own code takes maps to lie as [B, C, H, W]."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import Model, features_of, load_model
from tests.support.tiny_networks import model_around, tiny_model

NUM_CLASSES = 5


class Network(nn.Module):
    """Two convolutions, what a subclass does with their maps, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.between(self.conv(self.stem(x).relu())).mean(dim=(2, 3)))

    def between(self, x: Tensor) -> Tensor:
        return x


class Flattened(Network):
    """The flattening of many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8 * 8 * 8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(self.stem(x).relu()).view(-1, 8 * 8 * 8))


class Shuffled(Network):
    def between(self, x: Tensor) -> Tensor:
        return x.view(len(x), 64, 8).view_as(x)


class Attending(Network):
    """A non-local block."""

    def between(self, x: Tensor) -> Tensor:
        tokens = x.view(len(x) * 8, -1)
        return (torch.softmax(tokens @ tokens.T, -1) @ tokens).view(x.shape)


class Spectral(Network):
    """A filter in the frequency domain, with a complex weight kept as pairs [C, H, W, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(8, 8, 5, 2))

    def between(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(self.filter), s=x.shape[-2:])


class Volumetric(Network):
    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(1, 2, 3, padding=1)

    def between(self, x: Tensor) -> Tensor:
        return self.volume(x[:, None])[:, 1]


class Reinterpreted(Network):
    """Reads memory in the order it takes for granted: no error, other numbers."""

    def between(self, x: Tensor) -> Tensor:
        return x.as_strided(x.shape, (x[0].numel(), x[0, 0].numel(), x.shape[3], 1)) * torch.arange(8).to(x.dtype)


class _Flat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0].view(-1).view(gradients[0].shape)


class FlatGradient(Network):
    """Fails in the backward pass alone."""

    def between(self, x: Tensor) -> Tensor:
        return F.max_pool2d(_Flat.apply(x), 2)


class FromPixels(nn.Module):
    """No convolution at all, but images of the data come channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.view(len(x), -1))


class ReadsDilation(Network):
    """Computes another convolution by the attributes of one of 1 × 1."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 8, 3, 3))

    def between(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=self.conv.dilation, dilation=self.conv.dilation)


CONTIGUOUS = [Flattened, Shuffled, Attending, Reinterpreted, FlatGradient, FromPixels]


def gradient(module: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(module(images)[:, 1].sum(), images)[0]


def is_channels_last(model: Model) -> bool:
    weights = [child.weight for child in model.module.modules() if isinstance(child, nn.Conv2d)]
    return bool(weights) and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("network", [*CONTIGUOUS, Spectral, Volumetric, ReadsDilation])
@torch.random.fork_rng(devices=[])
def test_every_form_of_a_network_gives_what_the_network_gives(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    plain = network().eval().requires_grad_(False)
    model = model_around(copy.deepcopy(plain))
    images = torch.randn(3, 3, 32, 32)
    expected, expected_gradient = plain(images), gradient(plain, images)
    assert is_channels_last(model) == (network not in CONTIGUOUS)
    for form in (torch.contiguous_format, torch.channels_last):
        inputs = images.contiguous(memory_format=form)
        for module in (model.module, model.folded(model.layers())):
            torch.testing.assert_close(module(inputs), expected)
            torch.testing.assert_close(gradient(module, inputs), expected_gradient)
            layer = model.layers()[0]
            torch.testing.assert_close(
                features_of(module, inputs, [layer])[layer], features_of(plain, images, [layer])[layer]
            )
        if network is not Spectral:  # torch has no complex bfloat16
            narrow = model.in_precision("bfloat16").module(inputs)
            assert (narrow - expected).abs().max() < 0.1 * expected.abs().max()


def test_networks_that_only_gain_are_channels_last_throughout() -> None:
    before = torch.random.get_rng_state()
    for model in (tiny_model(), load_model("timm:tf_efficientnet_lite0", "random", input_size_px=32)):
        assert is_channels_last(model)
        assert not model.module._forward_pre_hooks
        shown = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        stem = next(name for name in model.layers() if isinstance(model.module.get_submodule(name), nn.Conv2d))
        assert features_of(model.module, shown, [stem])[stem].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_that_does_not_run_is_left_for_the_probe_to_describe() -> None:
    class Other(Network):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x)

    model = model_around(Other())
    with pytest.raises(ValueError, match="does not run on images of 32 px"):
        model.layers()
