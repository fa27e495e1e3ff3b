"""A network and dataset images small and exact enough to record in milliseconds and to check to the bit."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.activations.accumulators.shard_statistics import ShardStatistics
from pipeline.activations.collect import collect
from pipeline.data.shards import ErrorBudget, Sample
from pipeline.models import Model, Preprocessing

SIZE_PX = 8  # a power of two, as is the number of positions: means are exact too
NUM_CLASSES = 5
LAYERS = ("stem", "block")


class TinyNet(nn.Module):
    """Convolutions in dyadic numbers of few bits: every sum is exact, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, NUM_CLASSES)
        for parameter in self.parameters():
            parameter.data = torch.randint(-3, 4, parameter.shape, generator=generator).float() / 4

    def forward(self, x: Tensor) -> Tensor:
        x = torch.round(x * 16) / 16
        x = self.relu(self.stem(x))
        x = self.block(x)
        return self.fc(torch.round(x.mean(dim=(2, 3)) * 64) / 64)


def tiny_model(module: nn.Module | None = None) -> Model:
    preprocessing = Preprocessing(
        input_size_px=SIZE_PX,
        crop_fraction=1.0,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    return Model(name="python:tiny", module=module or TinyNet(), preprocessing=preprocessing, labels="", device="cpu")


def png(seed: int) -> bytes:
    """An image of noise around a color of its own, so that images activate units differently."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3)) // 2 + rng.integers(0, 128, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def tiny_samples(count: int, *, first_seed: int = 0, tar_shard: str = "a.tar") -> list[Sample]:
    """Samples with the labels 0, 1, 2, 3, 4, none, 0, …"""
    labels = [*range(NUM_CLASSES), None]
    samples = []
    for index in range(count):
        image = png(first_seed + index)
        samples.append(
            Sample(
                key=f"photo-{first_seed + index}",
                tar_shard=tar_shard,
                index=index,
                offset=512 * index,
                size=len(image),
                label=labels[index % len(labels)],
                image=image,
            )
        )
    return samples


def tiny_collect(samples: list[Sample], shard_index: int = 0, **options: object) -> ShardStatistics:
    settings = {"layers": LAYERS, "feature_layers": ("stem",), "top_k": 4, "batch_size": 3} | options
    return collect(tiny_model(), samples, shard_index=shard_index, budget=ErrorBudget(0.5), **settings)


def features_of_all(samples: list[Sample], layer: str) -> Tensor:
    """Features [R, U, N] of all samples, one image at a time, outside the code under test."""
    module = TinyNet().eval()
    found: list[Tensor] = []
    # A copy at once: the in-place ReLU would change the stem's output.
    module.get_submodule(layer).register_forward_hook(lambda _m, _i, output: found.append(output.clone()))
    with torch.no_grad():
        for sample in samples:
            pixels = np.asarray(Image.open(io.BytesIO(sample.image)), np.float32) / 255
            module(torch.from_numpy((pixels - 0.5) / 0.25).permute(2, 0, 1)[None])
    return torch.cat(found).reshape(len(samples), found[0].shape[1], -1)
