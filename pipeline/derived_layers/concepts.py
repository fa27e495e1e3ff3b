"""Concepts: directions in the feature space of a layer, as a layer of their own whose units they are.

B images, C channels of the source layer, K concepts, H × W positions or T tokens.

Reference: directions as concepts: Kim et al., TCAV, ICML 2018; as factors of activations: Fel et al., CRAFT, CVPR 2023;
    as features of a sparse autoencoder: Bricken et al., Towards Monosemanticity, 2023. VITAL (ICCV 2025) shows
    concepts in place of channels.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.derived_layers.insert import insert
from pipeline.derived_layers.layer import DerivedLayer, floating_dtype
from pipeline.errors import UserError
from pipeline.models.capture import channels_first
from pipeline.models.model import Model
from pipeline.neurons import nearest

KIND = "concepts"
Activation = Literal["projection", "relu", "cosine"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


class ConceptSet(DerivedLayer):
    """K directions, evaluated at every position of a layer's output.

    Args:
        layer: the layer whose features they are directions of.
        directions: `[K, C]`.
        bias: `[K]`, added to the projections; or None.
        center: `[C]`, subtracted from the features first; or None.
        activation: `projection` is `w·(x − center) + bias`, `relu` its positive part, `cosine` the cosine of the angle
            between `w` and `x − center`.
        labels: what the concepts are, K texts, or none.
    """

    directions: Tensor
    bias: Tensor | None
    center: Tensor | None

    def __init__(
        self,
        layer: str,
        directions: Tensor,
        *,
        bias: Tensor | None,
        center: Tensor | None,
        activation: Activation,
        labels: Sequence[str],
    ) -> None:
        super().__init__([layer])
        # Buffers: the hash of the model's weights covers them, and they follow it to other devices and types.
        self.register_buffer("directions", directions)
        self.register_buffer("bias", bias)
        self.register_buffer("center", center)
        self.activation = activation
        self.labels = tuple(labels)

    def unit_label(self, unit: int) -> str:
        """The label of a concept."""
        return self.labels[unit] if self.labels else ""

    def forward(self, output: Tensor) -> Tensor:
        """The source layer's output → `[B, K, H, W]` for maps, `[B, T, K]` for tokens, `[B, K]` for logits."""
        is_map = output.ndim == 4
        x = channels_first(output, self.sources[0]) if is_map else output
        if self.center is not None:
            x = x - (self.center.view(-1, 1, 1) if is_map else self.center)
        if self.activation == "cosine":
            x = F.normalize(x, dim=1 if is_map else -1)
        if is_map:
            value = F.conv2d(x, self.directions[:, :, None, None], self.bias)
        else:
            value = F.linear(x, self.directions, self.bias)
        return torch.relu(value) if self.activation == "relu" else value


def add_concepts(
    model: Model,
    name: str,
    layer: str,
    directions: Tensor,
    *,
    bias: Tensor | None = None,
    center: Tensor | None = None,
    activation: Activation = "projection",
    normalize: bool = True,
    labels: Sequence[str] = (),
) -> str:
    """Add directions in a layer's feature space to a model, as the units of a new layer `concepts.NAME`.

    Args:
        model: extended in place.
        name: of the set: letters, digits and `_`.
        layer: the layer whose features they are directions of, C units; may be a derived layer itself.
        directions: `[K, C]`, or `[C]` for a single one. A direction of zeros makes a unit that is always zero.
        bias: `[K]`, the threshold of a linear probe or an autoencoder's encoder.
        center: `[C]`, subtracted from the features: the mean of a PCA, or an autoencoder's decoder bias.
        activation: `projection`, `relu` or `cosine`, see `ConceptSet`.
        normalize: bring each direction to length 1 and divide its bias alike. Activations are then lengths in feature
            space (of a probe: the signed distance to its boundary) and compare between concepts; no unit ranks its
            images differently. `cosine` is the same with and without.
        labels: K texts, or none.

    Returns:
        The new layer's name.

    Raises:
        UserError: an unknown layer or activation, shapes that do not fit, values that are not finite, or a name that
            is taken.
    """
    layer = model.resolve_layer(layer)
    what, num_channels = f"{KIND}.{name}", model.units(layer)
    if activation not in ACTIVATIONS:
        raise UserError(
            f'{what}: activation = "{activation}"{nearest(activation, ACTIVATIONS)}: expected one of '
            f"{', '.join(ACTIVATIONS)}"
        )
    directions = directions[None] if directions.ndim == 1 else directions
    if directions.ndim != 2 or directions.shape[1] != num_channels or not len(directions):
        is_transposed = directions.ndim == 2 and directions.shape[0] == num_channels
        raise UserError(
            f"{what}: directions have the shape {list(directions.shape)}, expected [K, {num_channels}], one row for "
            f'each of K concepts, since layer "{layer}" has {num_channels} units'
            + ("; they fit when transposed (transpose = true in a recipe)" if is_transposed else "")
        )
    if activation == "cosine" and bias is not None:
        raise UserError(f'{what}: a bias has no meaning beside activation = "cosine"; leave one of them out')
    rows = _checked(directions, list(directions.shape), f"{what}: directions")
    offsets = None if bias is None else _checked(bias, [len(rows)], f"{what}: bias")
    middle = None if center is None else _checked(center, [num_channels], f"{what}: center")
    if labels and len(labels) != len(rows):
        raise UserError(f"{what}: {len(labels)} labels for {len(rows)} concepts; expected one each, or none")
    if normalize or activation == "cosine":
        length = rows.norm(dim=1)
        scale = torch.where(length > 0, length, 1.0).reciprocal()
        rows = rows * scale[:, None]
        offsets = None if offsets is None else offsets * scale
    concepts = ConceptSet(layer, rows, bias=offsets, center=middle, activation=activation, labels=labels)
    return insert(model, KIND, name, concepts.to(floating_dtype(model.module)))


def _checked(values: Tensor, shape: list[int], what: str) -> Tensor:
    """Finite values of a shape, as float32 apart from the caller's tensor."""
    if list(values.shape) != shape:
        raise UserError(f"{what} has the shape {list(values.shape)}, expected {shape}")
    if values.is_complex() or not torch.isfinite(values).all():
        raise UserError(f"{what} holds values that are complex, infinite or no numbers; expected finite real numbers")
    return values.detach().to(dtype=torch.float32, device="cpu", copy=True)
