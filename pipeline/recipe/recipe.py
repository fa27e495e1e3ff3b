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
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from pipeline.errors import UserError
from pipeline.io.root import StorageError, read_range
from pipeline.recipe import fields as checks
from pipeline.recipe.derived_layers import CombinationsBlock, ConceptsBlock, derived_keys, require_distinct_names
from pipeline.recipe.evaluate import EvaluateSection
from pipeline.recipe.fields import Check, RecipeError, Section, Unexpected, key
from pipeline.recipe.sections import (
    AtlasSection,
    ComputeSection,
    DataSection,
    ModelSection,
    NeuronsBlock,
    OutputSection,
    StatisticsSection,
    TargetsSection,
)
from pipeline.recipe.toml import apply_override, key_lines, plain, toml_value
from pipeline.recipe.visualize import VisualizeSection

SCHEMA = "recipe/1"

Stage = Literal["collect", "targets", "visualize", "evaluate", "build"]
STAGES: tuple[Stage, ...] = get_args(Stage)


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
    concepts: tuple[ConceptsBlock, ...] = key(checks.many(_part(ConceptsBlock), what="tables [[concepts]]"), ())
    combinations: tuple[CombinationsBlock, ...] = key(
        checks.many(_part(CombinationsBlock), what="tables [[combinations]]"), ()
    )
    statistics: StatisticsSection = key(_part(StatisticsSection), factory=StatisticsSection)
    neurons: tuple[NeuronsBlock, ...] = key(_blocks)
    targets: TargetsSection = key(_part(TargetsSection), factory=TargetsSection)
    visualize: VisualizeSection = key(_part(VisualizeSection), factory=VisualizeSection)
    evaluate: EvaluateSection = key(_part(EvaluateSection), factory=EvaluateSection)
    atlas: AtlasSection = key(_part(AtlasSection), factory=AtlasSection)
    compute: ComputeSection = key(_part(ComputeSection), factory=ComputeSection)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_distinct_names([*self.concepts, *self.combinations])
        if self.targets.num_references > self.statistics.top_k:
            raise RecipeError(
                f"targets.num_references = {self.targets.num_references}: expected at most "
                f"statistics.top_k = {self.statistics.top_k}, the number of samples kept to choose from"
            )
        for block in self.neurons:
            foreign = [method for method in block.methods if method not in self.visualize.methods]
            if foreign:
                raise RecipeError(
                    f'neurons.methods = "{foreign[0]}" (layer "{block.layer}"): expected some of '
                    f"visualize.methods = {list(self.visualize.methods)}; add it there"
                )
        if self.targets.facets > self.targets.num_references:
            raise RecipeError(
                f"targets.facets = {self.targets.facets}: expected at most targets.num_references = "
                f"{self.targets.num_references}, the images that are divided among them"
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
            apply_override(table, override)
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
                lines += ["", f"[{item.name}]", *key_lines(value)]
            elif item.name in ("neurons", "concepts", "combinations"):
                for block in value:
                    lines += ["", f"[[{item.name}]]", *key_lines(block)]
            else:
                lines.append(f"{item.name} = {toml_value(value)}")
        return "\n".join(lines) + "\n"

    def stage_keys(self, stage: Stage) -> dict[str, Any]:
        """Return the keys, by full name, that change the results of a stage or of one before it.

        Left out is what only changes how much is done or how fast: the neurons wanted, methods and seeds
        (before the build, which orders them), [compute], the output folder, the error bound. So are the batch
        sizes: they move the last bits of floating-point sums, and a run that ran out of memory must be able
        to go on with smaller ones.

        Raises:
            UserError: there is no such stage.
        """
        if stage not in STAGES:
            raise UserError(f"stage {stage!r}: expected one of {', '.join(STAGES)}")
        names: list[str] = []
        for earlier in STAGES[: STAGES.index(stage) + 1]:
            names += _STAGE_KEYS[earlier]
        if self.model.weights == "random":
            names.append("seed")
        if stage == "collect":
            names.append(
                "data.caption_key"
            )  # kept beside the statistics, which do not depend on it, nor do visualizations
        if self.targets.relevance == "correlation":
            names += ["targets.relevance", "targets.feature_layers"]  # the pass keeps co-moments for these
        keys = {name: plain(self._value(name)) for name in names}
        if "data.shards" in keys:
            keys["data.shards"] = sorted(keys["data.shards"])  # a set, whatever the order
        keys = {name: value for name, value in keys.items() if name not in _NEUTRAL or value != _NEUTRAL[name]}
        makes_rows = STAGES.index(stage) >= STAGES.index("visualize")
        keys |= derived_keys([*self.concepts, *self.combinations], with_labels=makes_rows)
        chosen = [plain(block) for block in self.neurons if block.references or block.reference_keys]
        if chosen and stage != "collect":
            keys["neurons"] = [{k: v for k, v in block.items() if k != "methods"} for block in chosen]
        for option, value in self.visualize.further_keys().items():
            in_targets = stage == "targets" and option in _TARGET_OPTIONS
            if in_targets or makes_rows:
                keys[f"visualize.{option}"] = plain(value)
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
        "model.input_size_px",
        "model.options",
        "data.image_key",
        "data.label_key",
        "data.max_pixels",
        "statistics.top_k",
        "statistics.activation",
    ),
    # More tar shards or layers leave the shard statistics that are there as they are; the statistics say what they are
    # of.
    "targets": (
        "data.shards",
        "model.labels",
        *(f"targets.{name}" for name in checks.known_keys(TargetsSection)),
        "visualize.image_size_px",
        "visualize.preset",
        "visualize.preset_version",
    ),
    "visualize": ("seed", "visualize.steps", "visualize.precision"),
    "evaluate": ("evaluate.weak_percentile",),
    # What an evaluator finds lies in a folder of its own, named after these, so they bind nothing that is there
    # already.
    "build": (
        "evaluate.held_out_models",
        "evaluate.clip",
        "evaluate.num_dataset_images",
        "evaluate.num_top_images",
        "visualize.methods",
        "visualize.seeds",
        "atlas.publish_examples",
        "data.caption_key",
    ),
}
# Values with which a key changes nothing: they are left out, so that results from before the key was there stay valid.
_NEUTRAL: Mapping[str, Any] = {
    "model.input_size_px": None,
    "model.options": {},
    "data.caption_key": "",
    "targets.facets": 1,
    "targets.duplicate_distance": -1,
    "targets.reference_ranking": "activation",
    "visualize.preset_version": 1,
}
# Synthesis options that change what a target holds, and only VITAL has targets: its cells, extra distributions in it.
_TARGET_OPTIONS = tuple(
    f"{table}{name}"
    for table in ("", "vital.")
    for name in ("grid", "aligned_side", "layer_weight", "pixel_weight", "edge_weight", "unit_weight")
)


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
