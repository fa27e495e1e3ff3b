"""1 × 1 convolutions on CPUs: computed by oneDNN whatever the size of the batch.

On one thread PyTorch leaves them to its own product of matrices below 16 images (`use_mkldnn` in
ATen/native/Convolution.cpp), which is slower for channels-last images (benchmarks/LOG.md). A dilation means nothing to
a kernel of one pixel, and PyTorch always gives dilated convolutions to oneDNN, forward and backward; there is no other
setting for it.
"""

import torch
from torch import nn


def choose_kernels(module: nn.Module, device: torch.device) -> None:
    """Let oneDNN compute a network's 1 × 1 convolutions where it is quicker, in place; values only round.

    On other devices they keep no dilation, for which libraries would choose other kernels.
    """
    takes_onednn = (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    )
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
            child.dilation = (2, 2) if takes_onednn else (1, 1)
