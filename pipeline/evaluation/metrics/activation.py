"""Activation: how strongly a picture excites the neuron it stands for."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.models import Model, features_of


def picture_inputs(model: Model, pictures: Sequence[np.ndarray]) -> Tensor:
    """Published pictures as the model's input: uint8 [H, W, 3 or 4] each → [B, channels, S, S], S its input size.

    A picture of another size is resized as a whole, never cropped: all of it was synthesized for the neuron.
    """
    size = (model.input_size_px, model.input_size_px)
    images = [Image.fromarray(picture) for picture in pictures]
    resized = [image if image.size == size else image.resize(size, Image.Resampling.BICUBIC) for image in images]
    return torch.stack([model.preprocessing.to_tensor(image) for image in resized]).to(model.device)


@torch.no_grad()
def measure(
    model: Model, pictures: Sequence[np.ndarray], layer: str, units: Sequence[int], *, reduction: str = "max"
) -> tuple[np.ndarray, np.ndarray]:
    """Activations of the units by the pictures, and the logits of the classes.

    Args:
        model: whose neurons they are.
        pictures: uint8 [H, W, 3], one per unit.
        layer: of the units.
        units: the unit of each picture.
        reduction: over positions, as in the statistics: `max` or `mean`.

    Returns:
        activation float32 [B], logits float32 [B, num_classes]; no columns of a model without classifier.
    """
    classifier = model.classifier_layer
    wanted = {layer} if classifier is None else {layer, classifier}
    features = features_of(model.module, picture_inputs(model, pictures), wanted)
    activation = model.activation(features[layer], layer, units, reduction)
    logits = torch.empty(len(activation), 0) if classifier is None else features[classifier].flatten(1)
    return activation.float().cpu().numpy(), logits.float().cpu().numpy()
