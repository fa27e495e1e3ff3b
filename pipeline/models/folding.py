"""Networks whose BatchNorms are part of the convolutions before them: the same features in fewer passes over memory.

In evaluation a BatchNorm is a scale and a shift per channel, which the weights of the convolution can take on.
"""

import copy
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipeline.models.capture import features_of

# Of the largest feature: above what rounding does, also to TF32 on a GPU, and far below what a wrong fold does.
_TOLERANCE = 1e-2


def fold_batch_norms(module: nn.Module, example: Tensor, keep: Collection[str]) -> nn.Module:
    """A copy in which each BatchNorm that follows a convolution is part of it, or the network itself if none may be.

    Which follows which is seen in a run on the example, and the features of both networks are compared on it: where a
    convolution's output is used in another way too, or its weights are not used as they are, they differ, and nothing
    is folded.

    Args:
        module: a network in eval mode with float32 parameters.
        example: images [B, C, H, W] in its input space.
        keep: layers whose features are to stay what they are, up to rounding.
    """
    pairs = {conv: norm for conv, norm in _pairs(module, example).items() if conv not in keep}
    if not pairs:
        return module
    folded = copy.deepcopy(module)
    for conv_name, norm_name in pairs.items():
        conv: Any = folded.get_submodule(conv_name)
        norm: Any = folded.get_submodule(norm_name)
        mean, variance = norm.running_mean, norm.running_var
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        folded.set_submodule(norm_name, _without_norm(norm))
    folded.requires_grad_(False)
    return folded if _agree(module, folded, example, keep) else module


def _pairs(module: nn.Module, example: Tensor) -> dict[str, str]:
    """Convolution → the BatchNorm that takes its output as it is; of those that run once."""
    made: dict[int, tuple[str, Tensor, int]] = {}  # the tensors are held, so that none takes another's place
    pairs: dict[str, str] = {}
    calls: Counter[str] = Counter()

    def after_conv(name: str, output: Tensor) -> None:
        calls[name] += 1
        made[id(output)] = (name, output, output._version)

    def before_norm(name: str, value: Tensor) -> None:
        calls[name] += 1
        conv, _, version = made.get(id(value), ("", value, -1))
        if value._version == version:
            pairs[conv] = name

    handles = []
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            handles.append(child.register_forward_hook(lambda _m, _i, output, name=name: after_conv(name, output)))
        elif _is_foldable(child):
            handles.append(child.register_forward_pre_hook(lambda _m, inputs, name=name: before_norm(name, inputs[0])))
    try:
        with torch.no_grad():
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    return {conv: norm for conv, norm in pairs.items() if calls[conv] == calls[norm] == 1}


def _is_foldable(child: nn.Module) -> bool:
    """A BatchNorm by running statistics, of torch's class or of timm's that has an activation in it."""
    return (
        isinstance(child, nn.BatchNorm2d)
        and (type(child) is nn.BatchNorm2d or isinstance(getattr(child, "act", None), nn.Module))
        and child.running_mean is not None
    )


def _without_norm(norm: Any) -> nn.Module:
    """What else the module does: in timm's, its activation."""
    return nn.Identity() if type(norm) is nn.BatchNorm2d else nn.Sequential(norm.act)


@torch.no_grad()
def _agree(module: nn.Module, folded: nn.Module, example: Tensor, keep: Collection[str]) -> bool:
    """Whether both networks and the layers named give the same, up to rounding."""
    before, after = features_of(module, example, keep), features_of(folded, example, keep)
    pairs = [(before[name], after[name]) for name in before]
    return all((b - a).abs().max() <= _TOLERANCE * b.abs().max() for b, a in pairs)
