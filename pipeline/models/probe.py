"""A trial of a network on noise: the layers that have units, their shapes, and which one classifies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.models.calls import LayerNames, each_call, every_call
from pipeline.models.capture import UnsupportedOutputError, channels_first

Shape = tuple[int, ...]  # (C, H, W), (C, T) or (C,)

# Two images, and then three, so that an axis 0 that does not count them is seen: windows, heads, position embeddings.
_NUM_IMAGES = 2
_NO_IMAGES = "has a first axis that does not count images (windows, heads or constants)"
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
    """What a trial showed.

    Attributes:
        shapes: layer → feature shape without the batch axis, in order of completion; layers without units are left
            out (no tensor, an axis 0 that is not the batch, windows, tensors of one attention head each).
        refused: layer → why it is left out, for layers that give a tensor.
        classifier: the layer whose features are the class logits, see `_find_classifier`; None for a backbone.
    """

    shapes: Mapping[str, Shape]
    refused: Mapping[str, str]
    classifier: str | None


class _Seen(NamedTuple):
    """What the first pass of a network showed of its answer.

    `shapes` as in `Probe`; `leaves`, layers of modules without children in order of completion; `output_layers`, those
    whose output is the network's own; `num_logits`, K.
    """

    shapes: Mapping[str, Shape]
    leaves: Sequence[str]
    output_layers: Sequence[str]
    num_logits: int


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
    names = LayerNames(module)
    shapes: dict[str, Shape] = {}
    refused: dict[str, str] = {}
    leaves: list[str] = []
    vectors: dict[str, Tensor] = {}  # the outputs that could be the logits

    def note(layer: str, child: nn.Module, output: object) -> None:
        if isinstance(child, PassThrough):
            return
        if next(child.children(), None) is None:
            leaves.append(layer)
        try:
            features = channels_first(output, layer)
        except UnsupportedOutputError as error:
            if isinstance(output, Tensor):
                refused[layer] = str(error)
            return
        if reason := _no_units(names, child, features):
            refused[layer] = f'layer "{layer}" {reason}'
            return
        shapes[layer] = tuple(features.shape[1:])
        if features.ndim != 3 and features[0, 0].numel() == 1:
            vectors[layer] = features.flatten(1).clone()

    def note_length(layer: str, _child: nn.Module, output: object) -> None:
        if layer in shapes and isinstance(output, Tensor) and len(output) != _NUM_IMAGES + 1:
            del shapes[layer]
            refused[layer] = f'layer "{layer}" {_NO_IMAGES}'

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(_NUM_IMAGES, num_channels, size_px, size_px, generator=generator).to(device)
        with every_call(module, note):
            logits = _as_logits(module(images.clone()))  # a network may write into its input
        with every_call(module, note_length):
            module(torch.cat([images, images[:1]]))
    if logits is None:
        return Probe(shapes=shapes, refused=refused, classifier=None)
    same = [layer for layer, value in vectors.items() if layer in shapes and torch.equal(value, logits)]
    classifier = _find_classifier(module, names, _Seen(shapes, leaves, same, logits.shape[1]), images)
    if classifier is not None and classifier not in shapes:
        shapes[classifier] = (logits.shape[1],)  # the network's own output
    return Probe(shapes=shapes, refused=refused, classifier=classifier)


def _no_units(names: LayerNames, child: nn.Module, features: Tensor) -> str:
    """Why features have no units on axis 1, or not one for each image on axis 0; nothing if they have."""
    name = names.layer(child) or ""
    if len(features) != _NUM_IMAGES:
        return _NO_IMAGES
    if _is_per_head(names, name, features):
        return "gives tensors of each head, [B, heads, …]; choose the layer `heads`"
    if isinstance(child, _ALONG_ONE_AXIS) and features.ndim == 3 and features.shape[2] > 1:
        return "gives channels before places, [B, C, T]; choose a layer around it"
    if _is_windowed(names, name, features):
        return "gives tokens in windows, [B, windows, T, C]; choose a layer around it"
    return ""


def _is_per_head(names: LayerNames, name: str, features: Tensor) -> bool:
    """Whether this is a tensor [B, heads, T, …] inside of attention: its axis 1 counts heads, which are no units."""
    parent = names.modules.get(name.rpartition(".")[0])
    return features.ndim == 4 and getattr(parent, "num_heads", None) == features.shape[1]


def _is_windowed(names: LayerNames, name: str, features: Tensor) -> bool:
    """Whether this is [B, windows, T, C] inside of NesT, which can look like a map [B, n, n, C].

    A level of NesT has a position embedding [1, windows, T, C] for its windows of `block_size` × `block_size` tokens.
    """
    while name and features.ndim == 4:
        name = name.rpartition(".")[0]
        level = names.modules.get(name)
        positions = getattr(level, "pos_embed", None)
        if isinstance(positions, Tensor) and positions.ndim == 4 and hasattr(level, "block_size"):
            return features.shape[2:] == positions.shape[1:3]  # after `channels_first`, which took it for a map
    return False


def _as_logits(output: object) -> Tensor | None:
    """[B, K] of a network that gives one value per class, else None."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or len(output) != _NUM_IMAGES:
        return None
    return output.flatten(1) if output.ndim == 2 or (output.ndim == 4 and output.shape[2:] == (1, 1)) else None


