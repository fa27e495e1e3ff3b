"""When recipes are the same: written back without a loss, and a fingerprint for what each stage depends on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.recipe.evaluate import EvaluateSection
from pipeline.recipe.recipe import STAGES, Recipe
from pipeline.recipe.sections import (
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
from pipeline.recipe.visualize import VisualizeSection
from pipeline.synthesis.methods.presets import METHODS
from tests.support.minimal_recipe import tiny

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
            **draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "learning_rate": NUMBERS,
                        "maco": st.fixed_dictionaries({"noise": NUMBERS, "steps": st.integers(1, 9999)}),
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
    ("data.max_value=4095", "collect"),
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
    ("evaluate.num_top_images=5", "build"),
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
    assert set(tiny().stage_keys("collect")) - {"data.caption_key"} < set(first)


def test_a_fingerprint_is_16_hex_digits_and_does_not_drift():
    # Golden: a change here makes every unfinished run on disk foreign to its own recipe.
    assert tiny().fingerprint("collect") == "82255998f9261fd4"
    assert {len(tiny().fingerprint(stage)) for stage in STAGES} == {16}


def test_an_unknown_stage_is_a_mistake():
    with pytest.raises(ValueError, match="expected one of collect"):
        tiny().fingerprint("train")
