"""The sections of a recipe but [visualize] and [evaluate]: frozen models whose values are checked once."""

from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, Field, JsonValue, WithJsonSchema, model_validator

from pipeline.data.captions import CAPTION_KEY
from pipeline.neurons import check_units
from pipeline.recipe.section import RecipeError, Section
from pipeline.recipe.values import LAYER_FORM, Count, LayerName, Listed, ModelName, Shorthand, Text, form
from pipeline.synthesis.methods.presets import MethodName

CLASSIFIER = "classifier"  # as a layer in [[neurons]]: the model's class logits, whatever their layer is called
MAX_PIXELS = 80_000_000
MAX_FACETS = 64
RelevanceRule = Literal[
    "auto", "none", "lrp", "lrp_positive", "lrp_restricted", "guided_backprop", "gradient_x_activation", "correlation"
]
RELEVANCE_RULES: tuple[str, ...] = get_args(RelevanceRule)

_UNITS_SCHEMA = {
    "title": '"all", a range such as "0:64", or a list of units such as [3, 7]',
    "anyOf": [
        {"type": "string", "pattern": "^(all|[0-9]*:[0-9]*|[0-9]+)$"},
        {"type": "integer", "minimum": 0},
        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
    ],
}
_Keyword = Annotated[str, Field(pattern=r"^[^\W\d]\w*$")]


class ModelSection(Section, title="[model]"):
    """The network, where its weights come from, and the names of its classes."""

    name: ModelName
    """The network: of timm, of torchvision, or a function that returns one."""
    weights: Text = "pretrained"
    """pretrained, random, package:NAME, or path or URL of a file of weights."""
    labels: Text = "imagenet1k"
    """Names of the classes: imagenet1k, or path or URL of a text file with one name per line."""
    input_size_px: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Side of the square input; left out: the network's own."""
    output: Text = "auto"
    """The part of the network's output that is its answer, where that is no tensor: a key, an attribute, or a place."""
    options: dict[_Keyword, JsonValue] = Field(
        default={}, title="a table of keyword arguments, such as { num_classes = 0 }, of numbers, texts, lists, tables"
    )
    """Further keyword arguments of the network's constructor."""


class DataSection(Section, title="[data]"):
    """The tar shards and what to make of bad samples in them."""

    shards: Annotated[tuple[Text, ...], Listed("paths, globs or URLs", minimum=1)]
    """The tar shards: paths or URLs with braces and globs."""
    image_key: Text = "jpg;jpeg;png;webp"
    """Suffixes of the images in the tar shards."""
    label_key: Text = "cls"
    """Suffixes of the class index."""
    caption_key: Annotated[
        str, form(CAPTION_KEY, 'suffixes such as "txt", or "json:KEY" for a key of the JSON member; "" for no captions')
    ] = ""
    """Suffixes of the captions, or json:KEY; empty: no captions."""
    max_error_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of bad samples that is skipped; above it the run stops."""
    max_pixels: Count = MAX_PIXELS
    """Larger images are bad samples."""
    max_value: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The value that is white in images of 16 bits, e.g. 4095 for 12 bits; left out: 65535."""


class OutputSection(Section, title="[output]"):
    """Where the atlas goes."""

    root: Text
    """The atlas folder, a path or URL."""


class StatisticsSection(Section, title="[statistics]"):
    """The layers recorded in one pass; classes need none, they come from the classifier."""

    layers: Annotated[
        tuple[Annotated[str, form(LAYER_FORM, 'a layer name or glob such as "blocks.*"')], ...],
        Listed("layer names or globs"),
    ] = ()
    """The layers to record: exact names, or globs."""
    top_k: Count = 64
    """Top-activating images that are kept per unit."""
    batch_size: Count = 128
    """Images per forward pass."""
    activation: Literal["max", "mean"] = "max"
    """A unit's activation by an image: the largest or the mean of its positions."""


class NeuronsBlock(Section, title="[[neurons]]"):
    """Units of one layer, or of the layers of a glob, that get visualizations."""

    layer: Annotated[str, form(LAYER_FORM, f'a layer name, a glob, or "{CLASSIFIER}" for the classes')]
    """A layer's name, a glob, or classifier."""
    units: Annotated[str | tuple[int, ...], BeforeValidator(check_units), WithJsonSchema(_UNITS_SCHEMA)] = "all"
    """Which units: all, a range such as 0:64, or a list."""
    methods: Annotated[tuple[MethodName, ...], Listed("methods", unique=True)] = ()
    """Those of visualize.methods that these units get; empty: all."""
    references: str = ""
    """Folder of images that take the place of the chosen references."""
    reference_keys: Annotated[tuple[Text, ...], Listed("sample keys", unique=True)] = ()
    """Samples of the data set that take the place of the chosen references."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.references and self.reference_keys:
            raise RecipeError(
                f'neurons.references = "{self.references}" (layer "{self.layer}"): expected either references or '
                "reference_keys, not both"
            )
        return self


class FeatureLayerChoice(Section, title="targets.feature_layers"):
    """A layer whose distribution is aligned, and its weight in the loss."""

    layer: LayerName
    """The layer's exact name."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Its weight in the loss."""


class TargetsSection(Section, title="[targets]"):
    """Which real images a neuron's visualization is aligned with, and in which layers."""

    feature_layers: Annotated[
        tuple[Annotated[FeatureLayerChoice, Shorthand("layer")], ...],
        Listed('layer names or {layer = "…", weight = …}', unique=True),
    ] = ()
    """The layers that are aligned; empty: the model's default."""
    num_references: Count = 50
    """Reference images per neuron, at most."""
    reference_mode: Literal["image", "patch"] = "image"
    """Intermediate neurons: whole images, or patches around the place of the activation."""
    relevance: RelevanceRule = "auto"
    """How the channels of the feature layers are weighted."""
    min_references: Count = 3
    """A class with so many labeled images uses these alone."""
    grid: Annotated[int, Field(ge=0)] = 0
    """Sort within grid × grid cells of each map; 0 leaves it to the preset."""
    patch_size_px: Count = 64
    """Side of a patch."""
    facets: Annotated[int, Field(ge=1, le=MAX_FACETS)] = 1
    """Clusters of a neuron's references, each of which is a target of its own."""
    duplicate_distance: Annotated[int, Field(ge=-1, le=64)] = 8
    """References whose perceptual hashes differ in at most so many bits are one image; -1 keeps all."""
    reference_ranking: Literal["activation", "relevance"] = "activation"
    """Which of the top-activating images of an intermediate neuron become references."""


class AtlasSection(Section, title="[atlas]"):
    """Title and terms of the published atlas, and what of the data set it may show."""

    title: str = ""
    """Heading of the atlas; empty: its name."""
    publish_examples: Literal["none", "thumbnails", "keys"] = "none"
    """What of the dataset images is published beside labels and activations."""
    license: str = ""
    """Terms of the atlas."""
    homepage: Annotated[str, form(r"(https?://\S+)?", "an http(s) address, or nothing")] = ""
    """Page of the project."""


class ComputeSection(Section, title="[compute]"):
    """How the work is spread; nothing here changes a result."""

    cpus_per_task: Count = 1
    """CPUs and torch threads of each worker."""
    gpus_per_actor: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """GPUs of each actor of visualize."""
    gpus_per_task: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """GPUs of each task of the other stages."""
    max_retries: Annotated[int, Field(ge=0)] = 3
    """How often a task is tried again."""
    num_actors: Literal["auto"] | Count = "auto"
    """Workers that make visualizations at the same time."""
