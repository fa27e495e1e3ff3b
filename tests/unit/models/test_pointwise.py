"""1 × 1 convolutions: the same values by whatever kernel, oneDNN's on the CPUs that it is quicker on."""

import copy
import pickle

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


def test_values_are_the_same_and_attributes_and_other_convolutions_left_alone() -> None:
    module = small_net()
    expected = module(IMAGES)
    for device in ("cpu", "cuda"):
        choose_kernels(module, torch.device(device))
        assert torch.allclose(module(IMAGES), expected, atol=1e-5)
        assert torch.allclose(pickle.loads(pickle.dumps(copy.deepcopy(module)))(IMAGES), expected, atol=1e-5)
        assert [child.dilation for child in module] == [(1, 1)] * 3
        assert "_conv_forward" not in vars(module[2])
    assert not any("_conv_forward" in vars(child) for child in module)


def test_a_copy_computes_with_its_own_weights() -> None:
    module = small_net()
    choose_kernels(module, torch.device("cpu"))
    changed = copy.deepcopy(module)
    torch.nn.init.zeros_(changed[1].weight)
    assert not torch.allclose(changed(IMAGES), module(IMAGES))
