"""References that the recipe names, and references ranked by relevance."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.activations.storage.samples import SampleTable
from pipeline.activations.store import StatisticsStore
from pipeline.attribution.relevance import relevance
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.recipe.recipe import RecipeError
from pipeline.references.build import build_targets, check_targets, plan_targets, prepare_targets
from pipeline.references.reading import top_images_of_row
from pipeline.references.relmax import RelevanceRanking
from pipeline.references.selection import gather_references
from pipeline.references.store import read_targets
from pipeline.references.user_chosen import blocks_with_references, find_chosen
from pipeline.synthesis.methods.vital_target import reference_target
from tests.support.tiny_networks import tiny_model
from tests.support.tiny_targets import (
    random_images,
    targets_recipe,
    tiny_reader,
    top_images,
    write_folder,
    write_tiny_store,
)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Root:
    return write_tiny_store(tmp_path_factory.mktemp("chosen"), model, random_images({"a": 6, "b": 4}))


@pytest.fixture(scope="module")
def statistics(root: Root) -> StatisticsStore:
    return StatisticsStore.open(root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_folder(tmp_path_factory.mktemp("folder"), random_images({"": 3}, seed=9))
    (path / "notes.txt").write_text("no image")
    return path


def test_the_images_of_a_folder_are_used_as_they_are(
    model: Model, root: Root, statistics: StatisticsStore, folder: Path
) -> None:
    recipe = targets_recipe(neurons=f'units = [1, 4]\nreferences = "{folder}"', num_references=2, min_references=1)
    chosen = find_chosen(recipe, model, statistics)
    assert set(chosen) == {("stage2", 1), ("stage2", 4)}
    plan = plan_targets(recipe, model, "stage2")
    prepare_targets(root, model, plan)
    rows = build_targets(root, recipe, model, statistics, plan, [1, 2, 4], chosen)
    assert [row["reference_source"] for row in rows] == ["folder", "top_activation", "folder"]
    assert any(row["reference_keys"] != sorted(row["reference_keys"]) for row in rows if row["reference_folder"])
    for row in (rows[0], rows[2]):
        assert row["reference_activations"] == sorted(row["reference_activations"], reverse=True)
    target, row = read_targets(root, plan, [4])[4]
    assert sorted(row["reference_keys"]) == ["image0.png", "image1.png", "image2.png"]  # num_references does not apply
    assert (row["reference_folder"], row["reference_samples"]) == (str(folder), [-1] * 3)
    assert row["reference_labels"] == [""] * 3
    located = top_images_of_row(statistics, row)
    images = tiny_reader(model).images(located)
    with model.capture(["stage2"]) as features, torch.no_grad():
        model.module(images)
    maps = features["stage2"][:, 4]
    np.testing.assert_allclose(row["reference_activations"], maps.amax(dim=(1, 2)), rtol=1e-5)
    for place, box in enumerate(np.reshape(row["reference_positions"], (-1, 4))):
        y, x = np.unravel_index(int(maps[place].argmax()), maps.shape[1:])
        assert box[0] - 1e-6 <= (x + 0.5) / 4 <= box[2] + 1e-6
        assert box[1] - 1e-6 <= (y + 0.5) / 4 <= box[3] + 1e-6
    expected = reference_target(model, plan, 4, images)
    for name, layer in expected.layers.items():
        assert torch.equal(target.layers[name].quantile, layer.quantile)


def test_samples_are_found_by_their_keys(model: Model, statistics: StatisticsStore) -> None:
    requested = top_images(statistics, "fc", 3)[4:7]
    keys = ", ".join(f'"{key}"' for key in requested)
    recipe = targets_recipe(f'neurons=[{{layer="classifier", units=[3], reference_keys=[{keys}]}}]')
    ((neuron, references),) = find_chosen(recipe, model, statistics).items()
    assert neuron == ("fc", 3)
    assert (references.source, references.folder) == ("keys", "")
    assert [e.key for e in references.top_images] == requested
    assert [e.sample for e in references.top_images] == [e.sample for e in statistics.top_images("fc", 3)[4:7]]
    assert tiny_reader(model).images(references.top_images).shape == (3, 3, 32, 32)


def blocks(*tables: str) -> str:
    return f"neurons=[{', '.join('{' + table + '}' for table in tables)}]"


def test_mistakes_name_what_is_wrong(model: Model, statistics: StatisticsStore, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cat.jpg").write_bytes(b"\xff\xd8 not an image")
    known = statistics.samples.keys()[0]
    for block, message in (
        (f'reference_keys=["{known}", "{known}x"]', rf'1 of 2 are not keys .* "{known}x" \(did you mean'),
        (f'references="{tmp_path / "none"}"', "does not exist: expected a folder"),
        (f'references="{tmp_path / "empty"}"', "has no images: expected a folder"),
        (f'references="{tmp_path / "broken"}"', "cat.jpg: .* image: .*repair or remove it"),
        (f'layer="stage9", references="{folder}"', "matches no layer"),
        (f'units=[99], references="{folder}"', "99"),
    ):
        layer = "" if "layer" in block else 'layer="stage2", '
        with pytest.raises(ValueError, match=message):
            find_chosen(targets_recipe(blocks(layer + block)), model, statistics)
    with pytest.raises(RecipeError, match="either references or reference_keys"):
        targets_recipe(blocks(f'layer="stage2", references="{folder}", reference_keys=["a"]'))


def test_keys_that_occur_twice_are_refused(
    model: Model, statistics: StatisticsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = statistics.samples.keys()[0]
    monkeypatch.setattr(SampleTable, "with_keys", lambda _, keys: {key: [0, 1] for key in keys})
    with pytest.raises(ValueError, match=f'"{key}" is the key of 2 samples'):
        find_chosen(targets_recipe(blocks(f'layer="stage2", reference_keys=["{key}"]')), model, statistics)


def test_two_blocks_may_not_name_different_references_for_one_neuron(model: Model) -> None:
    both = targets_recipe(
        blocks('layer="stage*", units="0:4", references="x"', 'layer="stage2", units=[3], reference_keys=["k"]')
    )
    with pytest.raises(ValueError, match=r'unit 3 of layer "stage2" .* references = "x" and 1 reference_keys'):
        blocks_with_references(both, model)
    same = targets_recipe(
        blocks('layer="stage2", units="0:4", references="x"', 'layer="stage2", units=[3], references="x"')
    )
    assert len(blocks_with_references(same, model)) == 4
    # A block without references changes nothing, so a few units of a layer can have their own.
    rest = targets_recipe(blocks('layer="stage2"', 'layer="stage2", units=[3], references="x"'))
    assert set(blocks_with_references(rest, model)) == {("stage2", 3)}


def test_named_references_reach_the_targets_and_other_blocks_do_not() -> None:
    plain, named = targets_recipe(), targets_recipe(neurons='references = "x"')
    assert "neurons" not in plain.stage_keys("targets")
    assert plain.fingerprint("collect") == named.fingerprint("collect")
    assert plain.fingerprint("targets") != named.fingerprint("targets")
    more = targets_recipe(blocks('layer="stage2", references="x"', 'layer="stage3"'))
    assert more.fingerprint("targets") == named.fingerprint("targets")
    other = targets_recipe(neurons='references = "y"')
    assert other.fingerprint("targets") != named.fingerprint("targets")


# Ranked by relevance.


def relevance_of(model: Model, statistics: StatisticsStore, key: str, unit: int, rule: str) -> float:
    """A unit's relevance for the strongest class of one image, alone."""
    (top_image,) = (e for e in statistics.top_images("stage2", unit) if e.key == key)
    image = tiny_reader(model).images([top_image])
    top_class = int(model.module(image).argmax())
    maps = relevance(model.module, image, layer="fc", units=[top_class], feature_layers=["stage2"], rule=rule)
    return float(maps["stage2"][0, unit].sum())


