"""1 × 1 convolutions on CPUs: oneDNN's work, whatever the size of the batch.

On one thread PyTorch gives them to oneDNN from 16 images on only (`use_mkldnn` in ATen/native/Convolution.cpp), since
its own product of matrices was once quicker. Channels-last it is not. Measured 2026-11-26 on an EPYC with AVX-512, one
thread, batches of 8, forward or back, ResNet-50's and EfficientNet-Lite0's shapes: oneDNN takes .41 to .88 of the time,
held to AVX2 .53 to .92; two cases of 28 go against it, by a seventh.
"""

import torch
from torch import nn


def choose_kernels(module: nn.Module, device: torch.device) -> None:
    """Give a network's 1 × 1 convolutions the kernels that are quickest on a device, in place; values only round.

    By their dilation, which says nothing about a kernel of one pixel: PyTorch gives dilated convolutions to oneDNN
    always. Elsewhere they have none, lest a library look for kernels that can do it.
    """
    takes_onednn = (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    )
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
            child.dilation = (2, 2) if takes_onednn else (1, 1)
