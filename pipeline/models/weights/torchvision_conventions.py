"""What torchvision's builders change in a network, beside its parameters, when they are given weights.

A network whose weights come by path, or at random, is made with the same changes, so that it is the same network.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# Their inputs are re-normalized from ImageNet's statistics to (−1, 1), as their weights were trained in TensorFlow.
# Of GoogLeNet, whose auxiliary heads were not trained, the builder drops these.
_INCEPTIONS: Final = {"googlenet": {"aux_logits": False}, "inception_v3": {"aux_logits": True}}


def weights_entry(name: str, weights: str) -> "WeightsEnum":
    """The entry of torchvision whose file `weights` is, by the file's name; otherwise the first training.

    Input size and preprocessing are the entry's: `resnet50-11ad3fa6.pth` is IMAGENET1K_V2.
    """
    from torchvision.models import get_model_weights

    versions = get_model_weights(name)
    file = weights.rpartition("/")[2]
    for entry in versions:
        if entry.url.rpartition("/")[2] == file:
            return entry
    # IMAGENET1K_V1 throughout, as the published code: `DEFAULT` changes with the library's version.
    return versions["IMAGENET1K_V1"] if "IMAGENET1K_V1" in versions.__members__ else next(iter(versions))


def arguments(name: str, size_px: int, *, is_initialized: bool) -> Mapping[str, Any]:
    """The keyword arguments of the constructor that a builder sets for weights of this input size.

    Args:
        name: of the model.
        size_px: side of the input.
        is_initialized: whether initial parameters are needed, because no others come.
    """
    if name.startswith("vit_"):
        return {"image_size": size_px}
    if name.startswith("maxvit_"):
        return {"input_size": (size_px, size_px)}
    if name in _INCEPTIONS:
        return {"transform_input": True, "init_weights": is_initialized} | _INCEPTIONS[name]
    return {}


def dropped_names(name: str) -> Collection[str]:
    """Names that a file may have beyond those of the network: those of auxiliary heads."""
    from torchvision.models import get_model

    if name not in _INCEPTIONS:
        return ()
    with torch.device("meta"):
        return get_model(name, weights=None, aux_logits=True, init_weights=False).state_dict().keys()
