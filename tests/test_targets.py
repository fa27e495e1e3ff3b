"""Targets: choice of references, patches, the store, and a batch of units end to end on a tiny data set."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data_errors import ErrorBudget
from pipeline.models import Model
from pipeline.recipe import Recipe
from pipeline.shard_writing import write_shards
from pipeline.shards import iterate_samples
from pipeline.statistics.store import StatisticsStore, merge_partials, write_partial, write_statistics
from pipeline.statistics.survey import survey
from pipeline.storage import Root
from pipeline.synthesis.reference_target import reference_target
from pipeline.targets.build import build_targets, options_for, plan_targets, prepare_targets
from pipeline.targets.references import (
    ReferenceReader,
    choose_class_references,
    choose_unit_references,
    gather_references,
)
from pipeline.targets.store import committed_targets, read_references, read_targets
from tests.tiny_networks import tiny_model

SETTINGS = {"num_references": 4, "min_references": 3, "reference_mode": "image", "patch_size_px": 16}
PER_CLASS = {"a": 5, "b": 4, "c": 1}  # class 2 has too few samples; classes 3 and 4 have none


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Root:
    """An atlas folder with statistics of ten pictures in two tar shards."""
    folder = tmp_path_factory.mktemp("targets")
    rng = np.random.default_rng(0)
    for name, count in PER_CLASS.items():
        for index in range(count):
            path = folder / "images" / name / f"{name}{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            coarse.resize((48, 40), Image.Resampling.BILINEAR).save(path)
    write_shards(str(folder / "images"), str(folder / "shards"), name="tiny", max_samples=5)
    urls = sorted(str(path) for path in (folder / "shards").glob("*.tar"))
    root = Root.open(str(folder / "atlas"))
    for index, url in enumerate(urls):
        budget = ErrorBudget(0.0)
        samples = iterate_samples(url, num_classes=5, on_skip=budget.add_skip)
        partial = survey(model, samples, shard_index=index, layers=["stage2", "stage3"], top_k=8, budget=budget)
        write_partial(root, index, partial, recipe_fingerprint="f", shard_url=url)
    merged = merge_partials(root, urls, recipe_fingerprint="f")
    write_statistics(root, merged, {"model": model.name, "recipe_fingerprint": "f"})
    return root


@pytest.fixture
def statistics(root: Root) -> StatisticsStore:
    return StatisticsStore.open(root)


def recipe(**targets: object) -> Recipe:
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in {"num_references": 4, **targets}.items()]
    return Recipe.from_toml(
        "\n".join(
            [
                'schema = "recipe/1"',
                'name = "tiny"',
                "[model]",
                'name = "python:tests.tiny_networks:TinyResidualNet"',
                "[data]",
                'shards = ["x.tar"]',
                "[output]",
                'root = "out"',
                "[[neurons]]",
                'layer = "stage2"',
                "[targets]",
                *lines,
                "[visualize]",
                'preset = "fast"',
                "grid = 2",
            ]
        )
    )


def test_a_class_takes_its_labeled_samples_best_first(statistics: StatisticsStore) -> None:
    chosen = choose_class_references(statistics, "fc", 0, num_references=4, min_references=3)
    assert chosen.source == "label"
    assert {exemplar.label for exemplar in chosen.exemplars} == {0}
    logits = [exemplar.activation for exemplar in chosen.exemplars]
    assert len(logits) == 4
    assert logits == sorted(logits, reverse=True)


@pytest.mark.parametrize(("unit", "source", "labeled", "count"), [(2, "label+top_logit", 1, 3), (3, "top_logit", 0, 4)])
def test_a_class_with_too_few_samples_is_filled_by_its_logit(
    statistics: StatisticsStore, unit: int, source: str, labeled: int, count: int
) -> None:
    chosen = choose_class_references(statistics, "fc", unit, num_references=4, min_references=3)
    assert chosen.source == source
    assert [e.label == unit for e in chosen.exemplars] == [True] * labeled + [False] * (count - labeled)
    assert len({e.sample for e in chosen.exemplars}) == count
    filled = [e.activation for e in chosen.exemplars[labeled:]]
    best = [e.activation for e in statistics.exemplars("fc", unit) if e.label != unit]
    assert filled == best[: len(filled)]


def test_a_unit_takes_the_images_that_excite_it_most(model: Model, statistics: StatisticsStore) -> None:
    chosen = choose_unit_references(statistics, "stage2", 3, (4, 4), num_references=4, box_side=0.5)
    reader = ReferenceReader(model, image_size_px=32, max_pixels=10**6)
    with model.capture(["stage2"]) as features, torch.no_grad():
        model.module(reader.images(chosen))
    found = features["stage2"][:, 3].amax(dim=(1, 2))
    np.testing.assert_allclose(found, [e.activation for e in chosen.exemplars], rtol=1e-4)
    assert found.tolist() == sorted(found.tolist(), reverse=True)


def test_boxes_lie_around_the_peak_and_inside_the_image(statistics: StatisticsStore) -> None:
    for unit in range(12):
        chosen = choose_unit_references(statistics, "stage2", unit, (4, 4), num_references=4, box_side=0.5)
        for exemplar, (x0, y0, x1, y1) in zip(chosen.exemplars, chosen.boxes, strict=True):
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
            assert x1 - x0 == pytest.approx(0.5)
            y, x = ((p + 0.5) / 4 for p in exemplar.position)
            assert x0 <= x <= x1
            assert y0 <= y <= y1


def test_patches_are_the_marked_squares_of_the_highest_means(model: Model, statistics: StatisticsStore) -> None:
    reader = ReferenceReader(model, image_size_px=32, max_pixels=10**6)
    chosen, patches = gather_references(model, statistics, reader, "stage2", 3, {**SETTINGS, "reference_mode": "patch"})
    assert patches.shape == (4, 3, 32, 32)
    assert len({e.sample for e in chosen.exemplars}) == 4
    with model.capture(["stage2"]) as features, torch.no_grad():
        model.module(patches)
    means = features["stage2"][:, 3].mean(dim=(1, 2)).tolist()
    others = choose_unit_references(statistics, "stage2", 3, (4, 4), num_references=8, box_side=0.5)
    with model.capture(["stage2"]) as features, torch.no_grad():
        model.module(reader.patches(others))
    all_means = features["stage2"][:, 3].mean(dim=(1, 2)).tolist()
    assert sorted(means) == pytest.approx(sorted(all_means)[-4:], rel=1e-4)
    activations = [e.activation for e in chosen.exemplars]
    assert activations == sorted(activations, reverse=True)
    x0, y0, x1, y1 = (edge * 32 for edge in chosen.boxes[0])
    crop = reader.crop(chosen.exemplars[0]).resize((32, 32), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))
    assert torch.equal(patches[0], model.preprocessing.to_tensor(crop))


def test_a_batch_of_units_is_stored_and_read_back_exactly(
    model: Model, root: Root, statistics: StatisticsStore
) -> None:
    wanted = recipe()
    plan = plan_targets(wanted, model, "stage2")
    assert plan.grid == 2
    prepare_targets(root, model, plan)
    prepare_targets(root, model, plan)  # idempotent
    assert committed_targets(root, "stage2") == set()
    rows = build_targets(root, wanted, model, statistics, plan, [1, 4])
    assert committed_targets(root, "stage2") == {1, 4}
    reader = ReferenceReader(model, image_size_px=32, max_pixels=10**6)
    for unit, row in zip([1, 4], rows, strict=True):
        _, images = gather_references(model, statistics, reader, "stage2", unit, SETTINGS)
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
    with pytest.raises(ValueError, match=r"another grid, shapes: \[2, .* there, \[1, .* wanted; choose another"):
        prepare_targets(root, model, plan_targets(recipe(grid=1), model, "stage3"))


def test_a_unit_that_nothing_excites_is_dead_with_a_reason(
    tmp_path: Path, model: Model, root: Root, statistics: StatisticsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = statistics.activation_moments("stage2")
    moments.minimum[7] = statistics.topk("stage2").activation[7, 0]  # as if the unit gave one value everywhere
    wanted = recipe()
    plan = plan_targets(wanted, model, "stage2")
    (row,) = build_targets(root, wanted, model, statistics, plan, [7])
    assert (row["status"], row["num_references"]) == ("dead", 0)
    assert "none of the 10 images excites this unit" in row["status_reason"]
    target, references = read_targets(root, plan, [7])[7]
    assert target is None
    assert references["status"] == "dead"
    assert read_references(root, "stage2")[7]["reference_keys"] == []


def test_the_recipe_s_own_settings_win_over_the_preset_s() -> None:
    options = options_for(recipe(grid=3))
    assert options.grid == 3
    assert options.parameterization == "fourier"


def test_references_are_read_by_byte_range(model: Model, statistics: StatisticsStore) -> None:
    exemplar = statistics.exemplars("stage2", 0, 1)[0]
    data = Path(exemplar.tar_shard).read_bytes()[exemplar.offset : exemplar.offset + exemplar.size]
    expected = model.preprocessing.square_crop(Image.open(io.BytesIO(data)), 32)
    reader = ReferenceReader(model, image_size_px=32, max_pixels=10**6)
    assert np.array_equal(np.asarray(reader.crop(exemplar)), np.asarray(expected))
