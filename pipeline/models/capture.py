"""Feature capture: the outputs of named modules of one forward pass, in one shape for every family."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.calls import each_call
from pipeline.models.checkpointing import without_checkpoints


class UnsupportedOutputError(UserError):
    """A layer's output is not one tensor of features."""


_EXPECTED = (
    "expected features [B,C,H,W] or [B,H,W,C], tokens [B,T,C] or logits [B,C]; "
    "choose one of the layers inside or around it"
)


def channels_first(output: object, layer: str) -> Tensor:
    """A module's output as features: [B, C, H, W] maps, [B, C, T] tokens or [B, C] logits.

    Axis 1 always counts units. Transformers give [B, T, C], and Swin and the inside of ConvNeXt [B, H, W, C]; their
    channel axis is moved to the front. The shape shows which of four axes the channels are: maps of square
    images are square, so [B, n, n, C] with C ≠ n has them last. Where C = H = W the shape cannot show it, and they are
    taken to come first. A map reduced to a row or column counts as a map; tokens in windows [B, windows, T, C] do not.

    Raises:
        UnsupportedOutputError: the output is no tensor, or is not laid out as features of square images are.
    """
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or not output.is_floating_point():
        seen = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise UnsupportedOutputError(f'layer "{layer}" gives {seen}; {_EXPECTED}')
    if output.ndim == 3:
        return output.transpose(1, 2)
    if output.ndim == 4:
        first, second, third = output.shape[1:]
        if first == second != third:
            return output.permute(0, 3, 1, 2)
        if second != third and 1 not in (second, third):
            shape = tuple(output.shape)
            raise UnsupportedOutputError(
                f'layer "{layer}" gives {shape}, windows or heads of tokens and no map of a square image; {_EXPECTED}'
            )
    return output


@contextmanager
def capture(module: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of `layers` during forward passes inside the `with` block.

    Yields:
        A dict, filled by each forward pass: layer → features, still attached to the graph, as the layer gave them.

    Raises:
        UserError: a layer is not a call of a module of `module`.
    """
    features: dict[str, Tensor] = {}

    def keep(layer: str, _inputs: object, output: object) -> None:
        # A copy: what comes next may write into it, a ReLU in place (VGG), a residual sum (timm's ResNet).
        features[layer] = channels_first(output, layer).clone()

    with each_call(module, layers, keep):
        yield features


@contextmanager
def inputs_of(module: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """The inputs of a layer, one of each pass inside the `with` block, channels first."""
    inputs_of_layer: list[Tensor] = []

    def keep(_layer: str, inputs: tuple[Tensor, ...], _output: object) -> None:
        inputs_of_layer.append(channels_first(inputs[0], f"{layer} (its input)"))

    with each_call(module, [layer], keep):
        yield inputs_of_layer


class _AllCapturedError(Exception):
    """Ends a forward pass whose remaining layers are not needed; never leaves `features_of`."""


def features_of(module: nn.Module, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """The features of `layers` for a batch of images, running the module no further than needed.

    Args:
        module: the network.
        images: [B, channels, H, W] in the model's input space.
        layers: exact names.

    Returns:
        layer → features, as `capture`.

    Raises:
        UserError: a layer is unknown, or does not run in the forward pass.
    """
    requested = set(layers)
    features: dict[str, Tensor] = {}

    def keep(layer: str, _inputs: object, output: object) -> None:
        features[layer] = channels_first(output, layer).clone()  # see `capture`
        if features.keys() == requested:
            raise _AllCapturedError

    with each_call(module, requested, keep), without_checkpoints(), suppress(_AllCapturedError):
        module(images)
    if features.keys() != requested:
        raise UserError(f"layers {sorted(requested - features.keys())} do not run in the model's forward pass")
    return features


class _OwnMaps(torch.autograd.Function):
    """Indexing whose gradient is written in one pass; autograd's own adds up by index, for which it sorts."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, features: Tensor, units: Tensor) -> Tensor:
        ctx.save_for_backward(features, units)
        return features[torch.arange(len(units), device=features.device), units]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        features, units = ctx.saved_tensors  # type: ignore[attr-defined]
        result = torch.zeros_like(features)
        result[torch.arange(len(units), device=features.device), units] = gradients[0]
        return result, None


def own_maps(features: Tensor, units: Sequence[int] | Tensor) -> Tensor:
    """Each image's map of its own unit: features [B, C, ...] and one unit per image → [B, ...]."""
    maps: Tensor = _OwnMaps.apply(features, torch.as_tensor(units, device=features.device))
    return maps


def unit_activation(
    features: Tensor, units: Sequence[int] | Tensor, reduction: str = "max", *, num_prefix: int = 0
) -> Tensor:
    """Each image's activation of its own unit.

    Args:
        features: of the neuron's layer, [B, C, H, W], [B, C, T] or [B, C].
        units: one per image.
        reduction: over positions, `max` or `mean`.
        num_prefix: class and register tokens at the start of T, which lie nowhere on the image and do not count;
            `Model.num_prefix(layer)` knows how many a layer has.

    Returns:
        [B].
    """
    own_BN = own_maps(features, units).reshape(len(units), -1)[:, num_prefix:]
    return own_BN.amax(dim=1) if reduction == "max" else own_BN.mean(dim=1)
