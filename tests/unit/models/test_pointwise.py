"""1 × 1 convolutions: the same values by whatever kernel, oneDNN's on the CPUs that it is quicker on."""

import pytest
import torch
from torch import nn

from pipeline.models.pointwise import choose_kernels

IMAGES = torch.randn(8, 16, 14, 14, generator=torch.Generator().manual_seed(0))


def small_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(16, 32, 1), nn.Conv2d(32, 8, 1, stride=2), nn.Conv2d(8, 8, 3, padding=1)).eval()


def operations(module: nn.Module) -> set[str]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.profiler.profile() as profile:
            module(IMAGES)
    finally:
        torch.set_num_threads(before)
    return {event.key for event in profile.key_averages()}


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or not torch.backends.mkldnn.is_available(),
    reason="kernels are chosen on x86 CPUs only",
)
def test_on_a_cpu_onednn_does_all_convolutions() -> None:
    module = small_net()
    assert "aten::_slow_conv2d_forward" in operations(module)
    choose_kernels(module, torch.device("cpu"))
    assert "aten::_slow_conv2d_forward" not in operations(module)


def test_values_are_the_same_and_other_convolutions_left_alone() -> None:
    module = small_net()
    expected = module(IMAGES)
    choose_kernels(module, torch.device("cpu"))
    assert torch.allclose(module(IMAGES), expected, atol=1e-5)
    assert module[2].dilation == (1, 1)


def test_elsewhere_no_convolution_is_dilated() -> None:
    module = small_net()
    for device in ("cpu", "cuda"):
        choose_kernels(module, torch.device(device))
    assert [child.dilation for child in module] == [(1, 1)] * 3
