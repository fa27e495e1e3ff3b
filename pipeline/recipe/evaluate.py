"""[evaluate] of a recipe: the networks that score the visualizations, the dataset images that they are compared with."""
# ruff: noqa: RUF009 - `key` makes a dataclass field

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.recipe import fields as checks
from pipeline.recipe.fields import RecipeError, Section, Unexpected, key

MAX_SLUG_LENGTH = 80  # it becomes part of column names

_OPEN_CLIP = r"open_clip:\S+"


@dataclass(frozen=True, kw_only=True)
class EvaluatorChoice(Section):
    """One of evaluate.held_out_models: a network that never saw how the visualizations were made, and its weights."""

    section: ClassVar[str] = "evaluate.held_out_models"
    name: str = key(checks.text(pattern=checks.MODEL_NAME, expected="timm:NAME, torchvision:NAME or python:…"))
    weights: str = key(checks.text(), "pretrained")

    @property
    def slug(self) -> str:
        """The name as part of column names: lower-case letters, digits and `_`."""
        # Imported here: it belongs to the evaluators, and most uses of a recipe have none.
        from pipeline.neurons import evaluator_slug

        return evaluator_slug(self.name)


@dataclass(frozen=True, kw_only=True)
class ClipChoice(EvaluatorChoice):
    """evaluate.clip: an open_clip network, which compares visualizations with the names of the classes.

    It has no default weights, so that a run never downloads any by itself.
    """

    section: ClassVar[str] = "evaluate.clip"
    name: str = key(checks.text(pattern=_OPEN_CLIP, expected="open_clip:ARCHITECTURE, such as open_clip:ViT-B-32"))
    weights: str = key(checks.text(expected="the path of the network's weights"))


def _evaluator(value: Any) -> EvaluatorChoice:
    if isinstance(value, EvaluatorChoice):
        return value
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        raise Unexpected('a model name or {name = "timm:…", weights = "…"}')
    return EvaluatorChoice.from_table(table)


def _clip(value: Any) -> ClipChoice:
    if isinstance(value, ClipChoice):
        return value
    if not isinstance(value, Mapping):
        raise Unexpected('a table {name = "open_clip:ViT-B-32", weights = "PATH"}')
    return ClipChoice.from_table(value)


@dataclass(frozen=True, kw_only=True)
class EvaluateSection(Section):
    """[evaluate]: who scores the visualizations beside the model itself, and what they are compared with.

    `num_dataset_images` random dataset images of the data set are the panel that visualizations are compared with, and
    `num_top_images` per neuron those that activate it. `weak_percentile`: a visualization that activates its neuron
    less than this percentile of the data set is weak.
    """

    section: ClassVar[str] = "evaluate"
    held_out_models: tuple[EvaluatorChoice, ...] = key(checks.many(_evaluator, what="model names or tables"), ())
    clip: ClipChoice | None = key(checks.either(None, _clip), None)
    num_dataset_images: int = key(checks.whole(minimum=2), 1000)
    num_top_images: int = key(checks.whole(minimum=1), 9)
    weak_percentile: float = key(checks.number(minimum=0, maximum=100), 99.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_distinct_columns(self.evaluators)

    @property
    def evaluators(self) -> tuple[EvaluatorChoice, ...]:
        """The networks beside the model, CLIP last."""
        return (*self.held_out_models, *([self.clip] if self.clip else []))


def _require_distinct_columns(evaluators: Sequence[EvaluatorChoice]) -> None:
    """Refuse evaluators whose scores would meet in one column, or whose column would have no name.

    Raises:
        RecipeError: with the names.
    """
    names: dict[str, str] = {}
    for evaluator in evaluators:
        if len(evaluator.slug) > MAX_SLUG_LENGTH:
            raise RecipeError(
                f'{evaluator.section} = "{evaluator.name}": its scores get columns named after it, so its name may have at '
                f"most {MAX_SLUG_LENGTH} letters and digits; it has {len(evaluator.slug)}"
            )
        if evaluator.slug in names:
            raise RecipeError(
                f'evaluate.held_out_models: "{names[evaluator.slug]}" and "{evaluator.name}" would both write the column '
                f'"accuracy_top1_{evaluator.slug}": expected names that differ in letters or digits; score with the other '
                "one in a run of its own"
            )
        names[evaluator.slug] = evaluator.name
