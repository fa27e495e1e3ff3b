"""Concepts and combinations of a recipe: their files read and pinned, their layers added to the model."""

from collections.abc import Mapping

from pipeline.derived_layers.combinations import add_combination
from pipeline.derived_layers.concept_files import ConceptArrays, read_concepts, read_labels
from pipeline.derived_layers.concepts import add_concepts
from pipeline.errors import UserError
from pipeline.models import Model
from pipeline.recipe.derived_layers import ConceptsBlock
from pipeline.recipe.recipe import Recipe


def pin_concepts(recipe: Recipe) -> tuple[Recipe, dict[str, ConceptArrays]]:
    """Read the files of all concepts, and write their hashes into the recipe, whose fingerprints then cover them.

    Returns:
        The recipe, and name of the concepts → what is in their file.

    Raises:
        UserError: a file cannot be read, or has another hash than the recipe gives.
    """
    if not recipe.concepts:
        return recipe, {}
    arrays, pinned = {}, []
    for block in recipe.concepts:
        read = read_concepts(block.directions, key=block.key, bias=block.bias, center=block.center)
        if block.sha256 not in ("", read.sha256):
            raise UserError(
                f'concepts "{block.name}": "{block.directions}" has changed: its sha256 is {read.sha256}, the recipe '
                f"says {block.sha256}; restore the file, or leave sha256 out and give another output.root"
            )
        arrays[block.name] = read
        pinned.append(block.replace(sha256=read.sha256))
    return recipe.replace(concepts=tuple(pinned)), arrays


def add_layers(model: Model, recipe: Recipe, arrays: Mapping[str, ConceptArrays]) -> None:
    """Add the concepts and combinations of a recipe to its model, in the order in which the recipe names them.

    Combinations come last, because concepts may be among their units.

    Raises:
        UserError: a layer or unit is not there, or arrays do not fit their layer; the file is named.
    """
    for block in recipe.concepts:
        _add_concepts(model, block, arrays[block.name])
    for combination in recipe.combinations:
        if combination.units:
            add_combination(model, combination.name, units=[_layer_and_unit(text) for text in combination.units])
        else:
            conditioned_on = _layer_and_unit(combination.conditioned_on)
            add_combination(
                model, combination.name, unit=_layer_and_unit(combination.unit), conditioned_on=conditioned_on
            )


def _add_concepts(model: Model, block: ConceptsBlock, arrays: ConceptArrays) -> None:
    layer, directions = model.resolve_layer(block.layer), arrays.directions
    labels = read_labels(block.labels) if isinstance(block.labels, str) else block.labels
    try:
        add_concepts(
            model,
            block.name,
            layer,
            directions.t() if block.transpose and directions.ndim == 2 else directions,
            bias=arrays.bias,
            center=arrays.center,
            activation=block.activation,
            normalize=block.normalize,
            labels=labels,
        )
    except ValueError as error:
        key = f', key "{block.key}"' if block.key else ""
        raise UserError(
            f'{error} (read from "{block.directions}"{key}{", transposed" if block.transpose else ""})'
        ) from error


def _layer_and_unit(text: str) -> tuple[str, int]:
    """`"blocks.4:14"` → `("blocks.4", 14)`."""
    layer, _, unit = text.rpartition(":")
    return layer, int(unit)
