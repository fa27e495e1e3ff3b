"""Activation maximization: the objective of Fourier, MACO and pixel visualizations.

References: Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009; Simonyan et al., "Deep Inside
Convolutional Networks", ICLR 2014 workshop (a class's logit, not its probability); Olah et al., "Feature
Visualization", Distill 2017 (a channel's mean over positions, Lucid's `channel` objective).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.alignment import NeuronTarget
from pipeline.models import Model, features_of
from pipeline.synthesis.presets import SynthesisOptions

# A goal of (nearly) nothing, e.g. of a unit that is silent on all photographs, must not blow up the loss.
MIN_GOAL = 1e-6


class ActivationObjective:
    """Minus each neuron's activation, in units of what its top exemplar reaches.

    The unit leaves Adam's way alone (it takes no notice of the scale of a gradient) and makes the weights of
    regularizers mean the same for every neuron.
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
        self._layer = layer
        self._units = list(units)
        self._scale = activation_scale(targets, len(units)).to(model.device)

    def update_relevance(self, images: Tensor) -> None:
        """Nothing to do: the activation depends on the image alone."""

    def __call__(self, images: Tensor) -> Tensor:
        """Minus the activation of each image's unit (mean over positions; a class's logit): → [B]."""
        features = features_of(self._model.module, images, [self._layer])[self._layer]
        return -self._model.activation(features, self._layer, self._units, "mean") / self._scale


def activation_scale(targets: Sequence[NeuronTarget], count: int) -> Tensor:
    """Magnitude of each neuron's activation on its top exemplar, 1 where it is unknown: float32 [count]."""
    if not targets:
        return torch.ones(count)
    goals = [1.0 if target.goal_activation is None else abs(target.goal_activation) for target in targets]
    return torch.tensor(goals).clamp(min=MIN_GOAL)
