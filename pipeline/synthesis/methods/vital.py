"""VITAL: align the feature distributions of each image with those of its neuron's references.

B images, one per neuron; C channels; N positions. Every term is one value per image, so that images in a batch
are independent of one another.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.alignment.losses import (
    ALIGNMENTS,
    INPUT_EDGES,
    INPUT_PIXELS,
    OWN_KEYS,
    TARGET_LAYER,
    TARGET_UNIT,
    LayerTarget,
    NeuronTarget,
    target_spread,
)
from pipeline.alignment.spatial_grid import partition
from pipeline.attribution.normalization import normalize_relevance
from pipeline.attribution.relevance import RULES, relevance
from pipeline.derived_layers.layer import feature_space
from pipeline.errors import UserError
from pipeline.models import Model, features_of, own_maps, unit_activation
from pipeline.synthesis.methods.activation_maximization import MIN_GOAL
from pipeline.synthesis.methods.edges import edges
from pipeline.synthesis.methods.method import Method
from pipeline.synthesis.methods.options import SynthesisOptions, VitalOptions, within_a_step
from pipeline.synthesis.regularizers import Regularizer
from pipeline.synthesis.step import Tensors

# By how much of its goal a class's logit is to exceed the next class's: enough to survive 8 bits and WebP.
_CLASS_MARGIN = 0.1
# Class neurons: weight of total variation and of the image norm by model; 0 elsewhere. Reference: VITAL's supplement.
_CLASS_REGULARIZER = {"torchvision:vit_l_16": 3e-3, "torchvision:vit_l_32": 3e-4}


def aligned_features(
    name: str,
    images: Tensor,
    features: Mapping[str, Tensor],
    relevance: Mapping[str, Tensor],
    *,
    layer: str,
    space: str,
    units: Sequence[int] | Tensor,
    grid: int,
    side: int,
) -> Tensor:
    """What is sorted at one feature layer: the same for references and for synthetic images.

    Args:
        name: the feature layer, or one of `OWN_KEYS`.
        images: [B, 3, H, W].
        features: layer → features of the images.
        relevance: feature layer → relevance in [0, 1] shaped like its features; absent layers are not weighted.
        layer: the neurons' layer.
        space: the layer that `TARGET_LAYER` stands for, `feature_space` of the neurons' layer.
        units: the unit of each image.
        grid: cells per side; the unit's own map is always sorted as a whole.
        side: to which larger maps are thinned, see `partition`; the neurons' own layer is always taken whole.

    Returns:
        [B, C·P, N/P].
    """
    if name == INPUT_PIXELS:
        return partition(images, grid, side)
    if name in INPUT_EDGES:
        return partition(edges(images, INPUT_EDGES[name]), grid, side)
    if name == TARGET_LAYER:
        return partition(features[space], grid)
    if name == TARGET_UNIT:
        return partition(own_maps(features[layer], units).unsqueeze(1))
    maps = features[name]
    return partition(maps * relevance[name].to(maps.dtype) if name in relevance else maps, grid, side)


class AlignmentObjective:
    """Loss of a batch of images against the targets of their neurons, which lie in one layer.

    `options.alignment` names the distance at every feature layer. `sort` and `moments` are squared differences of
    features, so `options.normalize_layers` divides them by the variance of the target; `kl` is dimensionless and stays
    as it is.

    Raises:
        UserError: the targets of the batch differ in their feature layers, rule or shapes.

    Reference: VITAL (ICCV 2025), class and intermediate neuron objectives; the terms weighted by `pixel_weight`,
    `edge_weight`, `unit_weight`, `activation_weight` and the normalization of layers are ours.
    """

    def __init__(
        self,
        model: Model,
        layer: str,
        units: Sequence[int],
        targets: Sequence[NeuronTarget],
        options: VitalOptions,
    ) -> None:
        first = targets[0]
        if any(t.layers.keys() != first.layers.keys() or t.relevance != first.relevance for t in targets):
            raise UserError("targets of one batch must share their feature layers and their relevance rule")
        self._module = model.module
        self._layer, self._space = layer, feature_space(model.module, layer)
        self._is_class = layer == model.classifier_layer
        self._num_prefix = model.num_prefix(layer)
        self._options = options
        self._distance = ALIGNMENTS[options.alignment]
        self._rule = first.relevance
        self._aligned = list(first.layers)
        self.trace_key: Hashable = (type(self), layer, within_a_step(options), self._rule, tuple(self._aligned))
        self._feature_layers = [name for name in first.layers if name not in OWN_KEYS]
        needs_layer = not first.layers.keys().isdisjoint({TARGET_LAYER, TARGET_UNIT}) or options.activation_weight > 0
        self._captured = {*self._feature_layers, *([layer] if needs_layer else [])}
        if TARGET_LAYER in first.layers:
            self._captured.add(self._space)
        # Steps that compute relevance run the unfolded network.
        is_folded = self._rule not in RULES or options.relevance_every > 1
        self._folded = model.folded(self._captured) if is_folded else model.module

        goals = [float("nan") if t.goal_activation is None else t.goal_activation for t in targets]
        self.tensors = {
            "unit": torch.tensor(units, device=model.device),
            "goal": torch.tensor(goals, device=model.device) * options.activation_goal,
        }
        if options.activation_weight > 0:  # set anew before each step
            self.tensors["activation_weight"] = torch.tensor(options.activation_weight, device=model.device)
        for name in self._aligned:
            self.tensors |= self._target_tensors(name, [t.layers[name] for t in targets], model.device)

    def _target_tensors(self, name: str, layers: Sequence[LayerTarget], device: torch.device) -> dict[str, Tensor]:
        """`quantile`, `weight` [B] and, where there is one, `importance` of an aligned layer."""
        quantile = torch.stack([target.quantile for target in layers]).to(device)
        weight = torch.tensor([target.weight for target in layers], device=device)
        if self._options.normalize_layers and self._options.alignment != "kl":
            weight = weight / target_spread(quantile)
        tensors = {f"quantile {name}": quantile, f"weight {name}": weight}
        weights_C = [target.importance for target in layers if target.importance is not None]
        if len(weights_C) == len(layers):  # one weight per channel, repeated for each cell of the grid
            importance = torch.stack(weights_C).to(device)
            cells = quantile.shape[1] // importance.shape[1]
            tensors[f"importance {name}"] = importance.repeat_interleave(cells, dim=1)
        return tensors

    def relevance(self, images: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        """Feature layer → relevance of the images' features for their neurons, in [0, 1], detached.

        Args:
            images: [B, 3, H, W].
            tensors: of the batch.
        """
        if self._rule not in RULES:  # none, or correlation, which weights channels and knows no images
            return {}
        maps = relevance(
            self._module,
            images.detach(),
            layer=self._layer,
            units=tensors["unit"],
            feature_layers=self._feature_layers,
            rule=self._rule,
            num_prefix=self._num_prefix,
        )
        return {name: normalize_relevance(value) for name, value in maps.items()}

    def __call__(self, images: Tensor, tensors: Tensors, relevance: Tensors, *, is_fresh: bool = True) -> Tensor:
        """The loss of each image: [B, 3, H, W] in the model's input space → [B]."""
        # Relevance is defined on the unfolded network, whose forward pass it then shares with the loss.
        module = self._module if relevance and is_fresh else self._folded
        features = features_of(module, images, self._captured)
        loss = images.new_zeros(len(images))
        for name in self._aligned:
            aligned = self._aligned_features(name, images, features, tensors, relevance)
            if self._options.alignment != "sort":  # moments of bfloat16 features would round like them
                aligned = aligned.float()
            distance = self._distance(aligned, tensors[f"quantile {name}"], tensors.get(f"importance {name}"))
            loss = loss + tensors[f"weight {name}"] * distance
        if self._options.activation_weight > 0:
            shortfall = self._shortfall(features[self._layer].float(), tensors)
            loss = loss + tensors["activation_weight"] * shortfall
        return loss

    def _shortfall(self, features: Tensor, tensors: Tensors) -> Tensor:
        """How far each neuron's activation is below its goal, as a fraction of the goal; 0 beyond it: [B].

        A class is also to be ahead of every other class by `_CLASS_MARGIN` of its goal.
        """
        unit, goal = tensors["unit"], tensors["goal"]
        activation = unit_activation(features, unit, num_prefix=self._num_prefix)
        size = goal.abs().clamp(min=MIN_GOAL)
        if self._is_class:
            others = features.flatten(1).scatter(1, unit[:, None], -torch.inf)
            goal = torch.maximum(goal, others.amax(dim=1) + _CLASS_MARGIN * size)
        return torch.nan_to_num(torch.relu(goal - activation) / size)

    def _aligned_features(
        self, name: str, images: Tensor, features: Tensors, tensors: Tensors, relevance: Tensors
    ) -> Tensor:
        return aligned_features(
            name,
            images,
            features,
            relevance,
            layer=self._layer,
            space=self._space,
            units=tensors["unit"],
            grid=self._options.grid,
            side=self._options.aligned_side,
        )


