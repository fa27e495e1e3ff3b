"""Similar neurons and the map in a whole run, with and without the library that lays the map out."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from jobs.runner import run_stages
from jobs.stages.neighbors import stored_top_images
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.neighbors.embeddings import top_image_weights
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from tests.support.tiny_run import NUM_NEURONS, tiny_recipe, write_data


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The recipe of a run that is done but for `build`."""
    folder = tmp_path_factory.mktemp("neighbors")
    recipe = tiny_recipe(write_data(folder / "data"), folder / "out", atlas='publish_examples = "none"')
    run_stages(recipe, ["collect", "targets", "visualize"], address="inline", echo=lambda _: None)
    return recipe


def build(recipe):
    return run_stages(recipe, ["build"], address="inline", echo=lambda _: None)[0]


def test_without_the_library_build_says_so_and_with_it_the_map_is_added_later(recipe, monkeypatch):
    root = Root.open(recipe.output.root)
    monkeypatch.setattr("pipeline.atlas.neighbors.projection.layout_name", lambda: "")
    report = build(recipe)
    assert "neuron-atlas[map]" in str(report)
    assert not root.exists("map.parquet")
    assert root.read_json("atlas.json")["neighbors"]["map"] is None
    rows = read_rows(root, "neighbors/fc.parquet")
    assert {layer for row in rows for layer in row["neighbor_layers"]} == {"fc", "stage2"}
    assert build(recipe).already > 0  # nothing to do as long as nothing changes
    monkeypatch.undo()
    if importlib.util.find_spec("openTSNE") is None:
        pytest.skip("openTSNE is not installed (extra 'map')")
    assert not build(recipe).remark
    assert len(read_rows(root, "map.parquet")) == NUM_NEURONS
    before = root.read_bytes("map.parquet"), root.read_bytes("map/0000.webp")
    root.remove("run/build.json")
    build(replace(recipe, compute=replace(recipe.compute, max_retries=2)))
    assert (root.read_bytes("map.parquet"), root.read_bytes("map/0000.webp")) == before


def test_top_images_are_those_of_the_statistics_of_each_layer(recipe):
    statistics = StatisticsStore.open(Root.open(recipe.output.root))
    neurons = [("stage2", 1), ("stage2", 2), ("fc", 3)]
    found = stored_top_images(statistics, neurons)
    for row, (layer, unit) in enumerate(neurons):
        stored = statistics.top_images(layer, unit)
        assert found.sample[row, : len(stored)].tolist() == [top_image.sample for top_image in stored]
        assert found.mean[row] == statistics.activation_moments(layer).mean[unit]
    np.testing.assert_array_equal(top_image_weights(found)[:, 0], 1)  # none of them is dead
