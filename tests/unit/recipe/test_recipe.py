"""Recipe: read, checked, overridden, loaded."""

import pickle
import tomllib

import pytest
from pydantic import ValidationError

from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe, RecipeError, load_recipe
from pipeline.recipe.sections import CLASSIFIER, DataSection, FeatureLayerChoice
from pipeline.recipe.visualize import VisualizeSection
from tests.support.minimal_recipe import MINIMAL, tiny

# The recipe of the design, word for word.
FULL = """
schema = "recipe/2"
name = "lite0-demo"
seed = 0
[model]
name = "timm:tf_efficientnet_lite0"
weights = "pretrained"
labels = "imagenet1k"
[data]
shards = "s3://bucket/imagenet1k-train-{0000..1023}.tar"
image_key = "jpg;jpeg;png;webp"
label_key = "cls"
max_error_fraction = 0.01
[output]
root = "s3://bucket/atlases/lite0"
[statistics]
layers = ["conv_stem", "blocks.*"]
top_k = 64
batch_size = 128
[[neurons]]
layer = "classifier"
units = "all"
[[neurons]]
layer = "blocks.5"
units = "all"
[targets]
feature_layers = []
num_references = 50
reference_mode = "image"
relevance = "auto"
[visualize]
methods = ["vital"]
preset = "published"
steps = 2000
image_size_px = 224
seeds = 1
batch_size = "auto"
precision = "auto"
[evaluate]
held_out_models = []
[atlas]
title = ""
publish_examples = "none"
[compute]
cpus_per_task = 1
gpus_per_actor = "auto"
max_retries = 3
"""


def test_the_recipe_of_the_design_is_read():
    recipe = Recipe.from_toml(FULL)
    assert recipe.model.name == "timm:tf_efficientnet_lite0"
    assert recipe.data.shards == ("s3://bucket/imagenet1k-train-{0000..1023}.tar",)
    assert recipe.statistics.layers == ("conv_stem", "blocks.*")
    assert [(block.layer, block.units) for block in recipe.neurons] == [
        (CLASSIFIER, "all"),
        ("blocks.5", "all"),
    ]
    assert (recipe.visualize.steps, recipe.visualize.image_size_px) == (2000, 224)
    assert recipe.compute.gpus_per_actor == "auto"


def test_what_is_left_out_has_the_design_s_defaults():
    recipe = tiny()
    full = Recipe.from_toml(FULL)
    assert (recipe.statistics.top_k, recipe.statistics.batch_size) == (64, 128)
    assert recipe.targets == full.targets
    assert recipe.compute == full.compute
    assert recipe.evaluate == full.evaluate
    assert recipe.visualize == full.visualize.replace(steps=None, image_size_px=None)


def test_forms_are_normalized():
    recipe = tiny(
        'data.shards=["a.tar", "b.tar"]',
        'neurons=[{layer="blocks.5", units=[7, 3, 7]}, {layer="fc", units="0:64"}]',
        'targets.feature_layers=["conv1", {layer="layer4", weight=100}]',
        "visualize.methods=maco",
        "data.max_error_fraction=0",
    )
    assert recipe.data.shards == ("a.tar", "b.tar")
    assert [block.units for block in recipe.neurons] == [(3, 7), "0:64"]
    assert recipe.targets.feature_layers == (
        FeatureLayerChoice(layer="conv1", weight=1.0),
        FeatureLayerChoice(layer="layer4", weight=100.0),
    )
    assert recipe.visualize.methods == ("maco",)
    assert tiny("neurons=[{layer='fc', units=5}]").neurons[0].units == (5,)
    assert isinstance(recipe.data.max_error_fraction, float)


def test_further_keys_of_visualize_are_synthesis_options():
    recipe = tiny("visualize.learning_rate=0.5", "visualize.parameterization=fourier")
    assert recipe.visualize.options == {"learning_rate": 0.5, "parameterization": "fourier"}
    assert "options" not in tomllib.loads(recipe.to_toml())["visualize"]


