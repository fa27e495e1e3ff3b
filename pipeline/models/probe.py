"""One forward pass through a network: the layers that have units, their shapes, and which one classifies."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.capture import UnsupportedOutputError, channels_first

Shape = tuple[int, ...]  # (C, H, W), (C, T) or (C,)

# Two images, so that an axis 0 that does not count them is seen: windows of images, position embeddings.
_NUM_IMAGES = 2


class PassThrough(nn.Module):
    """A submodule that holds others and is no layer of the network; a Sequential that runs it gets its input back."""

    def forward(self, x: Any) -> Any:
        return x


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one forward pass showed.

    Attributes:
        shapes: layer → feature shape without the batch axis, in order of completion; layers without units are left
            out (no tensor, an axis 0 that is not the batch, tensors of one attention head each).
        calls: the modules without children in the order in which they ran, repeated calls included.
        num_logits: K if the network's own output is [B, K] or [B, K, 1, 1], else 0.
        output_layers: layers whose output is the network's own, in order of completion.
    """

    shapes: Mapping[str, Shape]
    calls: Sequence[str]
    num_logits: int
    output_layers: Sequence[str]


def probe(module: nn.Module, num_channels: int, size_px: int, device: torch.device) -> Probe:
    """Run the network once on two images of noise and note the output of every module.

    Nothing stays behind: hooks go, and neither gradients nor the global random state are touched. Plain `no_grad`,
    since what a network caches under `inference_mode` (relative positions, say) could not be used with gradients later.

    Args:
        module: the network, in eval mode.
        num_channels: of its input.
        size_px: side of the images.
        device: where the module lives.
    """
    named = module.named_modules()
    names = {child: name for name, child in named if name and not isinstance(child, PassThrough)}
    shapes: dict[str, Shape] = {}
    calls: list[str] = []
    vectors: dict[str, Tensor] = {}  # the outputs that could be the logits

    def note(child: nn.Module, _inputs: object, output: object) -> None:
        name = names[child]
        if next(child.children(), None) is None:
            calls.append(name)
        try:
            features = channels_first(output, name)
        except UnsupportedOutputError:
            return
        if len(features) != _NUM_IMAGES or _is_per_head(module, name, features):
            return
        shapes[name] = tuple(features.shape[1:])
        if features.ndim != 3 and features[0, 0].numel() == 1:
            vectors[name] = features.flatten(1).clone()

    with _hooks(names, note), torch.no_grad(), torch.random.fork_rng(devices=[]):
        images = torch.randn(_NUM_IMAGES, num_channels, size_px, size_px, generator=torch.Generator().manual_seed(0))
        logits = _as_logits(module(images.to(device)))
    same = [name for name, value in vectors.items() if logits is not None and torch.equal(value, logits)]
    return Probe(
        shapes=shapes,
        calls=calls,
        num_logits=0 if logits is None else logits.shape[1],
        output_layers=same,
    )


@contextmanager
def _hooks(modules: Mapping[nn.Module, str], hook: object) -> Iterator[None]:
    # In front of the hooks that run derived layers: a layer comes before those that are computed from it.
    handles = [module.register_forward_hook(hook, prepend=True) for module in modules]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_per_head(module: nn.Module, name: str, features: Tensor) -> bool:
    """Whether this is a tensor [B, heads, T, …] inside of attention: its axis 1 counts heads, which are no units."""
    parent = module.get_submodule(name.rpartition(".")[0])
    return features.ndim == 4 and getattr(parent, "num_heads", None) == features.shape[1]


def _as_logits(output: object) -> Tensor | None:
    """[B, K] of a network that gives one value per class, else None."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or len(output) != _NUM_IMAGES:
        return None
    return output.flatten(1) if output.ndim == 2 or (output.ndim == 4 and output.shape[2:] == (1, 1)) else None


def find_classifier(module: nn.Module, seen: Probe) -> str | None:
    """The layer whose features are the class logits, [B, K] or [B, K, 1, 1]; None for a backbone.

    A network classifies if its last layer with weights maps to its K outputs; a backbone ends with a normalization or
    a residual sum. Where they disagree, the network's own attributes decide: `num_classes = 0` is a
    backbone, as in timm, and `get_classifier()` names the classifier.

    The layer found is that of the weights (`fc`, `classifier.6`), or where these give a map (SqueezeNet's
    convolution) the first layer after them that gives the network's output (its pooling).
    """
    if seen.num_logits == 0 or getattr(module, "num_classes", None) == 0:
        return None
    modules = dict(module.named_modules())
    last = _last_with_weights(modules, seen)
    for candidate in (*_named_by_library(module), *([] if last is None else [last])):
        if not _maps_to(modules[candidate], seen.num_logits):
            continue
        shape = seen.shapes.get(candidate, ())
        if shape[1:] in ((), (1, 1)):
            return candidate
        if len(shape) == 3 and seen.output_layers:
            return seen.output_layers[0]
    has_logits = getattr(module, "num_classes", None) == seen.num_logits
    return seen.output_layers[0] if has_logits and seen.output_layers else None


def _last_with_weights(modules: Mapping[str, nn.Module], seen: Probe) -> str | None:
    """The last module run that has parameters of its own; pooling, activations, dropout and softmax have none."""
    with_weights = (name for name in reversed(seen.calls) if next(modules[name].parameters(), None) is not None)
    return next(with_weights, None)


def _named_by_library(module: nn.Module) -> list[str]:
    """Modules in timm's `get_classifier()`; of several classifiers (distilled DeiT) the first comes first."""
    get_classifier = getattr(module, "get_classifier", None)
    if not callable(get_classifier):
        return []
    named = get_classifier()
    classifiers = named if isinstance(named, tuple | list) else [named]
    names = {child: name for name, child in module.named_modules()}
    parts = [part for child in classifiers if isinstance(child, nn.Module) for part in child.modules()]
    return [names[part] for part in parts if part in names]


def _maps_to(module: nn.Module, num_outputs: int) -> bool:
    """Whether a module holds a matrix or kernel with K outputs: [K, in], [K, in, 1, 1], or [in, K] of another kind."""
    is_own = not isinstance(module, nn.Linear | nn.Conv2d)
    matrices = [parameter.shape for parameter in module.parameters(recurse=False) if parameter.ndim > 1]
    return any(shape[0] == num_outputs or (is_own and shape[-1] == num_outputs) for shape in matrices)
