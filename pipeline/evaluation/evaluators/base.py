"""The protocol of evaluators: networks whose predictions score visualizations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

EvaluatorInput = Image.Image | np.ndarray  # a dataset image, or a visualization as published: uint8 [H, W, 3]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The output of an evaluator for a batch of images.

    Attributes:
        embedding: float32 [B, D], in the evaluator's feature space.
        logits: float32 [B, K], one per class; None for an evaluator that does not classify.
    """

    embedding: np.ndarray
    logits: np.ndarray | None


class Evaluator(Protocol):
    """A network that embeds images and, if it has classes, classifies them.

    Attributes:
        name: as in the recipe: `torchvision:squeezenet1_1`, `open_clip:ViT-B-32`.
        slug: the name in lower-case letters, digits and `_`, for names of columns.
        num_classes: K of the logits; None for an evaluator that does not classify.
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

    def predict(self, images: Sequence[EvaluatorInput]) -> Prediction:
        """The prediction for at least one image, in one forward pass.

        Args:
            images: dataset images (Pillow) go through the evaluator's own resizing and center crop; visualizations,
                uint8 [H, W, 3], are resized whole to the evaluator's input, since a visualization has no
                margin to crop.
        """
        ...