@pytest.mark.parametrize("rule", ["lrp", "gradient_x_activation"])
def test_images_are_ranked_by_the_unit_s_relevance_for_their_class(
    model: Model, statistics: StatisticsStore, rule: str
) -> None:
    ranking = RelevanceRanking(model, "stage2", tiny_reader(model), rule=rule)
    changed = 0
    for unit in range(2):
        before = top_images(statistics, "stage2", unit)
        ranked = [e.key for e in ranking.rank(statistics.top_images("stage2", unit), unit)]
        values = [relevance_of(model, statistics, key, unit, rule) for key in ranked]
        assert sorted(ranked) == sorted(before)
        assert values == pytest.approx(sorted(values, reverse=True), rel=1e-4, abs=1e-7)
        changed += ranked != before
    assert changed  # otherwise nothing was tested


def test_the_recipe_ranks_units_and_leaves_classes_alone(model: Model, root: Root, statistics: StatisticsStore) -> None:
    recipe = targets_recipe(reference_ranking="relevance", patch_size_px=16)
    plan = plan_targets(recipe, model, "stage3")
    prepare_targets(root, model, plan)
    (row,) = build_targets(root, recipe, model, statistics, plan, [3])
    assert row["reference_source"] == "top_relevance"
    ranking = RelevanceRanking(model, "stage3", tiny_reader(model))
    expected = ranking.rank(statistics.top_images("stage3", 3), 3)[:4]
    assert {e.key for e in expected} != set(top_images(statistics, "stage3", 3)[:4])
    assert row["reference_keys"] == [e.key for e in expected]
    assert row["reference_activations"] == [e.activation for e in expected]
    assert row["goal_activation"] == max(row["reference_activations"])
    chosen, _ = gather_references(model, statistics, tiny_reader(model), "fc", 0, recipe.targets)
    assert chosen.source == "label"
    patches = targets_recipe(reference_mode="patch", patch_size_px=16).targets
    marked, _ = gather_references(model, statistics, tiny_reader(model), "stage3", 3, patches, ranking)
    assert marked.source == "top_relevance"
    assert recipe.fingerprint("targets") != targets_recipe(patch_size_px=16).fingerprint("targets")


def test_ranking_by_relevance_needs_a_classifier(model: Model) -> None:
    backbone = tiny_model()
    backbone.__dict__["classifier_layer"] = None
    with pytest.raises(ValueError, match='has no classifier: set it to "activation"'):
        RelevanceRanking(backbone, "stage2", tiny_reader(backbone))
    with pytest.raises(ValueError, match=r'targets\.reference_ranking = "relevance"'):
        check_targets(targets_recipe(reference_ranking="relevance"), backbone)
    check_targets(targets_recipe(), backbone)
