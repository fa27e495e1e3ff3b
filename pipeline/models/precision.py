"""Networks that compute in bfloat16: half the bytes of float32, its range, and a relative precision of 2⁻⁸."""

from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from pipeline.models.copying import copied

Precision = Literal["float32", "bfloat16"]
PRECISIONS: Final = ("float32", "bfloat16")


def in_bfloat16(module: nn.Module) -> nn.Module:
    """A copy of a network in bfloat16 that takes images of any floating type.

    BatchNorm keeps its constants in float32, which its kernels take beside bfloat16 features: rounded, a running
    variance would scale a whole channel by up to 0.2 %. Weights that are computed (`torch.nn.utils.parametrizations`)
    are computed in float32 and then rounded: decompositions know no bfloat16.
    """
    narrow = copied(module).to(torch.bfloat16)
    originals = dict(module.named_modules())
    for name, layer in list(narrow.named_modules()):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm | ParametrizationList):
            layer.float().load_state_dict(originals[name].state_dict())
        if isinstance(layer, ParametrizationList):
            layer.append(_Rounded())
    narrow.register_forward_pre_hook(_enter)
    return narrow


class _Rounded(nn.Module):
    """The last step of a computed weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.to(torch.bfloat16)


def _enter(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.to(torch.bfloat16) if isinstance(value, Tensor) else value for value in inputs)
