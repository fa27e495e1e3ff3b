"""[[concepts]] and [[combinations]] of a recipe: the layers that are added to the model."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.recipe.section import RecipeError, Section
from pipeline.recipe.values import LAYER_FORM, LayerName, Listed, Text, form

_UNIT_FORM = rf"{LAYER_FORM}:\d+"
BlockName = Annotated[str, form(r"[A-Za-z0-9_]+", 'letters, digits and "_": it becomes part of a layer\'s name')]
UnitName = Annotated[str, form(_UNIT_FORM, '"LAYER:UNIT" such as "blocks.4:14"')]
UnitNameOrNone = Annotated[str, form(f"({_UNIT_FORM})?", '"LAYER:UNIT" such as "blocks.4:14", or nothing')]


class ConceptsBlock(Section, title="[[concepts]]"):
    """Directions in a layer's feature space, which become the units of the derived layer `concepts.NAME`."""

    name: BlockName
    """Name of the set."""
    layer: LayerName
    """The layer whose features the directions lie in."""
    directions: Annotated[str, form(r".+\.(safetensors|npz)", "path or URL of a .safetensors or .npz")]
    """The file of the directions."""
    key: str = ""
    """Name of the array of directions in the file; may be left out if there is no other."""
    transpose: bool = False
    """The array is [channels, directions]."""
    bias: str = ""
    """Name of an array that is added to the projections."""
    center: str = ""
    """Name of an array that is subtracted from the features first."""
    activation: Literal["projection", "relu", "cosine"] = "projection"
    """The projection, its positive part, or the cosine of the angle."""
    normalize: bool = True
    """Bring each direction to length 1, and divide its bias alike."""
    labels: Annotated[
        str | Annotated[tuple[Text, ...], Listed("texts", or_single=False)],
        Field(title="a list of texts, or the path or URL of a text file"),
    ] = ()
    """What the directions are: texts, or path or URL of a text file with one per line."""
    sha256: Annotated[str, form(r"([0-9a-f]{64})?", "64 hexadecimal digits, or nothing")] = ""
    """Hash of the file. Given: another content is refused. Empty: a run fills it in."""


class CombinationsBlock(Section, title="[[combinations]]"):
    """Several units as one: either `units` jointly, or `unit` conditioned on one upstream of it."""

    name: BlockName
    """Name of the combination."""
    units: Annotated[tuple[UnitName, ...], Listed('"LAYER:UNIT" texts', unique=True)] = ()
    """At least two units, which are to be active at one place."""
    unit: UnitNameOrNone = ""
    """One unit, as far as it is computed from that of `conditioned_on`."""
    conditioned_on: UnitNameOrNone = ""
    """A unit of an earlier layer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        is_joint = len(self.units) >= 2 and not self.unit and not self.conditioned_on
        is_conditional = not self.units and bool(self.unit) and bool(self.conditioned_on)
        if not is_joint and not is_conditional:
            raise RecipeError(
                f'combinations "{self.name}": expected either `units`, at least two, or `unit` and `conditioned_on`; '
                f'got units = {list(self.units)}, unit = "{self.unit}", conditioned_on = "{self.conditioned_on}"'
            )
        return self


def require_distinct_names(blocks: Sequence[ConceptsBlock | CombinationsBlock]) -> None:
    """Refuse two blocks of one kind with one name.

    Raises:
        RecipeError: with the name.
    """
    seen = set()
    for block in blocks:
        if (block.section, block.name) in seen:
            raise RecipeError(f'{block.section}.name = "{block.name}" twice: expected another name for each')
        seen.add((block.section, block.name))


def derived_keys(blocks: Sequence[ConceptsBlock | CombinationsBlock], *, with_labels: bool) -> dict[str, Any]:
    """Return what the blocks contribute to `Recipe.stage_keys`: all that changes results, by the name of the layer.

    Of a file that is its content, not where it lies; labels change rows and no statistics.
    """
    left_out = {"name", "directions", *(() if with_labels else ("labels",))}
    return {
        f"{block.section}.{block.name}": {
            key: value for key, value in block.to_table().items() if key not in left_out and value not in ("", [])
        }
        for block in blocks
    }
