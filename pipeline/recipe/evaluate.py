"""[evaluate] of a recipe: the networks that judge the pictures, the photographs that they are compared with."""
# ruff: noqa: RUF009 - `key` makes a dataclass field

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.recipe import fields as checks
from pipeline.recipe.fields import RecipeError, Section, Unexpected, key

MAX_SLUG_LENGTH = 80  # it becomes part of column names

_OPEN_CLIP = r"open_clip:\S+"


@dataclass(frozen=True, kw_only=True)
class JudgeChoice(Section):
    """One of evaluate.held_out_models: a network that never saw how the pictures were made, and its weights."""

    section: ClassVar[str] = "evaluate.held_out_models"
    name: str = key(checks.text(pattern=checks.MODEL_NAME, expected="timm:NAME, torchvision:NAME or python:…"))
    weights: str = key(checks.text(), "pretrained")

    @property
    def slug(self) -> str:
        """The name as part of column names: lower-case letters, digits and `_`."""
        # Imported here: it belongs to the judges, and most uses of a recipe have none.
        from pipeline.neurons import judge_slug

        return judge_slug(self.name)


@dataclass(frozen=True, kw_only=True)
class ClipChoice(JudgeChoice):
    """evaluate.clip: an open_clip network, which compares pictures with the names of the classes.

    It has no default weights, so that a run never downloads any by itself.
    """

    section: ClassVar[str] = "evaluate.clip"
    name: str = key(checks.text(pattern=_OPEN_CLIP, expected="open_clip:ARCHITECTURE, such as open_clip:ViT-B-32"))
    weights: str = key(checks.text(expected="the path of the network's weights"))


def _judge(value: Any) -> JudgeChoice:
    if isinstance(value, JudgeChoice):
        return value
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        raise Unexpected('a model name or {name = "timm:…", weights = "…"}')
    return JudgeChoice.from_table(table)


def _clip(value: Any) -> ClipChoice:
    if isinstance(value, ClipChoice):
        return value
    if not isinstance(value, Mapping):
        raise Unexpected('a table {name = "open_clip:ViT-B-32", weights = "PATH"}')
    return ClipChoice.from_table(value)


@dataclass(frozen=True, kw_only=True)
class EvaluateSection(Section):
    """[evaluate]: who judges the pictures beside the model itself, and what they are compared with.

    `num_photographs` random photographs of the data set are the panel that pictures are compared with, and
    `num_exemplars` per neuron those that excite it. `weak_percentile`: a picture that excites its neuron less than
    this percentile of the data set is weak.
    """

    section: ClassVar[str] = "evaluate"
    held_out_models: tuple[JudgeChoice, ...] = key(checks.many(_judge, what="model names or tables"), ())
    clip: ClipChoice | None = key(checks.either(None, _clip), None)
    num_photographs: int = key(checks.whole(minimum=2), 1000)
    num_exemplars: int = key(checks.whole(minimum=1), 9)
    weak_percentile: float = key(checks.number(minimum=0, maximum=100), 99.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_distinct_columns(self.judges)

    @property
    def judges(self) -> tuple[JudgeChoice, ...]:
        """The networks beside the model, CLIP last."""
        return (*self.held_out_models, *([self.clip] if self.clip else []))


def _require_distinct_columns(judges: Sequence[JudgeChoice]) -> None:
    """Refuse judges whose scores would meet in one column, or whose column would have no name.

    Raises:
        RecipeError: with the names.
    """
    names: dict[str, str] = {}
    for judge in judges:
        if len(judge.slug) > MAX_SLUG_LENGTH:
            raise RecipeError(
                f'{judge.section} = "{judge.name}": its scores get columns named after it, so its name may have at '
                f"most {MAX_SLUG_LENGTH} letters and digits; it has {len(judge.slug)}"
            )
        if judge.slug in names:
            raise RecipeError(
                f'evaluate.held_out_models: "{names[judge.slug]}" and "{judge.name}" would both write the column '
                f'"accuracy_top1_{judge.slug}": expected names that differ in letters or digits; judge with the other '
                "one in a run of its own"
            )
        names[judge.slug] = judge.name
