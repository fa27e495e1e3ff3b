"""`visualize`: the notebook interface, from reference images to pictures, without a store and without Ray."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pipeline.models import Model
from pipeline.neurons import neuron_seed
from pipeline.synthesis.optimize import Visualization, synthesize
from pipeline.synthesis.presets import preset as preset_options
from pipeline.synthesis.reference_target import plan_alignment, reference_target

METHODS = ("vital",)


def visualize(
    model: Model,
    neurons: Sequence[tuple[str, int]],
    references: Sequence[Tensor],
    *,
    method: str = "vital",
    steps: int | None = None,
    image_size_px: int | None = None,
    seed: int = 0,
    relevance: str = "auto",
    preset: str = "published",
    **options: Any,
) -> list[Visualization]:
    """Visualize neurons from their reference images.

    Args:
        model: of `load_model`.
        neurons: (layer, unit) each; they may lie in several layers. `classifier` names the class logits.
        references: per neuron [R, 3, H, W] in the model's input space (`model.preprocess` of photographs), at
            `image_size_px`.
        method: `vital`.
        steps: None takes the preset's (2,000 for `published`).
        image_size_px: None takes the size of the references.
        seed: of the run; each neuron's own seed follows from it and from the neuron.
        relevance: `auto`, `none`, or a rule of `pipeline.relevance`.
        preset: `published` or `fast`.
        **options: any field of `SynthesisOptions`.

    Returns:
        One visualization per neuron, in order.

    Raises:
        ValueError: an unknown method, layer, unit, preset or option; references of another size.
    """
    if method not in METHODS:
        raise ValueError(f'method = "{method}": expected one of {", ".join(METHODS)}')
    if len(neurons) != len(references):
        raise ValueError(f"got {len(neurons)} neurons and {len(references)} sets of references; expected one set each")
    settings = preset_options(preset, **options, **({} if steps is None else {"steps": steps}))
    by_layer: dict[str, list[int]] = {}
    for index, (layer, unit) in enumerate(neurons):
        exact = model.resolve_layer(layer)
        if not 0 <= unit < model.units(exact):
            raise ValueError(f'layer "{exact}" has units 0 to {model.units(exact) - 1}, got {unit}')
        by_layer.setdefault(exact, []).append(index)
    result: dict[int, Visualization] = {}
    for layer, indices in by_layer.items():
        size_px = image_size_px or references[indices[0]].shape[-1]
        for index in indices:
            if references[index].ndim != 4 or references[index].shape[-2:] != (size_px, size_px):
                raise ValueError(
                    f"references of {neurons[index]}: expected [R, 3, {size_px}, {size_px}], "
                    f"got {list(references[index].shape)}; use model.preprocess_at(photograph, {size_px})"
                )
        plan = plan_alignment(model, layer, settings, rule=relevance, image_size_px=size_px)
        units = [neurons[index][1] for index in indices]
        made = synthesize(
            model,
            [(layer, unit) for unit in units],
            [reference_target(model, plan, unit, references[i]) for unit, i in zip(units, indices, strict=True)],
            method=method,
            options=settings,
            image_size_px=size_px,
            seeds=[neuron_seed(seed, method, layer, unit, 0) for unit in units],
        )
        result |= dict(zip(indices, made, strict=True))
    return [result[index] for index in range(len(neurons))]
