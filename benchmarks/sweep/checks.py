"""What `model_sweep` checks of a model, each against a plain way that shares no code with the pipeline.

Shapes: B images, C units, N positions.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.sweep.subject import (
    BATCH_SIZE,
    NUM_IMAGES,
    NUM_TOGETHER,
    ROUNDING,
    TOP_K,
    Subject,
    as_units_first,
    called,
    error_of,
    make_with_library,
    plain_output,
    recorded,
    require,
    values_of,
)
from pipeline.activations.collect import collect
from pipeline.attribution.relevance import relevance, upstream_layers
from pipeline.data.shards import ErrorBudget
from pipeline.models import Model, features_of
from pipeline.synthesis.api import visualize

SMALL_PX, MAX_LAYERS_ALONE = 128, {True: 30, False: 6}  # captured one by one, at small sizes and at others
FOLDED_SETS, FOLDED_LAYERS = 3, 2
STEPS: Final = 3


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
    return [answer] if isinstance(answer, Tensor) else [v for v in values_of(answer) if isinstance(v, Tensor)]


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
