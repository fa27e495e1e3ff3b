"""The objective of VITAL: align the feature distributions of each image with those of its neuron's references.

B images, one per neuron; C channels; N positions. Every term is one value per image, so that images in a batch
are independent of one another.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.alignment import (
    ALIGNMENTS,
    INPUT_PIXELS,
    TARGET_LAYER,
    TARGET_UNIT,
    NeuronTarget,
    partition,
    target_spread,
)
from pipeline.models import Model, features_of, unit_activation
from pipeline.relevance import RULES, normalize_relevance, relevance
from pipeline.synthesis.activation import MIN_GOAL
from pipeline.synthesis.presets import SynthesisOptions

# By how much of its goal a class's logit is to exceed the next class's: enough to survive 8 bits and WebP.
_CLASS_MARGIN = 0.1


def aligned_features(
    name: str,
    images: Tensor,
    features: Mapping[str, Tensor],
    relevance: Mapping[str, Tensor],
    *,
    layer: str,
    space: str,
    units: Sequence[int],
    grid: int,
) -> Tensor:
    """What is sorted at one feature layer: the same for references and for synthetic images.

    Args:
        name: the feature layer, or `INPUT_PIXELS`, `TARGET_LAYER`, `TARGET_UNIT`.
        images: [B, 3, H, W].
        features: layer → features of the images.
        relevance: feature layer → relevance in [0, 1] shaped like its features; absent layers are not weighted.
        layer: the neurons' layer.
        space: the layer that `TARGET_LAYER` stands for, `Model.feature_space` of the neurons' layer.
        units: the unit of each image.
        grid: cells per side; the unit's own map is always sorted as a whole.

    Returns:
        [B, C·P, N/P].
    """
    if name == INPUT_PIXELS:
        return partition(images, grid)
    if name == TARGET_LAYER:
        return partition(features[space], grid)
    if name == TARGET_UNIT:
        return partition(features[layer][torch.arange(len(units)), list(units)].unsqueeze(1))
    maps = features[name]
    return partition(maps * relevance[name].to(maps.dtype) if name in relevance else maps, grid)


class AlignmentObjective:
    """Loss of a batch of images against the targets of their neurons, which lie in one layer.

    `options.alignment` names the distance at every feature layer. `sort` and `moments` are squared differences of
    features, so `options.normalize_layers` divides them by the variance of the target; `kl` is dimensionless and stays
    as it is.

    Raises:
        ValueError: the targets of the batch differ in their feature layers, rule or shapes.

    Reference: VITAL (ICCV 2025), class and inner neuron objectives; the terms weighted by `pixel_weight`,
    `unit_weight`, `activation_weight` and the normalization of layers are ours.
    """

    def __init__(
        self,
        model: Model,
        layer: str,
        units: Sequence[int],
        targets: Sequence[NeuronTarget],
        options: SynthesisOptions,
    ) -> None:
        first = targets[0]
        if any(t.layers.keys() != first.layers.keys() or t.relevance != first.relevance for t in targets):
            raise ValueError("targets of one batch must share their feature layers and their relevance rule")
        self._module = model.module
        self._layer, self._space = layer, model.feature_space(layer)
        self._is_class = layer == model.classifier_layer
        self._units = list(units)
        self._unit_B1 = torch.tensor(self._units, device=model.device)[:, None]
        self._num_prefix = model.num_prefix(layer)
        self._options = options
        self._distance = ALIGNMENTS[options.alignment]
        self._rule = first.relevance
        self._goal = torch.tensor([float("nan") if t.goal_activation is None else t.goal_activation for t in targets])
        self._goal = (self._goal * options.activation_goal).to(model.device)
        own = {INPUT_PIXELS, TARGET_LAYER, TARGET_UNIT}
        self._feature_layers = [name for name in first.layers if name not in own]
        needs_layer = not own.isdisjoint(first.layers.keys() - {INPUT_PIXELS}) or options.activation_weight > 0
        self._captured = {*self._feature_layers, *([layer] if needs_layer else [])}
        if TARGET_LAYER in first.layers:
            self._captured.add(self._space)
        self._relevance: dict[str, Tensor] = {}

        self._terms: list[tuple[str, Tensor, Tensor | None, Tensor]] = []  # name, quantile, importance, weight [B]
        for name in first.layers:
            layers = [t.layers[name] for t in targets]
            quantile = torch.stack([target.quantile for target in layers]).to(model.device)
            weight = torch.tensor([target.weight for target in layers], device=model.device)
            if options.normalize_layers and options.alignment != "kl":
                weight = weight / target_spread(quantile)
            weights_C = [target.importance for target in layers if target.importance is not None]
            importance = torch.stack(weights_C).to(model.device) if len(weights_C) == len(layers) else None
            if importance is not None:  # one weight per channel, repeated for each cell of the grid
                importance = importance.repeat_interleave(quantile.shape[1] // importance.shape[1], dim=1)
            self._terms.append((name, quantile, importance, weight))

    def update_relevance(self, images: Tensor) -> None:
        """Recompute the relevance of the features of these images [B, 3, H, W] for their neurons (detached)."""
        if self._rule not in RULES:  # none, or correlation, which weights channels and knows no images
            return
        maps = relevance(
            self._module,
            images.detach(),
            layer=self._layer,
            units=self._units,
            feature_layers=self._feature_layers,
            rule=self._rule,
            num_prefix=self._num_prefix,
        )
        self._relevance = {name: normalize_relevance(value) for name, value in maps.items()}

    def __call__(self, images: Tensor) -> Tensor:
        """The loss of each image: [B, 3, H, W] in the model's input space → [B]."""
        features = features_of(self._module, images, self._captured)
        loss = images.new_zeros(len(images))
        for name, quantile, importance, weight in self._terms:
            aligned = self._aligned_features(name, images, features)
            loss = loss + weight * self._distance(aligned, quantile, importance)
        if self._options.activation_weight > 0:
            loss = loss + self._options.activation_weight * self._shortfall(features[self._layer])
        return loss

    def _shortfall(self, features: Tensor) -> Tensor:
        """How far each neuron's activation is below its goal, as a fraction of the goal; 0 beyond it: [B].

        A class is also to be ahead of every other class by `_CLASS_MARGIN` of its goal.
        """
        activation = unit_activation(features, self._units, num_prefix=self._num_prefix)
        size = self._goal.abs().clamp(min=MIN_GOAL)
        goal = self._goal
        if self._is_class:
            others = features.flatten(1).scatter(1, self._unit_B1, -torch.inf)
            goal = torch.maximum(goal, others.amax(dim=1) + _CLASS_MARGIN * size)
        return torch.nan_to_num(torch.relu(goal - activation) / size)

    def _aligned_features(self, name: str, images: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        return aligned_features(
            name,
            images,
            features,
            self._relevance,
            layer=self._layer,
            space=self._space,
            units=self._units,
            grid=self._options.grid,
        )