def _find_classifier(module: nn.Module, names: LayerNames, seen: _Seen, images: Tensor) -> str | None:
    """The layer whose features are the class logits, [B, K] or [B, K, 1, 1]; None for a backbone.

    A network classifies if its last layer with weights maps to its K outputs; a backbone ends with a normalization or
    a residual sum. Where they disagree, the network's own attributes decide: `num_classes = 0` is a
    backbone, as in timm, and `get_classifier()` names the classifier.

    The layer found is that of the weights (`fc`, `classifier.6`), or where these give a map (SqueezeNet's
    convolution) the first layer after them that gives the network's output (its pooling). Where the network's output
    does not follow from one layer (several heads are averaged), the classifier is the output itself.
    """
    stated = getattr(module, "num_classes", None)
    if stated == 0:
        return None
    heads = [name for name in _heads(module, names, seen) if _maps_to(names.call(name)[0], seen.num_logits)]
    vectors = [name for name in heads if name in seen.shapes and seen.shapes[name][1:] in ((), (1, 1))]
    # A map that a function pools is no sign of classes: so ends a backbone, too.
    if not vectors and not (heads and seen.output_layers) and stated != seen.num_logits:
        return None
    candidates = dict.fromkeys([*vectors, *seen.output_layers])
    return next((name for name in candidates if _decides(module, name, images)), names.output)


@torch.no_grad()
def _decides(module: nn.Module, layer: str, images: Tensor) -> bool:
    """Whether the network's output is what this layer gives, whatever it gives, or its softmax or sigmoid.

    The layer's output is replaced by noise, since heads that begin as zeros are equal before they are trained.
    """
    given = torch.empty(0)

    def replaced(_layer: str, _inputs: object, output: Tensor) -> Tensor:
        nonlocal given
        given = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.device, output.dtype)
        return given.clone()

    with each_call(module, [layer], replaced), torch.random.fork_rng(devices=[]):
        logits = _as_logits(module(images.clone()))
    if logits is None or logits.numel() != given.numel():
        return False
    given = given.view_as(logits)
    answers = (given, given.softmax(1), given.log_softmax(1), given.sigmoid())
    return any(torch.allclose(logits, answer, rtol=1e-2, atol=1e-6) for answer in answers)


def _heads(module: nn.Module, names: LayerNames, seen: _Seen) -> Iterator[str]:
    """Layers that may be the classifier: those that the library names, then the last one with weights.

    The library is timm with its `get_classifier()`. Pooling, activations, dropout and softmax have no weights.
    """
    get_classifier = getattr(module, "get_classifier", None)
    named = get_classifier() if callable(get_classifier) else ()
    for classifier in named if isinstance(named, tuple | list) else [named]:
        parts = classifier.modules() if isinstance(classifier, nn.Module) else ()
        yield from (name for part in parts if part is not module and (name := names.layer(part)) is not None)
    for layer in reversed(seen.leaves):
        if next(names.call(layer)[0].parameters(), None) is not None:
            yield layer
            return


def _maps_to(module: nn.Module, num_outputs: int) -> bool:
    """Whether a module holds a matrix or kernel with K outputs: [K, in], [K, in, 1, 1], or [in, K] of another kind."""
    is_own = not isinstance(module, nn.Linear | nn.Conv2d)
    matrices = [parameter.shape for parameter in module.parameters(recurse=False) if parameter.ndim > 1]
    return any(shape[0] == num_outputs or (is_own and shape[-1] == num_outputs) for shape in matrices)
