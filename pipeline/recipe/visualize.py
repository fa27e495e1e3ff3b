"""[visualize] of a recipe: how the visualizations are made, and the options of each method."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from pipeline.recipe.method_options import option_table, require_valid
from pipeline.recipe.section import RecipeError, Section, unknown_key
from pipeline.recipe.values import Count, Listed
from pipeline.synthesis.methods.presets import METHODS, PRESET_VERSIONS, MethodName, PresetName, option_names


class VisualizeSection(Section, title="[visualize]", extra="allow"):
    """How the visualizations are made. What is left out is the preset's or the model's.

    Further keys are options for all methods. A table such as [visualize.maco] holds options, `steps` among them, for
    one method; they go before those of the section.
    """

    methods: Annotated[tuple[MethodName, ...], Listed("methods", minimum=1, unique=True)] = ("vital",)
    """Every neuron gets visualizations by each of these methods."""
    preset: PresetName = "published"
    """Where the options start from."""
    steps: Count | None = None
    """Optimizer steps per visualization."""
    image_size_px: Annotated[int, Field(ge=16, le=4096)] | None = None
    """Side of references and visualizations; left out: the model's."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """Visualizations per neuron and method, each from another seed."""
    batch_size: Literal["auto"] | Count = "auto"
    """Neurons optimized together."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the network's arithmetic."""
    compile: Literal["auto"] | bool = "auto"
    """Whether torch compiles the step of a layer."""

    @property
    def options(self) -> dict[str, Any]:
        """Options for all methods."""
        return {key: value for key, value in (self.model_extra or {}).items() if key not in METHODS}

    @property
    def method_options(self) -> dict[str, dict[str, Any]]:
        """Method → options of its table."""
        return {key: value for key, value in (self.model_extra or {}).items() if key in METHODS}

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Check the further keys, and keep them sorted, so that equal recipes have equal TOML."""
        if not self.model_extra:
            return self
        known = self.json_schema()["properties"]
        for key, value in self.model_extra.items():
            if key not in known:
                raise unknown_key(self.section, key, value, list(known))
            if key in METHODS and not isinstance(value, Mapping):
                raise RecipeError(f"visualize.{key} = {value!r}: expected a table [visualize.{key}]")
        tables = {
            method: _set_keys(option_table(f"visualize.{method}", METHODS)(**table))
            for method, table in sorted(self.method_options.items())
        }
        checked = _set_keys(option_table("visualize", METHODS)(**self.options))
        self.model_extra.clear()
        self.model_extra.update(checked | {method: table for method, table in tables.items() if table})
        for method in METHODS:
            require_valid(self.preset, method, self._shared(method), place="")
        for method in self.method_options:
            require_valid(self.preset, method, self.options_of(method), place=f"[visualize.{method}]: ")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the further keys too."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        further = option_table("visualize", METHODS).json_schema()["properties"]
        schema["properties"] = schema["properties"] | {
            **{key: option for key, option in further.items() if key not in schema["properties"]},
            **{method: option_table(f"visualize.{method}", (method,)).json_schema() for method in METHODS},
        }
        schema["additionalProperties"] = False
        return reference

    def options_of(self, method: str) -> dict[str, Any]:
        """Return what replaces the preset's settings of one method: the section's keys, then those of its table."""
        steps = {} if self.steps is None else {"steps": self.steps}
        return {**self._shared(method), **steps, **self.method_options.get(method, {})}

    def _shared(self, method: str) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name in option_names(method)}

    @property
    def preset_version(self) -> int:
        """Of the preset's settings, see `PRESET_VERSIONS`."""
        return PRESET_VERSIONS[self.preset]

    def further_keys(self) -> dict[str, Any]:
        """Return every option that is set, by its name within the section: `learning_rate`, `maco.num_crops`."""
        tables = {f"{m}.{name}": value for m, table in self.method_options.items() for name, value in table.items()}
        return {**self.options, **tables}


def _set_keys(table: Section) -> dict[str, Any]:
    return dict(sorted(table.model_dump(mode="json", exclude_unset=True).items()))
