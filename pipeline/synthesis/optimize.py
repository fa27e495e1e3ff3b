"""Synthesis: optimize the images of many neurons together, each as if it were alone."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.alignment import INPUT_PIXELS, NeuronTarget
from pipeline.models import Model, features_of, unit_activation
from pipeline.synthesis.objectives import AlignmentObjective
from pipeline.synthesis.parameterization import parameterize
from pipeline.synthesis.presets import SynthesisOptions
from pipeline.synthesis.regularizers import image_norm, total_variation
from pipeline.synthesis.transforms import draw_jitter, roll

# Transparency is clipped at this percentile; published pixels at the 1st and 99th (METHOD 3, after MACO's display).
_ALPHA_PERCENTILE = 98.0
_PIXEL_PERCENTILES = (1.0, 99.0)

# Class neurons: weight of total variation and of the image norm by model; 0 elsewhere. Reference: VITAL's supplement.
_CLASS_REGULARIZER = {"torchvision:vit_l_16": 3e-3, "torchvision:vit_l_32": 3e-4}


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """The picture of one neuron.

    Attributes:
        image: uint8 [H, W, 3].
        alpha: transparency, float32 [H, W] in [0, 1]: where the optimization cared.
        activation: the neuron's activation on `image` as synthesized (spatial maximum).
        loss: at the last step.
        steps: how many were taken.
        seconds: wall time of the batch over its number of images.
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
    """Linear warm-up, then a cosine to zero. Reference: VITAL's published code, after DeepInversion."""
    warmup = min(options.warmup_steps, options.steps - 1)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (options.steps - warmup)))


def synthesize(
    model: Model,
    neurons: Sequence[tuple[str, int]],
    targets: Sequence[NeuronTarget],
    *,
    method: str = "vital",
    options: SynthesisOptions,
    image_size_px: int,
    seeds: Sequence[int],
    on_step: Callable[[int, int], None] | None = None,
) -> list[Visualization]:
    """Visualize neurons of one layer together.

    Args:
        model: whose neurons they are.
        neurons: (layer, unit) each, all in one layer.
        targets: what each is aligned to.
        method: recorded in the result.
        options: see `SynthesisOptions`.
        image_size_px: side of the images.
        seeds: one per neuron; an image depends on its own seed, not on the rest of the batch.
        on_step: called after each step with (steps done, steps in all).

    Returns:
        One visualization per neuron, in order.

    Raises:
        ValueError: neurons of several layers, or lengths that differ.
        FloatingPointError: the loss of a neuron is not finite; it names the neuron and the step.
    """
    layers = {layer for layer, _ in neurons}
    if len(layers) != 1 or not len(neurons) == len(targets) == len(seeds):
        raise ValueError(
            f"a batch holds neurons of one layer with a target and a seed each; got layers {sorted(layers)}, "
            f"{len(neurons)} neurons, {len(targets)} targets, {len(seeds)} seeds"
        )
    started_s = time.perf_counter()
    layer, units = neurons[0][0], [unit for _, unit in neurons]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    parameters = parameterize(
        options,
        image_size_px,
        generators,
        model.preprocessing,
        model.device,
        initial_rgb=_initial_colors(model, targets, options.grid),
    )
    objective = AlignmentObjective(model, layer, units, targets, options)
    optimizer = torch.optim.Adam(
        parameters.parameters, lr=options.learning_rate, betas=(options.beta1, options.beta2), eps=1e-8
    )
    weights = _regularizer_weights(model, layer, options)
    transparency = torch.zeros(len(neurons), image_size_px, image_size_px, device=model.device)
    offsets = [(0, 0)] * len(neurons)
    losses = torch.zeros(len(neurons))

    for step in range(options.steps):
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, options)
        images = parameters.images()
        if step % options.relevance_every == 0:
            # The jitter is kept while relevance is: a relevance map belongs to the image as it was rolled.
            offsets = draw_jitter(generators, options.jitter_px)
            objective.update_relevance(roll(images, offsets))
        losses = objective(roll(images, offsets)) + _regularization(images, weights)
        (gradient,) = torch.autograd.grad(losses.sum(), images)
        transparency += gradient.abs().mean(dim=1)
        optimizer.zero_grad()
        torch.autograd.backward(images, gradient)
        optimizer.step()
        parameters.after_step()
        if on_step is not None:
            on_step(step + 1, options.steps)
    _check_finite(losses, neurons, options.steps)

    with torch.no_grad():
        final = parameters.images()
        pictures = _to_pictures(model.preprocessing.denormalize(final), clip=options.parameterization == "pixel")
        shown = torch.stack([model.preprocessing.to_tensor(picture) for picture in pictures]).to(model.device)
        activation = unit_activation(features_of(model.module, shown, [layer])[layer], units)
    seconds = (time.perf_counter() - started_s) / len(neurons)
    return [
        Visualization(
            image=pictures[i],
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


def _initial_colors(model: Model, targets: Sequence[NeuronTarget], grid: int) -> Tensor | None:
    """The mean color of the references in each cell of the grid, [B, 3, grid, grid] in [0, 1], if it is known."""
    if any(INPUT_PIXELS not in target.layers for target in targets):
        return None
    cells = torch.stack([target.layers[INPUT_PIXELS].quantile.mean(dim=1) for target in targets])
    return model.preprocessing.denormalize(cells.reshape(len(targets), 3, grid, grid)).clamp(0, 1)


def _regularizer_weights(model: Model, layer: str, options: SynthesisOptions) -> tuple[float, float]:
    """Weights of total variation and image norm for neurons of a layer."""
    if layer == model.classifier_layer:
        weight = _CLASS_REGULARIZER.get(model.name, 0.0) if options.parameterization == "pixel" else 0.0
        return weight, weight
    return options.total_variation, options.image_norm


def _regularization(images: Tensor, weights: tuple[float, float]) -> Tensor:
    total, norm = weights
    value = images.new_zeros(len(images))
    if total:
        value = value + total * total_variation(images)
    if norm:
        value = value + norm * image_norm(images)
    return value


def _check_finite(losses: Tensor, neurons: Sequence[tuple[str, int]], steps: int) -> None:
    bad = [neurons[i] for i in (~torch.isfinite(losses)).nonzero().flatten().tolist()]
    if bad:
        layer, unit = bad[0]
        raise FloatingPointError(
            f'the loss of neuron {unit} of layer "{layer}" is not finite after {steps} steps '
            f"({len(bad)} of {len(neurons)} in the batch); lower visualize.learning_rate"
        )


def _to_pictures(rgb: Tensor, *, clip: bool) -> list[np.ndarray]:
    """[B, 3, H, W] in [0, 1] → uint8 [H, W, 3] each, optionally clipped at each image's outer percentiles."""
    pictures = []
    for image in rgb.float().cpu().numpy():
        if clip:
            image = np.clip(image, *np.percentile(image, _PIXEL_PERCENTILES))
        pictures.append((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
    return pictures


def _to_alpha(accumulated: Tensor) -> np.ndarray:
    """Accumulated gradient magnitude [H, W] → transparency in [0, 1]."""
    values = accumulated.float().cpu().numpy()
    ceiling = np.percentile(values, _ALPHA_PERCENTILE)
    return np.clip(values / ceiling, 0, 1).astype(np.float32) if ceiling > 0 else np.ones_like(values)
