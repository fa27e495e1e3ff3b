"""Combinations: several units as one, jointly or one conditioned on another upstream, as a layer of a single unit.

The value of a combination is the geometric mean of its units' positive activations, position by position, on the
coarsest of their maps. It is zero where any unit is silent, and scaling a unit does not change which images or
positions rank first. B images, n units, N positions.

Reference: joint neurons: Olah et al., "Feature Visualization", Distill 2017, section on interaction; small
    combinations: VITAL, ICCV 2025; relevance through one unit: Achtibat et al., "From attribution maps to
    human-understandable explanations through concept relevance propagation", Nature Machine Intelligence 2023. The
    geometric mean is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.attribution.relevance import upstream_layers
from pipeline.derived_layers.insert import insert
from pipeline.derived_layers.layer import DerivedLayer, derived_layers
from pipeline.errors import UserError
from pipeline.models.capture import channels_first
from pipeline.models.model import Model

KIND = "combinations"
Unit = tuple[str, int]  # layer, unit

# The slope of a geometric mean is infinite where a unit is silent. Below this fraction of its maximum over the image a
# unit gets no gradient, as below zero; with two units the slope is at most ten times that at equal strength.
_FAINT = 0.01


@dataclass(frozen=True, kw_only=True)
class Member:
    """One unit of a combination.

    Attributes:
        layer: exact name.
        unit: index in the layer.
        num_prefix: if its tokens are laid out as a map: how many at the front have no place there; else None.
        is_constant: whether gradient and relevance pass it by.
    """

    layer: str
    unit: int
    num_prefix: int | None = None
    is_constant: bool = False


class Combination(DerivedLayer):
    """One unit: the geometric mean of the positive activations of its members.

    Args:
        members: in the order in which their layers complete, at least one of them not constant.
        layout: of all members and of the output: `map` `[B, 1, H, W]`, `tokens` `[B, T, 1]` or `logits` `[B, 1]`.
        label: the combination in words.
        conditioned_on: the unit that all relevance is to pass through.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        layout: Literal["map", "tokens", "logits"],
        label: str,
        conditioned_on: Unit | None = None,
    ) -> None:
        super().__init__([member.layer for member in members])
        self.members, self.layout, self.label, self.conditioned_on = tuple(members), layout, label, conditioned_on

    def unit_label(self, unit: int) -> str:
        """The combination in words."""
        return self.label

    def take(self, index: int, output: Tensor) -> Tensor:
        """The positive activations of member number `index`, in the combination's layout."""
        member = self.members[index]
        own = channels_first(output, member.layer)[:, member.unit]  # [B, H, W], [B, T] or [B]
        own = own.clamp(min=0)  # a copy, too: networks overwrite their features
        if self.layout == "map":
            if own.ndim == 2:  # tokens of a square image, row by row
                own = own[:, member.num_prefix :]
                side = round(own.shape[1] ** 0.5)
                own = own.reshape(len(own), side, side)
            return own[:, None] if own.ndim == 3 else own[:, None, None, None]
        return own[:, None]

    def forward(self, *activations: Tensor) -> Tensor:
        """Members' activations ≥ 0 as `take` gives them → their geometric mean."""
        if self.layout == "map":
            height, width = (min(map_.shape[axis] for map_ in activations) for axis in (-2, -1))
            activations = tuple(
                map_ if map_.shape[-2:] == (height, width) else F.adaptive_avg_pool2d(map_, (height, width))
                for map_ in activations
            )
        flat_and_member = [(map_.flatten(1), member) for map_, member in zip(activations, self.members, strict=True)]
        value = geometric_mean(
            [flat for flat, member in flat_and_member if not member.is_constant],
            [flat for flat, member in flat_and_member if member.is_constant],
        ).view_as(activations[0])
        return value.transpose(1, 2) if self.layout == "tokens" else value


def geometric_mean(factors: Sequence[Tensor], constants: Sequence[Tensor] = ()) -> Tensor:
    """`(Π p)^(1/n)` over n ≥ 1 factors and constants, with a bounded gradient and even shares of relevance.

    Made of steps that relevance has rules for. All relevance goes to the factors, evenly, as among those of a product
    (uniform rule: Achtibat et al., AttnLRP, ICML 2024, section 3.3).

    Args:
        factors: `[B, N]` each, ≥ 0. Where one is below `_FAINT` times its maximum over N, it gets no gradient.
        constants: `[B, N]` each, ≥ 0, without gradient.

    Returns:
        `[B, N]`, 0 wherever one of them is.
    """
    num_all = len(factors) + len(constants)
    with torch.no_grad():
        tiny = torch.finfo(factors[0].dtype).tiny
        floors = [(_FAINT * p.amax(dim=1, keepdim=True)).clamp_min(tiny) for p in factors]
        # What the factors, bounded from below, leave of the product: 1 if nothing is faint and nothing constant.
        rest = torch.ones_like(factors[0])
        for ratio in (*[p / p.maximum(floor) for p, floor in zip(factors, floors, strict=True)], *constants):
            rest = rest * ratio.pow(1 / num_all)
    logs = [torch.clamp(p, min=floor).log() for p, floor in zip(factors, floors, strict=True)]
    mean = torch.stack(logs, dim=-1).mean(dim=-1)
    return (mean * (len(factors) / num_all)).exp() * rest


