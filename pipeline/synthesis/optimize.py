"""Synthesis: optimize the images of many neurons together, each as if it were alone."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.alignment.losses import INPUT_PIXELS, NeuronTarget
from pipeline.errors import UserError
from pipeline.models import Model, Precision, Preprocessing, features_of
from pipeline.synthesis.methods.presets import SynthesisOptions
from pipeline.synthesis.methods.registry import Method, check_method, method_named
from pipeline.synthesis.parameterization.pixel import parameterize
from pipeline.synthesis.regularizers import image_norm, total_variation, total_variation_l1
from pipeline.synthesis.step import ExecutionMode, Step
from pipeline.synthesis.transforms import draw_views, num_views

# Transparency is clipped at this percentile; published pixels at the 1st and 99th (METHOD 3, after MACO's display).
_ALPHA_PERCENTILE = 98.0
_PIXEL_PERCENTILES = (1.0, 99.0)

# Class neurons: weight of total variation and of the image norm by model; 0 elsewhere. Reference: VITAL's supplement.
_CLASS_REGULARIZER = {"torchvision:vit_l_16": 3e-3, "torchvision:vit_l_32": 3e-4}

_Item = TypeVar("_Item")
_Weights = tuple[float, float, float]  # total variation by l2, by l1, image norm


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """The visualization of one neuron.

    Attributes:
        image: uint8 [H, W, 3], or [H, W, 4] if the model takes opacity.
        alpha: transparency, float32 [H, W] in [0, 1]: where the optimization cared.
        activation: the neuron's activation on `image` as synthesized (spatial maximum).
        loss: at the last step.
        steps: how many were taken.
        seconds: gallery time of the batch over its number of images.
        neuron: (layer, unit).
        method: by which it was made.
        seed: of its generator.
    """

    image: np.ndarray
    alpha: np.ndarray
    activation: float
    loss: float
    steps: int
    seconds: float
    neuron: tuple[str, int]
    method: str
    seed: int


def learning_rate_at(step: int, options: SynthesisOptions) -> float:
    """Linear warm-up, then the schedule; the cosine is that of VITAL's published code, after DeepInversion."""
    warmup = min(options.warmup_steps, options.steps - 1)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    if options.schedule == "constant":
        return options.learning_rate
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (options.steps - warmup)))


def activation_weight_at(step: int, options: SynthesisOptions) -> float:
    """`activation_weight`, growing linearly to `activation_growth` times as much.

    A penalty that grows is what enforces a constraint (Nocedal, Wright, Numerical Optimization, section 17.1). It
    begins once shapes have found their place, and ends while the learning rate can still follow.
    """
    return options.activation_weight * (1 + (options.activation_growth - 1) * _grown(step, options))


def class_crops_at(step: int, options: SynthesisOptions) -> SynthesisOptions:
    """The options with the squares that VITAL shows of a class's image at a step, see `class_crop_min`."""
    smallest = options.class_crop_min + (1 - options.class_crop_min) * _grown(step, options)
    return replace(options, num_crops=1, crop_min=smallest, crop_max=1.0)


def _grown(step: int, options: SynthesisOptions) -> float:
    """How far what grows has grown: 0 for a quarter of the steps, 1 from three quarters on, linear between."""
    return min(1.0, max(0.0, 2 * step / options.steps - 0.5))


