"""How the tokens of a transformer layer lie on the image: class and register tokens first, then patches row by row."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import nn

from pipeline.models.probe import Shape

# Class, distillation and register tokens together: DINOv2 with registers has 5, no published model more than 9.
_MAX_PREFIX = 16


class TokenGrid(NamedTuple):
    """`num_prefix` tokens that lie nowhere on the image, then `height` × `width` patches in rows."""

    num_prefix: int
    height: int
    width: int


def token_grid(module: nn.Module, layer: str, shapes: Mapping[str, Shape]) -> TokenGrid | None:
    """The grid of a layer of shape (C, T), or None where its second axis does not lie on the image.

    Hiera's tokens are no rows: it unrolls them by the units that it masks in training.

    Patches come from a convolution, so the grid is that of the nearest map before the layer with T − prefix positions.
    The prefix is the network's own (timm's `num_prefix_tokens`, torchvision's `class_token`), or 0 where a layer has
    dropped it; for any other network it is what is left of T, at most 16.

    Args:
        module: the network.
        layer: exact name.
        shapes: layer → shape at one input size, in order of completion.
    """
    shape = shapes[layer]
    if len(shape) != 2 or hasattr(module, "unroll"):
        return None
    order = list(shapes)
    before = [shapes[name] for name in reversed(order[: order.index(layer)])]
    for num_prefix in _possible_prefixes(module):
        for earlier in before:
            if len(earlier) == 3 and earlier[1] * earlier[2] == shape[1] - num_prefix:
                return TokenGrid(num_prefix, earlier[1], earlier[2])
    return None


def _possible_prefixes(module: nn.Module) -> Iterable[int]:
    stated = getattr(module, "num_prefix_tokens", None)
    if stated is None and hasattr(module, "class_token") and hasattr(module, "conv_proj"):
        stated = 1  # torchvision's VisionTransformer
    return range(_MAX_PREFIX + 1) if not isinstance(stated, int) else dict.fromkeys((stated, 0))
