"""A network of `load_model` as an evaluator: penultimate features are the embedding, its classes the logits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluation.evaluators.base import Evaluator, EvaluatorInput, Prediction
from pipeline.evaluation.metrics.activation import visualization_inputs
from pipeline.models import Model, features_of
from pipeline.models.capture import inputs_of
from pipeline.models.determinism import check_determinism
from pipeline.neurons import evaluator_slug


def model_evaluator(model: Model) -> Evaluator:
    """A loaded network as an evaluator; the atlas's own model can score its own visualizations."""
    return _NetworkEvaluator(model)


def check_evaluator(evaluator: Evaluator) -> None:
    """Try an evaluator before it is needed.

    Raises:
        UserError: a network whose predictions cannot be repeated, or that shows no features to embed images by.
    """
    if isinstance(evaluator, _NetworkEvaluator):
        check_determinism(evaluator.model)
        if not evaluator.model.has_classifier:
            evaluator.model.default_feature_layers()


class _NetworkEvaluator:
    """A network of `load_model`.

    Its embedding is the input of the classifier, averaged over positions: the penultimate features in which FID is
    usually computed (of Inception, ResNet and EfficientNet the pooled features, of SqueezeNet the maps before the last
    1 × 1 convolution). A backbone without classifier gives the last of its default feature layers, averaged over the
    positions on the image.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = model.name
        self.slug = evaluator_slug(model.name)
        self.num_classes = model.num_classes or None

    @property
    def weights_sha256(self) -> str:
        """See `Evaluator`."""
        return self.model.weights_sha256

    @torch.no_grad()
    def predict(self, images: Sequence[EvaluatorInput]) -> Prediction:
        """See `Evaluator.predict`."""
        inputs = self._inputs(images)
        classifier = self.model.classifier_layer
        if classifier is None:
            layer = self.model.default_feature_layers()[-1].layer
            features = features_of(self.model.module, inputs, [layer])[layer]
            on_image = features.flatten(2)[:, :, self.model.num_prefix(layer) :] if features.ndim > 2 else features
            return Prediction(embedding=_array(_mean_over_positions(on_image)), logits=None)
        assert self.model.head_layer is not None
        with inputs_of(self.model.module, self.model.head_layer) as entering:
            logits = features_of(self.model.module, inputs, [classifier])[classifier]
        (embedding,) = map(_mean_over_positions, entering)
        return Prediction(embedding=_array(embedding), logits=_array(logits.flatten(1)))

    def _inputs(self, images: Sequence[EvaluatorInput]) -> Tensor:
        """[B, channels, S, S] in the model's input space."""
        return torch.cat(
            [
                visualization_inputs(self.model, [image])
                if isinstance(image, np.ndarray)
                else self.model.preprocess(image)[None].to(self.model.device)
                for image in images
            ]
        )


def _mean_over_positions(features: Tensor) -> Tensor:
    """[B, C, H, W], [B, C, T] or [B, C] → a new tensor [B, C]."""
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features.clone()


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
