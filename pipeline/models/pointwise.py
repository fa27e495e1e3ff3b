"""1 × 1 convolutions on CPUs: computed by oneDNN whatever the size of the batch.

On one thread PyTorch leaves them to its own product of matrices below 16 images (`use_mkldnn` in
ATen/native/Convolution.cpp), which is slower for channels-last images (benchmarks/LOG.md). A dilation means nothing to
a kernel of one pixel, and PyTorch always gives dilated convolutions to oneDNN, forward and backward; there is no other
setting for it. Only the call is dilated: the module's attribute is for the network's own code to read.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def choose_kernels(module: nn.Module, device: torch.device) -> None:
    """Let oneDNN compute a network's plain 1 × 1 convolutions where it is quicker, in place; values only round.

    On other devices they keep no dilation, for which libraries would choose other kernels.
    """
    use_default_kernels(module)
    takes_onednn = (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    )
    for child in module.modules():
        if takes_onednn and isinstance(child, nn.Conv2d) and _is_pointwise(child):
            call = partial(_dilated, stride=child.stride, padding=child.padding, groups=child.groups)
            vars(child)["_conv_forward"] = call  # holds no module, so that copies of this one may share it


def use_default_kernels(module: nn.Module) -> None:
    """Undo `choose_kernels`."""
    for child in module.modules():
        if _is_chosen(vars(child).get("_conv_forward")):
            del vars(child)["_conv_forward"]


def _is_pointwise(child: nn.Conv2d) -> bool:
    return child.kernel_size == (1, 1) and child.padding_mode == "zeros" and runs_as_conv2d(child)


def runs_as_conv2d(child: nn.Conv2d) -> bool:
    """Whether neither its class nor somebody's patch of the object changes what `nn.Conv2d` computes."""
    patched = vars(child)
    return (
        type(child).forward is nn.Conv2d.forward
        and type(child)._conv_forward is nn.Conv2d._conv_forward
        and "forward" not in patched
        and ("_conv_forward" not in patched or _is_chosen(patched["_conv_forward"]))
    )


def _dilated(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Any,
    padding: Any,
    groups: int,
) -> Tensor:
    return F.conv2d(images, weight, bias, stride, padding, (2, 2), groups)


def _is_chosen(call: object) -> bool:
    return isinstance(call, partial) and call.func is _dilated