def synthesize(
    model: Model,
    neurons: Sequence[tuple[str, int]],
    targets: Sequence[NeuronTarget] = (),
    *,
    method: str = "vital",
    options: SynthesisOptions,
    image_size_px: int,
    seeds: Sequence[int],
    spectrum: np.ndarray | Tensor | None = None,
    precision: Precision = "float32",
    execution_mode: ExecutionMode = "plain",
    on_step: Callable[[int, int], None] | None = None,
) -> list[Visualization]:
    """Visualize neurons of one layer together.

    Args:
        model: whose neurons they are.
        neurons: (layer, unit) each, all in one layer.
        targets: what each is aligned to. Methods that align nothing read only its goal activation, the unit in which
            they measure activations; they may be given none.
        method: one of `METHODS`: what is minimized.
        options: see `SynthesisOptions`.
        image_size_px: side of the images.
        seeds: one per neuron; an image depends on its own seed, not on the rest of the batch.
        spectrum: where `options.needs_spectrum`: mean magnitude of real images, [C, S, S // 2 + 1], of any size S
            and up to scale; `MeanSpectrum.magnitude` of the statistics.
        precision: of the network's arithmetic; images, parameters, losses and the activation quoted are float32.
        execution_mode: how a step is computed: `plain`, `traced` or `compiled`, see `pipeline.synthesis.step`.
        on_step: called after each step with (steps done, steps in all).

    Returns:
        One visualization per neuron, in order.

    Raises:
        UserError: neurons of several layers, lengths that differ, an unknown method, or one that lacks its targets,
            its spectrum, or what it needs of the model.
        TracingError: the step cannot be traced or compiled.
        FloatingPointError: the loss of a neuron is not finite; it names the neuron and the step.
    """
    chosen = method_named(method)
    check_method(model, method)
    _check_batch(neurons, targets, seeds, chosen)
    started_s = time.perf_counter()
    layer, units = neurons[0][0], [unit for _, unit in neurons]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    preprocessing = model.preprocessing
    parameters = parameterize(
        options,
        image_size_px,
        generators,
        preprocessing,
        model.device,
        initial_rgb=_initial_colors(model, targets, options.grid) if chosen.needs_targets else None,
        spectrum=None if spectrum is None else torch.as_tensor(spectrum),
    )
    views_per_image = num_views(options)
    working = model.in_precision(precision)
    objective = chosen.objective(
        working, layer, _repeat(units, views_per_image), _repeat(targets, views_per_image), options
    )
    evaluate = Step(objective, working.module, execution_mode=execution_mode)
    optimizer = _make_optimizer(parameters.parameters, options)
    weights = _regularizer_weights(model, layer, options, chosen)
    transparency = torch.zeros(len(neurons), image_size_px, image_size_px, device=model.device)
    gray = preprocessing.normalize(torch.full((preprocessing.num_channels, 1, 1), 0.5, device=model.device))
    # Targets are made at the images' size, and what they are held against is of that size.
    view_px = image_size_px if chosen.needs_targets else min(image_size_px, model.input_size_px)
    shows_random_crops = (
        chosen.needs_targets
        and layer == model.classifier_layer
        and options.class_crop_min < 1
        and options.num_crops == 0
    )
    keep_views_for = options.relevance_every if chosen.needs_targets else 1
    losses = torch.zeros(len(neurons))

    for step in range(options.steps):
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, options)
        if "activation_weight" in objective.tensors:
            objective.tensors["activation_weight"].fill_(activation_weight_at(step, options))
        images = parameters.images()
        refresh = step % keep_views_for == 0
        if refresh:  # the views are kept while relevance is: a relevance map belongs to the image as it was shown
            drawn = class_crops_at(step, options) if shows_random_crops else options
            show = draw_views(drawn, generators, size_px=image_size_px, view_px=view_px, gray=gray)
        views, penalty = show(images), _regularization(images, weights)
        view_losses, view_gradients = evaluate(views, refresh=refresh)
        losses = view_losses.reshape(len(neurons), views_per_image).mean(dim=1) + penalty.detach()
        (gradient,) = torch.autograd.grad(views, images, view_gradients / views_per_image)
        if penalty.requires_grad:
            gradient = gradient + torch.autograd.grad(penalty.sum(), images)[0]
        transparency += gradient.abs().mean(dim=1)
        optimizer.zero_grad()
        torch.autograd.backward(images, gradient)
        optimizer.step()
        parameters.after_step()
        if on_step is not None:
            on_step(step + 1, options.steps)
    _check_finite(losses, neurons, options.steps)

    with torch.no_grad():
        final = preprocessing.denormalize(parameters.images())
        visualizations = _to_visualizations(preprocessing, final, clip=options.parameterization == "pixel")
        shown = torch.stack([preprocessing.to_tensor(visualization) for visualization in visualizations]).to(
            model.device
        )
        activation = model.activation(features_of(model.module, shown, [layer])[layer], layer, units)
    seconds = (time.perf_counter() - started_s) / len(neurons)
    return [
        Visualization(
            image=visualizations[i],
            alpha=_to_alpha(transparency[i]),
            activation=float(activation[i]),
            loss=float(losses[i].detach()),
            steps=options.steps,
            seconds=seconds,
            neuron=neurons[i],
            method=method,
            seed=seeds[i],
        )
        for i in range(len(neurons))
    ]


