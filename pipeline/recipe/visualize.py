"""[visualize] of a recipe: how the visualizations are made, and the settings of each method."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pipeline.recipe import fields as checks
from pipeline.recipe.fields import RecipeError, Section, Unexpected, key
from pipeline.synthesis.methods.presets import METHODS, PRESET_VERSIONS, PRESETS, all_options, option_names, preset


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Unexpected("a table of synthesis options")
    return {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}


def _method_options(value: Any) -> dict[str, dict[str, Any]]:
    for method, options in value.items():
        if method not in METHODS or not isinstance(options, Mapping):
            raise Unexpected(f"tables of synthesis options, such as [visualize.{METHODS[0]}]")
    return {method: _options(options) for method, options in value.items() if options}


@dataclass(frozen=True, kw_only=True)
class VisualizeSection(Section):
    """[visualize]: how the visualizations are made; None leaves a value to the preset or the model.

    `options` are the further keys of the section, for all methods that have them, see
    `pipeline.synthesis.methods.options`. `method_options` are its sub-tables, such as [visualize.maco]: the options of
    one method, `steps` included; they go before those of the section.
    """

    section: ClassVar[str] = "visualize"
    methods: tuple[str, ...] = key(
        checks.many(checks.choice(*METHODS), what="methods", minimum=1, unique=True), ("vital",)
    )
    preset: str = key(checks.choice(*PRESETS), "published")
    steps: int | None = key(checks.either(None, checks.whole(minimum=1)), None)
    image_size_px: int | None = key(checks.either(None, checks.whole(minimum=16, maximum=4096)), None)
    seeds: int = key(checks.whole(minimum=1, maximum=1000), 1)
    batch_size: int | str = key(checks.either("auto", checks.whole(minimum=1)), "auto")
    precision: str = key(checks.choice("auto", "float32", "bfloat16"), "auto")
    compile: bool | str = key(checks.either("auto", checks.flag()), "auto")
    options: Mapping[str, Any] = key(_options, factory=dict)
    method_options: Mapping[str, Mapping[str, Any]] = key(_method_options, factory=dict)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Make the section from its TOML table: what is no key of the section is a method's table, or an option."""
        own = cls._own_keys()
        further = {name: value for name, value in table.items() if name not in own}
        return cls(
            **{name: table[name] for name in own if name in table},
            options={name: value for name, value in further.items() if name not in METHODS},
            method_options={name: value for name, value in further.items() if name in METHODS},
        )

    @classmethod
    def _own_keys(cls) -> list[str]:
        return [name for name in checks.known_keys(cls) if name not in ("options", "method_options")]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.options and not self.method_options:
            return
        own, every = self._own_keys(), list(all_options())
        further = [name for name in every if name not in own]
        _reject_unknown(self.options, known=further, expected=[*own, *further, *METHODS], section=self.section)
        for method, options in self.method_options.items():
            _reject_unknown(options, known=every, expected=every, section=f"{self.section}.{method}")
        for method in METHODS:
            for place, options in (("", self._shared(method)), (f"[visualize.{method}]: ", self.options_of(method))):
                try:
                    preset(self.preset, method, **options)
                except ValueError as error:
                    raise RecipeError(f"{place}{error}") from None

    def options_of(self, method: str) -> dict[str, Any]:
        """What replaces the preset's options of one method: those keys of the section that it has, then its table."""
        steps = {} if self.steps is None else {"steps": self.steps}
        return {**self._shared(method), **steps, **self.method_options.get(method, {})}

    def _shared(self, method: str) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name in option_names(method)}

    @property
    def preset_version(self) -> int:
        """Of the preset's settings, see `PRESET_VERSIONS`."""
        return PRESET_VERSIONS[self.preset]

    def further_keys(self) -> dict[str, Any]:
        """Every synthesis option that is set, by its name within the section: `learning_rate`, `maco.num_crops`."""
        tables = {f"{m}.{name}": value for m, table in self.method_options.items() for name, value in table.items()}
        return {**self.options, **tables}


def _reject_unknown(options: Mapping[str, Any], *, known: list[str], expected: list[str], section: str) -> None:
    checks.reject_unknown({n: value for n, value in options.items() if n not in known}, expected, section)
