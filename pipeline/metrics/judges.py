"""Judges: networks that look at images as published and answer with an embedding and, if they classify, logits.

Every held-out judgment goes through this one interface: whether a network that never saw the synthesis names the class
(accuracy, Inception Score), and in whose feature space pictures and photographs are compared (FID, KID, machine
interpretability, diversity).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.metrics.activation import picture_inputs
from pipeline.models import Model, features_of, load_model
from pipeline.models.capture import channels_first

Shown = Image.Image | np.ndarray  # a photograph, or a picture as published: uint8 [H, W, 3]

_FAMILIES = ("timm", "torchvision", "python")  # those of `load_model`


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a judge says of a batch of images.

    Attributes:
        embedding: float32 [B, D], where the images lie in the judge's feature space.
        logits: float32 [B, K], one per class; None of a judge that does not classify.
    """

    embedding: np.ndarray
    logits: np.ndarray | None


class Judge(Protocol):
    """A network that looks at images.

    Attributes:
        name: as in the recipe: `torchvision:squeezenet1_1`, `open_clip:ViT-B-32`.
        slug: the name in lower-case letters, digits and `_`, for names of columns.
        num_classes: K of the logits; None of a judge that does not classify.
        weights_sha256: hash of all parameters and buffers, see `hash_state`.
    """

    @property
    def name(self) -> str: ...
    @property
    def slug(self) -> str: ...
    @property
    def num_classes(self) -> int | None: ...
    @property
    def weights_sha256(self) -> str: ...

    def look(self, images: Sequence[Shown]) -> Answer:
        """The answers to at least one image, in one forward pass.

        Args:
            images: photographs (Pillow) go through the judge's own resizing and center crop; pictures, uint8
                [H, W, 3], are resized whole to the judge's input, since all of a picture was synthesized.
        """
        ...


def judge_slug(name: str) -> str:
    """A judge's name as part of a column's name: `torchvision:squeezenet1_1` → `torchvision_squeezenet1_1`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def load_judge(
    name: str,
    weights: str = "pretrained",
    *,
    device: str | torch.device = "cpu",
    class_names: Sequence[str] | None = None,
) -> Judge:
    """A judge by name.

    Args:
        name: `timm:NAME`, `torchvision:NAME` or `python:package.module:factory` as for `load_model`, or
            `open_clip:ARCHITECTURE`.
        weights: as for `load_model`: `pretrained` (the library's own loader; may download), `random`, `package:NAME`,
            or the path or URL of a file. Of open_clip: the path of a local file, `random`, or `pretrained:TAG`, which
            leaves it to open_clip to download that tag.
        device: where it runs.
        class_names: of open_clip, the texts that its zero-shot logits are for, by class index; without them it only
            embeds. Other judges have the classes that they were trained with.

    Raises:
        ValueError: name or weights are unknown or do not fit each other, or open_clip is not installed.
    """
    family, _, rest = name.partition(":")
    try:
        if family == "open_clip" and rest:
            from pipeline.metrics.clip import load_clip_judge

            return load_clip_judge(rest, weights, device=device, class_names=class_names)
        if family not in _FAMILIES or not rest:
            raise ValueError("expected timm:NAME, torchvision:NAME, python:package.module:factory or open_clip:NAME")
        return model_judge(load_model(name, weights, device=device))
    except ValueError as error:
        raise ValueError(f'judge "{name}": {error}') from error


def model_judge(model: Model) -> Judge:
    """A network that is loaded already as a judge: the atlas's own model can judge its own pictures."""
    return _NetworkJudge(model)


class _NetworkJudge:
    """A network of `load_model`.

    Its embedding is what enters the classifier, averaged over positions: the penultimate features that FID is usually
    taken in (of Inception, ResNet and EfficientNet the pooled features, of SqueezeNet the maps before the last 1 × 1
    convolution). A backbone without classifier gives the last of its default feature layers, averaged over the
    positions on the image.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = model.name
        self.slug = judge_slug(model.name)
        self.num_classes = model.num_classes or None

    @property
    def weights_sha256(self) -> str:
        """See `Judge`."""
        return self.model.weights_sha256

    @torch.no_grad()
    def look(self, images: Sequence[Shown]) -> Answer:
        """See `Judge.look`."""
        inputs = self._inputs(images)
        classifier = self.model.classifier_layer
        if classifier is None:
            layer = self.model.default_feature_layers()[-1].layer
            features = features_of(self.model.module, inputs, [layer])[layer]
            on_image = features.flatten(2)[:, :, self.model.num_prefix(layer) :] if features.ndim > 2 else features
            return Answer(embedding=_array(_mean_over_positions(on_image)), logits=None)
        with _input_of(self.model.module, self._head) as entering:
            logits = features_of(self.model.module, inputs, [classifier])[classifier]
        (embedding,) = entering
        return Answer(embedding=_array(embedding), logits=_array(logits.flatten(1)))

    def _inputs(self, images: Sequence[Shown]) -> Tensor:
        """[B, channels, S, S] in the model's input space."""
        return torch.cat(
            [
                picture_inputs(self.model, [image])
                if isinstance(image, np.ndarray)
                else self.model.preprocess(image)[None].to(self.model.device)
                for image in images
            ]
        )

    @cached_property
    def _head(self) -> str:
        """The layer whose weights make the logits: the classifier, or the last with weights before it.

        SqueezeNet's classifier, for one, is the pooling of the maps that its last convolution gives.
        """
        classifier = self.model.classifier_layer
        assert classifier is not None
        layers = self.model.layers()
        candidates = reversed(layers[: layers.index(classifier) + 1])
        return next((layer for layer in candidates if self._has_weights(layer)), classifier)

    def _has_weights(self, layer: str) -> bool:
        return next(self.model.module.get_submodule(layer).parameters(recurse=False), None) is not None


@contextmanager
def _input_of(module: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """What enters a layer in each forward pass inside the `with` block, averaged over positions: [B, C] each."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(_mean_over_positions(channels_first(inputs[0], layer)))

    handle = module.get_submodule(layer).register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _mean_over_positions(features: Tensor) -> Tensor:
    """[B, C, H, W], [B, C, T] or [B, C] → a new tensor [B, C]."""
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features.clone()


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
