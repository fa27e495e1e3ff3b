"""What `model_sweep` checks of a model, each against a plain way that shares no code with the pipeline.

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
from pipeline.activations.collect import collect
from pipeline.attribution.relevance import relevance, upstream_layers
from pipeline.data.shards import ErrorBudget, Sample, iterate_samples
from pipeline.errors import UserError
from pipeline.models import Model, features_of, load_model
from pipeline.synthesis.api import visualize

# Tried in turn: most networks take any, windows and position embeddings ask for their own.
SIZES_PX = (64, 96, 128, 224, None)
NUM_IMAGES, BATCH_SIZE, TOP_K = 10, 4, 3  # two batches and a partial one
NUM_TOGETHER = 2  # images of a pass where no statistics are made
SMALL_PX, MAX_LAYERS_ALONE = 128, {True: 30, False: 6}  # captured one by one, at small sizes and at others
FOLDED_SETS, FOLDED_LAYERS = 3, 2
STEPS = 3
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
        tensors = [value for value in _values(output) if isinstance(value, Tensor) and value.is_floating_point()]
        return [ways for tensor in tensors for ways in as_units_first(tensor, shape, layer)]
    found = []
    for axis in {1, output.ndim - 1}:
        moved = output.movedim(axis, 1)
        if tuple(moved.shape[1:]) == shape or (moved.shape[1] == shape[0] and moved[0].numel() == _size(shape)):
            found.append(moved.reshape(len(moved), shape[0], -1))
    return found


def _values(output: Any) -> list[Any]:
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


def check_network(subject: Subject) -> str:
    """The network gives what the library's own gives with the same weights, and no part of it is NaN."""
    model = subject.model
    library = make_with_library(model.name, model.input_size_px)
    surplus = library.load_state_dict(model.module.state_dict(), strict=False)  # auxiliary heads run in training alone
    require(not surplus.unexpected_keys, f"the library's network has no {surplus.unexpected_keys[:2]}")
    require(all("aux" in key for key in surplus.missing_keys), f"{surplus.missing_keys[:2]} are not in the network")
    with torch.no_grad():
        answer = library(subject.batch)
    for ours, theirs in zip(_tensors(subject.answer), _tensors(answer), strict=True):
        require(bool(ours.isfinite().all()), "the output is not finite")
        require(float(ours.std()) > 0, "the output is constant")
        error = error_of(ours, theirs)
        require(error < ROUNDING, f"the output differs from the library's by {error:.1e}")
    return ""


def _tensors(answer: Any) -> list[Tensor]:
    return [answer] if isinstance(answer, Tensor) else [v for v in _values(answer) if isinstance(v, Tensor)]


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


def check_layers(subject: Subject) -> str:
    """Every layer listed has the units its module declares; one image alone has the features it has in a batch."""
    model, wrong = subject.model, []
    modules = dict(model.module.named_modules(remove_duplicate=False))
    require(bool(subject.layers), "no layer is listed")
    for layer in subject.layers:
        declared = _declared_units(modules[called(layer)[0]])
        if declared not in (None, model.units(layer)):
            wrong.append(f"{layer} has {declared} channels, {model.units(layer)} units are listed")
    alone = features_of(model.module, subject.images[:1], subject.layers)
    together = features_of(model.module, subject.batch, subject.layers)
    for layer in subject.layers:
        shape = model.feature_shape(layer)
        if tuple(together[layer].shape[1:]) != tuple(shape) or len(together[layer]) != NUM_TOGETHER:
            wrong.append(
                f"{layer} is listed as {list(shape)} and gives {list(together[layer].shape)} for {NUM_TOGETHER}"
            )
        elif (error := error_of(alone[layer][0], together[layer][0])) > ROUNDING:
            wrong.append(f"{layer} of one image differs by {error:.1e} from that in a batch")
    require(not wrong, some(wrong))
    return str(len(subject.layers))


def _declared_units(module: nn.Module) -> int | None:
    """Units of a module of torch that says how many it has."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    return module.num_features if isinstance(module, nn.modules.batchnorm._BatchNorm) else None


def some(findings: Sequence[str]) -> str:
    """A few findings of many."""
    return "; ".join(findings[:2]) + (f"; and {len(findings) - 2} more" if len(findings) > 2 else "")


def check_capture(subject: Subject) -> str:
    """Features are the same captured alone, all together, and by a hook of one's own, for each call of a module."""
    module, batch = subject.model.module, subject.batch
    together, wrong = features_of(module, batch, subject.layers), []
    for layer in subject.layers:
        ways = as_units_first(plain_output(subject.outputs, layer), subject.model.feature_shape(layer), layer)
        features = together[layer].reshape(*together[layer].shape[:2], -1)
        if not any(torch.equal(features, way) for way in ways):
            wrong.append(f"{layer} differs from a hook's")
    chosen = evenly(subject.layers, MAX_LAYERS_ALONE[subject.model.input_size_px <= SMALL_PX])
    for layer in chosen:
        if not torch.equal(features_of(module, batch, [layer])[layer], together[layer]):
            wrong.append(f"{layer} alone differs from all together")
    require(not wrong, some(wrong))
    return f"{len(chosen)} alone" if len(chosen) < len(subject.layers) else ""


