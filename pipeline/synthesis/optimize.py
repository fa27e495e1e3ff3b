"""Synthesis: optimize the images of many neurons together, each as if it were alone."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.alignment.losses import NeuronTarget
from pipeline.errors import UserError
from pipeline.models import Model, Precision, features_of
from pipeline.synthesis.display import to_alpha, to_images
from pipeline.synthesis.methods.method import Method
from pipeline.synthesis.methods.options import SynthesisOptions
from pipeline.synthesis.methods.registry import check_method, method_named
from pipeline.synthesis.parameterization.pixel import Parameterization, parameterize
from pipeline.synthesis.step import ExecutionMode, Objective, Step
from pipeline.synthesis.transforms import Views, draw_views, num_views

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """The visualization of one neuron.

    Attributes:
        image: uint8 [H, W, 3], or [H, W, 4] if the model takes opacity.
        alpha: attribution mask (MACO calls it transparency), float32 [H, W] in [0, 1]: magnitude of the gradient.
        activation: the neuron's activation on `image` (spatial maximum).
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
        options: of the method, see `pipeline.synthesis.methods.options`.
        image_size_px: side of the images.
        seeds: one per neuron; an image depends on its own seed, not on the rest of the batch.
        spectrum: where `options.needs_spectrum`: mean magnitude of real images, [C, S, S // 2 + 1], of any size S
            and up to scale; `MeanSpectrum.magnitude` of the statistics.
        precision: of the network's arithmetic; images, parameters, losses and the activation reported are float32.
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
    check_method(model, method)
    batch = _Batch(
        model=model,
        neurons=neurons,
        targets=targets,
        method=method_named(method),
        options=options,
        image_size_px=image_size_px,
        seeds=seeds,
    )
    started_s = time.perf_counter()
    magnitude = None if spectrum is None else torch.as_tensor(spectrum)
    optimization = _Optimization(batch, magnitude, precision, execution_mode)
    for step in range(options.steps):
        optimization.take(step)
        if on_step is not None:
            on_step(step + 1, options.steps)
    _check_finite(optimization.losses, neurons, options.steps)
    return _visualizations(batch, optimization, started_s)


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """What is visualized together, and how; see `synthesize`."""

    model: Model
    neurons: Sequence[tuple[str, int]]
    targets: Sequence[NeuronTarget]
    method: Method[Any]
    options: SynthesisOptions
    image_size_px: int
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        layers = {layer for layer, _ in self.neurons}
        count = len(self.neurons)
        if len(layers) != 1 or len(self.targets) not in (count, 0) or len(self.seeds) != count:
            raise UserError(
                f"a batch holds neurons of one layer with a target and a seed each; got layers {sorted(layers)}, "
                f"{count} neurons, {len(self.targets)} targets, {len(self.seeds)} seeds"
            )
        if self.method.needs_targets and not self.targets:
            raise UserError(f'method "{self.method.name}" needs a target for each neuron: see `reference_target`')

    @property
    def layer(self) -> str:
        """The layer of all neurons."""
        return self.neurons[0][0]

    @property
    def units(self) -> list[int]:
        """The unit of each neuron."""
        return [unit for _, unit in self.neurons]


class _Optimization:
    """The images of a batch, moved step by step.

    Attributes:
        losses: of the images at the last step, [B].
        gradient_sum: sum over the steps of the gradient's magnitude, mean over channels, [B, H, W].
    """

    def __init__(
        self, batch: _Batch, spectrum: Tensor | None, precision: Precision, execution_mode: ExecutionMode
    ) -> None:
        model, options, size_px = batch.model, batch.options, batch.image_size_px
        self._batch = batch
        self._generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
        self._parameters: Parameterization = parameterize(
            options,
            size_px,
            self._generators,
            model.preprocessing,
            model.device,
            initial_rgb=batch.method.initial_rgb(model, batch.targets, options),
            spectrum=spectrum,
        )
        self._num_views = num_views(options)
        working = model.in_precision(precision)
        self._objective = _objective(batch, working, self._num_views)
        self._evaluate = Step(self._objective, working.module, execution_mode=execution_mode)
        self._optimizer = _make_optimizer(self._parameters.parameters, options)
        self._regularizer = batch.method.regularizer(model, batch.layer, options)
        self._steps_per_view = batch.method.steps_per_view(options)
        self._views = Views()
        self.losses = torch.zeros(len(batch.neurons))
        self.gradient_sum = torch.zeros(len(batch.neurons), size_px, size_px, device=model.device)

    def images(self) -> Tensor:
        """The images, [B, C, H, W], in the model's input space."""
        return self._parameters.images()

    def take(self, step: int) -> None:
        """Take one step."""
        self._optimizer.param_groups[0]["lr"] = learning_rate_at(step, self._batch.options)
        self._batch.method.before_step(step, self._batch.options, self._objective.tensors)
        images = self.images()
        is_fresh = step % self._steps_per_view == 0
        if is_fresh:  # views are kept while relevance is: a relevance map belongs to the image as it was shown
            self._views = self._draw_views(step)
        gradient = self._gradient(images, is_fresh=is_fresh)
        self.gradient_sum += gradient.abs().mean(dim=1)
        self._optimizer.zero_grad()
        torch.autograd.backward(images, gradient)
        self._optimizer.step()
        self._parameters.after_step()

    def _draw_views(self, step: int) -> Views:
        batch, model = self._batch, self._batch.model
        mid_gray = torch.full((model.preprocessing.num_channels, 1, 1), 0.5, device=model.device)
        return draw_views(
            batch.method.views_at(step, model, batch.layer, batch.options),
            self._generators,
            size_px=batch.image_size_px,
            view_px=batch.method.view_size_px(model, batch.image_size_px),
            gray=model.preprocessing.normalize(mid_gray),
        )

    def _gradient(self, images: Tensor, *, is_fresh: bool) -> Tensor:
        """The gradient of the loss of each image, mean over its views, and of its priors: [B, C, H, W]."""
        views, penalty = self._views(images), self._regularizer(images)
        view_losses, view_gradients = self._evaluate(views, refresh=is_fresh)
        self.losses = view_losses.reshape(len(images), self._num_views).mean(dim=1) + penalty.detach()
        (gradient,) = torch.autograd.grad(views, images, view_gradients / self._num_views)
        if penalty.requires_grad:
            gradient = gradient + torch.autograd.grad(penalty.sum(), images)[0]
        return gradient


def learning_rate_at(step: int, options: SynthesisOptions) -> float:
    """Linear warm-up, then the schedule; the cosine is that of VITAL's published code, after DeepInversion."""
    warmup = min(options.warmup_steps, options.steps - 1)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    if options.schedule == "constant":
        return options.learning_rate
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (options.steps - warmup)))


