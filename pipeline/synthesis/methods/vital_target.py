"""From reference images to a target: sort their features, weighted by relevance, and average.

Pure numerics; which images are the references, and where they are read from, is `pipeline.references`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.alignment.losses import (
    INPUT_EDGES,
    INPUT_PIXELS,
    OWN_KEYS,
    TARGET_LAYER,
    TARGET_UNIT,
    LayerTarget,
    NeuronTarget,
    sorted_target,
)
from pipeline.alignment.spatial_grid import partition
from pipeline.attribution.normalization import channel_importance, normalize_relevance
from pipeline.attribution.relevance import RULES, relevance, upstream_layers
from pipeline.derived_layers.layer import feature_space
from pipeline.errors import UserError
from pipeline.models import FeatureLayer, Model, features_of
from pipeline.models.feature_layers import INTERMEDIATE_WEIGHTS
from pipeline.synthesis.methods.edges import edges
from pipeline.synthesis.methods.options import VitalOptions
from pipeline.synthesis.methods.vital import aligned_features

CORRELATION = "correlation"
_BATCH_SIZE = 16  # reference images in one forward pass: bounds memory, changes nothing


@dataclass(frozen=True, kw_only=True)
class AlignmentPlan:
    """What the neurons of one layer are aligned at.

    Attributes:
        layer: the neurons' layer.
        weights: aligned layer (feature layers and the special keys of `NeuronTarget`) → weight of its loss.
        rule: relevance rule; `correlation`, which weights channels by their correlation with the unit over a data set
            and needs no relevance maps; or `none`.
        grid: cells per side.
        side: to which larger maps are thinned, 0 for not at all, see `partition`.
        image_size_px: of references and synthetic images.
        facets: clusters that a neuron's references are divided into, each with a target of its own.
    """

    layer: str
    weights: dict[str, float]
    rule: str
    grid: int
    side: int
    image_size_px: int
    facets: int = 1

    @property
    def feature_layers(self) -> list[str]:
        """The aligned layers that are layers of the model."""
        return [name for name in self.weights if name not in OWN_KEYS]


def plan_alignment(
    model: Model,
    layer: str,
    options: VitalOptions,
    *,
    rule: str = "auto",
    feature_layers: Sequence[FeatureLayer] = (),
    image_size_px: int | None = None,
) -> AlignmentPlan:
    """Decide where the neurons of a layer are aligned.

    Class neurons are aligned at all feature layers without relevance; intermediate neurons at the feature layers that
    feed them, weighted by relevance (VITAL, ICCV 2025).

    Args:
        model: whose layer it is.
        layer: the neurons' layer.
        options: `grid`, `aligned_side` and the weights of the additional layers are read.
        rule: relevance rule; `auto` is `none` for classes and `lrp` for intermediate neurons.
        feature_layers: those of the recipe; empty takes the model's own, with the published intermediate weights.
        image_size_px: None takes the model's input size.

    Raises:
        UserError: a layer is unknown, or none of the feature layers feeds the neurons.
    """
    size_px = image_size_px or model.input_size_px
    is_class = layer == model.classifier_layer
    rule = _resolved_rule(rule, is_class)
    chosen = list(feature_layers) or _default_feature_layers(model, is_class)
    weights = {model.resolve_layer(f.layer): f.weight for f in chosen if f.weight > 0}
    if not is_class:
        weights = _upstream_weights(model, layer, weights, options, size_px)
    weights |= _additional_weights(options, size_px, is_class)
    if not weights:
        raise UserError(
            f'none of the feature layers {[f.layer for f in chosen]} feeds layer "{layer}"; '
            "name earlier ones in targets.feature_layers"
        )
    return AlignmentPlan(
        layer=layer,
        weights=weights,
        rule=rule,
        grid=options.grid,
        side=options.aligned_side,
        image_size_px=size_px,
    )


def _resolved_rule(rule: str, is_class: bool) -> str:
    if rule == "auto":
        return "none" if is_class else "lrp"
    if rule not in ("none", CORRELATION, *RULES):
        raise UserError(f'relevance = "{rule}": expected auto, none, {CORRELATION} or one of {", ".join(RULES)}')
    return rule


def _default_feature_layers(model: Model, is_class: bool) -> list[FeatureLayer]:
    """The model's own, for intermediate neurons with the published weights."""
    layers = model.default_feature_layers()
    if is_class or len(layers) != len(INTERMEDIATE_WEIGHTS):
        return layers
    return [FeatureLayer(layer=f.layer, weight=w) for f, w in zip(layers, INTERMEDIATE_WEIGHTS, strict=True)]


def _upstream_weights(
    model: Model, layer: str, weights: Mapping[str, float], options: VitalOptions, size_px: int
) -> dict[str, float]:
    """Of the feature layers those that feed a layer."""
    example = torch.zeros(1, len(model.mean), size_px, size_px, device=model.device)
    upstream = upstream_layers(model.module, example, layer, list(weights))
    if options.layer_weight:  # then the layer itself is aligned as `TARGET_LAYER`
        upstream = [name for name in upstream if name not in (layer, feature_space(model.module, layer))]
    return {name: weights[name] for name in upstream}


