"""Neurons: ids, units, layer patterns, seeds."""

import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.neurons import (
    Neuron,
    check_units,
    layer_file_name,
    layer_of_file_name,
    layer_unit_name,
    match_layers,
    nearest,
    neuron_seed,
    parse_units,
)

LAYER_NAMES = st.from_regex(r"[A-Za-z0-9_]{1,8}(\.[A-Za-z0-9_]{1,8}){0,3}", fullmatch=True)
BLOCKS = ["conv_stem", "blocks", "blocks.0", "blocks.0.0", "blocks.0.0.conv", "blocks.1", "blocks.10", "head"]


@given(model=st.sampled_from(["timm:resnet18", "timm:hf_hub/a/b", "python:a.b:make"]), layer=LAYER_NAMES)
def test_an_id_parses_back(model, layer):
    neuron = Neuron(model, layer, 17)
    assert neuron.id == f"{model}/{layer}/17"
    assert Neuron.parse(neuron.id) == neuron


def test_neurons_sort_units_by_number():
    units = [Neuron("m", "b", 10), Neuron("m", "b", 9), Neuron("m", "a", 11)]
    assert [neuron.unit for neuron in sorted(units)] == [11, 9, 10]


@pytest.mark.parametrize("text", ["", "m/l", "m/l/x", "m/l/-1", "m/l/1.0", "m/l/01", "/l/1", "m/../1", "m/l/1 "])
def test_a_bad_id_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        Neuron.parse(text)


@given(st.lists(st.text(st.characters(exclude_characters=".", codec="utf-8"), min_size=1), min_size=1).map(".".join))
@example("/features/0/Conv")
@example("layer4.0.relu@2")
@example("_-")
@example("-")
def test_any_module_has_a_file_name_of_its_own(layer):
    name = layer_file_name(layer)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name)
    assert layer_of_file_name(name) == layer
    assert Neuron.parse(Neuron("python:a:b", layer, 3).id).layer == layer


@given(LAYER_NAMES)
def test_plain_names_stay_as_they_are(layer):
    assert layer_file_name(layer) == layer


@pytest.mark.parametrize("name", ["", ".", "..", "a..b", ".a", "a.", "..-2F"])
def test_what_is_no_module_never_becomes_a_path(name):
    with pytest.raises(ValueError, match="layer name"):
        layer_file_name(name)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a-2f", "a-41", "a-", "-2Fa", "a-FF", "a b"])
def test_what_is_no_file_name_has_no_layer(name):
    with pytest.raises(ValueError, match=r"layer name|name of no layer"):
        layer_of_file_name(name)


def test_unit_names_sort_by_number():
    assert layer_unit_name(12) == "00012"
    assert sorted(map(layer_unit_name, [100, 20, 3])) == ["00003", "00020", "00100"]


@pytest.mark.parametrize(
    ("spec", "units"),
    [
        ("all", range(10)),
        ("2:5", (2, 3, 4)),
        (":2", (0, 1)),
        ("8:", (8, 9)),
        (":", range(10)),
        ("0:10", range(10)),
        ("3", (3,)),
        (3, (3,)),
        ([7, 3, 7], (3, 7)),
        ((0, 9), (0, 9)),
    ],
)
def test_units_are_read(spec, units):
    assert parse_units(spec, 10, "blocks.5") == tuple(units)


@pytest.mark.parametrize("spec", ["0:11", "10", 10, [3, 10], "10:12", "5:5", "6:3", "10:", ":0", "0:99999999999999"])
def test_units_outside_the_layer_name_it_and_its_range(spec):
    with pytest.raises(ValueError, match=r"layer 'blocks\.5', which has 10: .* from 0 to 9"):
        parse_units(spec, 10, "blocks.5")


@pytest.mark.parametrize(
    "spec", ["", "some", "1-3", "1:2:3", "-1", -1, [-1], [], [1.0], ["1"], [True], True, None, 1.5, {"a": 1}]
)
def test_malformed_units_are_refused(spec):
    with pytest.raises(ValueError, match='expected "all", a range'):
        check_units(spec)
    with pytest.raises(ValueError, match='expected "all", a range'):
        parse_units(spec, 10, "x")


@given(st.integers(1, 200), st.data())
def test_a_range_is_python_s_range(num_units, data):
    start = data.draw(st.integers(0, num_units - 1))
    stop = data.draw(st.integers(start + 1, num_units))
    assert parse_units(f"{start}:{stop}", num_units, "x") == tuple(range(num_units))[start:stop]


@given(st.lists(st.integers(0, 30), min_size=1))
def test_a_list_gives_each_unit_once_ascending(units):
    assert parse_units(units, 31, "x") == tuple(sorted(set(units)))


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["blocks.*"], ["blocks.0", "blocks.1", "blocks.10"]),
        (["blocks.**"], ["blocks.0", "blocks.0.0", "blocks.0.0.conv", "blocks.1", "blocks.10"]),
        (["blocks.?"], ["blocks.0", "blocks.1"]),
        (["blocks.[!0]"], ["blocks.1"]),
        (["blocks.[01]"], ["blocks.0", "blocks.1"]),
        (["head", "conv_*", "head"], ["conv_stem", "head"]),
        (["*"], ["conv_stem", "blocks", "head"]),
        (["**"], BLOCKS),
        (["**.conv"], ["blocks.0.0.conv"]),
        ([], []),
    ],
)
def test_patterns_match_in_model_order(patterns, names):
    assert match_layers(patterns, BLOCKS) == names


def test_a_dot_in_a_pattern_is_a_dot():
    assert match_layers(["a.b"], ["a.b", "axb"]) == ["a.b"]


def test_a_pattern_that_matches_nothing_names_the_nearest_layer():
    with pytest.raises(ValueError, match=r"'conv_sten' matches no layer \(did you mean \"conv_stem\"\?\)"):
        match_layers(["blocks.*", "conv_sten"], BLOCKS)


@given(st.lists(LAYER_NAMES, min_size=1, max_size=6, unique=True))
def test_every_exact_name_matches_itself_only(names):
    for name in names:
        assert match_layers([name], names) == [name]
    assert match_layers(["**"], names) == names


def test_nearest_is_quiet_when_nothing_is_near():
    assert nearest("steps", ["step", "seed"]) == ' (did you mean "step"?)'
    assert nearest("xyz", ["step", "seed"]) == ""


# Every part matters, and no two different neurons share the text that is hashed.
SEED_ARGUMENTS = st.tuples(
    st.integers(0, 3), st.text(max_size=3), st.text(max_size=3), st.integers(0, 3), st.integers(0, 3)
)


@given(SEED_ARGUMENTS, SEED_ARGUMENTS)
def test_seeds_differ_unless_everything_is_equal(first, second):
    assert (neuron_seed(*first) == neuron_seed(*second)) == (first == second)
    assert 0 <= neuron_seed(*first) < 2**63


def test_a_seed_is_the_same_in_every_process():
    code = "from pipeline.neurons import neuron_seed; print(neuron_seed(0, 'vital', 'blocks.5', 7, 0))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    # Golden: a change of this number would change every published visualization.
    assert int(printed) == neuron_seed(0, "vital", "blocks.5", 7, 0) == 3_354_206_885_345_437_319
