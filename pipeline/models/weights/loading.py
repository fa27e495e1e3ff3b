"""Weights into a network, and their hash.

`pretrained` is left to the model library's own loader; everything else comes from a file, see
`pipeline.models.weights.files`, of which `pipeline.models.weights.checkpoints` finds the network's part.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.weights.checkpoints import choose
from pipeline.models.weights.name_matching import Rename, StateDict
from pipeline.models.weights.renaming import from_efficientnet_pytorch, from_old_torchvision

_RENAMES: tuple[Rename, ...] = (from_old_torchvision, from_efficientnet_pytorch)
_POSITIONS = ("pos_embed", "encoder.pos_embedding")  # timm's, torchvision's


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """What a library does with its own weight files, so that files by path give the same network.

    Attributes:
        renames: from the names of foreign files to the network's.
        surplus: gives the names that the library drops: of a classifier that is not wanted, of auxiliary heads.
        adapt: fits tensors of other shapes to the network: input channels.
        native_size_px: side of the input unless it was asked for; positions for another one are then refused.
    """

    renames: Sequence[Rename] = ()
    surplus: Callable[[], Collection[str]] = tuple
    adapt: Callable[[StateDict], StateDict] = dict
    native_size_px: int | None = None


def load_into(
    module: nn.Module, checkpoint: Any, source: str, conventions: Conventions | None = None
) -> tuple[str, ...]:
    """Load the network's part of a checkpoint, all of its parameters and buffers; it is cast to their types.

    Position embeddings of another input size are resampled.

    Args:
        module: the network.
        checkpoint: a state dict, or what a trainer wraps one in.
        source: of the checkpoint, for messages.
        conventions: of the library that the network is from.

    Returns:
        What a user has to know of the choice of the weights, in sentences.

    Raises:
        UserError: names, shapes or types do not fit, several sets of weights fit, or numbers are not finite.
    """
    conventions = conventions or Conventions()
    renames = (*_RENAMES, *conventions.renames)
    fit, remarks = choose(checkpoint, module, source, renames=renames, surplus=conventions.surplus)
    expected = module.state_dict()
    state = dict(conventions.adapt(fit.state))
    resampled = _resampled_positions(module, state)
    if resampled and conventions.native_size_px:
        raise UserError(_other_size(next(iter(resampled)), expected, state, source, conventions.native_size_px))
    state |= resampled
    _check(state, expected, source)
    # Missing ones are buffers of integers; the versions of module layouts are those of the names and shapes just found.
    loaded = OrderedDict(expected | state)
    loaded._metadata = expected._metadata  # type: ignore[attr-defined]  # where torch keeps versions
    module.load_state_dict(loaded)
    return tuple(remarks)


def _check(state: StateDict, expected: StateDict, source: str) -> None:
    """Raises UserError unless all tensors can be taken as they are."""
    wrong = [name for name, value in state.items() if value.shape != expected[name].shape]
    if wrong:
        shapes = "; ".join(f"{n} is {tuple(state[n].shape)}, expected {tuple(expected[n].shape)}" for n in wrong[:3])
        raise UserError(
            f'model.weights = "{source}" does not fit the model: {shapes}; {_remedy(wrong, state, expected)}'
        )
    for name, value in state.items():
        is_plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
        if not is_plain or expected[name].is_floating_point() > value.is_floating_point():
            kind = f"quantized {value.dtype}" if value.is_quantized else f"{value.dtype}, {value.layout}"
            raise UserError(
                f'model.weights = "{source}": {name} is {kind}, expected {expected[name].dtype} numbers; give the '
                "weights before they were quantized or compressed"
            )
        finite = torch.isfinite(value)
        if not finite.all() and torch.isfinite(expected[name]).all():
            raise UserError(
                f'model.weights = "{source}": {int((~finite).sum())} of {value.numel()} numbers of {name} are NaN or '
                "infinite, so the network's answers would be, too; give weights of a training that did not diverge"
            )


def _remedy(wrong: Sequence[str], state: StateDict, expected: StateDict) -> str:
    """What to write in the recipe if only the number of classes differs."""
    rows = {state[name].shape[:1] for name in wrong}
    is_head = len(rows) == 1 and all(state[name].shape[1:] == expected[name].shape[1:] for name in wrong)
    if is_head and len(wrong) <= 2 and (count := next(iter(rows))):
        return f"a network of {count[0]} classes is made by model.options = {{ num_classes = {count[0]} }}"
    return "name the model these weights were made for"


def _resampled_positions(module: nn.Module, state: StateDict) -> dict[str, Tensor]:
    """The position embedding of a ViT [1, T, C] for the module's own number of patches, if the state has another.

    Reference: Dosovitskiy et al., "An image is worth 16×16 words", ICLR 2021, section 3.2 (there bilinear; timm's
    bicubic resampling with antialiasing is what its own loader does).
    """
    resampled = {}
    for name in _POSITIONS:
        own, stored = module.state_dict().get(name), state.get(name)
        if own is None or stored is None or own.ndim != 3 or stored.ndim != 3 or own.shape == stored.shape:
            continue
        num_prefix = _num_prefix(own)
        if not _is_square(stored.shape[1] - num_prefix) or own.shape[2] != stored.shape[2]:
            continue
        from timm.layers import resample_abs_pos_embed

        side = math.isqrt(own.shape[1] - num_prefix)
        resampled[name] = resample_abs_pos_embed(stored, new_size=[side, side], num_prefix_tokens=num_prefix)
    return resampled


def _num_prefix(positions: Tensor) -> int:
    """Patches form a square; a class token, or two of a distilled network, are what [1, T, C] has beyond it."""
    return next(n for n in range(positions.shape[1]) if _is_square(positions.shape[1] - n))


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _other_size(name: str, expected: StateDict, state: StateDict, source: str, size_px: int) -> str:
    num_prefix = _num_prefix(expected[name])
    own, stored = (math.isqrt(value[name].shape[1] - num_prefix) for value in (expected, state))
    stored_px = size_px * stored // own
    return (
        f'model.weights = "{source}" is for images of {stored_px} px ({stored} × {stored} patches), the model for '
        f"{size_px} px ({own} × {own}); set model.input_size_px = {stored_px} to take the weights as they are, or = "
        f"{size_px} to have their position embeddings resampled"
    )


def hash_state(module: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of all parameters and buffers: the same for equal weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
