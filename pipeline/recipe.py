"""Recipe: what a run is. TOML in, frozen dataclasses out, validated once; each stage has a fingerprint.

    recipe = load_recipe("lite0.toml", ["statistics.top_k=32"])
    recipe.fingerprint("targets")      # 16 hex digits: equal as long as the stage's results would be equal

Paths of data and output are relative to the current folder, not to the recipe's file.
"""
# ruff: noqa: RUF009 - `key` makes a dataclass field

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from pipeline import recipe_checks as checks
from pipeline.neurons import check_layer_name, check_units
from pipeline.recipe_checks import Check, RecipeError, Section, Unexpected, key
from pipeline.storage import StorageError, read_range

SCHEMA = "recipe/1"
CLASSIFIER = "classifier"  # as a layer in [[neurons]]: the model's class logits, whatever their layer is called
MAX_PIXELS = 80_000_000
METHODS = ("vital", "maco", "fourier", "deepinversion", "pixel")
RELEVANCE_RULES = (
    "auto", "none", "lrp", "lrp_restricted", "guided_backprop", "gradient", "correlation",
)  # fmt: skip

Stage = Literal["collect", "targets", "visualize", "evaluate", "build"]
STAGES: tuple[Stage, ...] = get_args(Stage)

_MODEL_NAME = r"(timm:\S+|torchvision:\S+|python:[\w.]+:\w+)"
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


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Unexpected("a table of synthesis options")
    return {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}


@dataclass(frozen=True, kw_only=True)
class ModelSection(Section):
    """[model]: the network, where its weights come from, and the names of its classes."""

    section: ClassVar[str] = "model"
    name: str = key(
        checks.text(pattern=_MODEL_NAME, expected="timm:NAME, torchvision:NAME or python:package.module:factory")
    )
    weights: str = key(checks.text(), "pretrained")
    labels: str = key(checks.text(), "imagenet1k")


@dataclass(frozen=True, kw_only=True)
class DataSection(Section):
    """[data]: the tar shards and what to make of bad samples in them."""

    section: ClassVar[str] = "data"
    shards: tuple[str, ...] = key(checks.many(checks.text(), what="paths, globs or URLs", minimum=1))
    image_key: str = key(checks.text(), "jpg;jpeg;png;webp")
    label_key: str = key(checks.text(), "cls")
    max_error_fraction: float = key(checks.number(minimum=0, maximum=1), 0.01)
    max_pixels: int = key(checks.whole(minimum=1), MAX_PIXELS)


@dataclass(frozen=True, kw_only=True)
class OutputSection(Section):
    """[output]: the atlas folder, local or remote."""

    section: ClassVar[str] = "output"
    root: str = key(checks.text())


@dataclass(frozen=True, kw_only=True)
class StatisticsSection(Section):
    """[statistics]: the layers surveyed in one pass; classes need none, they come from the classifier."""

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
    """[[neurons]]: units of one layer (or of the layers of a glob) that get a visualization."""

    section: ClassVar[str] = "neurons"
    layer: str = key(
        checks.text(pattern=_LAYER_GLOB, expected=f'a layer name, a glob, or "{CLASSIFIER}" for the classes')
    )
    units: str | tuple[int, ...] = key(_units, "all")


@dataclass(frozen=True, kw_only=True)
class FeatureLayerChoice(Section):
    """One of targets.feature_layers: a layer whose distribution is aligned, and its weight in the loss."""

    section: ClassVar[str] = "targets.feature_layers"
    layer: str = key(_layer)
    weight: float = key(checks.number(minimum=0), 1.0)


