"""`visualize`: the notebook interface, from reference images to visualizations, without a store and without Ray."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.alignment.losses import NeuronTarget
from pipeline.errors import UserError
from pipeline.models import FeatureLayer, Model, Precision, features_of
from pipeline.neurons import neuron_seed
from pipeline.synthesis.methods.options import VitalOptions
from pipeline.synthesis.methods.presets import preset as preset_options
from pipeline.synthesis.methods.registry import check_method, method_named
from pipeline.synthesis.methods.vital_target import AlignmentPlan, plan_alignment, reference_target
from pipeline.synthesis.optimize import Visualization, synthesize
from pipeline.synthesis.parameterization.maco_phase import mean_magnitude
from pipeline.synthesis.rehearsal import rehearse


def visualize(
    model: Model,
    neurons: Sequence[tuple[str, int]],
    references: Sequence[Tensor] | None = None,
    *,
    method: str = "vital",
    steps: int | None = None,
    image_size_px: int | None = None,
    seed: int = 0,
    relevance: str = "auto",
    feature_layers: Sequence[str | FeatureLayer] = (),
    preset: str = "published",
    precision: Precision = "float32",
    **options: Any,
) -> list[Visualization]:
    """Visualize neurons from their reference images.

    Args:
        model: of `load_model`.
        neurons: (layer, unit) each; they may lie in several layers. `classifier` names the class logits.
        references: per neuron [R, C, H, W] in the model's input space (`model.preprocess` of dataset images), at
            `image_size_px`. `vital` aligns with them; `maco` takes the mean spectrum of all of them together, a rough
            one where they are few (a run takes that of its whole data set); the other methods need none.
        method: `vital`, `maco`, `fourier`, `deepinversion` or `pixel`, see `pipeline.synthesis.methods.registry`.
        steps: None takes the preset's (2,000 for `vital` as published).
        image_size_px: None takes the size of the references, or the model's where there are none.
        seed: of the run; each neuron's own seed follows from it and from the neuron.
        relevance: `vital`: `auto`, `none`, or a rule of `pipeline.attribution`.
        feature_layers: `vital`: where distributions are aligned, by name, or with a weight each; empty takes the
            model's own.
        preset: `published`, `fast` or `best`.
        precision: of the network's arithmetic while the visualizations are made; `bfloat16` is for GPUs.
        **options: the method's options, see `pipeline.synthesis.methods.options`.

    Returns:
        One visualization per neuron, in order.

    Raises:
        UserError: an unknown method, layer, feature layer, unit, preset or option; no references where the method
            needs them, or some of another size; a model that the method does not work for, see `rehearse`.
    """
    check_method(model, method)
    settings = preset_options(preset, method, **options, **({} if steps is None else {"steps": steps}))
    if references is None and (method_named(method).needs_targets or settings.needs_spectrum):
        raise UserError(f'method "{method}" needs reference images: pass one set of them per neuron')
    by_layer = _places_by_layer(model, neurons)
    size_px = image_size_px or (model.input_size_px if not references else references[0].shape[-1])
    _check_references(model, neurons, references, size_px)
    plan = None
    if isinstance(settings, VitalOptions):
        chosen = [FeatureLayer(layer=each) if isinstance(each, str) else each for each in feature_layers]
        plan = partial(
            plan_alignment, model, options=settings, rule=relevance, feature_layers=chosen, image_size_px=size_px
        )
    elif feature_layers:
        raise UserError(f'feature_layers = {list(feature_layers)}: method "{method}" aligns nothing, leave them out')
    rehearse(model, by_layer, plan, image_size_px=size_px)
    result: dict[int, Visualization] = {}
    for layer, places in by_layer.items():
        units = [neurons[place][1] for place in places]
        made = synthesize(
            model,
            [(layer, unit) for unit in units],
            []
            if references is None
            else _targets(
                model, layer, units, [references[place] for place in places], None if plan is None else plan(layer)
            ),
            method=method,
            options=settings,
            image_size_px=size_px,
            seeds=[neuron_seed(seed, method, layer, unit, 0) for unit in units],
            spectrum=_spectrum(model, references) if settings.needs_spectrum else None,
            precision=precision,
        )
        result |= dict(zip(places, made, strict=True))
    return [result[place] for place in range(len(neurons))]


def _places_by_layer(model: Model, neurons: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    """Layer by its full name → the places of its neurons in the list."""
    places: dict[str, list[int]] = {}
    for place, (layer, unit) in enumerate(neurons):
        exact = model.resolve_layer(layer)
        if not 0 <= unit < model.units(exact):
            raise UserError(f'layer "{exact}" has units 0 to {model.units(exact) - 1}, got {unit}')
        places.setdefault(exact, []).append(place)
    return places


def _check_references(
    model: Model, neurons: Sequence[tuple[str, int]], references: Sequence[Tensor] | None, size_px: int
) -> None:
    if references is None:
        return
    if len(neurons) != len(references):
        raise UserError(f"got {len(neurons)} neurons and {len(references)} sets of references; expected one set each")
    num_channels = model.preprocessing.num_channels
    for neuron, images in zip(neurons, references, strict=True):
        if images.ndim != 4 or images.shape[1:] != (num_channels, size_px, size_px):
            raise UserError(
                f"references of {neuron}: expected [R, {num_channels}, {size_px}, {size_px}], "
                f"got {list(images.shape)}; use model.preprocess_at(dataset image, {size_px})"
            )


def _spectrum(model: Model, references: Sequence[Tensor] | None) -> Tensor:
    """Mean magnitude spectrum of all references together."""
    assert references is not None
    return mean_magnitude(model.preprocessing.denormalize(torch.cat(list(references))))


def _targets(
    model: Model,
    layer: str,
    units: Sequence[int],
    references: Sequence[Tensor],
    plan: AlignmentPlan | None,
) -> list[NeuronTarget]:
    """What the neurons of one layer are aligned with; for other methods only the goal activation."""
    if plan is not None:
        return [reference_target(model, plan, unit, images) for unit, images in zip(units, references, strict=True)]
    targets = []
    for unit, images in zip(units, references, strict=True):
        with torch.no_grad():
            features = features_of(model.module, images.to(model.device), [layer])[layer]
        activation = model.activation(features, layer, [unit] * len(images)).max()
        targets.append(NeuronTarget(layers={}, goal_activation=float(activation)))
    return targets