def _objective(batch: _Batch, working: Model, num_views: int) -> Objective:
    """Of all views, those of one image in a row."""
    units, targets = _repeat(batch.units, num_views), _repeat(batch.targets, num_views)
    return batch.method.objective(working, batch.layer, units, targets, batch.options)


def _repeat(items: Sequence[_Item], times: int) -> list[_Item]:
    return [item for item in items for _ in range(times)]


def _make_optimizer(parameters: list[Tensor], options: SynthesisOptions) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "nadam": torch.optim.NAdam}[options.optimizer]
    fused = {"fused": True} if options.optimizer == "adam" and parameters[0].is_cuda else {}
    return kind(parameters, lr=options.learning_rate, betas=(options.beta1, options.beta2), eps=1e-8, **fused)


def _check_finite(losses: Tensor, neurons: Sequence[tuple[str, int]], steps: int) -> None:
    bad = [neurons[i] for i in (~torch.isfinite(losses)).nonzero().flatten().tolist()]
    if bad:
        layer, unit = bad[0]
        raise FloatingPointError(
            f'the loss of neuron {unit} of layer "{layer}" is not finite after {steps} steps '
            f"({len(bad)} of {len(neurons)} in the batch); lower visualize.learning_rate"
        )


@torch.no_grad()
def _visualizations(batch: _Batch, optimization: _Optimization, started_s: float) -> list[Visualization]:
    model, options = batch.model, batch.options
    pixels = model.preprocessing.denormalize(optimization.images())
    images = to_images(model.preprocessing, pixels, clip=options.parameterization == "pixel")
    activations = _activations(batch, images)
    seconds = (time.perf_counter() - started_s) / len(batch.neurons)
    return [
        Visualization(
            image=images[i],
            alpha=to_alpha(optimization.gradient_sum[i]),
            activation=float(activations[i]),
            loss=float(optimization.losses[i]),
            steps=options.steps,
            seconds=seconds,
            neuron=neuron,
            method=batch.method.name,
            seed=batch.seeds[i],
        )
        for i, neuron in enumerate(batch.neurons)
    ]


def _activations(batch: _Batch, images: Sequence[np.ndarray]) -> Tensor:
    """Each neuron's activation on its image as it is published: [B]."""
    model, layer = batch.model, batch.layer
    shown = torch.stack([model.preprocessing.to_tensor(image) for image in images]).to(model.device)
    return model.activation(features_of(model.module, shown, [layer])[layer], layer, batch.units)
