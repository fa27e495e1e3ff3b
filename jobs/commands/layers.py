"""`neuron-atlas layers`: what a recipe can name of a model: its layers, their units and shapes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jobs.run.derived_layers import add_layers, pin_concepts
from pipeline.errors import UserError
from pipeline.models import FeatureLayer, Model, load_model
from pipeline.neurons import match_layers
from pipeline.recipe.recipe import load_recipe

_MODEL_NAME: Final = re.compile(r"(timm|torchvision|python):.+")


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer as listed.

    Attributes:
        layer: exact name.
        kind: `map`, `tokens`, `heads` (tokens or maps of attention heads), `vector` or `logits`.
        num_units: of the layer.
        shape: as text, `192 × 14 × 14`; of tokens with a grid `192 × (1 + 14 × 14)`, the prefix tokens first.
        remark: whether it is a default feature layer or the classifier, and how its units divide into heads.
    """

    layer: str
    kind: str
    num_units: int
    shape: str
    remark: str


def open_model(model: str, *, weights: str = "random", input_size_px: int | None = None) -> Model:
    """The model of a name or of a recipe's file, by default with random weights, which need no download.

    Of a recipe the concepts and combinations are added too.

    Raises:
        RecipeError: the file is no recipe.
        UserError: the model's name, weights or size are unknown.
    """
    if _MODEL_NAME.fullmatch(model):
        return load_model(model, weights, input_size_px=input_size_px)
    if not model.endswith(".toml"):
        raise UserError(
            f'"{model}": expected timm:NAME, torchvision:NAME, python:package.module:factory, or the .toml file of a '
            "recipe"
        )
    recipe, concepts = pin_concepts(load_recipe(model))
    section = recipe.model
    loaded = load_model(
        section.name,
        weights,
        seed=recipe.seed,
        labels=section.labels,
        input_size_px=input_size_px or section.input_size_px,
        options=section.options,
        output=section.output,
    )
    add_layers(loaded, recipe, concepts)
    return loaded


def list_layers(model: Model, patterns: Sequence[str] = ()) -> list[LayerRow]:
    """The layers of a model that match any pattern, all without one, in the order in which they are computed.

    Raises:
        UserError: a pattern matches no layer.
    """
    weights = {feature.layer: feature.weight for feature in _feature_layers(model)}
    rows = []
    for layer in match_layers(patterns, model.layers()) if patterns else model.layers():
        remarks = []
        if layer in weights:
            weight = weights[layer]
            remarks.append("feature layer" if weight == 1 else f"feature layer, weight {weight:g}")
        if layer == model.classifier_layer:
            remarks.append("classifier")
        if num_heads := _num_heads(model, layer):
            remarks.append(f"{num_heads} heads of {model.units(layer) // num_heads} units")
        rows.append(
            LayerRow(
                layer=layer,
                kind=_kind(model, layer),
                num_units=model.units(layer),
                shape=_shape(model, layer),
                remark="; ".join(remarks),
            )
        )
    return rows


def describe_layers(model: Model, rows: Sequence[LayerRow]) -> str:
    """The rows as text in columns, below a line that sums up the model."""
    classes = f"{model.num_classes} classes" if model.has_classifier else "no classifier"
    channels = "" if len(model.mean) == 3 else f", {len(model.mean)} input channels ({model.preprocessing.mode})"
    cells = [("layer", "kind", "units", "shape", "")]
    cells += [(row.layer, row.kind, str(row.num_units), row.shape, row.remark) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    counts = f"{len(rows)} of {len(model.layers())} layers, {classes}"
    lines = [f"{model.name} at {model.input_size_px} px{channels}: {counts}", *model.remarks]
    for name, kind, units, shape, remark in cells:
        columns = (name.ljust(widths[0]), kind.ljust(widths[1]), units.rjust(widths[2]), shape.ljust(widths[3]), remark)
        lines.append("  ".join(columns).rstrip())
    return "\n".join(lines)


def _feature_layers(model: Model) -> Sequence[FeatureLayer]:
    """The default ones; none if the model has none, which is an error of a recipe only."""
    try:
        return model.default_feature_layers()
    except UserError:
        return []


def _kind(model: Model, layer: str) -> str:
    if layer == model.classifier_layer:
        return "logits"
    if _num_heads(model, layer):
        return "heads"
    return {1: "vector", 2: "tokens", 3: "map"}[len(model.feature_shape(layer))]


def _num_heads(model: Model, layer: str) -> int:
    """Into how many attention heads the units divide; 0 of layers that are not heads."""
    child, _ = model.names.call(layer)
    parent, _, name = (model.names.layer(child) or "").rpartition(".")
    num_heads = getattr(model.module.get_submodule(parent), "num_heads", 0)
    return num_heads if name == "heads" and isinstance(num_heads, int) else 0


def _shape(model: Model, layer: str) -> str:
    shape = model.feature_shape(layer)
    grid = model.token_grid(layer)
    if grid is None:
        return " × ".join(map(str, shape))
    prefix = f"{grid.num_prefix} + " if grid.num_prefix else ""
    return f"{shape[0]} × ({prefix}{grid.height} × {grid.width})"