class _Vital(Method[VitalOptions]):
    """The images begin with the colors of the references; a class's image is shown in random resized crops at first."""

    def initial_rgb(self, model: Model, targets: Sequence[NeuronTarget], options: VitalOptions) -> Tensor | None:
        """The mean color of the references in each cell of the spatial grid, [B, C, grid, grid], if it is known."""
        if any(INPUT_PIXELS not in target.layers for target in targets):
            return None
        cells = torch.stack([target.layers[INPUT_PIXELS].quantile.mean(dim=1) for target in targets])
        return model.preprocessing.denormalize(cells.reshape(len(targets), -1, options.grid, options.grid)).clamp(0, 1)

    def view_size_px(self, model: Model, image_size_px: int) -> int:
        """The images' own: targets are made at that size."""
        return image_size_px

    def regularizer(self, model: Model, layer: str, options: VitalOptions) -> Regularizer:
        """For classes the priors on pixels depend on the model."""
        if layer != model.classifier_layer:
            return super().regularizer(model, layer, options)
        weight = _CLASS_REGULARIZER.get(model.name, 0.0) if options.parameterization == "pixel" else 0.0
        return Regularizer(total_variation=weight, total_variation_l1=options.total_variation_l1, image_norm=weight)

    def steps_per_view(self, options: VitalOptions) -> int:
        """As long as relevance is kept."""
        return options.relevance_every

    def views_at(self, step: int, model: Model, layer: str, options: VitalOptions) -> SynthesisOptions:
        """The options themselves, or for a class `class_crops_at`."""
        has_crops = layer == model.classifier_layer and options.class_crop_min < 1 and options.num_crops == 0
        return class_crops_at(step, options) if has_crops else options

    def before_step(self, step: int, options: VitalOptions, tensors: Tensors) -> None:
        """Set the weight of the activation."""
        if "activation_weight" in tensors:
            tensors["activation_weight"].fill_(activation_weight_at(step, options))


VITAL = _Vital(
    name="vital",
    description="align feature distributions with those of real images, weighted by relevance",
    source="Görgün, Schiele, Fischer, ICCV 2025, arXiv 2503.22399",
    objective=AlignmentObjective,
    needs_targets=True,
)


def activation_weight_at(step: int, options: VitalOptions) -> float:
    """`activation_weight`, growing linearly to `activation_growth` times as much.

    A penalty that grows is what enforces a constraint (Nocedal, Wright, Numerical Optimization, section 17.1). It
    begins once shapes have found their place, and ends while the learning rate can still follow.
    """
    return options.activation_weight * (1 + (options.activation_growth - 1) * _progress(step, options))


def class_crops_at(step: int, options: VitalOptions) -> VitalOptions:
    """The options with the random resized crops that VITAL shows of a class's image at a step, see `class_crop_min`."""
    smallest = options.class_crop_min + (1 - options.class_crop_min) * _progress(step, options)
    return replace(options, num_crops=1, crop_min=smallest, crop_max=1.0)


def _progress(step: int, options: VitalOptions) -> float:
    """0 for a quarter of the steps, 1 from three quarters on, linear between."""
    return min(1.0, max(0.0, 2 * step / options.steps - 0.5))
