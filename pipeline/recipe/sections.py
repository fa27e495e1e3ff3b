"""The sections of a recipe but [visualize] and [evaluate]: frozen dataclasses whose values are checked once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipeline.data.captions import CAPTION_KEY
from pipeline.neurons import check_layer_name, check_units
from pipeline.recipe import fields as checks
from pipeline.recipe.fields import RecipeError, Section, Unexpected, key
from pipeline.recipe.visualize import METHODS

CLASSIFIER = "classifier"  # as a layer in [[neurons]]: the model's class logits, whatever their layer is called
MAX_PIXELS = 80_000_000
MAX_FACETS = 64
RELEVANCE_RULES = (
    "auto", "none", "lrp", "lrp_positive", "lrp_restricted", "guided_backprop", "gradient", "correlation",
)  # fmt: skip

_LAYER_GLOB = r"[A-Za-z0-9_.*?\[\]!-]+"


def _layer(value: Any) -> str:
    try:
        return check_layer_name(value)
    except (ValueError, TypeError):
        raise Unexpected('an exact layer name such as "blocks.5"') from None


def _feature_layer(value: Any) -> "FeatureLayerChoice":
    if isinstance(value, FeatureLayerChoice):
        return value
    table = {"layer": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not {"layer"} <= set(table) <= {"layer", "weight"}:
        raise Unexpected('a layer name or {layer = "blocks.2", weight = 1.0}')
    return FeatureLayerChoice(**table)


def _units(value: Any) -> str | tuple[int, ...]:
    try:
        return check_units(value)
    except ValueError as error:
        raise Unexpected(str(error).partition("expected ")[2]) from None


@dataclass(frozen=True, kw_only=True)
class ModelSection(Section):
    """[model]: the network, where its weights come from, and the names of its classes.

    `input_size_px` None is the network's own; `options` are further keyword arguments of its constructor.
    """

    section: ClassVar[str] = "model"
    name: str = key(
        checks.text(pattern=checks.MODEL_NAME, expected="timm:NAME, torchvision:NAME or python:package.module:factory")
    )
    weights: str = key(checks.text(), "pretrained")
    labels: str = key(checks.text(), "imagenet1k")
    input_size_px: int | None = key(checks.either(None, checks.whole(minimum=8, maximum=4096)), None)
    options: Mapping[str, Any] = key(checks.keywords(), factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSection(Section):
    """[data]: the tar shards and what to make of bad samples in them."""

    section: ClassVar[str] = "data"
    shards: tuple[str, ...] = key(checks.many(checks.text(), what="paths, globs or URLs", minimum=1))
    image_key: str = key(checks.text(), "jpg;jpeg;png;webp")
    label_key: str = key(checks.text(), "cls")
    caption_key: str = key(
        checks.text(
            pattern=CAPTION_KEY,
            expected='suffixes such as "txt", or "json:KEY" for a key of the JSON member; "" for no captions',
            may_be_empty=True,
        ),
        "",
    )
    max_error_fraction: float = key(checks.number(minimum=0, maximum=1), 0.01)
    max_pixels: int = key(checks.whole(minimum=1), MAX_PIXELS)


@dataclass(frozen=True, kw_only=True)
class OutputSection(Section):
    """[output]: the atlas folder, local or remote."""

    section: ClassVar[str] = "output"
    root: str = key(checks.text())


@dataclass(frozen=True, kw_only=True)
class StatisticsSection(Section):
    """[statistics]: the layers recorded in one pass; classes need none, they come from the classifier."""

    section: ClassVar[str] = "statistics"
    layers: tuple[str, ...] = key(
        checks.many(
            checks.text(pattern=_LAYER_GLOB, expected='a layer name or glob such as "blocks.*"'),
            what="layer names or globs",
        ),
        (),
    )
    top_k: int = key(checks.whole(minimum=1), 64)
    batch_size: int = key(checks.whole(minimum=1), 128)
    activation: Literal["max", "mean"] = key(checks.choice("max", "mean"), "max")


@dataclass(frozen=True, kw_only=True)
class NeuronsBlock(Section):
    """[[neurons]]: units of one layer (or of the layers of a glob) that get a visualization.

    `methods`: those of visualize.methods that these units get; empty means all. `references` (a folder of images) or
    `reference_keys` (samples of the data set) take the place of the reference images that would be chosen.
    """

    section: ClassVar[str] = "neurons"
    layer: str = key(
        checks.text(pattern=_LAYER_GLOB, expected=f'a layer name, a glob, or "{CLASSIFIER}" for the classes')
    )
    units: str | tuple[int, ...] = key(_units, "all")
    methods: tuple[str, ...] = key(checks.many(checks.choice(*METHODS), what="methods", unique=True), ())
    references: str = key(checks.text(may_be_empty=True), "")
    reference_keys: tuple[str, ...] = key(checks.many(checks.text(), what="sample keys", unique=True), ())

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.references and self.reference_keys:
            raise RecipeError(
                f'neurons.references = "{self.references}" (layer "{self.layer}"): expected either references or '
                "reference_keys, not both"
            )


@dataclass(frozen=True, kw_only=True)
class FeatureLayerChoice(Section):
    """One of targets.feature_layers: a layer whose distribution is aligned, and its weight in the loss."""

    section: ClassVar[str] = "targets.feature_layers"
    layer: str = key(_layer)
    weight: float = key(checks.number(minimum=0), 1.0)


@dataclass(frozen=True, kw_only=True)
class TargetsSection(Section):
    """[targets]: which real images a neuron's visualization is aligned with, and in which layers.

    `feature_layers` empty takes the model's default; a class with at least `min_references` labeled samples
    uses these alone; `grid` sorts within grid × grid cells, 0 leaves it to the preset; `facets` clusters the
    references of a neuron, each cluster a target of its own; references closer than `duplicate_distance` (bits of
    a perceptual hash, −1: none) are one dataset image; `reference_ranking` chooses among the activating images.
    """

    section: ClassVar[str] = "targets"
    feature_layers: tuple[FeatureLayerChoice, ...] = key(
        checks.many(_feature_layer, what='layer names or {layer = "…", weight = …}', unique=True), ()
    )
    num_references: int = key(checks.whole(minimum=1), 50)
    reference_mode: str = key(checks.choice("image", "patch"), "image")
    relevance: str = key(checks.choice(*RELEVANCE_RULES), "auto")
    min_references: int = key(checks.whole(minimum=1), 3)
    grid: int = key(checks.whole(minimum=0), 0)
    patch_size_px: int = key(checks.whole(minimum=1), 64)
    facets: int = key(checks.whole(minimum=1, maximum=MAX_FACETS), 1)
    duplicate_distance: int = key(checks.whole(minimum=-1, maximum=64), 8)
    reference_ranking: Literal["activation", "relevance"] = key(checks.choice("activation", "relevance"), "activation")


@dataclass(frozen=True, kw_only=True)
class AtlasSection(Section):
    """[atlas]: what the published atlas says of itself, and what of the data set it may show."""

    section: ClassVar[str] = "atlas"
    title: str = key(checks.text(may_be_empty=True), "")
    publish_examples: str = key(checks.choice("none", "thumbnails", "keys"), "none")
    license: str = key(checks.text(may_be_empty=True), "")
    homepage: str = key(
        checks.text(pattern=r"(https?://\S+)?", expected="an http(s) address, or nothing", may_be_empty=True),
        "",
    )


@dataclass(frozen=True, kw_only=True)
class ComputeSection(Section):
    """[compute]: how the work is spread; nothing here changes a result."""

    section: ClassVar[str] = "compute"
    cpus_per_task: int = key(checks.whole(minimum=1), 1)
    gpus_per_actor: float | str = key(checks.either("auto", checks.number(minimum=0)), "auto")
    gpus_per_task: float | str = key(checks.either("auto", checks.number(minimum=0)), "auto")
    max_retries: int = key(checks.whole(minimum=0), 3)
    num_actors: int | str = key(checks.either("auto", checks.whole(minimum=1)), "auto")
