"""DeepInversion: match the statistics that BatchNorm layers keep of the training images.

Reference: Yin et al., "Dreaming to Distill: Data-Free Knowledge Transfer via DeepInversion", CVPR 2020,
arXiv 1912.08795, equations 2 to 4.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.alignment.losses import NeuronTarget
from pipeline.models import Model, capture
from pipeline.synthesis.methods.activation_maximization import unit_tensors
from pipeline.synthesis.methods.method import Method
from pipeline.synthesis.methods.options import DeepInversionOptions, within_a_step
from pipeline.synthesis.step import Tensors

# Weight of an intermediate unit's activation in units of its top-activating image's. Cross-entropy pulls at a logit,
# whose top is about ten, with slope one: as an activation in its own units it would count ten.
_INTERMEDIATE_WEIGHT = 10.0


def batch_norm_layers(module: nn.Module) -> list[nn.BatchNorm2d]:
    """The BatchNorm layers of a network that keep running statistics of maps, in the order of its modules."""
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]


class InversionObjective:
    """A class's cross-entropy, or minus a unit's mean activation, plus the distance of BatchNorm statistics.

    The published code takes the mean and variance of a layer's inputs over a whole batch, so that an image depends on
    its neighbors; here each image is held to the running statistics by itself. Intermediate units are ours: their
    activation, in units of the top-activating image's and ten times, takes the place of the cross-entropy. The model
    must have BatchNorm layers with running statistics (`pipeline.synthesis.methods.registry.check_method`).
    """

    def __init__(
        self,
        model: Model,
        layer: str,
        units: Sequence[int],
        targets: Sequence[NeuronTarget],
        options: DeepInversionOptions,
    ) -> None:
        self._model = model
        self._layer = layer
        self._is_class = layer == model.classifier_layer
        self.tensors = unit_tensors(units, targets, model.device)
        self.trace_key: Hashable = (type(self), layer, within_a_step(options))
        self._weight = options.batch_norm_weight
        self._first = options.first_batch_norm
        self._is_relative = options.normalize_layers

    def relevance(self, images: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        """None: the statistics depend on the image alone."""
        return {}

    def __call__(self, images: Tensor, tensors: Tensors, relevance: Tensors, *, is_fresh: bool = True) -> Tensor:
        """The loss of each image: [B, C, H, W] in the model's input space → [B]."""
        with (
            capture(self._model.module, [self._layer]) as features,
            _distances(self._model.module, self._is_relative) as distances,
        ):
            self._model.module(images)
        statistics = sum(distances[1:], start=self._first * distances[0])
        return self._main(features[self._layer].float(), tensors) + self._weight * statistics

    def _main(self, features: Tensor, tensors: Tensors) -> Tensor:
        if self._is_class:
            return F.cross_entropy(features.flatten(1), tensors["unit"], reduction="none")
        activation = self._model.activation(features, self._layer, tensors["unit"], "mean")
        return -_INTERMEDIATE_WEIGHT * activation / tensors["scale"]


@contextmanager
def _distances(module: nn.Module, is_relative: bool) -> Iterator[list[Tensor]]:
    """Collect, in each forward pass inside the block, every BatchNorm layer's `statistics_distance`, [B] each.

    Relative distances are in units of what is to be matched, so that a weight means the same for every layer and
    network; the published weight is one for ResNets, and other networks' statistics may be a hundred times larger.
    """
    distances: list[Tensor] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = layer.running_mean, layer.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        size = mean.norm() + variance.norm() if is_relative else 1.0
        distances.append(statistics_distance(inputs[0].float(), mean, variance) / size)

    handles = [layer.register_forward_pre_hook(note) for layer in batch_norm_layers(module)]
    try:
        yield distances
    finally:
        for handle in handles:
            handle.remove()


def statistics_distance(features: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """‖mean of each channel − running mean‖₂ + ‖variance of each channel − running variance‖₂, image by image.

    Args:
        features: inputs of a BatchNorm layer, [B, C, H, W].
        mean: its running mean, [C].
        variance: its running variance, [C].

    Returns:
        [B].
    """
    values = features.flatten(2)
    center = values.mean(dim=2)
    spread = (values - center[:, :, None]).square().mean(dim=2)
    return (spread - variance).norm(dim=1) + (center - mean).norm(dim=1)


DEEPINVERSION = Method(
    name="deepinversion",
    description="match the statistics that BatchNorm layers keep of the training images, under a class's loss",
    source="Yin et al., CVPR 2020, arXiv 1912.08795; settings of the authors' code",
    objective=InversionObjective,
    needs_batch_norm=True,
)
