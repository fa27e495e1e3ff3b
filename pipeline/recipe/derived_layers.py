"""[[concepts]] and [[combinations]] of a recipe: the layers that are added to the model."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from pipeline.neurons import check_layer_name
from pipeline.recipe import fields as checks
from pipeline.recipe.fields import RecipeError, Section, Unexpected
from pipeline.recipe.toml import plain

CONCEPT_ACTIVATIONS = ("projection", "relu", "cosine")

_NAME = checks.text(pattern=r"[A-Za-z0-9_]+", expected='letters, digits and "_": it becomes part of a layer\'s name')


def _layer(value: Any) -> str:
    try:
        return check_layer_name(value)
    except (ValueError, TypeError):
        raise Unexpected('an exact layer name such as "blocks.5"') from None


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unexpected("true or false")
    return value


def _labels(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    return tuple(checks.many(checks.text(), what="texts, or the path or URL of a text file")(value))


_UNIT_FORM = r"\w+(\.\w+)*:\d+"
_UNIT = checks.text(pattern=_UNIT_FORM, expected='"LAYER:UNIT" such as "blocks.4:14"')
_UNIT_OR_NONE = checks.text(
    pattern=f"({_UNIT_FORM})?", expected='"LAYER:UNIT" such as "blocks.4:14", or nothing', may_be_empty=True
)


@dataclass(frozen=True, kw_only=True)
class ConceptsBlock(Section):
    """[[concepts]]: directions in a layer's feature space, which become the units of the layer `concepts.NAME`.

    `sha256` is that of the file: given, another content is refused; left out, a run fills it in, so that results
    are bound to the content.
    """

    section: ClassVar[str] = "concepts"
    name: str = checks.key(_NAME)
    layer: str = checks.key(_layer)
    directions: str = checks.key(
        checks.text(pattern=r".+\.(safetensors|npz)", expected="path or URL of a .safetensors or .npz")
    )
    key: str = checks.key(checks.text(may_be_empty=True), "")
    transpose: bool = checks.key(_switch, False)
    bias: str = checks.key(checks.text(may_be_empty=True), "")
    center: str = checks.key(checks.text(may_be_empty=True), "")
    activation: str = checks.key(checks.choice(*CONCEPT_ACTIVATIONS), "projection")
    normalize: bool = checks.key(_switch, True)
    labels: str | tuple[str, ...] = checks.key(_labels, ())
    sha256: str = checks.key(
        checks.text(pattern=r"([0-9a-f]{64})?", expected="64 hexadecimal digits, or nothing", may_be_empty=True), ""
    )


@dataclass(frozen=True, kw_only=True)
class CombinationsBlock(Section):
    """[[combinations]]: several units as one, either `units` jointly, or `unit` given one upstream of it."""

    section: ClassVar[str] = "combinations"
    name: str = checks.key(_NAME)
    units: tuple[str, ...] = checks.key(checks.many(_UNIT, what='"LAYER:UNIT" texts', unique=True), ())
    unit: str = checks.key(_UNIT_OR_NONE, "")
    conditioned_on: str = checks.key(_UNIT_OR_NONE, "")

    def __post_init__(self) -> None:
        super().__post_init__()
        is_joint = len(self.units) >= 2 and not self.unit and not self.conditioned_on
        is_conditional = not self.units and bool(self.unit) and bool(self.conditioned_on)
        if not is_joint and not is_conditional:
            raise RecipeError(
                f'combinations "{self.name}": expected either `units`, at least two, or `unit` and `conditioned_on`; '
                f'got units = {list(self.units)}, unit = "{self.unit}", given = "{self.conditioned_on}"'
            )


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
    """What the blocks contribute to `Recipe.stage_keys`: all that changes results, by the name of the layer.

    Of a file that is its content, not where it lies; labels change rows and no statistics.
    """
    left_out = {"name", "directions", *(() if with_labels else ("labels",))}
    return {
        f"{block.section}.{block.name}": {
            item.name: plain(getattr(block, item.name))
            for item in fields(block)
            if item.name not in left_out and getattr(block, item.name) not in ("", ())
        }
        for block in blocks
    }
