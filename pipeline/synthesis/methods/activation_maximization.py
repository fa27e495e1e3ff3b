"""Activation maximization: the objective of Fourier, MACO and pixel visualizations.

References: Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009; Simonyan et al., "Deep Inside
Convolutional Networks", ICLR 2014 workshop (a class's logit, not its probability); Olah et al., "Feature
Visualization", Distill 2017 (a channel's mean over positions, Lucid's `channel` objective).
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from pipeline.alignment.losses import NeuronTarget
from pipeline.models import Model, features_of
from pipeline.synthesis.methods.method import Method
from pipeline.synthesis.methods.options import SynthesisOptions
from pipeline.synthesis.step import Tensors

# A goal near 0, e.g. of a unit that is silent on all dataset images, must not blow up the loss.
MIN_GOAL = 1e-6


class ActivationObjective:
    """Minus each neuron's activation, in units of what its top-activating image reaches.

    Adam does not depend on the scale of a gradient; the unit makes the weights of regularizers mean the same for every
    neuron.
    """

    def __init__(
        self,
        model: Model,
        layer: str,
        units: Sequence[int],
        targets: Sequence[NeuronTarget],
        options: SynthesisOptions,
    ) -> None:
        self._model = model
        self._module = model.folded([layer])
        self._layer = layer
        self.tensors = unit_tensors(units, targets, model.device)
        self.trace_key: Hashable = (type(self), layer)

    def relevance(self, images: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        """None: the activation depends on the image alone."""
        return {}

    def __call__(self, images: Tensor, tensors: Tensors, relevance: Tensors, *, is_fresh: bool = True) -> Tensor:
        """Minus the activation of each image's unit (mean over positions; a class's logit): → [B]."""
        features = features_of(self._module, images, [self._layer])[self._layer].float()
        return -self._model.activation(features, self._layer, tensors["unit"], "mean") / tensors["scale"]


def unit_tensors(units: Sequence[int], targets: Sequence[NeuronTarget], device: torch.device) -> dict[str, Tensor]:
    """`unit`, int64 [B], and `scale`, see `activation_scale`."""
    unit = torch.tensor(units, device=device)
    return {"unit": unit, "scale": activation_scale(targets, len(units)).to(device)}


def activation_scale(targets: Sequence[NeuronTarget], count: int) -> Tensor:
    """Magnitude of each neuron's activation on its top-activating image, 1 where it is unknown: float32 [count]."""
    if not targets:
        return torch.ones(count)
    goals = [1.0 if target.goal_activation is None else abs(target.goal_activation) for target in targets]
    return torch.tensor(goals).clamp(min=MIN_GOAL)


FOURIER = Method(
    name="fourier",
    description="maximize the activation in frequency space, robust to small shifts, rotations and scalings",
    source="Olah, Mordvintsev, Schubert, Feature Visualization, Distill 2017; settings of their library Lucid",
    objective=ActivationObjective,
)
PIXEL = Method(
    name="pixel",
    description="maximize the activation over the pixels, with total variation",
    source="Erhan et al., 2009; Simonyan et al., 2014, arXiv 1312.6034; Mahendran and Vedaldi, IJCV 2016, "
    "arXiv 1512.02017",
    objective=ActivationObjective,
)