def evenly(items: Sequence[str], most: int) -> list[str]:
    """At most so many of the items, at even distances."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def check_classifier(subject: Subject) -> str:
    """`classifier` is the network's output, where that is one value per class."""
    answer, model = subject.answer, subject.model
    is_logits = isinstance(answer, Tensor) and answer.flatten(1).shape[1] == answer.shape[1] == 1000
    if model.classifier_layer is None:
        require(not is_logits, "the output is 1000 logits, and no classifier is found")
        return "none"
    require(isinstance(answer, Tensor), f"a classifier is found, and the output is a {type(answer).__name__}")
    layer = model.resolve_layer("classifier")
    logits = features_of(model.module, subject.batch, [layer])[layer]
    require(torch.equal(logits.flatten(1), answer.flatten(1)), f'"{layer}" is not the output')
    return ""


def check_statistics(subject: Subject) -> str:
    """Mean, variance, maximum, top images and their places as a plain loop over the images gives them; top-1, too."""
    model, wrong = subject.model, []
    statistics = collect(
        model,
        subject.samples,
        shard_index=0,
        layers=subject.layers,
        top_k=TOP_K,
        batch_size=BATCH_SIZE,
        budget=ErrorBudget(0.0),
    )
    outputs: dict[str, list[list[Tensor]]] = defaultdict(list)  # by layer and image, each way to read the axes
    answers = []
    for image in subject.images:
        with recorded(model.module) as found, torch.no_grad():
            answers.append(model.module(image[None]))
        for layer in subject.layers:
            shape = model.feature_shape(layer)
            ways = as_units_first(plain_output(found, layer), shape, layer) or [torch.zeros(1, shape[0], 1)]
            outputs[layer].append([way[0] for way in ways])
    ids = [row["sample"] for row in statistics.samples]
    for layer in subject.layers:
        recorded_here = statistics.layers[layer]
        problems = [
            _compare_statistics(model, layer, recorded_here, torch.stack(own), ids)
            for own in zip(*outputs[layer], strict=True)
        ]
        if all(problems):
            wrong.append(f"{layer}: {problems[0]}")
    if model.has_classifier:
        top1 = [int(answer.flatten(1).argmax()) for answer in answers]
        if [row["top1"] for row in statistics.samples] != top1:
            wrong.append("top-1 of the samples")
    require(len(statistics.samples) == NUM_IMAGES, f"{len(statistics.samples)} of {NUM_IMAGES} samples")
    require(not wrong, some(wrong))
    return ""


def _compare_statistics(model: Model, layer: str, found: Any, features: Tensor, ids: Sequence[int]) -> str:
    """What differs for one layer; features [B, C, N] of all images, whose sample ids rise."""
    values = features[..., model.num_prefix(layer) :].double().numpy()
    scale = max(float(np.abs(values).max()), 1e-12)
    peaks = values.max(axis=2)  # [B, C]
    expected = {
        "mean": values.mean(axis=(0, 2)),
        "top activations": -np.sort(-peaks, axis=0)[:TOP_K].T,
        "standard deviation": values.std(axis=(0, 2)),
    }
    moments = found.moments
    seen = {
        "mean": moments.mean,
        "top activations": found.topk.activation,
        "standard deviation": np.sqrt(moments.m2 / moments.count),
    }
    for name, value in expected.items():
        error = np.abs(seen[name] - value).max() / scale
        if not error < ROUNDING:
            return f"{name} differs by {error:.1e}"
    units = np.arange(values.shape[1])[:, None]
    images = np.searchsorted(ids, found.topk.sample)
    if not np.abs(peaks[images, units] - found.topk.activation).max() < ROUNDING * scale:
        return "another image is at the top"
    map_shape = model.map_shape(layer)
    place = found.topk.position[..., 0] * (map_shape[1] if map_shape else 1) + found.topk.position[..., 1]
    at_place = values[images, units, place]
    return "" if np.abs(at_place - found.topk.activation).max() < ROUNDING * scale else "the peak is elsewhere"