@dataclass(frozen=True, kw_only=True)
class TargetsSection(Section):
    """[targets]: which real images a neuron's picture is aligned with, and in which layers.

    `feature_layers` empty takes the model's default; a class with at least `min_references` labeled samples
    uses these alone; `grid` sorts within grid × grid cells, 0 leaves it to the preset.
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


@dataclass(frozen=True, kw_only=True)
class VisualizeSection(Section):
    """[visualize]: how the pictures are made; None leaves a value to the preset or the model.

    `options` are the further keys of the section: any field of `pipeline.synthesis.presets.SynthesisOptions`.
    """

    section: ClassVar[str] = "visualize"
    methods: tuple[str, ...] = key(
        checks.many(checks.choice(*METHODS), what="methods", minimum=1, unique=True), ("vital",)
    )
    preset: str = key(checks.choice("published", "fast"), "published")
    steps: int | None = key(checks.either(None, checks.whole(minimum=1)), None)
    image_size_px: int | None = key(checks.either(None, checks.whole(minimum=16, maximum=4096)), None)
    seeds: int = key(checks.whole(minimum=1, maximum=1000), 1)
    batch_size: int | str = key(checks.either("auto", checks.whole(minimum=1)), "auto")
    precision: str = key(checks.choice("auto", "float32", "bfloat16"), "auto")
    options: Mapping[str, Any] = key(_options, factory=dict)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Make the section from its TOML table: what is no key of the section is a synthesis option."""
        own = [name for name in checks.known_keys(cls) if name != "options"]
        options = {name: value for name, value in table.items() if name not in own}
        return cls(**{name: table[name] for name in own if name in table}, options=options)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.options:
            return
        # Imported here: the options belong to the synthesis, and most uses of a recipe have none.
        from pipeline.synthesis.presets import SynthesisOptions, preset

        own = [name for name in checks.known_keys(type(self)) if name != "options"]
        further = [item.name for item in fields(SynthesisOptions) if item.name not in own]
        unknown = [name for name in self.options if name not in further]
        if unknown:
            checks.reject_unknown({name: self.options[name] for name in unknown}, own + further, self.section)
        try:
            preset(self.preset, **self.options)
        except ValueError as error:
            raise RecipeError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class EvaluateSection(Section):
    """[evaluate]: the networks that judge beside the model itself, and below what a neuron counts as weak.

    `weak_percentile`: a picture that excites its neuron less than this percentile of the data set is weak.
    """

    section: ClassVar[str] = "evaluate"
    held_out_models: tuple[str, ...] = key(
        checks.many(
            checks.text(pattern=_MODEL_NAME, expected="timm:NAME, torchvision:NAME or python:…"),
            what="model names",
            unique=True,
        ),
        (),
    )
    weak_percentile: float = key(checks.number(minimum=0, maximum=100), 99.0)


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
    max_retries: int = key(checks.whole(minimum=0), 3)
    num_actors: int | str = key(checks.either("auto", checks.whole(minimum=1)), "auto")


def _part(section_type: type[Section]) -> Check:
    def check(value: Any) -> Section:
        if isinstance(value, section_type):
            return value
        if not isinstance(value, Mapping):
            raise Unexpected(f"a table [{section_type.section}]")
        return section_type.from_table(value)

    return check


