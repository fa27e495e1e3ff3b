"""A small network in float64, for laws that rounding must not blur.

In float32 two ways to compute a sum differ by 1e-7 of it, and where a value lies that close to the kink of a ReLU or to
another value of its rank, gradients differ by any amount. In float64 such places are a billion times rarer.
"""

import torch

from pipeline.models import Model
from tests.support.tiny_networks import TinyResidualNet, tiny_model


class ExactNet(TinyResidualNet):
    """A `TinyResidualNet` that takes images of any type and computes in float64."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.double())


def exact_model(seed: int = 0, size_px: int = 32) -> Model:
    """`tiny_model` in float64: images, parameters and losses stay float32."""
    model = tiny_model(seed, size_px)
    module = ExactNet().double()
    module.load_state_dict(model.module.state_dict())
    return Model(name=model.name, module=module, preprocessing=model.preprocessing, labels="imagenet1k", device="cpu")
