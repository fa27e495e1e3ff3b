"""A model under test, with weights of which none is degenerate, and plain ways to see what its modules give.

Shapes: B images, C units, N positions.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.common.data import DEMO_SHARDS
from pipeline.data.shards import Sample, iterate_samples
from pipeline.errors import UserError
from pipeline.models import Model, load_model

# Tried in turn: most networks take any, windows and position embeddings ask for their own.
SIZES_PX = (64, 96, 128, 224, None)
NUM_IMAGES, BATCH_SIZE, TOP_K = 10, 4, 3  # two batches and a partial one
NUM_TOGETHER = 2  # images of a pass where no statistics are made
ROUNDING = 1e-3  # of the largest value of a layer: other kernels, other batch sizes and folded weights round otherwise


class Difference(Exception):  # noqa: N818 - a result, not an error
    """The pipeline's numbers are not those of the plain way."""


@dataclass
class Subject:
    """A model under test, its images, and what its modules gave for them outside the pipeline.

    Attributes:
        model: with perturbed weights.
        samples, images: NUM_IMAGES of the demo, as bytes and as inputs [B, 3, S, S].
        outputs: module → its outputs, one for each call, of the first NUM_TOGETHER images.
        answer: of the network for these images.
    """

    model: Model
    samples: Sequence[Sample]
    images: Tensor
    outputs: dict[str, list[Any]] = field(default_factory=dict)
    answer: Any = None

    @property
    def layers(self) -> list[str]:
        return self.model.layers()

    @property
    def batch(self) -> Tensor:
        return self.images[:NUM_TOGETHER]


def load(name: str) -> Subject:
    """The model at the first of SIZES_PX that it can be made and run at, its weights perturbed."""
    for size_px in SIZES_PX:
        try:
            model = load_model(name, "random", input_size_px=size_px)
            model.layers()
        except UserError:
            if size_px is None:
                raise
            continue
        break
    samples = [sample for sample, _ in zip(_demo_samples(), range(NUM_IMAGES), strict=False)]
    images = torch.stack([model.preprocess(Image.open(io.BytesIO(sample.image))) for sample in samples])
    perturb(model.module, images)
    model.forget_measurements()
    if model.has_classifier:  # of fewer classes than the photographs' labels, as `run` would leave them out
        samples = [replace(one, label=None if (one.label or 0) >= model.num_classes else one.label) for one in samples]
    subject = Subject(model=model, samples=samples, images=images)
    with recorded(model.module) as subject.outputs, torch.no_grad():
        subject.answer = model.module(subject.batch)
    return subject


def _demo_samples() -> Iterator[Sample]:
    return iterate_samples(str(DEMO_SHARDS[0]), num_classes=None, on_skip=lambda _: None)


@torch.no_grad()
def perturb(module: nn.Module, images: Tensor) -> None:
    """Random weights of which none is degenerate: norms, biases, LayerScale, heads and running statistics.

    Running statistics are first set to those of the images, so that activations keep their size in deep networks.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)

    for parameter in module.parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        is_constant = parameter.min() == parameter.max()
        value = float(parameter.flatten()[0])
        if not is_constant:
            parameter.add_(noise(parameter) * parameter.std() * 0.05)
        elif parameter.squeeze().ndim > 1:  # a head or a residual branch that starts at zero
            parameter.add_(noise(parameter) / parameter[0].numel() ** 0.5)
        elif abs(value) < 0.5:  # a bias, LayerScale, the norm that ends a residual branch
            parameter.add_(noise(parameter) * 0.2)
        else:
            parameter.mul_(1 + 0.2 * noise(parameter))
    norms = [child for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    try:
        module(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.add_(0.1 * noise(norm.running_mean) * norm.running_var.sqrt())
        norm.running_var.mul_(1 + 0.3 * torch.rand(norm.running_var.shape, generator=generator))
    module.train().eval()  # LeViT and others keep biases computed in eval mode until then


@contextmanager
def recorded(module: nn.Module, images: Sequence[int] | None = None) -> Iterator[dict[str, list[Any]]]:
    """A plain hook on every module: name → its outputs, a copy for each call."""
    outputs: dict[str, list[Any]] = defaultdict(list)
    handles = []
    for name, child in module.named_modules(remove_duplicate=False):

        def keep(_module: nn.Module, _inputs: object, output: Any, name: str = name) -> None:
            outputs[name].append(output.detach().clone() if isinstance(output, Tensor) else output)

        handles.append(child.register_forward_hook(keep))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def called(layer: str) -> tuple[str, int]:
    """Module and number of the call, from 1: `name@2` is the second, `output` the network's own."""
    name, _, number = layer.partition("@")
    return "" if layer == "output" else name, int(number or 1)


def plain_output(outputs: dict[str, list[Any]], layer: str) -> Any:
    """What a module gave in the call that a layer is."""
    name, number = called(layer)
    made = outputs[name]
    if len(made) < number:
        raise Difference(f'"{layer}" is listed, and its module runs {len(made)} times')
    return made[number - 1]


def as_units_first(output: Any, shape: tuple[int, ...], layer: str) -> list[Tensor]:
    """The ways in which a module's output can be features of a shape (units first): [B, C, N] each.

    Several where the shape leaves it open, none where no axis fits.
    """
    if not isinstance(output, Tensor):
        tensors = [value for value in values_of(output) if isinstance(value, Tensor) and value.is_floating_point()]
        return [ways for tensor in tensors for ways in as_units_first(tensor, shape, layer)]
    found = []
    for axis in {1, output.ndim - 1}:
        moved = output.movedim(axis, 1)
        if tuple(moved.shape[1:]) == shape or (moved.shape[1] == shape[0] and moved[0].numel() == _size(shape)):
            found.append(moved.reshape(len(moved), shape[0], -1))
    return found


def values_of(output: Any) -> list[Any]:
    """The parts of an output that is no tensor."""
    if isinstance(output, dict):
        return list(output.values())
    return list(output) if isinstance(output, tuple | list) else []


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def error_of(value: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    if value.shape != expected.shape:
        return float("inf")
    scale = float(expected.abs().max().clamp(min=1e-12))
    error = float((value - expected).abs().max()) / scale
    return float("inf") if np.isnan(error) else error


def require(good: bool, what: str) -> None:
    if not good:
        raise Difference(what)


def make_with_library(name: str, size_px: int) -> nn.Module:
    """The network as its library makes it for its own weights, in eval mode, at another size where it takes one."""
    import timm
    import torchvision

    family, _, rest = name.partition(":")
    if family == "timm":
        make: Callable[..., nn.Module] = partial(timm.create_model, pretrained=True)
        sizes = [{"img_size": size_px}, {}] if timm.get_pretrained_cfg(rest).fixed_input_size else [{}]
    else:
        make = torchvision.models.get_model
        sizes = [{"image_size": size_px}] if rest.startswith("vit_") else [{}]
        sizes = [{"input_size": (size_px, size_px)}] if rest.startswith("maxvit_") else sizes
    with patch("timm.models._builder.load_pretrained"):  # made for them, not loaded
        try:
            module = make(rest, **sizes[0])
        except TypeError:
            module = make(rest, **sizes[-1])
    if family == "torchvision" and hasattr(module, "transform_input"):
        module.transform_input = True  # as the library sets it with its own weights
    return module.eval()
