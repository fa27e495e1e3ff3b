"""Small random networks with every kind of layer that matters, for tests that optimize images."""

import torch
from torch import nn

from pipeline.models import Model, Preprocessing


class TinyResidualNet(nn.Module):
    """Stem and three stages with BatchNorm, ReLU and residual sums; 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.stage1, self.stage2, self.stage3 = Stage(8, 8), Stage(8, 12), Stage(12, 16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(x.mean(dim=(2, 3)))


class Stage(nn.Module):
    """Halves the map, then a residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.block = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.down(x))
        return x + self.block(x)


def tiny_model(seed: int = 0, size_px: int = 32) -> Model:
    """A `Model` around a `TinyResidualNet` with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TinyResidualNet()
    return model_around(module, size_px)


def model_around(module: nn.Module, size_px: int = 32) -> Model:
    """A `Model` of color images around any network."""
    return Model(
        name=f"python:tests.support.tiny_networks:{type(module).__name__}",
        module=module,
        preprocessing=Preprocessing(
            input_size_px=size_px, crop_fraction=0.875, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
        ),
        labels="imagenet1k",
        device="cpu",
    )
