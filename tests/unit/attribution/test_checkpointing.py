"""Networks that compute parts of themselves again: relevance and gradients are those of the network that does not."""

import threading
from itertools import product

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.attribution.relevance import relevance
from pipeline.models import features_of
from pipeline.models.checkpointing import without_checkpoints
from tests.support.tiny_networks import model_around

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
RULES = ("lrp", "guided_backprop", "gradient_x_activation")


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)
        return self.fc(x.mean(dim=(2, 3)))


def densenet(memory_efficient: bool) -> nn.Module:
    sizes = {"growth_rate": 4, "block_config": (2, 2), "num_init_features": 8, "bn_size": 2, "num_classes": 5}
    return torchvision.models.DenseNet(**sizes, memory_efficient=memory_efficient)


@torch.random.fork_rng(devices=[])
def made(network: object, option: object) -> nn.Module:
    torch.manual_seed(0)
    return model_around(network(option)).module


def test_relevance_does_not_depend_on_checkpoints() -> None:
    dense = ("classifier", ["features.conv0", "features.denseblock1.denselayer1.conv1", "features.transition1"])
    block = ("fc", ["stem", "block.2", "block"])
    for network, options, (layer, feature_layers) in (
        (densenet, (False, True), dense),
        (Checkpointed, (None, False, True), block),
    ):
        plain, *others = [made(network, option) for option in options]
        for other, rule in product(others, RULES):
            expected, maps = (
                relevance(module, IMAGES, layer=layer, units=[0, 1], feature_layers=feature_layers, rule=rule)
                for module in (plain, other)
            )
            for name in feature_layers:
                torch.testing.assert_close(
                    maps[name], expected[name], rtol=1e-4, atol=1e-4 * expected[name].abs().max()
                )


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_inside_a_checkpoint_have_a_gradient(reentrant: bool) -> None:
    images = IMAGES.clone().requires_grad_()
    module = made(Checkpointed, reentrant)
    gradient, expected = (
        torch.autograd.grad(features_of(net, images, ["block.2"])["block.2"].sum(), images)[0]
        for net in (module, made(Checkpointed, None))
    )
    torch.testing.assert_close(gradient, expected)


def test_checkpoints_work_again_once_all_threads_have_left() -> None:
    """A block that another thread entered first, and left last, restores what torch has."""
    module = made(Checkpointed, False)
    calls = []
    module.block[0].register_forward_hook(lambda *_: calls.append(1))
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_checkpoints():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with without_checkpoints():
        thread.start()
        assert entered.wait(10)
    leave.set()
    thread.join()
    module(IMAGES.clone().requires_grad_()).sum().backward()
    assert len(calls) == 2  # forward, and again in the backward pass
