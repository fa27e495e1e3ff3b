"""Networks as users bring them: random, mixing the images of a batch, without gradients, wrapped, of odd names."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import Model
from pipeline.models.preprocessing import Preprocessing
from tests.support.tiny_run import SIZE_PX

NUM_CLASSES = 5


class OddNet(nn.Module):
    """Two convolutions with normalization, and a classifier; functions change what happens between them."""

    input_size_px = SIZE_PX

    def __init__(
        self,
        *,
        body: Callable[[nn.Module, Tensor], Tensor] = lambda body, x: body(x),
        pooled: Callable[[Tensor], Tensor] = lambda x: x,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.run_body, self.change_pooled = body, pooled
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1), norm(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), norm(12), nn.ReLU()
            )
            self.fc = nn.Linear(12, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.change_pooled(self.run_body(self.body, x).mean((2, 3))))


class Noise(nn.Module):
    """Adds noise, in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x)


class Counter(nn.Module):
    """Keeps a state between passes."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x * (1 + 0.1 * self.passes)


def without_grad(body: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return body(x)


def in_inference_mode(body: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        features = body(x)
    return features.clone()


def stochastic_depth(x: Tensor) -> Tensor:
    return x * (torch.rand(len(x), 1) > 0.1)


class SlashNet(nn.Module):
    """Modules named as in an ONNX file."""

    input_size_px = SIZE_PX

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.add_module("/features/0/Conv", nn.Conv2d(3, 8, 3, 2, 1))
        self.add_module("/features/1/Relu", nn.ReLU())
        self.add_module("conv 2:ü", nn.Conv2d(8, 8, 3, 2, 1))
        self.add_module("/fc/Gemm", nn.Linear(8, NUM_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        first, relu, second, last = self._modules.values()
        return last(second(relu(first(x))).mean((2, 3)))


def model_of(module: nn.Module) -> Model:
    """A `Model` around a network."""
    preprocessing = Preprocessing(
        input_size_px=SIZE_PX, crop_fraction=0.875, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    return Model(name="odd", module=module, preprocessing=preprocessing, labels="imagenet1k", device="cpu")


# Factories of `python:tests.support.odd_networks:…`.


def functional_dropout() -> nn.Module:
    return OddNet(pooled=F.dropout)


def linear_probe() -> nn.Module:
    return OddNet(body=without_grad)


def slashes() -> nn.Module:
    return SlashNet()


def caffe() -> nn.Module:
    module = OddNet()
    module.mean, module.std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    return module


def own_mean() -> nn.Module:
    module = OddNet()
    module.register_buffer("mean", torch.zeros(1, 3, 1, 1))
    return module


def size_of_all_axes() -> nn.Module:
    module = OddNet()
    module.input_size_px = (3, 32, 32)
    return module


def unknown_filter() -> nn.Module:
    module = OddNet()
    module.interpolation = "cubic"
    return module


def traced() -> nn.Module:
    return torch.jit.trace(OddNet().eval(), torch.randn(2, 3, SIZE_PX, SIZE_PX))


def with_traced_part() -> nn.Module:
    module = OddNet()
    module.fc = torch.jit.trace(module.fc, torch.randn(2, 12))
    return module


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(OddNet().eval(), {nn.Linear}, dtype=torch.qint8)


def int8_weight() -> nn.Module:
    module = OddNet()
    module.fc.weight = nn.Parameter(torch.zeros(NUM_CLASSES, 12, dtype=torch.int8), requires_grad=False)
    return module


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(NUM_CLASSES))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, NUM_CLASSES))


def the_class() -> type:
    return OddNet


def nothing() -> None:
    OddNet()


def pair() -> tuple[nn.Module, int]:
    return OddNet(), SIZE_PX


def needs_a_path(path: str) -> nn.Module:
    assert path
    return OddNet()


def reads_a_file() -> nn.Module:
    with open("/nonexistent/weights.pth"):
        return OddNet()


instance = OddNet()


def wrapped() -> nn.Module:
    """In wrappers, itself and one of its parts; what is said of the images stands on the outer one."""
    module = OddNet()
    module.body[0] = torch.compile(module.body[0])
    module.fc = nn.DataParallel(torch.compile(module.fc))
    module.compile()
    outer = nn.DataParallel(torch.compile(module))
    outer.mean = (0.1, 0.2, 0.3)
    return outer


def half() -> nn.Module:
    return OddNet().half()


def double() -> nn.Module:
    return OddNet().double()


class CastsItself(OddNet):
    """Runs in bfloat16 only."""

    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.bfloat16())