def _check_batch(
    neurons: Sequence[tuple[str, int]], targets: Sequence[NeuronTarget], seeds: Sequence[int], method: Method
) -> None:
    layers = {layer for layer, _ in neurons}
    if len(layers) != 1 or len(targets) not in (len(neurons), 0) or len(seeds) != len(neurons):
        raise UserError(
            f"a batch holds neurons of one layer with a target and a seed each; got layers {sorted(layers)}, "
            f"{len(neurons)} neurons, {len(targets)} targets, {len(seeds)} seeds"
        )
    if method.needs_targets and not targets:
        raise UserError(f'method "{method.name}" needs a target for each neuron: see `reference_target`')


def _repeat(items: Sequence[_Item], times: int) -> list[_Item]:
    """Each item as often as its image has views."""
    return [item for item in items for _ in range(times)]


def _make_optimizer(parameters: list[Tensor], options: SynthesisOptions) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "nadam": torch.optim.NAdam}[options.optimizer]
    fused = {"fused": True} if options.optimizer == "adam" and parameters[0].is_cuda else {}
    return kind(parameters, lr=options.learning_rate, betas=(options.beta1, options.beta2), eps=1e-8, **fused)


def _initial_colors(model: Model, targets: Sequence[NeuronTarget], grid: int) -> Tensor | None:
    """The mean color of the references in each cell of the grid, [B, C, grid, grid] in [0, 1], if it is known."""
    if any(INPUT_PIXELS not in target.layers for target in targets):
        return None
    cells = torch.stack([target.layers[INPUT_PIXELS].quantile.mean(dim=1) for target in targets])
    return model.preprocessing.denormalize(cells.reshape(len(targets), -1, grid, grid)).clamp(0, 1)


def _regularizer_weights(model: Model, layer: str, options: SynthesisOptions, method: Method) -> _Weights:
    """Weights of the image priors for neurons of a layer."""
    if method.name == "vital" and layer == model.classifier_layer:
        weight = _CLASS_REGULARIZER.get(model.name, 0.0) if options.parameterization == "pixel" else 0.0
        return weight, options.total_variation_l1, weight
    return options.total_variation, options.total_variation_l1, options.image_norm


def _regularization(images: Tensor, weights: _Weights) -> Tensor:
    value = images.new_zeros(len(images))
    for weight, prior in zip(weights, (total_variation, total_variation_l1, image_norm), strict=True):
        if weight:
            value = value + weight * prior(images)
    return value


def _check_finite(losses: Tensor, neurons: Sequence[tuple[str, int]], steps: int) -> None:
    bad = [neurons[i] for i in (~torch.isfinite(losses)).nonzero().flatten().tolist()]
    if bad:
        layer, unit = bad[0]
        raise FloatingPointError(
            f'the loss of neuron {unit} of layer "{layer}" is not finite after {steps} steps '
            f"({len(bad)} of {len(neurons)} in the batch); lower visualize.learning_rate"
        )


def _to_visualizations(preprocessing: Preprocessing, pixels: Tensor, *, clip: bool) -> list[np.ndarray]:
    """[B, C, H, W] in [0, 1] → visualizations to publish, optionally clipped at each image's outer percentiles."""
    visualizations = []
    for image in pixels.float().cpu().numpy():
        if clip:
            image = np.clip(image, *np.percentile(image, _PIXEL_PERCENTILES))
        visualizations.append(preprocessing.to_visualization(torch.from_numpy(image)))
    return visualizations


def _to_alpha(accumulated: Tensor) -> np.ndarray:
    """Accumulated gradient magnitude [H, W] → transparency in [0, 1]."""
    values = accumulated.float().cpu().numpy()
    ceiling = np.percentile(values, _ALPHA_PERCENTILE)
    return np.clip(values / ceiling, 0, 1).astype(np.float32) if ceiling > 0 else np.ones_like(values)