def add_combination(
    model: Model,
    name: str,
    *,
    units: Sequence[Unit] = (),
    unit: Unit | None = None,
    conditioned_on: Unit | None = None,
) -> str:
    """Add a combination to a model, as the only unit of a new layer `combinations.NAME`.

    Joint (`units`): images rank high where all units are active at once, and relevance is shared evenly among them.

    Conditional (`unit` and `conditioned_on`): images rank high where both are active. `conditioned_on` counts as
    a constant, so that visualizations are pushed toward `unit` alone, and all relevance passes through it at its
    layer.

    Args:
        model: extended in place.
        name: of the combination: letters, digits and `_`.
        units: (layer, unit) each, at least two, in any order. Concepts may be among them.
        unit: (layer, unit) of the one that is explained.
        conditioned_on: (layer, unit) of the one upstream.

    Returns:
        The new layer's name.

    Raises:
        UserError: an unknown layer or unit, neither or both of the two forms, a condition that is not upstream, or
            units whose positions cannot be compared.
    """
    what = f"{KIND}.{name}"
    is_joint = len(units) > 0 and unit is None and conditioned_on is None
    is_conditional = not units and unit is not None and conditioned_on is not None
    if not is_joint and not is_conditional:
        raise UserError(f"{what}: expected either `units`, or `unit` and `conditioned_on`")
    chosen = [_checked(model, what, one) for one in (units if is_joint else (unit, conditioned_on)) if one is not None]
    if len(set(chosen)) < max(2, len(chosen)):
        raise UserError(f"{what}: expected at least two different units, got {_in_words(chosen, ', ')}")
    condition = chosen[1] if is_conditional else None
    if condition is not None:
        _require_upstream(model, what, chosen[0], condition)
    layout, prefixes = _layout(model, what, [layer for layer, _ in chosen])
    order = model.layers()
    members = [
        Member(layer=layer, unit=index, num_prefix=prefixes.get(layer), is_constant=(layer, index) == condition)
        for layer, index in sorted(chosen, key=lambda one: (order.index(one[0]), one[1]))
    ]
    label = _in_words(chosen, " given " if is_conditional else " and ")
    return insert(model, KIND, name, Combination(members, layout=layout, label=label, conditioned_on=condition))


def _in_words(units: Sequence[Unit], separator: str) -> str:
    return separator.join(f"{layer}:{unit}" for layer, unit in units)


def _checked(model: Model, what: str, one: Unit) -> Unit:
    layer, unit = model.resolve_layer(one[0]), one[1]
    if not 0 <= unit < model.units(layer):
        raise UserError(f'{what}: layer "{layer}" has units 0 to {model.units(layer) - 1}, got {unit}')
    return layer, unit


def _require_upstream(model: Model, what: str, unit: Unit, conditioned_on: Unit) -> None:
    example = torch.zeros(1, len(model.mean), model.input_size_px, model.input_size_px, device=model.device)
    if conditioned_on[0] == unit[0] or not upstream_layers(model.module, example, unit[0], [conditioned_on[0]]):
        is_derived = conditioned_on[0] in derived_layers(model.module)
        raise UserError(
            f'{what}: layer "{unit[0]}" is not computed from layer "{conditioned_on[0]}"'
            + (", which lies beside the network" if is_derived else "")
            + "; expected as `conditioned_on` a unit of an earlier layer of the network that feeds it"
        )


def _layout(
    model: Model, what: str, layers: Sequence[str]
) -> tuple[Literal["map", "tokens", "logits"], dict[str, int]]:
    """How the units of several layers are laid out together, and for tokens that become maps the number in front."""
    shapes = {layer: model.feature_shape(layer) for layer in layers}
    if all(len(shape) == 1 for shape in shapes.values()):
        return "logits", {}
    if all(len(shape) == 2 for shape in shapes.values()) and len({shape[1] for shape in shapes.values()}) == 1:
        return "tokens", {}
    prefixes = {}
    for layer in [layer for layer, shape in shapes.items() if len(shape) == 2]:
        grid = model.token_grid(layer)
        if grid is None or grid[1] != grid[2]:
            others = ", ".join(f'"{other}"' for other in shapes if shapes[other][1:] != shapes[layer][1:])
            raise UserError(
                f'{what}: the {shapes[layer][1]} tokens of layer "{layer}" do not lie on a square grid, so its units '
                f"cannot be compared position by position with those of {others}; choose units of layers of one kind"
            )
        prefixes[layer] = grid[0]
    return "map", prefixes
