"""Targets: choice of references, patches, the store, and a batch of units end to end on a tiny data set."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.activations.store import StatisticsStore
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.recipe.sections import TargetsSection
from pipeline.references.build import build_targets, options_for, plan_targets, prepare_targets
from pipeline.references.selection import (
    References,
    choose_class_references,
    choose_unit_references,
    gather_references,
)
from pipeline.references.store import committed_targets, read_references, read_targets
from pipeline.synthesis.methods.vital_target import reference_target
from tests.support.tiny_networks import tiny_model
from tests.support.tiny_targets import (
    any_images,
    random_images,
    targets_recipe,
    tiny_reader,
    write_tiny_store,
)

PER_CLASS = {"a": 5, "b": 4, "c": 1}  # class 2 has too few samples; classes 3 and 4 have none
recipe = targets_recipe


def settings(**targets: object) -> TargetsSection:
    return recipe(patch_size_px=16, **targets).targets


def class_references(statistics: StatisticsStore, unit: int) -> References:
    return choose_class_references(statistics, "fc", unit, num_references=4, min_references=3, distinct=any_images())


def unit_references(statistics: StatisticsStore, unit: int, count: int = 4) -> References:
    return choose_unit_references(
        statistics, "stage2", unit, (4, 4), num_references=count, box_side=0.5, distinct=any_images()
    )


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Root:
    """An atlas folder with statistics of ten visualizations in two tar shards."""
    return write_tiny_store(tmp_path_factory.mktemp("targets"), model, random_images(PER_CLASS))


@pytest.fixture
def statistics(root: Root) -> StatisticsStore:
    return StatisticsStore.open(root)


def test_a_class_takes_its_labeled_samples_best_first(statistics: StatisticsStore) -> None:
    chosen = class_references(statistics, 0)
    assert chosen.source == "label"
    assert {top_image.label for top_image in chosen.top_images} == {0}
    logits = [top_image.activation for top_image in chosen.top_images]
    assert len(logits) == 4
    assert logits == sorted(logits, reverse=True)


@pytest.mark.parametrize(("unit", "source", "labeled", "count"), [(2, "label+top_logit", 1, 3), (3, "top_logit", 0, 4)])
def test_a_class_with_too_few_samples_is_filled_by_its_logit(
    statistics: StatisticsStore, unit: int, source: str, labeled: int, count: int
) -> None:
    chosen = class_references(statistics, unit)
    assert chosen.source == source
    assert [e.label == unit for e in chosen.top_images] == [True] * labeled + [False] * (count - labeled)
    assert len({e.sample for e in chosen.top_images}) == count
    filled = [e.activation for e in chosen.top_images[labeled:]]
    best = [e.activation for e in statistics.top_images("fc", unit) if e.label != unit]
    assert filled == best[: len(filled)]


def test_no_sample_fills_up_its_own_class(statistics: StatisticsStore) -> None:
    chosen = choose_class_references(statistics, "fc", 0, num_references=8, min_references=8, distinct=any_images())
    assert [e.label == 0 for e in chosen.top_images] == [True] * 5 + [False] * 3
    assert sum(e.label == 0 for e in statistics.top_images("fc", 0)[:5]) > 0  # some would come first


def test_a_unit_takes_the_images_that_activate_it_most(model: Model, statistics: StatisticsStore) -> None:
    chosen = unit_references(statistics, 3)
    reader = tiny_reader(model)
    with model.capture(["stage2"]) as features, torch.no_grad():
        model.module(reader.images(chosen.top_images))
    found = features["stage2"][:, 3].amax(dim=(1, 2))
    np.testing.assert_allclose(found, [e.activation for e in chosen.top_images], rtol=1e-4)
    assert found.tolist() == sorted(found.tolist(), reverse=True)


def test_boxes_lie_around_the_peak_and_inside_the_image(statistics: StatisticsStore) -> None:
    for unit in range(12):
        chosen = unit_references(statistics, unit)
        for top_image, (x0, y0, x1, y1) in zip(chosen.top_images, chosen.boxes, strict=True):
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
            assert x1 - x0 == pytest.approx(0.5)
            y, x = ((p + 0.5) / 4 for p in top_image.position)
            assert x0 <= x <= x1
            assert y0 <= y <= y1


def test_patches_are_the_marked_squares_of_the_highest_means(model: Model, statistics: StatisticsStore) -> None:
    reader = tiny_reader(model)
    chosen, patches = gather_references(model, statistics, reader, "stage2", 3, settings(reference_mode="patch"))
    assert patches.shape == (4, 3, 32, 32)
    assert len({e.sample for e in chosen.top_images}) == 4
    with model.capture(["stage2"]) as features, torch.no_grad():
        model.module(patches)
    means = features["stage2"][:, 3].mean(dim=(1, 2)).tolist()
    others = unit_references(statistics, 3, 8)
    with model.capture(["stage2"]) as features, torch.no_grad():
        model.module(reader.patches(others.top_images, others.boxes))
    all_means = features["stage2"][:, 3].mean(dim=(1, 2)).tolist()
    assert sorted(means) == pytest.approx(sorted(all_means)[-4:], rel=1e-4)
    activations = [e.activation for e in chosen.top_images]
    assert activations == sorted(activations, reverse=True)
    x0, y0, x1, y1 = (edge * 32 for edge in chosen.boxes[0])
    crop = reader.crop(chosen.top_images[0]).resize((32, 32), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))
    assert torch.equal(patches[0], model.preprocessing.to_tensor(crop))


def test_a_batch_of_units_is_stored_and_read_back_exactly(
    model: Model, root: Root, statistics: StatisticsStore
) -> None:
    requested = recipe()
    plan = plan_targets(requested, model, "stage2")
    assert plan.grid == 2
    prepare_targets(root, model, plan)
    prepare_targets(root, model, plan)  # idempotent
    assert committed_targets(root, "stage2") == set()
    rows = build_targets(root, requested, model, statistics, plan, [1, 4])
    assert committed_targets(root, "stage2") == {1, 4}
    reader = tiny_reader(model)
    for unit, row in zip([1, 4], rows, strict=True):
        _, images = gather_references(model, statistics, reader, "stage2", unit, settings())
        expected = reference_target(model, plan, unit, images)
        target, references = read_targets(root, plan, [unit])[unit]
        assert target is not None
        assert target.layers.keys() == expected.layers.keys()
        for name, layer in expected.layers.items():
            assert torch.equal(target.layers[name].quantile, layer.quantile)
            assert (layer.importance is None) == (target.layers[name].importance is None)
            if layer.importance is not None:
                assert torch.equal(target.layers[name].importance, layer.importance)
        assert target.goal_activation == pytest.approx(max(references["reference_activations"]))
        assert target.goal_activation == pytest.approx(expected.goal_activation, rel=1e-3)  # whole images here
        assert references["reference_keys"] == row["reference_keys"]
        assert references["reference_source"] == "top_activation"
        assert len(references["reference_positions"]) == 4 * references["num_references"] == 16


def test_targets_of_another_plan_are_refused(model: Model, root: Root) -> None:
    prepare_targets(root, model, plan_targets(recipe(), model, "stage3"))
    with pytest.raises(ValueError, match=r"another grid, shapes: \[2, .* there, \[1, .* requested; choose another"):
        prepare_targets(root, model, plan_targets(recipe(grid=1), model, "stage3"))


def test_a_unit_that_nothing_activates_is_dead_with_a_reason(
    tmp_path: Path, model: Model, root: Root, statistics: StatisticsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = statistics.activation_moments("stage2")
    moments.minimum[7] = statistics.topk("stage2").activation[7, 0]  # as if the unit gave one value everywhere
    requested = recipe()
    plan = plan_targets(requested, model, "stage2")
    prepare_targets(root, model, plan)
    (row,) = build_targets(root, requested, model, statistics, plan, [7])
    assert (row["status"], row["num_references"]) == ("dead", 0)
    assert "none of the 10 images activates this unit" in row["status_reason"]
    target, references = read_targets(root, plan, [7])[7]
    assert target is None
    assert references["status"] == "dead"
    assert read_references(root, "stage2")[7]["reference_keys"] == []


def test_the_recipe_s_own_settings_win_over_the_preset_s() -> None:
    options = options_for(recipe(grid=3))
    assert options.grid == 3
    assert options.parameterization == "fourier"


def test_references_are_read_by_byte_range(model: Model, statistics: StatisticsStore) -> None:
    top_image = statistics.top_images("stage2", 0, 1)[0]
    data = Path(top_image.tar_shard).read_bytes()[top_image.offset : top_image.offset + top_image.size]
    expected = model.preprocessing.square_crop(Image.open(io.BytesIO(data)), 32)
    reader = tiny_reader(model)
    assert np.array_equal(np.asarray(reader.crop(top_image)), np.asarray(expected))
