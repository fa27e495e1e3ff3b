"""[evaluate] of a recipe: the networks that score the visualizations, and what these are compared with."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.neurons import evaluator_slug
from pipeline.recipe.section import RecipeError, Section
from pipeline.recipe.values import Count, Listed, ModelName, Shorthand, Text, form

MAX_SLUG_LENGTH = 80  # it becomes part of column names


class EvaluatorChoice(Section, title="evaluate.held_out_models"):
    """A network that had no part in making the visualizations, and its weights."""

    name: ModelName
    """The network, as in model.name."""
    weights: Text = "pretrained"
    """Its weights, as in model.weights."""

    @property
    def slug(self) -> str:
        """The name as part of column names: lower-case letters, digits and `_`."""
        return evaluator_slug(self.name)


class ClipChoice(EvaluatorChoice, title="evaluate.clip"):
    """An open_clip network. It has no default weights, so that a run never downloads any by itself."""

    name: Annotated[str, form(r"open_clip:\S+", "open_clip:ARCHITECTURE, such as open_clip:ViT-B-32")]
    """The network's architecture."""
    weights: Annotated[str, Field(pattern=r"\S", title="the path of the network's weights")]
    """A local file."""


class EvaluateSection(Section, title="[evaluate]"):
    """Who scores the visualizations beside the model itself, and what they are compared with."""

    held_out_models: Annotated[
        tuple[Annotated[EvaluatorChoice, Shorthand("name")], ...], Listed("model names or tables")
    ] = ()
    """Evaluators: networks that had no part in making the visualizations. Empty: the model alone."""
    clip: ClipChoice | None = None
    """An open_clip network, which compares visualizations with the names of the classes."""
    num_dataset_images: Annotated[int, Field(ge=2)] = 1000
    """Random dataset images that visualizations are compared with."""
    num_top_images: Count = 9
    """Top-activating images per neuron, without its references, that visualizations are compared with."""
    weak_percentile: Annotated[float, Field(ge=0, le=100)] = 99.0
    """A visualization that activates its neuron less than this percentile of the data set is weak."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_distinct_columns(self.evaluators)
        return self

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
                f'{evaluator.section} = "{evaluator.name}": its scores get columns named after it, so its name may '
                f"have at most {MAX_SLUG_LENGTH} letters and digits; it has {len(evaluator.slug)}"
            )
        if evaluator.slug in names:
            raise RecipeError(
                f'evaluate.held_out_models: "{names[evaluator.slug]}" and "{evaluator.name}" would both write the '
                f'column "accuracy_top1_{evaluator.slug}": expected names that differ in letters or digits; score '
                "with the other one in a run of its own"
            )
        names[evaluator.slug] = evaluator.name
