"""Recipe: read, checked, written back, fingerprinted."""

import dataclasses
import pickle
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.recipe import STAGES, Recipe, RecipeError, load_recipe
from pipeline.recipe_evaluate import EvaluateSection
from pipeline.recipe_sections import (
    CLASSIFIER,
    RELEVANCE_RULES,
    AtlasSection,
    ComputeSection,
    DataSection,
    FeatureLayerChoice,
    ModelSection,
    NeuronsBlock,
    OutputSection,
    StatisticsSection,
    TargetsSection,
)
from pipeline.recipe_visualize import METHODS, VisualizeSection
from pipeline.storage import Root

MINIMAL = """
name = "tiny"
[model]
name = "timm:resnet18"
[data]
shards = "x-{0000..0003}.tar"
[output]
root = "out"
[[neurons]]
layer = "classifier"
"""

# The recipe of the design, word for word.
FULL = """
schema = "recipe/1"
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


def tiny(*overrides: str) -> Recipe:
    return Recipe.from_toml(MINIMAL, overrides)


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
    assert recipe.visualize == dataclasses.replace(full.visualize, steps=None, image_size_px=None)


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
    ("schema=recipe/2", ["schema", "recipe/2", "recipe/1"]),
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
    ("statistics.layers=['a b']", ["statistics.layers", "a b"]),
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
        dataclasses.replace(tiny(), seed=-1)
    with pytest.raises(RecipeError, match="learning_rat"):
        VisualizeSection(options={"learning_rat": 1.0})


def test_a_recipe_is_frozen_and_picklable():
    recipe = tiny("visualize.learning_rate=0.5")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1
    assert pickle.loads(pickle.dumps(recipe)) == recipe


# The TOML round trip, over every key.

WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
LAYERS = st.lists(WORDS, min_size=1, max_size=3).map(".".join)
# Surrogates are no text; TOML forbids the rest of nothing.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
NUMBERS = st.floats(0, 1e9, allow_nan=False)
MODEL_NAMES = st.builds("{}:{}".format, st.sampled_from(["timm", "torchvision"]), WORDS)


@st.composite
def recipes(draw) -> Recipe:
    num_references = draw(st.integers(1, 100))
    return Recipe(
        name=draw(WORDS),
        seed=draw(st.integers(0, 2**63 - 1)),
        model=ModelSection(name=draw(MODEL_NAMES), weights=draw(TEXT), labels=draw(TEXT)),
        data=DataSection(
            shards=draw(st.lists(TEXT, min_size=1, max_size=3)),
            image_key=draw(TEXT),
            max_error_fraction=draw(st.floats(0, 1)),
        ),
        output=OutputSection(root=draw(TEXT)),
        statistics=StatisticsSection(
            layers=draw(st.lists(LAYERS, max_size=3)), top_k=draw(st.integers(num_references, 200))
        ),
        neurons=draw(
            st.lists(
                st.builds(
                    NeuronsBlock,
                    layer=LAYERS,
                    units=st.just("all") | st.just("3:9") | st.lists(st.integers(0, 99), min_size=1),
                    references=TEXT | st.just(""),
                )
                | st.builds(NeuronsBlock, layer=LAYERS, reference_keys=st.lists(TEXT, max_size=3, unique=True)),
                min_size=1,
                max_size=3,
            )
        ),
        targets=TargetsSection(
            feature_layers=draw(
                st.lists(st.builds(FeatureLayerChoice, layer=LAYERS, weight=NUMBERS), max_size=3, unique=True)
            ),
            num_references=num_references,
            min_references=draw(st.integers(1, num_references)),
            relevance=draw(st.sampled_from(RELEVANCE_RULES)),
            grid=draw(st.integers(0, 8)),
            facets=draw(st.integers(1, min(64, num_references))),
            duplicate_distance=draw(st.integers(-1, 64)),
            reference_ranking=draw(st.sampled_from(["activation", "relevance"])),
        ),
        visualize=VisualizeSection(
            methods=draw(st.lists(st.sampled_from(METHODS), min_size=1, unique=True)),
            steps=draw(st.none() | st.integers(1, 9999)),
            image_size_px=draw(st.none() | st.integers(16, 4096)),
            batch_size=draw(st.just("auto") | st.integers(1, 99)),
            options=draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "learning_rate": NUMBERS,
                        "jitter_px": st.integers(0, 99),
                        "normalize_layers": st.booleans(),
                        "parameterization": st.sampled_from(["pixel", "fourier"]),
                    },
                )
            ),
        ),
        evaluate=EvaluateSection(held_out_models=draw(st.lists(MODEL_NAMES, max_size=2, unique=True))),
        atlas=AtlasSection(title=draw(TEXT | st.just("")), license=draw(TEXT | st.just(""))),
        compute=ComputeSection(gpus_per_actor=draw(st.just("auto") | NUMBERS)),
    )


@given(recipes())
def test_to_toml_round_trips(recipe):
    text = recipe.to_toml()
    again = Recipe.from_toml(text)
    assert again == recipe
    assert again.to_toml() == text
    assert [again.fingerprint(stage) for stage in STAGES] == [recipe.fingerprint(stage) for stage in STAGES]


# Fingerprints: which change reaches which stage. A change reaches all later stages too.

REACHES = [
    ("model.name=timm:resnet34", "collect"),
    ("model.weights=random", "collect"),
    ("data.shards=y.tar", "targets"),
    ("data.image_key=png", "collect"),
    ("data.max_pixels=1000", "collect"),
    ("statistics.layers=['layer1']", None),
    ("statistics.top_k=65", "collect"),
    ("statistics.activation=mean", "collect"),
    ("targets.relevance=correlation", "collect"),
    ("model.labels=names.txt", "targets"),
    ("targets.relevance=lrp", "targets"),
    ("targets.feature_layers=['conv1']", "targets"),
    ("targets.num_references=49", "targets"),
    ("targets.reference_mode=patch", "targets"),
    ("targets.grid=2", "targets"),
    ("targets.facets=2", "targets"),
    ("targets.duplicate_distance=-1", "targets"),
    ("targets.reference_ranking=relevance", "targets"),
    ("neurons=[{layer='classifier', references='folder'}]", "targets"),
    ("neurons=[{layer='classifier', reference_keys=['a', 'b']}]", "targets"),
    ("visualize.image_size_px=64", "targets"),
    ("visualize.preset=fast", "targets"),
    ("visualize.grid=2", "targets"),
    ("visualize.aligned_side=14", "targets"),
    ("visualize.edge_weight=1.0", "targets"),
    ("seed=1", "visualize"),
    ("visualize.steps=10", "visualize"),
    ("visualize.precision=bfloat16", "visualize"),
    ("visualize.learning_rate=0.5", "visualize"),
    ("evaluate.held_out_models=['timm:resnet34']", "build"),
    ("evaluate.num_exemplars=5", "build"),
    ("evaluate.weak_percentile=95", "evaluate"),
    ("visualize.methods=['maco']", "build"),
    ("visualize.seeds=2", "build"),
    ("atlas.publish_examples=thumbnails", "build"),
    ("name=other", None),
    ("output.root=elsewhere", None),
    ("neurons=[{layer='layer1', units='0:3'}]", None),
    ("atlas.title=New", None),
    ("data.max_error_fraction=0.5", None),
    ("statistics.batch_size=8", None),
    ("visualize.batch_size=4", None),
    ("compute.cpus_per_task=2", None),
    ("compute.gpus_per_actor=0.5", None),
    ("compute.gpus_per_task=0.5", None),
    ("compute.max_retries=9", None),
]


@pytest.mark.parametrize(("override", "first"), REACHES, ids=[reach[0] for reach in REACHES])
def test_a_fingerprint_changes_from_the_stage_that_a_key_reaches(override, first):
    before, after = tiny(), tiny(override)
    assert before != after
    changed = [stage for stage in STAGES if before.fingerprint(stage) != after.fingerprint(stage)]
    assert changed == ([] if first is None else list(STAGES[STAGES.index(first) :]))


def test_captions_reach_what_is_kept_of_samples_and_what_is_published_and_nothing_between():
    before, after = tiny(), tiny("data.caption_key=txt")
    assert [s for s in STAGES if before.fingerprint(s) != after.fingerprint(s)] == ["collect", "build"]


def test_the_seed_reaches_the_statistics_of_random_weights():
    first, second = tiny("model.weights=random"), tiny("model.weights=random", "seed=1")
    assert first.fingerprint("collect") != second.fingerprint("collect")


def test_feature_layers_reach_the_statistics_when_correlation_is_asked_for():
    first = tiny("targets.relevance=correlation")
    second = tiny("targets.relevance=correlation", "targets.feature_layers=['conv1']")
    assert first.fingerprint("collect") != second.fingerprint("collect")


def test_stage_keys_name_what_differs():
    first, second = tiny().stage_keys("targets"), tiny("targets.grid=2").stage_keys("targets")
    assert [name for name in first if first[name] != second[name]] == ["targets.grid"]
    assert set(tiny().stage_keys("collect")) < set(first)


def test_a_fingerprint_is_16_hex_digits_and_does_not_drift():
    # Golden: a change here makes every unfinished run on disk foreign to its own recipe.
    assert tiny().fingerprint("collect") == "65bbc9bfa1753564"
    assert {len(tiny().fingerprint(stage)) for stage in STAGES} == {16}


def test_an_unknown_stage_is_a_mistake():
    with pytest.raises(ValueError, match="expected one of collect"):
        tiny().fingerprint("train")