# What is wrong, and what the message has to say of it: key, value, expectation, nearest name.
MISTAKES = [
    ("sede=1", ["sede", "1", "seed"]),
    ("modle.name=x", ["modle", "did you mean", '"model"']),
    ("model.nam=x", ["model.nam", '"name"', "weights"]),
    ("visualize.learning_rat=1", ["visualize.learning_rat", '"learning_rate"']),
    ("visualize.learning_rate=-1", ["visualize.learning_rate", "-1"]),
    ("visualize.options={}", ["visualize.options", "no such key"]),
    ("schema=recipe/3", ["schema", "recipe/3", "recipe/2"]),
    ("name=a/b", ["name", "a/b", "letters"]),
    ("name=''", ["name", "letters"]),
    ("seed=-1", ["seed", "-1", "from 0"]),
    ("seed=true", ["seed", "True", "whole number"]),
    ("seed=1.0", ["seed", "1.0", "whole number"]),
    ("model.name=resnet18", ["model.name", "resnet18", "timm:NAME"]),
    ("model.name=3", ["model.name", "3", "timm:NAME"]),
    ("data.shards=[]", ["data.shards", "at least 1"]),
    ("data.shards=[1]", ["data.shards", "1"]),
    ("data.max_error_fraction=1.5", ["data.max_error_fraction", "1.5", "from 0 to 1"]),
    ("data.max_error_fraction=nan", ["data.max_error_fraction", "nan"]),
    ("data.max_pixels=0", ["data.max_pixels", "at least 1"]),
    ("output.root=''", ["output.root", "non-empty"]),
    ("statistics.layers=['a..b']", ["statistics.layers", "a..b"]),
    ("statistics.activation=median", ["statistics.activation", "median", "max, mean"]),
    ("statistics=3", ["statistics", "[statistics]"]),
    ("neurons=[]", ["neurons", "[[neurons]]"]),
    ("neurons=[{units='all'}]", ["neurons.layer", "missing"]),
    ("neurons=[{layer='a', unit='all'}]", ["neurons.unit", '"units"']),
    ("neurons=[{layer='a', units='1-3'}]", ["neurons.units", "1-3", '"0:64"']),
    ("neurons=[{layer='a', units=[-1]}]", ["neurons.units", "-1"]),
    ("neurons=[{layer='../a'}]", ["neurons.layer", "../a"]),
    ("targets.feature_layers=['a..b']", ["targets.feature_layers", "a..b", "layer name"]),
    ("targets.feature_layers=[{layer='a', wieght=1}]", ["targets.feature_layers", "weight"]),
    ("targets.feature_layers=[{layer='a', weight=-1}]", ["targets.feature_layers.weight", "-1"]),
    ("targets.feature_layers=['a', 'a']", ["targets.feature_layers", "each once"]),
    ("targets.relevance=lpr", ["targets.relevance", "lpr", '"lrp"', "guided_backprop"]),
    ("targets.num_references=65", ["targets.num_references", "65", "statistics.top_k = 64"]),
    ("targets.facets=51", ["targets.facets", "51", "targets.num_references = 50"]),
    ("targets.facets=0", ["targets.facets", "from 1 to 64"]),
    ("targets.duplicate_distance=-2", ["targets.duplicate_distance", "-2", "from -1 to 64"]),
    ("targets.reference_ranking=relevence", ["targets.reference_ranking", "relevence", '"relevance"']),
    ("neurons=[{layer='a', references='x', reference_keys=['k']}]", ["neurons.references", '"x"', "not both"]),
    ("neurons=[{layer='a', reference_keys=['k', 'k']}]", ["neurons.reference_keys", "each once"]),
    ("targets.min_references=51", ["targets.min_references", "51", "targets.num_references = 50"]),
    ("visualize.methods=[]", ["visualize.methods", "at least 1"]),
    ("visualize.methods=['vitl']", ["visualize.methods", "vitl", '"vital"']),
    ("visualize.methods=['vital', 'vital']", ["visualize.methods", "each once"]),
    ("visualize.preset=quick", ["visualize.preset", "quick", "published, fast"]),
    ("visualize.steps=0", ["visualize.steps", "at least 1"]),
    ("visualize.batch_size=many", ["visualize.batch_size", "many", '"auto"']),
    ("visualize.image_size_px=4", ["visualize.image_size_px", "from 16"]),
    ("evaluate.held_out_models=['resnet18']", ["evaluate.held_out_models", "resnet18", "timm:NAME"]),
    ("evaluate.weak_percentile=101", ["evaluate.weak_percentile", "from 0 to 100"]),
    ("atlas.publish_examples=all", ["atlas.publish_examples", "all", "thumbnails"]),
    ("atlas.homepage=javascript:alert(1)", ["atlas.homepage", "http"]),
    ("compute.max_retries=-1", ["compute.max_retries", "-1"]),
    ("data.caption_key='json:'", ["data.caption_key", "json:KEY"]),
    ("model.options={'a b'=1}", ["model.options", "keyword arguments"]),
    ("model.options={a=2024-01-01}", ["model.options", "keyword arguments"]),
    ("evaluate.held_out_models=[3]", ["evaluate.held_out_models", "3 is not timm:NAME", "a table of name, weights"]),
    ("evaluate.clip=3", ["evaluate.clip = 3", "a table of name, weights"]),
    ("concepts=[{name='a', layer='b', directions='c.npz', labels=[1]}]", ["concepts.labels", "a list of texts"]),
    ("concepts=[{name='a', layer='b', directions='c.npz', transpose='yes'}]", ["concepts.transpose", "true or false"]),
    ("combinations=3", ["combinations = 3", "tables [[combinations]]"]),
    ("compute.gpus_per_actor=-0.5", ["compute.gpus_per_actor", "-0.5", '"auto"']),
]


