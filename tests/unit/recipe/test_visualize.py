"""[visualize]: settings of all methods, tables of one method, and what they reach."""

import hashlib
import json
import tomllib
from dataclasses import asdict

import pytest

from pipeline.recipe.recipe import Recipe, RecipeError
from pipeline.references.build import options_for
from pipeline.synthesis.methods.options import DeepInversionOptions, VitalOptions
from pipeline.synthesis.methods.presets import METHODS, PRESET_VERSIONS, PRESETS, preset

TEXT = """
name = "tiny"
[model]
name = "timm:resnet18"
[data]
shards = "a.tar"
[output]
root = "out"
[[neurons]]
layer = "classifier"
[visualize]
methods = ["vital", "maco", "pixel"]
preset = "fast"
noise = 0.3
[visualize.maco]
num_crops = 4
noise = 0.1
steps = 7
[visualize.vital]
grid = 2
"""


def recipe(*overrides: str) -> Recipe:
    return Recipe.from_toml(TEXT, overrides)


def test_a_table_goes_before_the_section_and_the_section_before_the_preset() -> None:
    maco, pixel, vital = (options_for(recipe(), method) for method in ("maco", "pixel", "vital"))
    assert maco == preset("fast", "maco", num_crops=4, noise=0.1, steps=7)
    assert pixel == preset("fast", "pixel", noise=0.3)
    assert vital == options_for(recipe()) == preset("fast", noise=0.3, grid=2)
    for_all = recipe("visualize.steps=9")
    assert [options_for(for_all, method).steps for method in ("maco", "pixel")] == [7, 9]
    assert options_for(recipe("targets.grid=4")).grid == 4


def test_every_method_has_every_preset() -> None:
    for method in METHODS:
        for name in PRESETS:
            assert options_for(recipe(f"visualize.preset={name}"), method).noise in (0.3, 0.1)


# Preset → (version, hash of its settings). If this fails, raise the version in PRESET_VERSIONS and write down both: a
# folder with visualizations by the old settings then refuses to go on, instead of mixing them with others.
SETTINGS = {
    "published": (1, "bd6af0079a01562e"),
    "fast": (5, "5da7e36bc8ff8012"),
    "best": (4, "8e8b1c87531ddac8"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_that_changes_raises_its_version(name: str) -> None:
    # Values that leave a setting out are not hashed, so that a new one changes nothing.
    plain = asdict(DeepInversionOptions()) | asdict(VitalOptions())
    settings = {m: {k: v for k, v in asdict(preset(name, m)).items() if v != plain[k]} for m in METHODS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    assert (PRESET_VERSIONS[name], digest) == SETTINGS[name]


def test_the_version_of_a_preset_is_part_of_what_a_folder_is_made_with() -> None:
    assert recipe().stage_keys("targets")["visualize.preset_version"] == 5
    assert recipe("visualize.preset=best").stage_keys("build")["visualize.preset_version"] == 4


def test_toml_round_trips() -> None:
    text = recipe().to_toml()
    assert Recipe.from_toml(text) == recipe()
    assert Recipe.from_toml(text).to_toml() == text
    table = tomllib.loads(text)["visualize"]
    assert table["maco"] == {"noise": 0.1, "num_crops": 4, "steps": 7}
    assert not {"options", "method_options"} & set(table)
    assert recipe("visualize.fourier={}") == recipe()  # an empty table says nothing


def test_a_table_may_be_set_key_by_key() -> None:
    assert options_for(recipe("visualize.maco.num_crops=3"), "maco").num_crops == 3
    assert options_for(recipe("visualize.fourier.scaling=0.2"), "fourier").scaling == 0.2


def test_tables_reach_the_fingerprints() -> None:
    before, after = recipe(), recipe("visualize.maco.num_crops=3")
    assert before.fingerprint("targets") == after.fingerprint("targets")
    assert before.fingerprint("visualize") != after.fingerprint("visualize")
    assert after.stage_keys("visualize")["visualize.maco.num_crops"] == 3
    assert before.stage_keys("targets")["visualize.vital.grid"] == 2
    assert recipe("visualize.vital.grid=3").fingerprint("targets") != before.fingerprint("targets")


def test_a_key_of_the_section_reaches_the_methods_that_have_it() -> None:
    made = recipe("visualize.layer_weight=0.5", "visualize.batch_norm_weight=0.3")
    assert options_for(made, "vital") == preset("fast", noise=0.3, grid=2, layer_weight=0.5)
    assert options_for(made, "maco") == options_for(recipe(), "maco")
    assert options_for(made, "deepinversion") == preset("fast", "deepinversion", noise=0.3, batch_norm_weight=0.3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("visualize.maco.num_crop=3", r'visualize\.maco\.num_crop = 3.*did you mean "num_crops"'),
        ("visualize.maco.seeds=3", r"visualize\.maco\.seeds = 3: there is no such key"),
        ("visualize.maco.grid=3", r'visualize\.grid: method "maco" has no such option; vital has it'),
        (
            "visualize.pixel.normalize_layers=true",
            r'normalize_layers: method "pixel" has no such option; vital, deepinversion have it',
        ),
        ("visualize.mako.num_crops=3", r'visualize\.mako = .*did you mean "maco"'),
        ("visualize.maco=3", r"visualize\.maco = 3: expected a table \[visualize\.maco\]"),
        ("visualize.maco.noise=-1", r"visualize\.maco\.noise = -1: expected a number of at least 0"),
        ("visualize.maco.crop_max=0.1", r"\[visualize\.maco\]: visualize\.crop_min, crop_max = 0.5, 0.1"),
        ("visualize.scaling=1.5", r"recipe: visualize\.scaling = 1.5: expected less than 1"),
        (
            "visualize.optimizer=adm",
            r'visualize\.optimizer = .adm. \(did you mean "adam"\?\): expected one of adam, nadam',
        ),
        ("visualize.maco.flip=1", r"visualize\.maco\.flip = 1: expected true or false"),
        ("visualize.maco.crop_max.x=0.1", "crop_max"),
        ("visualize.noise.x.y=1", "expected section.key=value"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(override)
