"""Planning is pure: nothing is lost, nothing is done twice, and what is done already never moves a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.run.work_plan import (
    Batch,
    batch_sizes,
    facet_of,
    num_seeds,
    plan_batches,
    recorded_layers,
    requested_keys,
    requested_units,
    requested_visualizations,
)
from pipeline.models import load_model
from tests.support.tiny_run import tiny_recipe

METHODS = ("vital", "pixel")
REQUESTED = st.dictionaries(
    st.tuples(st.sampled_from(["fc", "blocks.1", "blocks.2"]), st.sampled_from(METHODS)),
    st.sets(st.integers(0, 40), min_size=1).map(lambda units: tuple(sorted(units))),
    min_size=1,
)


@pytest.fixture(scope="module")
def model():
    return load_model("python:tests.support.tiny_run:small_net", weights="random")


def keys_of(batches):
    return [key for batch in batches for key in batch.keys]


@given(REQUESTED, st.integers(1, 9), st.integers(1, 3), st.data())
def test_todo_is_requested_without_done(requested, size, num_seeds, data):
    everything = requested_keys(requested, num_seeds=num_seeds)
    done = set(data.draw(st.lists(st.sampled_from(everything))))
    todo = plan_batches(requested, num_seeds=num_seeds, batch_sizes=dict.fromkeys(METHODS, size), done=done)
    assert sorted(keys_of(todo)) == sorted(set(everything) - done)
    assert all(1 <= len(batch.units) <= size for batch in todo)


@given(REQUESTED, st.integers(1, 9), st.data())
def test_a_resumed_run_does_the_batches_that_are_left_and_no_others(requested, size, data):
    plan = {"num_seeds": 1, "batch_sizes": dict.fromkeys(METHODS, size)}
    batches = plan_batches(requested, **plan, done=set())
    committed = data.draw(st.sets(st.sampled_from(range(len(batches)))))
    done = set(keys_of(batches[i] for i in committed))
    left = [batch for i, batch in enumerate(batches) if i not in committed]
    assert plan_batches(requested, **plan, done=done) == left


def test_the_name_of_a_batch_tells_its_members_apart():
    batch = Batch(layer="layer3.2", method="vital", seed=0, units=(3, 8))
    assert batch.name.startswith("layer3.2-vital-s0-00003-2-")
    other = Batch(layer="layer3.2", method="vital", seed=0, units=(3, 9))
    assert batch.name != other.name
    assert [part.units for part in batch.split()] == [(3,), (8,)]


def test_layers_and_units_of_a_recipe(model, tmp_path):
    recipe = tiny_recipe("unused.tar", tmp_path)
    assert recorded_layers(recipe, model) == ["stage1", "stage2", "stage3", "fc"]
    assert requested_units(recipe, model) == {"fc": (0, 1, 2, 3, 4), "stage2": (0, 1, 2)}


def test_blocks_of_one_layer_add_up(model, tmp_path):
    blocks = 'neurons=[{layer="stage2", units=[5, 1]}, {layer="stage?", units="0:2"}]'
    recipe = tiny_recipe("unused.tar", tmp_path, blocks)
    assert requested_units(recipe, model) == {"stage2": (0, 1, 5), "stage1": (0, 1), "stage3": (0, 1)}


def test_a_block_may_ask_for_some_of_the_methods(model, tmp_path):
    blocks = 'neurons=[{layer="stage2", units=[5, 1]}, {layer="stage?", units="0:2", methods=["pixel"]}]'
    recipe = tiny_recipe("unused.tar", tmp_path, 'visualize.methods=["vital", "pixel"]', blocks)
    assert requested_visualizations(recipe, model) == {
        ("stage2", "vital"): (1, 5),
        ("stage2", "pixel"): (0, 1, 5),
        ("stage1", "pixel"): (0, 1),
        ("stage3", "pixel"): (0, 1),
    }
    assert requested_units(recipe, model) == {"stage2": (0, 1, 5), "stage1": (0, 1), "stage3": (0, 1)}


def test_every_seed_shows_every_facet_and_a_seed_more_moves_none(tmp_path):
    two, three = (
        tiny_recipe("unused.tar", tmp_path, "targets.facets=3", f"visualize.seeds={seeds}") for seeds in (2, 3)
    )
    facets = [facet_of(two, seed) for seed in range(num_seeds(two))]
    assert facets == [0, 1, 2, 0, 1, 2]
    assert [facet_of(three, seed) for seed in range(num_seeds(three))][:6] == facets


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('neurons=[{layer="stage9"}]', r'"?stage9.*did you mean "stage\d"'),
        ('neurons=[{layer="stage2", units=[99]}]', "units .*99.*stage2.* 0 to 11"),
        ('neurons=[{layer="stem"}]', 'no statistics are collected for layer "stem"; add it to statistics.layers'),
        ('statistics.layers=["stages.*"]', "matches no layer"),
    ],
)
def test_mistakes_are_named(model, tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        requested_units(tiny_recipe("unused.tar", tmp_path, override), model)


def test_batch_size_is_the_recipes_or_that_of_the_device(tmp_path):
    assert batch_sizes(tiny_recipe("unused.tar", tmp_path), "cpu") == {"vital": 2}
    automatic = tiny_recipe("unused.tar", tmp_path, "visualize.batch_size=auto")
    assert batch_sizes(automatic, "cuda")["vital"] > batch_sizes(automatic, "cpu")["vital"] > 1


def test_visualizations_of_several_views_make_smaller_batches(tmp_path):
    several = ('visualize.methods=["vital", "maco"]', "visualize.batch_size=auto", "visualize.maco.num_crops=4")
    sizes = batch_sizes(tiny_recipe("unused.tar", tmp_path, *several), "cuda")
    assert sizes["maco"] == sizes["vital"] // 4
    most = batch_sizes(tiny_recipe("unused.tar", tmp_path, *several[:2], "visualize.maco.num_crops=100"), "cuda")
    assert most["maco"] == 1
