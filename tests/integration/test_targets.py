"""Targets in whole runs: relevance by correlation, facets, references of a folder."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.run.resolved import resolve
from jobs.runner import run_stages
from pipeline.alignment.losses import TARGET_LAYER
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.recipe.recipe import STAGES, Recipe, RecipeError
from pipeline.references.build import plan_targets
from pipeline.references.store import read_references, read_targets
from pipeline.synthesis.api import visualize
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.step import losses_of
from tests.support.tiny_networks import tiny_model
from tests.support.tiny_run import NUM_NEURONS, dataset_image, tiny_recipe, write_data


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_data(tmp_path_factory.mktemp("data"))


def run(recipe: Recipe) -> None:
    run_stages(recipe, STAGES, address="inline", echo=lambda _: None)


def all_images(model, shards: str) -> torch.Tensor:
    """Every image of the shards as the model's input."""
    found = []
    for path in sorted(Path(shards).parent.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".png")]
    return torch.stack([model.preprocess(Image.open(io.BytesIO(data))) for data in found])


def test_correlation_weights_the_channels_of_every_feature_layer(shards: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(shards, tmp_path, targets='relevance = "correlation"')
    run(recipe)
    assert validate(str(tmp_path)) == []
    resolved = resolve(recipe)
    model, root = resolved.model, resolved.root
    images = all_images(model, shards)
    plan = plan_targets(recipe, model, "stage2")
    assert (plan.rule, plan.feature_layers) == ("correlation", ["stem", "stage1"])
    with model.capture(["stage2", *plan.feature_layers]) as features, torch.no_grad():
        model.module(images)
    for unit, (target, _) in read_targets(root, plan, [0, 1, 2]).items():
        activation = features["stage2"][:, unit].amax(dim=(1, 2)).double().numpy()
        for name in plan.feature_layers:
            means = features[name].double().mean(dim=(2, 3)).numpy()
            expected = [abs(np.corrcoef(activation, means[:, channel])[0, 1]) for channel in range(means.shape[1])]
            np.testing.assert_allclose(target.layers[name].importance, expected, rtol=1e-3, atol=1e-5)
        assert target.layers[TARGET_LAYER].importance is None
    assert {row["relevance"] for row in read_rows(root, "layers/stage2.parquet")} == {"correlation"}


def test_co_moments_are_kept_of_the_layers_that_are_aligned_and_no_others(shards: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        shards,
        tmp_path,
        targets="""relevance = "correlation"
        feature_layers = ["stage1", {layer = "stage3", weight = 0.0}, "classifier"]""",
    )
    run_stages(recipe, STAGES[:2], address="inline", echo=lambda _: None)
    root = Root.open(tmp_path)
    assert root.read_json("run/statistics.json")["feature_layers"] == ["stage1", "fc"]
    resolved = resolve(recipe)
    assert plan_targets(recipe, resolved.model, "fc").feature_layers == ["stage1", "fc"]
    assert read_references(root, "fc")[0]["status"] == "ok"


def test_correlation_scales_the_loss_of_each_channel_and_needs_no_relevance_maps() -> None:
    model = tiny_model()
    options = preset("published", total_variation=0.0, image_norm=0.0)
    plan = plan_alignment(model, "stage2", options, rule="correlation")
    images = torch.randn(4, 3, 32, 32)
    weights = {name: torch.zeros(model.units(name)) for name in plan.feature_layers}
    weights["stage1"][3] = 0.5
    target = reference_target(model, plan, 1, images, importance=weights)
    objective = AlignmentObjective(model, "stage2", [1], [target], options)
    with model.capture(["stage1"]) as features, torch.no_grad():
        model.module(torch.cat([images, -images[:1]]))
    channel = features["stage1"][:, 3].flatten(1).sort(dim=1).values.double()
    expected = 0.5 * (channel[4] - channel[:4].mean(dim=0)).square().mean() / model.units("stage1")
    assert losses_of(objective, -images[:1]).item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_statistics_correlation_is_refused() -> None:
    with pytest.raises(ValueError, match='relevance = "correlation" weights channels by statistics of a data set'):
        visualize(tiny_model(), [("stage2", 0)], [torch.randn(2, 3, 32, 32)], relevance="correlation")


def test_facets_and_seeds_make_a_valid_atlas(shards: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(shards, tmp_path, targets="facets = 2", visualize="seeds = 2")
    run(recipe)
    assert validate(str(tmp_path)) == []
    root = Root.open(tmp_path)
    rows = [row for layer in ("fc", "stage2") for row in read_rows(root, f"layers/{layer}.parquet")]
    assert len(rows) == NUM_NEURONS * 4
    for row in rows:
        committed = read_references(root, row["layer"], row["seed"] % 2)[row["unit"]]
        assert row["facet"] == committed["facet"] == row["seed"] % 2
        assert row["reference_activations"] == committed["reference_activations"]
        assert (row["status"] == "skipped") == (committed["status"] == "skipped")
    of_unit = {row["seed"]: row for row in rows if (row["layer"], row["unit"]) == ("stage2", 1)}
    assert set(of_unit[0]["reference_keys"]).isdisjoint(of_unit[1]["reference_keys"])
    assert of_unit[0]["reference_keys"] == of_unit[2]["reference_keys"]
    assert len({row["image_sha256"] for row in of_unit.values()}) == 4


def test_a_folder_of_references_reaches_visualizations_and_strips(shards: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for seed in (50, 51):
        (folder / f"mine{seed}.png").write_bytes(dataset_image(seed))
    blocks = (
        'neurons=[{layer="stage2", units=[0, 1]}, '
        f'{{layer="stage2", units=[1], references="{folder}"}}, '
        f'{{layer="classifier", units=[2], references="{folder}"}}]'
    )
    out = tmp_path / "out"
    run(tiny_recipe(shards, out, blocks))
    assert validate(str(out)) == []
    rows = {row["unit"]: row for row in read_rows(Root.open(out), "layers/stage2.parquet")}
    assert [rows[unit]["reference_source"] for unit in (0, 1)] == ["top_activation", "folder"]
    assert rows[1]["num_references"] == rows[1]["num_examples"] == 2
    with Image.open(out / rows[1]["examples_path"]) as strip:
        assert strip.width == 2 * strip.height
    (of_class,) = read_rows(Root.open(out), "layers/fc.parquet")
    assert (of_class["reference_source"], of_class["reference_positions"]) == ("folder", [])


def test_mistakes_in_named_references_stop_the_run_before_work_starts(shards: str, tmp_path: Path) -> None:
    clash = 'neurons=[{layer="stage2", references="a"}, {layer="stage2", reference_keys=["b"]}]'
    with pytest.raises(RecipeError, match="gets references from two blocks"):
        resolve(tiny_recipe(shards, tmp_path, clash))
    missing = tiny_recipe(shards, tmp_path, 'neurons=[{layer="stage2", reference_keys=["phoot003"]}]')
    with pytest.raises(RecipeError, match=r'"phoot003" \(did you mean "photo003"'):
        run(missing)
    assert not Root.open(tmp_path).exists("run/targets/stage2")
