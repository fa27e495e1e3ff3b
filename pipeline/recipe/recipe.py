"""Recipe: what a run is. TOML in, frozen models out, validated once; each stage has a fingerprint.

    recipe = load_recipe("lite0.toml", ["statistics.top_k=32"])
    recipe.fingerprint("targets")      # 16 hex digits: equal as long as the stage's results would be equal

Paths of data and output are relative to the current folder, not to the recipe's file.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.io.root import StorageError, read_range
from pipeline.recipe.derived_layers import CombinationsBlock, ConceptsBlock, derived_keys, require_distinct_names
from pipeline.recipe.evaluate import EvaluateSection
from pipeline.recipe.overrides import apply_override
from pipeline.recipe.renamed import SCHEMA, require_current_names
from pipeline.recipe.section import RecipeError, Section
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
from pipeline.recipe.values import Listed, form
from pipeline.recipe.visualize import VisualizeSection

Stage = Literal["collect", "targets", "visualize", "evaluate", "build"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Recipe(Section):
    """One run: one model, one data set, one atlas. Equal recipes have equal TOML."""

    version: Literal["recipe/2"] = Field(default=SCHEMA, alias="schema")
    """Version of this format."""
    name: Annotated[str, form(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, '.', '_' and '-' only")]
    """Name of the atlas."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of the run; the seed of every visualization follows from it."""
    model: ModelSection
    data: DataSection
    output: OutputSection
    concepts: Annotated[tuple[ConceptsBlock, ...], Listed("tables [[concepts]]", or_single=False)] = ()
    combinations: Annotated[tuple[CombinationsBlock, ...], Listed("tables [[combinations]]", or_single=False)] = ()
    statistics: StatisticsSection = StatisticsSection()
    neurons: Annotated[tuple[NeuronsBlock, ...], Listed("tables [[neurons]]", minimum=1, or_single=False)]
    targets: TargetsSection = TargetsSection()
    visualize: VisualizeSection = VisualizeSection()
    evaluate: EvaluateSection = EvaluateSection()
    atlas: AtlasSection = AtlasSection()
    compute: ComputeSection = ComputeSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
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
        return self

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Return the recipe that a TOML table describes.

        Raises:
            RecipeError: a key is unknown, missing or of an earlier version, or a value is not what is expected.
        """
        require_current_names(table)
        return cls(**table)

    @classmethod
    def from_toml(cls, text: str, overrides: Sequence[str] = (), source: str = "recipe") -> Self:
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
            return cls.from_table(table)
        except RecipeError as error:
            raise RecipeError(f"{source}: {error}") from None

    def to_toml(self) -> str:
        """Return the recipe as TOML, every default written out; `from_toml` gives an equal recipe back."""
        return tomli_w.dumps(self.to_table())

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
        if self.model.output != "auto":
            names.append("model.output")
        if self.data.max_value is not None:
            names.append("data.max_value")
        if stage == "collect":
            names.append("data.caption_key")  # kept beside the statistics, which do not depend on it
        if self.targets.relevance == "correlation":
            names += ["targets.relevance", "targets.feature_layers"]  # the pass keeps co-moments for these
        table = self.to_table()
        keys = {name: _value(table, name) for name in names}
        if "data.shards" in keys:
            keys["data.shards"] = sorted(keys["data.shards"])  # a set, whatever the order
        if stage != "collect":
            keys["visualize.preset_version"] = self.visualize.preset_version
        makes_rows = STAGES.index(stage) >= STAGES.index("visualize")
        keys |= derived_keys([*self.concepts, *self.combinations], with_labels=makes_rows)
        chosen = [block.to_table() for block in self.neurons if block.references or block.reference_keys]
        if chosen and stage != "collect":
            keys["neurons"] = [{k: v for k, v in block.items() if k != "methods"} for block in chosen]
        for option, value in self.visualize.further_keys().items():
            in_targets = stage == "targets" and option in _TARGET_OPTIONS
            if in_targets or makes_rows:
                keys[f"visualize.{option}"] = value
        return dict(sorted(keys.items()))

    def fingerprint(self, stage: Stage) -> str:
        """Return 16 hex digits that are equal for two recipes if `stage_keys` are."""
        canonical = json.dumps(self.stage_keys(stage), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _value(table: Mapping[str, Any], name: str) -> Any:
    """Return the value of a key by its full name, None if it is left out."""
    section, _, key = name.rpartition(".")
    return (table[section] if section else table).get(key)


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
        *(f"targets.{name}" for name in TargetsSection.model_fields),
        "visualize.image_size_px",
        "visualize.preset",
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