def check_folded(subject: Subject) -> str:
    """The network that is quicker to run gives the same features of the layers that were named."""
    model = subject.model
    generator = np.random.default_rng(0)
    folds, wrong = 0, []
    sets = [list(generator.choice(subject.layers, FOLDED_LAYERS)) for _ in range(FOLDED_SETS)]
    norms = [name for name in subject.layers if name.endswith(("act", "bn", "bn1", "norm1", "1"))]
    sets.append([norms[len(norms) // 2]] if norms else [])
    for drawn in sets:
        layers = [str(name) for name in drawn] + [name for name in (model.classifier_layer,) if name]
        module = model.folded(layers)
        folds += module is not model.module
        expected, found = (features_of(network, subject.batch, layers) for network in (model.module, module))
        for layer in layers:
            if (error := error_of(found[layer], expected[layer])) > ROUNDING * 10:
                wrong.append(f"{layer} differs by {error:.1e}")
    require(not wrong, some(wrong))
    return "" if folds else "unfolded"


def check_relevance(subject: Subject) -> str:
    """gradient × activation is autograd's; `lrp` is finite and not zero everywhere, or refused by name."""
    model = subject.model
    target = model.classifier_layer or subject.layers[-1]
    images, units = subject.batch, [0, model.units(target) - 1]
    known = [entry.layer for entry in model.default_feature_layers() if entry.layer != target]
    sources = upstream_layers(model.module, images[:1], target, known)[-2:]
    if not sources:
        return "no source"
    settings: dict[str, Any] = {"layer": target, "units": units, "feature_layers": sources}
    settings["num_prefix"] = model.num_prefix(target)
    found = relevance(model.module, images, rule="gradient_x_activation", **settings)
    with torch.enable_grad(), model.capture([target, *sources]) as features:
        kept: dict[str, Tensor] = {}
        handles = [_keep_graph(model.module, layer, kept) for layer in (target, *sources)]
        model.module(images.clone().requires_grad_())
        for handle in handles:
            handle.remove()
    own = features[target][range(len(units)), units].reshape(len(units), -1)[:, settings["num_prefix"] :].sum()
    gradients = torch.autograd.grad(own, [kept[layer] for layer in sources])
    for layer, gradient in zip(sources, gradients, strict=True):
        (expected, *_) = as_units_first((gradient * kept[layer]).detach(), model.feature_shape(layer), layer)
        error = error_of(found[layer].reshape(expected.shape), expected)
        require(error < ROUNDING, f"gradient × activation at {layer} differs from autograd's by {error:.1e}")
    shares = relevance(model.module, images, rule="lrp", **settings)
    for layer, share in shares.items():
        require(bool(share.isfinite().all()), f"lrp at {layer} is not finite")
        require(bool((share != 0).any()), f"lrp at {layer} is zero everywhere")
    return ""


def _keep_graph(module: nn.Module, layer: str, kept: dict[str, Tensor]) -> Any:
    """Keep the output of a module as the network itself uses it on."""
    name, number = called(layer)
    calls = 0

    def keep(_module: nn.Module, _inputs: object, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != number:
            return output
        kept[layer] = output.clone()
        return kept[layer]

    return module.get_submodule(name).register_forward_hook(keep)


def check_visualize(subject: Subject) -> str:
    """Visualizations of classes and of units of two layers are finite, not uniform, and change with the steps."""
    model = subject.model
    middle = [entry.layer for entry in model.default_feature_layers()][1:3] or evenly(subject.layers, 4)[1:3]
    neurons = [(layer, model.units(layer) - 1) for layer in middle]
    if model.has_classifier:
        neurons += [("classifier", 0), ("classifier", model.num_classes - 1)]
    references = [subject.batch] * len(neurons)
    settings: dict[str, Any] = {"preset": "fast", "image_size_px": model.input_size_px}
    first, last = (visualize(model, neurons, references, steps=steps, **settings) for steps in (1, STEPS))
    for neuron, before, after in zip(neurons, first, last, strict=True):
        require(bool(np.isfinite([after.activation, after.loss]).all()), f"{neuron} is not finite")
        require(float(after.image.std()) > 0, f"{neuron} is uniform")
        require(bool((before.image != after.image).any()), f"{neuron} does not change")
    return ""


CHECKS: dict[str, Callable[[Subject], str]] = {
    "network": check_network,
    "layers": check_layers,
    "capture": check_capture,
    "classifier": check_classifier,
    "statistics": check_statistics,
    "folded": check_folded,
    "relevance": check_relevance,
    "visualize": check_visualize,
}
