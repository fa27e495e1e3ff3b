"""Relevance of neurons at the feature layers: seeds, rules and the one backward pass that all images share.

Shapes: B images, C channels of a layer, H × W positions or T tokens.

Cost: one forward pass to the layer and one backward pass to the earliest feature layer, for any number of
neurons, because images[i] is seeded with units[i] alone. Going backward, z⁺ makes a convolution and its
transpose, and both twice where the input is signed.

Reference: Görgün et al., VITAL, ICCV 2025, arXiv 2503.22399, section on relevant information flow.
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.attribution.guided import GuidedMode
from pipeline.attribution.mode import RelevanceMode
from pipeline.attribution.operations import OPERATIONS
from pipeline.attribution.tracing import Trace, nodes_below
from pipeline.errors import UserError
from pipeline.models.capture import channels_first
from pipeline.neurons import nearest

RULES = ("lrp", "lrp_positive", "lrp_restricted", "guided_backprop", "gradient_x_activation")


@torch.enable_grad()
def relevance(
    module: nn.Module,
    images: Tensor,
    *,
    layer: str,
    units: Sequence[int] | Tensor,
    feature_layers: Sequence[str],
    rule: str = "lrp",
    num_prefix: int = 0,
) -> dict[str, Tensor]:
    """Relevance of each image's own neuron at the feature layers, before normalization.

    Rules, and the seed of the backward pass at the target unit:
        `lrp`: z⁺ relevance (zennit's `ZPlus`); seed: the unit's own activation map, with its sign. A unit that is 0
            everywhere on an image has nothing to explain: its seed is 1, for what would activate it.
        `lrp_positive`: the same with the positive part of the map, so that no relevance is negative. It differs from
            `lrp` only where no ReLU ends the target layer.
        `lrp_restricted`: z⁺ relevance; seed: 1 at the position whose channel vector is most similar (cosine)
            to the unit's basis vector.
            Behind a LayerNorm all three use the rules for signed features, AttnLRP's (zennit's `Gamma` and `Epsilon`):
            there relevance is a share of a value, positive or negative, so `lrp_restricted` is seeded with the unit's
            value instead of 1, and a unit that is 0 with -1.
        `guided_backprop`: gradient, clamped at 0 at every activation (zennit's `ReLUGuidedBackprop`) and at the feature
            layer; target: the unit's spatial mean.
        `gradient_x_activation`: gradient × activation; target: the unit's spatial sum, so that relevance at the target
            layer itself is its activation map, as with `lrp`.

    If the target layer has an attribute `conditioned_on`, a (layer, unit), relevance passes that layer through that
    unit alone: it is zero at the layer's other units (concept relevance propagation: Achtibat et al., 2023).

    Args:
        module: any network in evaluation mode; neither it nor its parameters are changed.
        images: `[B, 3, H, W]`, preprocessed, in the module's dtype.
        layer: name of the target layer, see `pipeline.models.calls`.
        units: `[B]`; units[i] is the target of images[i]. A tensor is taken as it is: reading its values would make a
            GPU wait, and a traced function depend on them.
        feature_layers: names of the layers whose relevance is asked for, at or before the target layer.
        rule: one of `RULES`.
        num_prefix: tokens at the start of the target layer that are no part of a unit's activation (class and
            register tokens, `Model.num_prefix`): nothing is seeded there.

    Returns:
        feature layer → relevance shaped like its features, `[B, C, H, W]`, `[B, C, T]` or `[B, C]`, detached.

    Raises:
        UserError: an unknown rule, layer or unit; a feature layer that does not feed the target layer; a
            module in training mode; `lrp` in float16.
        UnsupportedOperationError: `lrp` or `lrp_restricted` met an operation they have no formula for.
    """
    if rule not in RULES:
        raise UserError(f'unknown relevance rule "{rule}"{nearest(rule, RULES)}; expected one of {", ".join(RULES)}')
    if not feature_layers:
        return {}
    if len(units) != len(images):
        raise UserError(f"got {len(units)} units for {len(images)} images; expected one unit per image")
    _require_evaluation_mode(module)
    if rule.startswith("lrp") and images.dtype == torch.float16:
        raise UserError(
            f'rule="{rule}" spreads one activation over a whole layer, and float16 has no numbers below 6e-8 for that; '
            "expected images and module in float32 or bfloat16"
        )
    conditioned_on = getattr(dict(module.named_modules()).get(layer), "conditioned_on", None)
    trace = Trace(
        module, layer, feature_layers, keep_values=rule == "gradient_x_activation", conditioned_on=conditioned_on
    )
    image = _traceable(images)
    signed = False
    if rule.startswith("lrp"):
        mode = RelevanceMode(OPERATIONS, trace.place)
        mode.enter_image(image)
        output = trace.run(image, mode, mode.check_seen)
        signed = mode.facts(output).signed
    else:
        output = trace.run(image, GuidedMode() if rule == "guided_backprop" else None)
    features = channels_first(output, layer)
    _require_units(units, features.shape[1], layer)
    _require_upstream(trace, feature_layers, rule)
    _require_upstream_condition(trace)
    edges = [trace.outputs[name].edge for name in feature_layers]
    start = seed(features.detach(), units, rule, signed=signed, num_prefix=num_prefix)
    flows = torch.autograd.grad(features, edges, start)
    maps = {}
    for name, flow in zip(feature_layers, flows, strict=True):
        value = trace.outputs[name].value
        flow = trace.keep_condition(flow) if trace.is_condition(name) else flow
        flow = flow.clamp(min=0) if rule == "guided_backprop" else flow
        maps[name] = channels_first(flow if value is None else flow * value, name)
    return maps


def seed(
    features: Tensor, units: Sequence[int] | Tensor, rule: str, *, signed: bool = False, num_prefix: int = 0
) -> Tensor:
    """What flows back from the target layer: zero but for image i's channel units[i] (see `relevance`).

    Args:
        features: `[B, C, ...]`, the target layer's features.
        units: `[B]`.
        rule: one of `RULES`.
        signed: whether the rules for signed features apply at the target layer.
        num_prefix: of its tokens, at the start; nothing is seeded there.
    """
    rows = torch.arange(len(units), device=features.device)
    channels = torch.as_tensor(units, device=features.device)
    own = features[rows, channels][..., num_prefix:]  # [B, ...]
    # What would activate a unit. Of a value below zero, shares are positive for what lowers it, so it is -1 there.
    wish = torch.where(own == 0, -1, own) if signed else torch.ones_like(own)
    if rule in ("lrp", "lrp_positive"):
        explained = own if rule == "lrp" else own.clamp(min=0)
        is_silent = (explained == 0).reshape(len(own), -1).all(dim=1)
        map_of_unit = torch.where(is_silent.view(-1, *[1] * (own.ndim - 1)), wish, explained)
    elif rule == "lrp_restricted":
        similarity = F.normalize(features, dim=1)[rows, channels][..., num_prefix:].reshape(len(units), -1)
        positions = F.one_hot(similarity.argmax(dim=1), similarity.shape[1])
        map_of_unit = positions.view_as(own) * wish
    elif rule == "guided_backprop":
        map_of_unit = torch.full_like(own, len(own) / own.numel())
    else:
        map_of_unit = torch.ones_like(own)
    flow = torch.zeros_like(features)
    flow[rows, channels] = F.pad(map_of_unit, (num_prefix, 0))
    return flow


@torch.enable_grad()
def upstream_layers(module: nn.Module, example_image: Tensor, layer: str, candidates: Collection[str]) -> list[str]:
    """Those of `candidates` that the layer is computed from, itself included, in the order given.

    Args:
        module: any network in evaluation mode.
        example_image: `[1, 3, H, W]`; only its shape matters.
        layer: name of the target layer.
        candidates: names of layers.
    """
    _require_evaluation_mode(module)
    trace = Trace(module, layer, candidates)
    nodes = nodes_below(trace.run(_traceable(example_image)))
    return [name for name in candidates if name in trace.outputs and trace.outputs[name].edge.node in nodes]


def _traceable(images: Tensor) -> Tensor:
    # A copy, because a network may write into its input, which a leaf of the graph forbids.
    return images.detach().requires_grad_().clone()


def _require_evaluation_mode(module: nn.Module) -> None:
    training = [name or "the root module" for name, child in module.named_modules() if child.training]
    if training:
        raise UserError(
            f"module is in training mode ({training[0]}); expected evaluation mode, because batch "
            "statistics would mix the images: call module.eval()"
        )


def _require_units(units: Sequence[int] | Tensor, num_units: int, layer: str) -> None:
    if isinstance(units, Tensor):
        return
    wrong = [unit for unit in units if not 0 <= unit < num_units]
    if wrong:
        raise UserError(f'unit {wrong[0]} is not in layer "{layer}"; expected 0 to {num_units - 1}')


def _require_upstream_condition(trace: Trace) -> None:
    if trace.conditioned_on is None:
        return
    assert trace.target is not None
    layer, unit = trace.conditioned_on
    nodes = nodes_below(trace.target)
    if layer not in trace.outputs or trace.outputs[layer].edge.node not in nodes:
        raise UserError(
            f'layer "{trace.layer}" is conditioned on unit {unit} of layer "{layer}", which no relevance reaches; '
            "choose a layer that feeds it"
        )


def _require_upstream(trace: Trace, feature_layers: Sequence[str], rule: str) -> None:
    assert trace.target is not None
    nodes = nodes_below(trace.target)
    missing = [
        name for name in feature_layers if name not in trace.outputs or trace.outputs[name].edge.node not in nodes
    ]
    if missing:
        gates = ", or only by a gate, which this rule holds constant" if rule.startswith("lrp") else ""
        raise UserError(
            f'layer "{trace.layer}" is not computed from feature layers {", ".join(missing)}{gates}; '
            "leave them out, `upstream_layers` finds those that feed a layer"
        )
