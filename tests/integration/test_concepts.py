"""Concepts through the whole pipeline: recipes, fingerprints, runs."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from jobs.run.resolved import resolve
from jobs.runner import run_stages
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.validation.validate import validate
from pipeline.derived_layers.layer import unit_label
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.recipe.recipe import STAGES, Recipe, RecipeError
from tests.support.tiny_run import recipe_toml, write_data

ORDER = [2, 0, 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Tar shards, and a file of three basis vectors of stage2 as an autoencoder has them, one in each column."""
    folder = tmp_path_factory.mktemp("concepts")
    write_data(folder / "data", num_shards=2)
    safetensors.torch.save_file(
        {"decoder.weight": (torch.eye(12)[ORDER].T * 3).contiguous()}, folder / "basis.safetensors"
    )
    return folder


def concept_recipe(data: Path, out: Path, *overrides: str, file: str = "basis.safetensors", more: str = "") -> Recipe:
    text = recipe_toml(f"{data}/data/tiny-{{000000..000001}}.tar", out, data='label_key = "none"').replace(
        'layer = "classifier"\nunits = "all"', 'layer = "concepts.basis"'
    )
    section = f"""
        [[concepts]]
        name = "basis"
        layer = "stage2"
        directions = "{data / file}"
        key = "decoder.weight"
        transpose = true
        labels = ["two", "zero", "one"]
        {more}
    """
    return Recipe.from_toml(text + section, overrides)


@pytest.fixture(scope="module")
def atlas(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("atlas") / "out"
    run_stages(concept_recipe(data, out), STAGES, address="inline", echo=lambda _: None)
    return out


def test_concepts_go_through_the_whole_pipeline_as_the_channels_they_are(atlas):
    assert validate(str(atlas)) == []
    layers = {layer["name"]: layer for layer in Root.open(atlas).read_json("atlas.json")["layers"]}
    assert list(layers) == ["stage2", "concepts.basis"]
    assert layers["concepts.basis"]["num_units"] == 3
    channels = {row["unit"]: row for row in read_rows(Root.open(atlas), "layers/stage2.parquet")}
    concepts = read_rows(Root.open(atlas), "layers/concepts.basis.parquet")
    assert [row["label"] for row in concepts] == ["two", "zero", "one"]
    assert concepts[0]["neuron_id"] == "python:tests.support.tiny_run:small_net/concepts.basis/0"
    same = ["reference_keys", "reference_activations", "reference_positions", "histogram_counts", "max_activation"]
    for row, unit in zip(concepts, ORDER, strict=True):
        assert {name: row[name] for name in same} == {name: channels[unit][name] for name in same}
        assert (atlas / row["image_path"]).is_file()
        assert row["relevance"] == "lrp"
        assert row["activation_percentile"] is not None


def test_statistics_of_concepts_are_those_of_their_channels(atlas):
    statistics = StatisticsStore.open(Root.open(atlas))
    concepts, channels = statistics.topk("concepts.basis"), statistics.topk("stage2")
    np.testing.assert_array_equal(concepts.sample, channels.sample[ORDER])
    np.testing.assert_array_equal(concepts.activation, channels.activation[ORDER])
    np.testing.assert_array_equal(concepts.position, channels.position[ORDER])


def test_the_published_recipe_names_the_content_of_the_file(atlas, data):
    published = Recipe.from_toml((atlas / "recipe.toml").read_text())
    digest = hashlib.sha256((data / "basis.safetensors").read_bytes()).hexdigest()
    assert published.concepts[0].sha256 == digest
    assert Recipe.from_toml(published.to_toml()) == published


def test_another_content_is_refused_and_the_same_one_elsewhere_is_not(atlas, data):
    (data / "moved.safetensors").write_bytes((data / "basis.safetensors").read_bytes())
    assert resolve(concept_recipe(data, atlas, file="moved.safetensors")).collect_fingerprint
    safetensors.torch.save_file({"decoder.weight": torch.eye(12)[[0, 1, 2]].T.contiguous()}, data / "other.safetensors")
    with pytest.raises(RecipeError, match="holds results of another recipe") as caught:
        resolve(concept_recipe(data, atlas, file="other.safetensors"))
    assert "concepts.basis" in str(caught.value)
    pinned = hashlib.sha256((data / "basis.safetensors").read_bytes()).hexdigest()
    with pytest.raises(RecipeError, match=r'concepts "basis": ".*other.safetensors" has changed'):
        resolve(concept_recipe(data, atlas, file="other.safetensors", more=f'sha256 = "{pinned}"'))


def test_fingerprints_follow_the_section_and_are_as_before_without_it(data, tmp_path):
    recipe = concept_recipe(data, tmp_path)
    prints = {
        (stage, more): concept_recipe(data, tmp_path, more=more).fingerprint(stage)
        for more in ("", "normalize = false", 'activation = "relu"', 'center = "c"')
        for stage in ("collect", "visualize")
    }
    assert len(set(prints.values())) == len(prints)
    relabeled = Recipe.from_toml(recipe.to_toml().replace('"two"', '"II"'))
    assert relabeled.fingerprint("collect") == recipe.fingerprint("collect")
    assert relabeled.fingerprint("visualize") != recipe.fingerprint("visualize")
    without = Recipe.from_toml(recipe_toml("a.tar", tmp_path))
    assert not [name for name in without.stage_keys("build") if name.startswith(("concepts", "combinations"))]


def test_what_does_not_fit_names_file_and_key(data, tmp_path):
    safetensors.torch.save_file({"decoder.weight": torch.ones(3, 7)}, data / "wide.safetensors")
    with pytest.raises(RecipeError) as caught:
        resolve(concept_recipe(data, tmp_path, file="wide.safetensors"))
    message = str(caught.value)
    assert "concepts.basis: directions have the shape [7, 3], expected [K, 12]" in message
    assert f'(read from "{data}/wide.safetensors", key "decoder.weight", transposed)' in message


def test_labels_may_come_from_a_file(data, tmp_path):
    (tmp_path / "labels.txt").write_text("eins\nzwei\ndrei\n")
    text, count = re.subn(
        r"labels = \[[^]]*\]", f'labels = "{tmp_path}/labels.txt"', concept_recipe(data, tmp_path / "out").to_toml()
    )
    assert count == 1
    assert unit_label(resolve(Recipe.from_toml(text)).model, "concepts.basis", 1) == "zwei"
    with pytest.raises(RecipeError, match=r'labels.txt_": there is no such file'):
        resolve(Recipe.from_toml(text.replace("labels.txt", "labels.txt_")))


def test_two_sets_of_one_name_are_refused(data, tmp_path):
    text = concept_recipe(data, tmp_path).to_toml()
    block = text[text.index("[[concepts]]") : text.index("[statistics]")]
    with pytest.raises(RecipeError, match=r'concepts.name = "basis" twice'):
        Recipe.from_toml(text + block)
