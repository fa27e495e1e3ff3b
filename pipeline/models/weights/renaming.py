"""Foreign names of weights → the names of the networks that are made here. Each function gives None for other names."""

import re
from collections.abc import Mapping

from torch import Tensor

StateDict = Mapping[str, Tensor]

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")  # torchvision/models/densenet.py
_OLD_VIT = re.compile(r"(encoder_layer_\d+\.mlp)\.linear_([12])\.")  # torchvision/models/vision_transformer.py
_VIT_MLP = {"1": "0", "2": "3"}


def from_old_torchvision(state: StateDict) -> dict[str, Tensor] | None:
    """Names of torchvision's first DenseNets (`norm.1`) and ViTs (`mlp.linear_1`), which its files still have."""
    renamed = {
        _OLD_VIT.sub(lambda found: f"{found[1]}.{_VIT_MLP[found[2]]}.", _OLD_DENSENET.sub(r"\1\2", name)): value
        for name, value in state.items()
    }
    return renamed if renamed.keys() != state.keys() else None


def from_efficientnet_pytorch(state: StateDict) -> dict[str, Tensor] | None:
    """Names of the `efficientnet_pytorch` family of packages → timm's `tf_efficientnet_*`.

    Both enumerate the same blocks in the same order; timm groups them in stages. A stage begins where a
    block's input and output channels differ, i.e. where it has no residual sum: the block's stage index is the
    number of such blocks so far. (The EfficientNet stages all change the number of channels.)
    """
    if "_conv_stem.weight" not in state:
        return None
    stem = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    squeeze = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}

    places: dict[int, tuple[int, int]] = {}
    stage, position, width = -1, 0, -1
    for block in sorted({int(name.split(".")[1]) for name in state if name.startswith("_blocks.")}):
        out_channels = state[f"_blocks.{block}._project_conv.weight"].shape[0]
        stage, position = (stage, position + 1) if out_channels == width else (stage + 1, 0)
        places[block], width = (stage, position), out_channels

    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            block = int(parts[1])
            table = expanded if f"_blocks.{block}._expand_conv.weight" in state else plain
            module = (table | squeeze).get(parts[2], parts[2])
            renamed[".".join(("blocks", *map(str, places[block]), module, *parts[3:]))] = value
        else:
            renamed[".".join((stem.get(parts[0], parts[0]), *parts[1:]))] = value
    return renamed
