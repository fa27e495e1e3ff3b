"""One forward pass through a network: the layers that have units, their shapes, and which one classifies."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.calls import call_name, call_of, layer_names, output_layer
from pipeline.models.capture import UnsupportedOutputError, channels_first

Shape = tuple[int, ...]  # (C, H, W), (C, T) or (C,)

# Two images, and then three, so that an axis 0 that does not count them is seen: windows, heads, position embeddings.
_NUM_IMAGES = 2


# Modules that take [B, C, T], where every other tensor of three axes is taken for tokens [B, T, C].
_ALONG_ONE_AXIS = (
    nn.BatchNorm1d, nn.InstanceNorm1d, nn.AvgPool1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d,
)  # fmt: skip


class PassThrough(nn.Module):
    """A submodule that holds others and is no layer of the network; a Sequential that runs it gets its input back."""

    def forward(self, x: Any) -> Any:
        return x


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one forward pass showed.

    Attributes:
        shapes: layer → feature shape without the batch axis, in order of completion; layers without units are left
            out (no tensor, an axis 0 that is not the batch, windows, tensors of one attention head each).
        refused: layer → why it is left out, for layers that give a tensor.
        calls: the modules without children in the order in which they ran, as layers.
        num_logits: K if the network's own output is [B, K] or [B, K, 1, 1], else 0.
        output_layers: layers whose output is the network's own, in order of completion.
        classifier: the layer whose features are the class logits; None for a backbone.
    """

    shapes: Mapping[str, Shape]
    refused: Mapping[str, str]
    calls: Sequence[str]
    num_logits: int
    output_layers: Sequence[str]
    classifier: str | None = None


def probe(module: nn.Module, num_channels: int, size_px: int, device: torch.device) -> Probe:
    """Run the network on two images of noise and note the output of every module, then on three.

    Nothing stays behind: hooks go, and neither gradients nor the global random state are touched. Plain `no_grad`,
    since what a network caches under `inference_mode` (relative positions, say) could not be used with gradients later.

    Args:
        module: the network, in eval mode.
        num_channels: of its input.
        size_px: side of the images.
        device: where the module lives.
    """
    names = {child: name for child, name in layer_names(module).items() if not isinstance(child, PassThrough)}
    del names[module]
    shapes: dict[str, Shape] = {}
    refused: dict[str, str] = {}
    calls: list[str] = []
    vectors: dict[str, Tensor] = {}  # the outputs that could be the logits
    counts: Counter[nn.Module] = Counter()

    def note(child: nn.Module, _inputs: object, output: object) -> None:
        counts[child] += 1
        layer = call_name(names[child], counts[child])
        if next(child.children(), None) is None:
            calls.append(layer)
        try:
            features = channels_first(output, layer)
        except UnsupportedOutputError as error:
            if isinstance(output, Tensor):
                refused[layer] = str(error)
            return
        if len(features) != _NUM_IMAGES:
            refused[layer] = f'the first axis of layer "{layer}" does not count images (windows, heads or constants)'
        elif _is_per_head(module, names[child], features):
            refused[layer] = f'layer "{layer}" gives tensors of each head, [B, heads, …]; choose the layer `heads`'
        elif isinstance(child, _ALONG_ONE_AXIS) and features.ndim == 3 and features.shape[2] > 1:
            refused[layer] = f'layer "{layer}" gives channels before places, [B, C, T]; choose a layer around it'
        elif _is_windowed(module, names[child], features):
            refused[layer] = f'layer "{layer}" gives tokens in windows, [B, windows, T, C]; choose a layer around it'
        else:
            shapes[layer] = tuple(features.shape[1:])
            if features.ndim != 3 and features[0, 0].numel() == 1:
                vectors[layer] = features.flatten(1).clone()

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(_NUM_IMAGES, num_channels, size_px, size_px, generator=generator).to(device)
        with _hooks(names, note):
            logits = _as_logits(module(images.clone()))  # a network may write into its input
        for layer in _fixed_in_size(module, names, torch.cat([images, images[:1]])) & shapes.keys():
            del shapes[layer]
            refused[layer] = f'the first axis of layer "{layer}" does not count images (windows, heads or constants)'
    of_classes = {} if logits is None else {name: logits for name in vectors if name in shapes}
    same = [name for name, answer in of_classes.items() if torch.equal(vectors[name], answer)]
    seen = Probe(
        shapes=shapes,
        refused=refused,
        calls=calls,
        num_logits=0 if logits is None else logits.shape[1],
        output_layers=same,
    )
    classifier = find_classifier(module, seen, images)
    if classifier is not None and classifier not in shapes:
        shapes[classifier] = (seen.num_logits,)  # the network's own output
    return replace(seen, classifier=classifier)


def _fixed_in_size(module: nn.Module, names: Mapping[nn.Module, str], images: Tensor) -> set[str]:
    """Layers whose axis 0 is another number than that of the images."""
    found: set[str] = set()
    counts: Counter[nn.Module] = Counter()

    def note(child: nn.Module, _inputs: object, output: object) -> None:
        counts[child] += 1
        if isinstance(output, Tensor) and output.shape[:1] != images.shape[:1]:
            found.add(call_name(names[child], counts[child]))

    with _hooks(names, note):
        module(images)
    return found


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


