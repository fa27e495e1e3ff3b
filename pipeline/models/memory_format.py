"""Whether a network's convolutions run channels-last, which is faster on GPUs and on CPUs, or as their author ran them.

Code that takes maps to lie in memory as [B, C, H, W] (`x.view(B, -1)`) fails on maps that lie there as [B, H, W, C]. So
the network runs once in each form on a small batch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from pipeline.models.checkpointing import without_checkpoints
from pipeline.models.pointwise import choose_kernels, use_default_kernels

# Of the largest value: above what rounding does, also to TF32 on a GPU, and far below what mixed up axes do.
_TOLERANCE = 1e-2

# Of each module, evenly spread: mixed up axes move most values, and small samples can be kept of every module.
_NUM_SAMPLES = 1000


def choose_memory_format(module: nn.Module, example: Tensor) -> None:
    """Run the convolutions channels-last if the network's modules then give the same, up to rounding; else contiguous.

    Only the weights of 2-d convolutions are converted, in place. A network that stays contiguous gets contiguous
    images, whatever it is called with. Neither the global random state nor a gradient is touched.

    Args:
        module: in eval mode, its parameters frozen.
        example: images [B, C, H, W] in its input space, on its device; B > 1.
    """
    _keep_contiguous(module)
    if not _convolutions(module):
        return
    try:
        expected = _outcome(module, example, has_gradient=False)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # it does not run: what measures its layers says why
        return
    _make_channels_last(module, example.device)
    if not _agrees(module, example.contiguous(memory_format=torch.channels_last), expected):
        _keep_contiguous(module)


def _agrees(module: nn.Module, images: Tensor, expected: list[tuple[Tensor, Tensor]]) -> bool:
    try:
        seen = _outcome(module, images, has_gradient=True)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # any error of the network's own code that it did not make before
        return False
    return len(seen) == len(expected) and all(
        a.shape == b.shape and bool((a - b).abs().max() <= _TOLERANCE * largest)
        for (a, _), (b, largest) in zip(seen, expected, strict=True)
    )


def _convolutions(module: nn.Module) -> list[nn.Module]:
    """Modules with a 2-d convolution's weight as a parameter."""
    return [
        child
        for child in module.modules()
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d)
        and isinstance(weight := child._parameters.get("weight"), nn.Parameter)
        and not is_lazy(weight)
    ]


def _convert(module: nn.Module, memory_format: torch.memory_format) -> None:
    for child in _convolutions(module):
        weight: Any = child.weight
        weight.data = weight.data.contiguous(memory_format=memory_format)


def _make_channels_last(module: nn.Module, device: torch.device) -> None:
    _convert(module, torch.channels_last)
    choose_kernels(module, device)
    _remove_entry(module)


def _keep_contiguous(module: nn.Module) -> None:
    _convert(module, torch.contiguous_format)
    use_default_kernels(module)
    _remove_entry(module)
    module.register_forward_pre_hook(_enter)


def _remove_entry(module: nn.Module) -> None:
    for key, hook in list(module._forward_pre_hooks.items()):
        if hook is _enter:
            del module._forward_pre_hooks[key]


def _enter(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.contiguous() if isinstance(value, Tensor) else value for value in inputs)


def _outcome(module: nn.Module, images: Tensor, *, has_gradient: bool) -> list[tuple[Tensor, Tensor]]:
    """Samples of what each call of a module without children gives, and all that the network gives.

    Each with its largest value.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            values = output.detach().float()
            seen.append((values.flatten()[:: 1 + values.numel() // _NUM_SAMPLES].clone(), _largest(values)))

    leaves = [child for child in module.modules() if next(child.children(), None) is None]
    handles = [child.register_forward_hook(note) for child in leaves]
    try:
        with torch.set_grad_enabled(has_gradient), torch.random.fork_rng(devices=[]), without_checkpoints():
            images = images.detach().requires_grad_(has_gradient)
            output = module(images.clone())
            values = [v for v in tree_leaves(output) if isinstance(v, Tensor) and v.is_floating_point() and v.numel()]
            if ends := [value.sum() for value in values if value.requires_grad]:
                torch.autograd.grad(ends, images, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return [*seen, *[(value.detach().float(), _largest(value.detach().float())) for value in values]]


def _largest(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, torch.inf)
