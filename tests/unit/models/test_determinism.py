"""Features depend on the image alone, or the network is refused by the layer at which passes differ."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.errors import UserError
from pipeline.models.determinism import check_determinism
from tests.support.odd_networks import Counter, Noise, OddNet, model_of, stochastic_depth


class MonteCarloDropout(nn.Dropout):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.p)


def without_statistics(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def net_with(layer: nn.Module) -> nn.Module:
    net = OddNet()
    net.body[2] = layer
    return net


REFUSED = {
    "functional dropout": (OddNet(pooled=F.dropout), 'input of layer "fc"', "training=self.training"),
    "stochastic depth": (OddNet(pooled=stochastic_depth), 'input of layer "fc"', "training=self.training"),
    "numpy": (OddNet(pooled=lambda x: x * (1 + np.random.rand())), 'input of layer "fc"', "noise"),
    "a layer of noise": (net_with(Noise()), 'output of layer "body.2" (Noise)', "only if self.training"),
    "a dropout that stays on": (net_with(MonteCarloDropout()), 'output of layer "body.2"', "MonteCarloDropout draws"),
    "a state": (net_with(Counter()), 'output of layer "body.2" (Counter)', "keeps a state between passes"),
    "batch statistics": (OddNet(norm=without_statistics), 'output of layer "body.1"', "track_running_stats=False"),
    "the mean image": (OddNet(pooled=lambda x: x - x.mean(0)), 'input of layer "fc"', "other images of a batch"),
    "a squeezed batch": (OddNet(pooled=lambda x: x.squeeze(0).mean(1, keepdim=True).expand(-1, 12)), "one alone", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_features_that_depend_on_more_than_the_image_are_refused(case):
    module, layer, cause = REFUSED[case]
    with pytest.raises(UserError) as error:
        check_determinism(model_of(module))
    assert layer in str(error.value)
    assert cause in str(error.value)


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d, nn.InstanceNorm2d, lambda channels: nn.GroupNorm(2, channels), lambda channels: nn.Dropout()],
)
def test_other_networks_pass_and_nothing_stays_behind(norm):
    net = OddNet(norm=norm, pooled=lambda x: F.dropout(x, 0.0))  # which draws random numbers to no effect
    before = {name: value.clone() for name, value in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    check_determinism(model_of(net))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in net.modules())
    check_determinism(model_of(net.double().register_forward_pre_hook(lambda _m, x: (x[0].double(),)) and net))


def test_axes_that_count_something_else_are_no_images():
    """Two directions of an LSTM, tokens first, windows."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.fc = nn.Conv2d(3, 8, 16, 16), nn.Linear(8, 5)
            self.rows = nn.LSTM(8, 4, bidirectional=True, batch_first=True)
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=False)
            self.windows = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.patch(x).flatten(2).transpose(1, 2)  # [B, 4, 8]
            tokens, _ = self.rows(tokens)
            tokens = self.encoder(tokens.transpose(0, 1)[:2]).transpose(0, 1)
            return self.fc(self.windows(tokens.reshape(-1, 1, 8)).reshape(len(x), -1, 8).mean(1))

    check_determinism(model_of(Recurrent()))
