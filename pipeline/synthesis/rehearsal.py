"""What a network must be able to do for visualizations, tried on images of noise before any work starts."""

from collections.abc import Callable, Iterable

import torch

from pipeline.attribution.relevance import RULES, relevance
from pipeline.models import Model
from pipeline.models.determinism import check_determinism
from pipeline.models.differentiability import check_gradients
from pipeline.synthesis.methods.vital_target import AlignmentPlan


def rehearse(
    model: Model,
    layers: Iterable[str],
    plan: Callable[[str], AlignmentPlan] | None = None,
    *,
    image_size_px: int | None = None,
) -> None:
    """Refuse a model whose features cannot be repeated, layers without a gradient, and rules that do not work here.

    Args:
        model: to try.
        layers: of the neurons, exact names.
        plan: layer → where its neurons are aligned; None if nothing is aligned.
        image_size_px: of the visualizations; None is the model's input size.

    Raises:
        UserError: what is wrong, with the layer and the remedy.
    """
    layers, size_px = list(layers), image_size_px or model.input_size_px
    model.feature_shapes_at(size_px)  # it must run on images of this size
    check_determinism(model)
    check_gradients(model, layers, size_px=size_px)
    if plan is None:
        return
    plans = [plan(layer) for layer in layers]  # only now: a layer without a gradient has no feature layers before it
    aligned = dict.fromkeys(name for each in plans for name in each.feature_layers)
    check_gradients(model, [name for name in aligned if name not in layers], size_px=size_px)
    with_relevance = [each for each in plans if each.rule in RULES and each.feature_layers]
    if not with_relevance:
        return
    # Of the last layer alone: its relevance passes through what lies before it, and is dear.
    order = model.layers()
    last = max(with_relevance, key=lambda each: order.index(each.layer))
    noise = torch.randn(1, len(model.mean), size_px, size_px, generator=torch.Generator().manual_seed(0))
    relevance(
        model.module,
        noise.to(model.device),
        layer=last.layer,
        units=[0],
        feature_layers=last.feature_layers,
        rule=last.rule,
        num_prefix=model.num_prefix(last.layer),
    )