def _is_windowed(module: nn.Module, name: str, features: Tensor) -> bool:
    """Whether this is [B, windows, T, C] inside of NesT, which can look like a map [B, n, n, C].

    A level of NesT has a position embedding [1, windows, T, C] for its windows of `block_size` × `block_size` tokens.
    """
    while name and features.ndim == 4:
        name = name.rpartition(".")[0]
        level = module.get_submodule(name)
        positions = getattr(level, "pos_embed", None)
        if isinstance(positions, Tensor) and positions.ndim == 4 and hasattr(level, "block_size"):
            return features.shape[2:] == positions.shape[1:3]  # after `channels_first`, which took it for a map
    return False


def _as_logits(output: object) -> Tensor | None:
    """[B, K] of a network that gives one value per class, else None."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or len(output) != _NUM_IMAGES:
        return None
    return output.flatten(1) if output.ndim == 2 or (output.ndim == 4 and output.shape[2:] == (1, 1)) else None


def find_classifier(module: nn.Module, seen: Probe, images: Tensor) -> str | None:
    """The layer whose features are the class logits, [B, K] or [B, K, 1, 1]; None for a backbone.

    A network classifies if its last layer with weights maps to its K outputs; a backbone ends with a normalization or
    a residual sum. Where they disagree, the network's own attributes decide: `num_classes = 0` is a
    backbone, as in timm, and `get_classifier()` names the classifier.

    The layer found is that of the weights (`fc`, `classifier.6`), or where these give a map (SqueezeNet's
    convolution) the first layer after them that gives the network's output (its pooling). Where the network's output
    does not follow from one layer (several heads are averaged, maps pooled by a function), the classifier is the
    output itself.
    """
    if seen.num_logits == 0 or getattr(module, "num_classes", None) == 0:
        return None
    last = _last_with_weights(module, seen)
    named = [*_named_by_library(module), *([] if last is None else [last])]
    heads = [name for name in named if _maps_to(call_of(module, name)[0], seen.num_logits)]
    if not heads and getattr(module, "num_classes", None) != seen.num_logits:
        return None
    candidates = [name for name in heads if seen.shapes.get(name, ())[1:] in ((), (1, 1)) and name in seen.shapes]
    decisive = (name for name in dict.fromkeys([*candidates, *seen.output_layers]) if _decides(module, name, images))
    return next(decisive, output_layer(module))


@torch.no_grad()
def _decides(module: nn.Module, layer: str, images: Tensor) -> bool:
    """Whether the network's output is what this layer gives, whatever it gives, or its softmax or sigmoid.

    The layer's output is replaced by noise, since heads that begin as zeros are equal before they are trained.
    """
    child, number = call_of(module, layer)
    calls, given = 0, torch.empty(0)

    def replace_output(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        nonlocal calls, given
        calls += 1
        if calls != number:
            return None
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        given = noise.to(output.device, output.dtype)
        return given.clone()

    handle = child.register_forward_hook(replace_output)
    try:
        with torch.random.fork_rng(devices=[]):
            logits = _as_logits(module(images.clone()))
    finally:
        handle.remove()
    if logits is None or logits.numel() != given.numel():
        return False
    given = given.view_as(logits)
    answers = (given, given.softmax(1), given.log_softmax(1), given.sigmoid())
    return any(torch.allclose(logits, answer, rtol=1e-2, atol=1e-6) for answer in answers)


def _last_with_weights(module: nn.Module, seen: Probe) -> str | None:
    """The last module run that has parameters of its own; pooling, activations, dropout and softmax have none."""
    run = ((layer, call_of(module, layer)[0]) for layer in reversed(seen.calls))
    return next((layer for layer, child in run if next(child.parameters(), None) is not None), None)


def _named_by_library(module: nn.Module) -> list[str]:
    """Modules in timm's `get_classifier()`; of several classifiers (distilled DeiT) the first comes first."""
    get_classifier = getattr(module, "get_classifier", None)
    if not callable(get_classifier):
        return []
    named = get_classifier()
    classifiers = named if isinstance(named, tuple | list) else [named]
    names = layer_names(module)
    parts = [part for child in classifiers if isinstance(child, nn.Module) for part in child.modules()]
    return [names[part] for part in parts if part in names and part is not module]


def _maps_to(module: nn.Module, num_outputs: int) -> bool:
    """Whether a module holds a matrix or kernel with K outputs: [K, in], [K, in, 1, 1], or [in, K] of another kind."""
    is_own = not isinstance(module, nn.Linear | nn.Conv2d)
    matrices = [parameter.shape for parameter in module.parameters(recurse=False) if parameter.ndim > 1]
    return any(shape[0] == num_outputs or (is_own and shape[-1] == num_outputs) for shape in matrices)
