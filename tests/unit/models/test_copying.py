"""Copies of networks that hold more than parameters: results with a gradient, tensors of inference mode, locks."""

import threading

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models import Model
from pipeline.models.copying import copied
from tests.support.tiny_networks import TinyResidualNet, model_around

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Remembering(TinyResidualNet):
    """Keeps its maps, as networks do whose attention one wants to look at."""

    def forward(self, x: Tensor) -> Tensor:
        self.maps = {"image": [x * 2]}
        return super().forward(x)


class Locked(TinyResidualNet):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_results_that_a_network_keeps_are_copied_by_value() -> None:
    module = Remembering().eval()
    module(IMAGES.clone().requires_grad_())
    assert not module.maps["image"][0].is_leaf
    copy = copied(module)
    assert torch.equal(copy.maps["image"][0], module.maps["image"][0])
    assert not module.maps["image"][0].is_leaf
    assert copy.fc.weight is not module.fc.weight
    model = model_around(module)
    model.module(IMAGES.clone().requires_grad_())
    assert model.in_precision("bfloat16").module is not model.module
    assert model.folded(["fc"]) is not model.module


def test_what_cannot_be_copied_runs_as_it_is_and_is_named_where_a_copy_is_needed() -> None:
    model = model_around(Locked())
    assert model.folded(["fc"]) is model.module
    with pytest.raises(UserError, match=r"the network \(Locked\) cannot be copied: .*lock.*; keep"):
        model.in_precision("bfloat16")


@pytest.mark.parametrize("all_of_it", [False, True])
def test_networks_made_in_inference_mode_have_gradients(all_of_it: bool) -> None:
    with torch.inference_mode():
        module: nn.Module = TinyResidualNet()
        module.scale = torch.ones(1)
        model: Model = model_around(module) if all_of_it else model_around(nn.Identity())
    if not all_of_it:
        model = model_around(module)
    expected = model.module(IMAGES)
    torch.testing.assert_close(model.folded(["fc"])(IMAGES), expected)
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.module(images).sum(), images)
    assert gradient.abs().sum() > 0
