"""Activation: how strongly a visualization activates its neuron."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.models import Model, features_of


def visualization_inputs(model: Model, visualizations: Sequence[np.ndarray]) -> Tensor:
    """Published visualizations as the model's input: uint8 [H, W, 3 or 4] each → [B, channels, S, S], S its input size.

    A visualization of another size is resized as a whole, never cropped: it has no margin.
    """
    size = (model.input_size_px, model.input_size_px)
    images = [Image.fromarray(visualization) for visualization in visualizations]
    resized = [image if image.size == size else image.resize(size, Image.Resampling.BICUBIC) for image in images]
    return torch.stack([model.preprocessing.to_tensor(image) for image in resized]).to(model.device)


@torch.no_grad()
def measure(
    model: Model, visualizations: Sequence[np.ndarray], layer: str, units: Sequence[int], *, reduction: str = "max"
) -> tuple[np.ndarray, np.ndarray]:
    """Activations of the units by the visualizations, and the logits of the classes.

    Args:
        model: of the neurons.
        visualizations: uint8 [H, W, 3], one per unit.
        layer: of the units.
        units: the unit of each visualization.
        reduction: over positions, as in the statistics: `max` or `mean`.

    Returns:
        activation float32 [B], logits float32 [B, num_classes]; no columns for a model without classifier.
    """
    classifier = model.classifier_layer
    requested = {layer} if classifier is None else {layer, classifier}
    features = features_of(model.module, visualization_inputs(model, visualizations), requested)
    activation = model.activation(features[layer], layer, units, reduction)
    logits = torch.empty(len(activation), 0) if classifier is None else features[classifier].flatten(1)
    return activation.float().cpu().numpy(), logits.float().cpu().numpy()
