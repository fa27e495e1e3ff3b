"""Layers without a gradient with respect to the image are refused, with the place where it ends."""

import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models.differentiability import check_gradients
from tests.support.odd_networks import OddNet, in_inference_mode, model_of, without_grad


class Step(nn.Module):
    """Zero or one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.heaviside(x, torch.zeros(()))


class Silent(nn.Module):
    """A ReLU whose input is always negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(-x.abs() - 1)


class Root(nn.Module):
    """Finite, with an infinite gradient at zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (0 * x).sqrt()


def with_layer(layer: nn.Module) -> OddNet:
    net = OddNet()
    net.body[2] = layer
    return net


@pytest.mark.parametrize(
    ("module", "layer", "reason"),
    [
        (OddNet(body=without_grad), "body.3", 'output of "body.0" (Conv2d) is computed under torch.no_grad'),
        (OddNet(body=in_inference_mode), "fc", 'output of "body.0" (Conv2d) is computed under torch.no_grad'),
        (OddNet(pooled=torch.Tensor.detach), "fc", 'input of "fc" (Linear) is detached'),
        (OddNet(pooled=torch.round), "fc", "zero on images of noise"),
        (with_layer(Step()), "body.2", "cannot be computed (derivative for aten::heaviside"),
        (with_layer(Silent()), "body.3", "zero on images of noise"),
        (with_layer(Root()), "body.2", "not finite"),
        (OddNet(pooled=lambda x: torch.tensor(x.numpy())), "fc", "does not run with gradients"),
    ],
)
def test_a_layer_without_a_gradient_is_refused(module, layer, reason):
    with pytest.raises(UserError) as error:
        check_gradients(model_of(module), [layer])
    assert f'layer "{layer}"' in str(error.value)
    assert reason in str(error.value)
    assert "name other layers" in str(error.value)


def test_layers_before_a_detached_part_have_gradients():
    model = model_of(OddNet(pooled=torch.Tensor.detach))
    check_gradients(model, ["body.0", "body.5"])
    check_gradients(model_of(OddNet()), ["body.0", "body.5", "fc"], size_px=48)
    check_gradients(model_of(with_layer(Silent())), ["body.2"])  # its units are dead
    assert all(parameter.grad is None for parameter in model.module.parameters())