def _additional_weights(options: VitalOptions, size_px: int, is_class: bool) -> dict[str, float]:
    """Weights of what is aligned beside the feature layers."""
    weights: dict[str, float] = {}
    if options.pixel_weight:
        weights[INPUT_PIXELS] = options.pixel_weight
    if options.edge_weight:
        shown = [name for name, square_px in INPUT_EDGES.items() if 2 * square_px <= size_px]  # at least two blocks
        weights |= dict.fromkeys(shown, options.edge_weight)
    if options.layer_weight and not is_class:
        weights[TARGET_LAYER] = options.layer_weight
    if options.unit_weight:
        weights[TARGET_UNIT] = options.unit_weight
    return weights


@torch.no_grad()
def reference_target(
    model: Model,
    plan: AlignmentPlan,
    unit: int,
    references: Tensor,
    *,
    importance: Mapping[str, Tensor] | None = None,
) -> NeuronTarget:
    """The target of one neuron: mean sorted features of its references, and the importance of channels.

    Args:
        model: whose neuron it is.
        plan: see `plan_alignment`.
        unit: of the plan's layer.
        references: [R, 3, H, W] in the model's input space, R ≥ 1.
        importance: under the rule `correlation`, feature layer → weight of each channel, [C] in [0, 1]; under others
            it follows from the references.

    Returns:
        The target; tensors are float32 on the CPU.

    Raises:
        UserError: the rule is `correlation` and a feature layer has no importance.
    """
    if plan.rule == CORRELATION and not set(plan.feature_layers) <= (importance or {}).keys():
        raise UserError(
            'relevance = "correlation" weights channels by statistics of a data set, and there are none here: run a '
            'recipe with targets.relevance = "correlation", or choose auto, none, ' + ", ".join(RULES)
        )
    quantiles: dict[str, Tensor] = {}
    importances: dict[str, Tensor] = {}
    activations: list[Tensor] = []
    space = feature_space(model.module, plan.layer)
    for images in references.to(model.device).split(_BATCH_SIZE):
        units = [unit] * len(images)
        features = features_of(model.module, images, {plan.layer, space, *plan.feature_layers})
        activations.append(model.activation(features[plan.layer], plan.layer, units))
        raw = _raw_relevance(model, plan, units, images)
        for name, value in raw.items():
            _add(importances, name, channel_importance(value) * len(images))
        for name, aligned in _aligned(plan, space, images, features, raw, units):
            _add(quantiles, name, sorted_target(aligned.float()) * len(images))
    count = len(references)
    weights = importance or {name: total / count for name, total in importances.items()}
    layers = {
        name: LayerTarget(
            quantile=(quantiles[name] / count).cpu(),
            importance=weights[name].float().cpu() if name in weights else None,
            weight=weight,
        )
        for name, weight in plan.weights.items()
    }
    return NeuronTarget(layers=layers, relevance=plan.rule, goal_activation=float(torch.cat(activations).max()))


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums.get(name, torch.zeros_like(value)) + value


def _aligned(
    plan: AlignmentPlan,
    space: str,
    images: Tensor,
    features: Mapping[str, Tensor],
    raw_relevance: Mapping[str, Tensor],
    units: Sequence[int],
) -> Iterator[tuple[str, Tensor]]:
    """Aligned layer of a plan → what is sorted there."""
    maps = {name: normalize_relevance(value) for name, value in raw_relevance.items()}
    for name in plan.weights:
        yield (
            name,
            aligned_features(
                name,
                images,
                features,
                maps,
                layer=plan.layer,
                space=space,
                units=units,
                grid=plan.grid,
                side=plan.side,
            ),
        )


def _raw_relevance(model: Model, plan: AlignmentPlan, units: Sequence[int], images: Tensor) -> dict[str, Tensor]:
    if plan.rule not in RULES or not plan.feature_layers:
        return {}
    return relevance(
        model.module,
        images,
        layer=plan.layer,
        units=units,
        feature_layers=plan.feature_layers,
        rule=plan.rule,
        num_prefix=model.num_prefix(plan.layer),
    )


def target_shapes(model: Model, plan: AlignmentPlan) -> dict[str, tuple[int, int]]:
    """The shape (C·P, N/P) of each aligned layer's quantile function."""
    result = {}
    for name in plan.weights:
        grid = 1 if name == TARGET_UNIT else plan.grid
        side = 0 if name in (TARGET_UNIT, TARGET_LAYER) else plan.side
        rows = partition(torch.empty(1, *_aligned_shape(model, plan, name)), grid, side).shape
        result[name] = (rows[1], rows[2])
    return result


def _aligned_shape(model: Model, plan: AlignmentPlan, name: str) -> tuple[int, ...]:
    """The shape of one image's features at an aligned layer, before they are divided into cells."""
    shapes, size_px = model.feature_shapes_at(plan.image_size_px), plan.image_size_px
    image_shape = (len(model.mean), size_px, size_px)
    if name == INPUT_PIXELS:
        return image_shape
    if name in INPUT_EDGES:
        return tuple(edges(torch.empty(1, *image_shape), INPUT_EDGES[name]).shape[1:])
    if name == TARGET_UNIT:
        return (1, *shapes[plan.layer][1:])
    return shapes[feature_space(model.module, plan.layer) if name == TARGET_LAYER else name]