def _blocks(value: Any) -> tuple[NeuronsBlock, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise Unexpected("at least one block [[neurons]]")
    return tuple(_part(NeuronsBlock)(block) for block in value)


@dataclass(frozen=True, kw_only=True)
class Recipe(Section):
    """One run: one model, one data set, one atlas. Equal recipes have equal TOML."""

    schema: str = key(checks.choice(SCHEMA), SCHEMA)
    name: str = key(
        checks.text(pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*", expected="letters, digits, '.', '_' and '-' only")
    )
    seed: int = key(checks.whole(minimum=0, maximum=2**63 - 1), 0)
    model: ModelSection = key(_part(ModelSection))
    data: DataSection = key(_part(DataSection))
    output: OutputSection = key(_part(OutputSection))
    statistics: StatisticsSection = key(_part(StatisticsSection), factory=StatisticsSection)
    neurons: tuple[NeuronsBlock, ...] = key(_blocks)
    targets: TargetsSection = key(_part(TargetsSection), factory=TargetsSection)
    visualize: VisualizeSection = key(_part(VisualizeSection), factory=VisualizeSection)
    evaluate: EvaluateSection = key(_part(EvaluateSection), factory=EvaluateSection)
    atlas: AtlasSection = key(_part(AtlasSection), factory=AtlasSection)
    compute: ComputeSection = key(_part(ComputeSection), factory=ComputeSection)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets.num_references > self.statistics.top_k:
            raise RecipeError(
                f"targets.num_references = {self.targets.num_references}: expected at most "
                f"statistics.top_k = {self.statistics.top_k}, the number of samples kept to choose from"
            )
        if self.targets.min_references > self.targets.num_references:
            raise RecipeError(
                f"targets.min_references = {self.targets.min_references}: expected at most "
                f"targets.num_references = {self.targets.num_references}"
            )

    @staticmethod
    def from_toml(text: str, overrides: Sequence[str] = (), source: str = "recipe") -> "Recipe":
        """Return the recipe that a TOML text describes.

        Args:
            text: the TOML.
            overrides: `section.key=value` each, the value in TOML or a bare word; later ones win.
            source: where the text comes from, for error messages.

        Raises:
            RecipeError: the text is no TOML, a key is unknown or missing, or a value is not what is expected.
        """
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{source} is not valid TOML: {error}") from error
        for override in overrides:
            _override(table, override)
        try:
            return Recipe.from_table(table)
        except RecipeError as error:
            raise RecipeError(f"{source}: {error}") from None

    def to_toml(self) -> str:
        """Return the recipe as TOML, every default written out; `from_toml` gives an equal recipe back."""
        lines: list[str] = []
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Section):
                lines += ["", f"[{item.name}]", *_key_lines(value)]
            elif item.name == "neurons":
                for block in value:
                    lines += ["", "[[neurons]]", *_key_lines(block)]
            else:
                lines.append(f"{item.name} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    def stage_keys(self, stage: Stage) -> dict[str, Any]:
        """Return the keys, by full name, that change the results of a stage or of one before it.

        Left out is what only changes how much is done or how fast: the neurons wanted, methods and seeds
        (before the build, which orders them), [compute], the output folder, the error bound. So are the batch
        sizes: they move the last bits of floating-point sums, and a run that ran out of memory must be able
        to go on with smaller ones.

        Raises:
            ValueError: there is no such stage.
        """
        if stage not in STAGES:
            raise ValueError(f"stage {stage!r}: expected one of {', '.join(STAGES)}")
        names: list[str] = []
        for earlier in STAGES[: STAGES.index(stage) + 1]:
            names += _STAGE_KEYS[earlier]
        if self.model.weights == "random":
            names.append("seed")
        if self.targets.relevance == "correlation":
            names += ["targets.relevance", "targets.feature_layers"]  # the pass keeps co-moments for these
        keys = {name: _plain(self._value(name)) for name in names}
        for option, value in self.visualize.options.items():
            in_targets = stage == "targets" and option in _TARGET_OPTIONS
            if in_targets or STAGES.index(stage) >= STAGES.index("visualize"):
                keys[f"visualize.{option}"] = _plain(value)
        return dict(sorted(keys.items()))

    def fingerprint(self, stage: Stage) -> str:
        """Return 16 hex digits that are equal for two recipes if `stage_keys` are."""
        canonical = json.dumps(self.stage_keys(stage), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def _value(self, name: str) -> Any:
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        return value


# By stage, what changes its results beyond the keys of the stages before it.
_STAGE_KEYS: Mapping[Stage, tuple[str, ...]] = {
    "collect": (
        "model.name",
        "model.weights",
        "data.shards",
        "data.image_key",
        "data.label_key",
        "data.max_pixels",
        "statistics.layers",
        "statistics.top_k",
        "statistics.activation",
    ),
    "targets": (
        "model.labels",
        *(f"targets.{name}" for name in checks.known_keys(TargetsSection)),
        "visualize.image_size_px",
        "visualize.preset",
    ),
    "visualize": ("seed", "visualize.steps", "visualize.precision"),
    "evaluate": ("evaluate.held_out_models", "evaluate.weak_percentile"),
    "build": ("visualize.methods", "visualize.seeds", "atlas.publish_examples"),
}
# Synthesis options that change what a target holds: its cells, and the extra distributions in it.
_TARGET_OPTIONS = ("grid", "layer_weight", "pixel_weight", "unit_weight")


def load_recipe(path_or_url: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a local or remote TOML file, with `section.key=value` overrides applied.

    Raises:
        RecipeError: the file cannot be read or is no valid recipe.
    """
    try:
        text = read_range(path_or_url).decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path_or_url}: there is no such recipe; check the path") from None
    except (StorageError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path_or_url}: the recipe cannot be read: {error}") from error
    return Recipe.from_toml(text, overrides, source=path_or_url)


def _override(table: dict[str, Any], override: str) -> None:
    """Set one key of the TOML table in place."""
    name, equals, value_text = override.partition("=")
    parts = [part.strip() for part in name.split(".")]
    if not equals or not all(parts) or len(parts) > 2:
        raise RecipeError(f"override {override!r}: expected section.key=value, e.g. visualize.steps=500")
    target = table
    if len(parts) == 2:
        target = table.setdefault(parts[0], {})
        if not isinstance(target, dict):
            raise RecipeError(f"override {override!r}: {parts[0]} is not a section with keys; set it as a whole")
    target[parts[-1]] = _override_value(value_text.strip())


def _override_value(text: str) -> Any:
    """Read a value as TOML; what is none (a path, a bare word, a date) is taken as a string."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    is_plain = set(table) == {"value"} and isinstance(table["value"], bool | int | float | str | list | dict)
    return table["value"] if is_plain else text


def _key_lines(section: Section) -> list[str]:
    lines = []
    for item in fields(section):
        value = getattr(section, item.name)
        if item.name == "options":
            lines += [f"{name} = {_toml(value[name])}" for name in sorted(value)]
        elif value is not None:
            lines.append(f"{item.name} = {_toml(value)}")
    return lines


def _toml(value: Any) -> str:
    """Return a value in TOML's syntax."""
    value = _plain(value)
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case dict():
            return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
    raise TypeError(f"no TOML for {type(value).__name__}")


def _plain(value: Any) -> Any:
    """Return a value in terms of TOML's and JSON's own types."""
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
