"""Networks whose BatchNorms are part of the convolutions before them: the same features in fewer passes over memory.

In evaluation a BatchNorm is a scale and a shift per channel, which the weights of the convolution can take on. That is
done where both are what they seem: plain modules with weights of their own, which nobody watches and no other code
reads. All else stays as it is.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.models.calls import LayerNames
from pipeline.models.capture import features_of
from pipeline.models.copying import UncopyableError, copied
from pipeline.models.pointwise import runs_as_conv2d

# Of the largest feature: above what rounding does, also to TF32 on a GPU, and far below what a wrong fold does.
_TOLERANCE = 1e-2

# timm's classes that are plain, too: what else this norm does, its submodules do, in their order.
_CONV_WITH_SAME_PADDING = "timm.layers.conv2d_same.Conv2dSame"
_NORM_WITH_ACTIVATION = "timm.layers.norm_act.BatchNormAct2d"


def fold_batch_norms(module: nn.Module, example: Tensor, keep: Collection[str]) -> nn.Module:
    """A copy in which each BatchNorm that follows a convolution is part of it, or the network itself if none may be.

    Which follows which is seen in a run on the example, and the features of both networks are compared on it. A pair is
    not folded if its convolution, or something inside its norm, is among the layers to keep.

    Args:
        module: a network in eval mode with float32 parameters.
        example: images [B, C, H, W] in its input space.
        keep: layers whose features are to stay what they are, up to rounding.
    """
    layers, names = LayerNames(module), dict[nn.Module, list[str]]()
    for name, child in layers.modules.items():
        names.setdefault(child, []).append(name)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        pairs = _pairs(module, example, {layers.call(layer)[0] for layer in keep})
        if not pairs:
            return module
        try:
            folded = copied(module)
        except UncopyableError:
            return module
        for conv, norm in pairs.items():
            _fold(folded, names[conv][0], names[norm])
        folded.requires_grad_(False)
        return folded if _agree(module, folded, example, keep) else module


def _fold(folded: nn.Module, conv_name: str, norm_names: list[str]) -> None:
    conv: Any = folded.get_submodule(conv_name)
    norm: Any = folded.get_submodule(norm_names[0])
    mean, variance = norm.running_mean, norm.running_var
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    rest = nn.Sequential(OrderedDict(norm._modules)) if norm._modules else nn.Identity()
    for name in norm_names:
        folded.set_submodule(name, rest)


def _pairs(module: nn.Module, example: Tensor, kept: set[nn.Module]) -> dict[nn.Module, nn.Module]:
    """Convolution → the BatchNorm that alone takes its output, as it is; of those that run once and may be folded."""
    convs = [child for child in module.modules() if _is_plain_conv(child) and child not in kept]
    norms = [child for child in module.modules() if _is_plain_norm(child) and kept.isdisjoint(child.children())]
    made: dict[nn.Module, Any] = {}  # the tensors are held, so that none takes another's place
    taken: dict[nn.Module, Any] = {}
    watched: list[Any] = []
    calls: Counter[nn.Module] = Counter()
    uses = _Uses()

    def after_conv(conv: nn.Module, _inputs: object, output: object) -> None:
        calls[conv] += 1
        made[conv] = output
        uses.counts[id(output)] = 0

    def before_norm(norm: nn.Module, inputs: tuple[object, ...]) -> None:
        calls[norm] += 1
        taken[norm] = inputs[0]

    def after_kept(_module: nn.Module, _inputs: object, output: object) -> None:
        watched.append(output)

    handles = [
        *[conv.register_forward_hook(after_conv) for conv in convs],
        *[norm.register_forward_pre_hook(before_norm) for norm in norms],
        *[layer.register_forward_hook(after_kept) for layer in kept],
    ]
    try:
        with uses:
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    observed = {id(output) for output in watched}
    norm_of = {id(value): norm for norm, value in taken.items() if calls[norm] == 1}
    found = {conv: norm_of.get(id(output)) for conv, output in made.items() if calls[conv] == 1}
    return {
        conv: norm
        for conv, norm in found.items()
        if norm is not None
        and id(made[conv]) not in observed
        and all(uses.counts[id(value)] == 1 for value in (made[conv], *_constants(conv), *_constants(norm)))
    }


class _Uses(TorchDispatchMode):
    """Counts by its id how many operations take a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.update({id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)})
        return func(*args, **(kwargs or {}))


def _is_plain_conv(child: nn.Module) -> bool:
    """A convolution whose weight and bias are its own parameters and are used as they are."""
    return (
        isinstance(child, nn.Conv2d)
        and (runs_as_conv2d(child) or _runs_as(child, _CONV_WITH_SAME_PADDING))
        and not child._buffers
        and not child._modules
        and _is_unobserved(child)
        and _has_plain_parameters(child)
    )


def _is_plain_norm(child: nn.Module) -> bool:
    """A BatchNorm by running statistics, of torch's class or of timm's that has an activation in it."""
    return (
        isinstance(child, nn.BatchNorm2d)
        and (
            (_runs_as(child, "torch.nn.modules.batchnorm._BatchNorm") and not child._modules)
            or _runs_as(child, _NORM_WITH_ACTIVATION)
        )
        and not child.training
        and child.running_mean is not None
        and _is_unobserved(child)
        and _has_plain_parameters(child)
    )


def _runs_as(child: nn.Module, class_name: str) -> bool:
    """Whether the `forward` that runs is that of a class, given by its name: timm is slow to import."""
    owner = next(cls for cls in type(child).__mro__ if "forward" in vars(cls))
    return f"{owner.__module__}.{owner.__qualname__}" == class_name and "forward" not in vars(child)


def _is_unobserved(child: nn.Module) -> bool:
    """Whether it has no hooks: derived layers read by them, `weight_norm` and `prune` make weights in them."""
    hooks = (child._forward_hooks, child._forward_pre_hooks, child._backward_hooks, child._backward_pre_hooks)
    return not any(hooks)


def _has_plain_parameters(child: nn.Module) -> bool:
    """Whether `weight` and `bias` are its only parameters, and neither is computed or of a type of its own."""
    return child._parameters.keys() == {"weight", "bias"} and all(
        value is None or type(value) is nn.Parameter for value in child._parameters.values()
    )


def _constants(child: nn.Module) -> Iterator[Tensor]:
    """What a fold changes or removes; other code that reads it would read something else."""
    for value in (*child._parameters.values(), child._buffers.get("running_mean"), child._buffers.get("running_var")):
        if value is not None:
            yield value


def _agree(module: nn.Module, folded: nn.Module, example: Tensor, keep: Collection[str]) -> bool:
    """Whether both networks and the layers named give the same, up to rounding."""
    before, after = features_of(module, example, keep), features_of(folded, example, keep)
    pairs = [(before[name], after[name]) for name in before]
    return all((b - a).abs().max() <= _TOLERANCE * b.abs().max() for b, a in pairs)
