"""Whether layers have a gradient with respect to the image, which is what a visualization is optimized by."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.model import Model

# A layer of a network with ReLUs may be silent for one image of noise.
_NUM_IMAGES: Final = 4


def check_gradients(model: Model, layers: Iterable[str], *, size_px: int | None = None) -> None:
    """Refuse layers without a finite gradient with respect to the image.

    Images of noise are shown one by one, until each layer has given a gradient that is finite and not zero. That of a
    layer as a whole is looked at, along a random direction of its features, since single units may be dead. A layer
    that is zero passes: residual branches begin so, and its units count as dead.

    Args:
        model: whose layers they are.
        layers: exact names.
        size_px: side of the images; None is the model's own.

    Raises:
        UserError: with the first such layer, where its gradient ends, and the remedy.
    """
    left = list(dict.fromkeys(layers))
    found: dict[str, str] = {}
    generator = torch.Generator().manual_seed(0)
    size_px = size_px or model.input_size_px
    for _ in range(_NUM_IMAGES):
        if not left:
            return
        noise = torch.randn(1, len(model.mean), size_px, size_px, generator=generator).to(model.device)
        found = _faults(model, noise, left)
        left = list(found)
    if left:
        raise UserError(
            f'model "{model.name}", layer "{left[0]}": {found[left[0]]}. Visualizations are optimized by the gradient '
            "with respect to the image: let the network's forward pass it on, or name other layers"
        )


@torch.enable_grad()
def _faults(model: Model, noise: Tensor, layers: list[str]) -> dict[str, str]:
    """Layer → what is wrong with its gradient on an image of noise."""
    image = noise.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    faults = {}
    try:
        with torch.random.fork_rng(devices=[]), model.capture(layers) as features:
            model.module(image.clone())  # a copy, because a network may write into its input
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return dict.fromkeys(layers, f"the network does not run with gradients ({_line(error)})")
    for layer in layers:
        if layer not in features:
            faults[layer] = "it does not run in the forward pass"
        elif not features[layer].requires_grad:
            faults[layer] = f"it has no gradient, {_where_it_ends(model.module, noise)}"
        else:
            direction = torch.randn(features[layer].shape, generator=generator).to(features[layer])
            fault = _fault(image, features[layer], direction)
            if fault:
                faults[layer] = fault
    return faults


def _fault(image: Tensor, features: Tensor, direction: Tensor) -> str:
    try:
        (gradient,) = torch.autograd.grad(features, image, direction, retain_graph=True, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return f"its gradient cannot be computed ({_line(error)})"
    if gradient is None:
        return "it is not computed from the image"
    if not gradient.isfinite().all():
        return "its gradient is not finite on images of noise"
    if not gradient.any() and features.any():  # a layer that is zero is not wrong: its units are dead
        return "its gradient is zero on images of noise, as rounding, thresholds and saturated units make it"
    return ""


def _where_it_ends(module: nn.Module, noise: Tensor) -> str:
    """The first place where a tensor has no gradient, for people."""
    places: list[str] = []

    def note(child: Any, name: str, value: object, what: str) -> None:
        if places or not isinstance(value, Tensor) or value.requires_grad or not value.is_floating_point():
            return
        by = "computed under torch.no_grad or torch.inference_mode"
        how = "detached from what it is computed from" if torch.is_grad_enabled() else by
        places.append(f'because {what} of "{name}" ({type(child).__name__}) is {how}')

    with _noted(module, note), torch.random.fork_rng(devices=[]):
        module(noise.clone())
    return places[0] if places else "because it is detached from what it is computed from"


@contextmanager
def _noted(module: nn.Module, note: Any) -> Iterator[None]:
    handles = []
    for name, child in module.named_modules():
        if not name:
            continue
        handles.append(
            child.register_forward_pre_hook(
                lambda m, args, name=name: note(m, name, args[0] if args else None, "the input")
            )
        )
        handles.append(
            child.register_forward_hook(lambda m, _i, output, name=name: note(m, name, output, "the output"))
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