@pytest.mark.parametrize(("override", "parts"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_is_named_with_what_was_expected(override, parts):
    with pytest.raises(RecipeError) as caught:
        tiny(override)
    for part in ["recipe: ", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize("missing", ["name", "model", "data", "output", "neurons"])
def test_a_missing_key_is_named(missing):
    lines = MINIMAL.strip().splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip("[]").startswith(missing))
    del lines[start : start + (1 if missing == "name" else 2)]
    with pytest.raises(RecipeError, match=rf"recipe: {missing} is missing"):
        Recipe.from_toml("\n".join(lines))


def test_broken_toml_names_the_source_and_the_line():
    with pytest.raises(RecipeError, match=r"mine\.toml is not valid TOML: .*line 2"):
        Recipe.from_toml('name = "a"\nseed = = 3', source="mine.toml")


def test_overrides_are_toml_or_bare_words_and_later_ones_win():
    recipe = tiny("output.root=/a/b=c", "seed=1", "seed = 2", 'atlas.title="123"', "name=2024-01-01")
    assert recipe.output.root == "/a/b=c"
    assert recipe.seed == 2
    assert recipe.atlas.title == "123"
    assert recipe.name == "2024-01-01"


@pytest.mark.parametrize("override", ["seed", "=3", ".seed=3", "a.b.c=3", "neurons.layer=a", "name.x=3", "a..b=1"])
def test_a_malformed_override_is_named(override):
    with pytest.raises(RecipeError, match=r"override .*"):
        tiny(override)


def test_an_override_sets_one_key_only():
    with pytest.raises(RecipeError, match="seed"):
        tiny("seed=1\nname='other'")


def test_a_recipe_is_loaded_from_a_file_or_url(tmp_path):
    (tmp_path / "r.toml").write_text(MINIMAL)
    Root.open("memory://recipes").write_text("r.toml", MINIMAL)
    assert load_recipe(str(tmp_path / "r.toml"), ["seed=3"]) == tiny("seed=3")
    assert load_recipe("memory://recipes/r.toml") == tiny()


def test_an_unreadable_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"no\.toml: there is no such recipe"):
        load_recipe(str(tmp_path / "no.toml"))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe4"')
    with pytest.raises(RecipeError, match=r"latin\.toml: the recipe cannot be read"):
        load_recipe(str(tmp_path / "latin.toml"))
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(str(tmp_path))
    (tmp_path / "bad.toml").write_text(MINIMAL.replace("tiny", "a/b"))
    with pytest.raises(RecipeError, match=r"bad\.toml: name = 'a/b'"):
        load_recipe(str(tmp_path / "bad.toml"))


def test_a_recipe_made_in_python_is_checked_too():
    with pytest.raises(RecipeError, match=r"data\.max_error_fraction = 2"):
        DataSection(shards="x.tar", max_error_fraction=2)
    with pytest.raises(RecipeError, match=r"seed = -1"):
        tiny().replace(seed=-1)
    with pytest.raises(RecipeError, match="learning_rat"):
        VisualizeSection(learning_rat=1.0)


def test_a_recipe_is_frozen_and_picklable():
    recipe = tiny("visualize.learning_rate=0.5")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 1
    assert pickle.loads(pickle.dumps(recipe)) == recipe
