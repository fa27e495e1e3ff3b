"""Runs of several methods and facets: each neuron gets the visualizations of its block, and later ones add to them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from jobs.run.run_folder import STAGES
from jobs.runner import run_stages
from jobs.stages import visualize_actor
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.recipe.recipe import RecipeError
from pipeline.synthesis.methods.presets import METHODS
from tests.support.tiny_run import NUM_CLASSES, small_net, tiny_recipe, write_data

CLASSES = '{layer="classifier", methods=["vital"]}'
BLOCKS = f'neurons=[{CLASSES}, {{layer="classifier", units=[2]}}, {{layer="stage2", units=[1]}}]'


def plain_net() -> nn.Module:
    """A network without BatchNorm, which DeepInversion has nothing to match in."""
    module = small_net()
    for stage in (module.stage1, module.stage2, module.stage3):
        stage.block[1] = nn.Identity()
    module.bn = nn.Identity()
    return module


def predict(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    assert inputs[0].detach().mean().item() > -1e9  # no trace holds what follows from a value


def net_that_looks_at_values() -> nn.Module:
    """A network whose steps can only be computed plainly."""
    module = small_net()
    module.stage1.register_forward_pre_hook(predict)
    return module


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def run(recipe):
    return {report.stage: report for report in run_stages(recipe, STAGES, address="inline", echo=lambda line: None)}


def table_of(out: Path) -> dict[tuple, dict]:
    root = Root.open(out)
    rows = [row for layer in ("fc", "stage2") for row in read_rows(root, f"layers/{layer}.parquet")]
    return {(row["layer"], row["unit"], row["method"], row["seed"]): row for row in rows}


def test_every_method_makes_the_visualizations_its_blocks_ask_for(shards, tmp_path):
    run(tiny_recipe(shards, tmp_path, f"visualize.methods={list(METHODS)}", BLOCKS, "evaluate.weak_percentile=0"))
    rows = table_of(tmp_path)
    assert set(rows) == (
        {("fc", unit, "vital", 0) for unit in range(NUM_CLASSES)}
        | {("fc", 2, method, 0) for method in METHODS}
        | {("stage2", 1, method, 0) for method in METHODS}
    )
    assert {row["status"] for row in rows.values()} <= {"ok", "weak"}
    index = {(row["layer"], row["unit"]): row["num_methods"] for row in read_rows(Root.open(tmp_path), "index.parquet")}
    assert index == {("fc", unit): 5 if unit == 2 else 1 for unit in range(NUM_CLASSES)} | {("stage2", 1): 5}
    assert validate(str(tmp_path)) == []
    for unit in (("fc", 2), ("stage2", 1)):
        visualizations = {(tmp_path / rows[*unit, method, 0]["image_path"]).read_bytes() for method in METHODS}
        assert len(visualizations) == len(METHODS)
    assert {key[2]: row["relevance"] for key, row in rows.items() if key[0] == "stage2"} == {
        "vital": "lrp", "maco": "none", "fourier": "none", "deepinversion": "none", "pixel": "none",
    }  # fmt: skip
    assert {key[2]: row["parameterization"] for key, row in rows.items() if key[0] == "stage2"} == {
        "vital": "fourier", "maco": "phase", "fourier": "fourier", "deepinversion": "pixel", "pixel": "pixel",
    }  # fmt: skip


def test_a_method_more_adds_its_visualizations_and_repeats_none(shards, tmp_path):
    run(tiny_recipe(shards, tmp_path, 'visualize.methods=["vital", "pixel"]', BLOCKS))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*.webp")}
    reports = run(tiny_recipe(shards, tmp_path, 'visualize.methods=["vital", "pixel", "maco"]', BLOCKS))
    assert (reports["targets"].done, reports["visualize"].done, reports["visualize"].already) == (0, 2, 8)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*.webp")}
    assert after | before == after
    assert len(after) == len(before) + 4  # a visualization and its mask for each of two neurons
    assert validate(str(tmp_path)) == []


def test_each_facet_has_its_own_references_examples_and_visualizations(shards, tmp_path):
    blocks = 'neurons=[{layer="stage2", units="0:3"}]'
    overrides = ("targets.facets=2", "targets.duplicate_distance=-1", blocks)
    run(tiny_recipe(shards, tmp_path, *overrides))
    first = table_of_stage2(tmp_path)
    run(tiny_recipe(shards, tmp_path, *overrides, "visualize.seeds=2"))
    rows = table_of_stage2(tmp_path)
    assert {key: row["facet"] for key, row in rows.items()} == {
        (unit, seed): seed % 2 for unit in range(3) for seed in range(4)
    }
    assert {row["num_facets"] for row in rows.values()} == {2}
    for (unit, seed), row in first.items():
        assert rows[unit, seed]["image_sha256"] == row["image_sha256"]
    made = {unit for (unit, seed), row in rows.items() if seed == 1 and row["status"] != "skipped"}
    assert made, "no unit had references of two kinds"
    for unit in made:
        keys = [set(rows[unit, seed]["reference_keys"]) for seed in range(4)]
        assert not keys[0] & keys[1]
        assert (keys[0], keys[1]) == (keys[2], keys[3])
        assert rows[unit, 0]["examples_path"] != rows[unit, 1]["examples_path"]
        assert len({rows[unit, seed]["image_sha256"] for seed in range(4)}) == 4
    assert validate(str(tmp_path)) == []


def table_of_stage2(out: Path) -> dict[tuple[int, int], dict]:
    rows = read_rows(Root.open(out), "layers/stage2.parquet")
    return {(row["unit"], row["seed"]): row for row in rows}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.name=python:tests.integration.test_methods:plain_net", 'visualize.methods=["deepinversion"]'],
            "BatchNorm.*none.*choose among vital, maco, fourier, pixel",
        ),
        (
            ['neurons=[{layer="fc", methods=["maco"]}]'],
            r'neurons\.methods = "maco" \(layer "fc"\): expected some of visualize\.methods = \[.vital.\]',
        ),
    ],
)
def test_a_method_that_cannot_be_is_refused_before_work_starts(shards, tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        run(tiny_recipe(shards, tmp_path / "out", *overrides))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("net", "reason"),
    [("tests.support.tiny_run:small_net", None), (f"{__name__}:net_that_looks_at_values", "cannot be traced")],
)
def test_steps_are_traced_where_it_pays_and_plain_where_they_cannot_be(shards, tmp_path, monkeypatch, net, reason):
    neurons = 'neurons=[{layer="stage2", units=[1, 2]}]'
    visualizations = []
    for folder, trace_from in (("plain", 10**9), ("traced", 1)):
        monkeypatch.setattr(visualize_actor, "TRACE_FROM_STEPS", trace_from)
        root = tmp_path / folder
        run(tiny_recipe(shards, root, neurons, f"model.name=python:{net}", "visualize.steps=3"))
        visualizations.append([row["image_sha256"] for row in read_rows(Root.open(root), "layers/stage2.parquet")])
    assert visualizations[0] == visualizations[1]
    log = [line for line in (tmp_path / "traced/run/log.jsonl").read_text().splitlines() if '"visualize"' in line]
    assert any("untraced" in line for line in log) == (reason is not None)
    assert reason is None or any(reason in line for line in log)
