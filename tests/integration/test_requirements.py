"""What can be known of a model and its recipe is found by `plan` and at the start of `run`, before `collect`."""

import re

import pytest
import torch

import jobs.stages.targets
from jobs.commands.plan import make_plan
from jobs.engine.tasks import RunStoppedError
from jobs.runner import run_stages
from pipeline.atlas.site.site import write_site
from pipeline.atlas.site.site_parts import SiteForm
from pipeline.atlas.validation.validate import validate
from pipeline.errors import UserError
from pipeline.io.root import Root
from pipeline.models import FeatureLayer
from pipeline.recipe.recipe import STAGES, Recipe, RecipeError
from pipeline.synthesis.api import visualize
from tests.support.odd_networks import OddNet, model_of, without_grad
from tests.support.tiny_run import SIZE_PX, tiny_recipe, write_data

ODD = "python:tests.support.odd_networks:"
BODY = ['statistics.layers=["body.2"]', 'neurons=[{layer="body.2"}]', 'targets.feature_layers=["body.0"]']
EVALUATORS = 'evaluate.held_out_models=[{name="%s", weights="random"}]'


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), num_shards=1)


def run(recipe: Recipe, stages=STAGES) -> None:
    run_stages(recipe, stages, address="inline", echo=lambda _: None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"model.name={ODD}functional_dropout", *BODY], 'input of layer "fc" (Linear) is the first that differs'),
        ([f"model.name={ODD}linear_probe", *BODY], 'layer "body.2": it has no gradient'),
        ([f"model.name={ODD}caffe", *BODY], "divide both by 255"),
        (['targets.feature_layers=["stage9"]'], 'has no layer "stage9" (did you mean "stage'),
        ([EVALUATORS % f"{ODD}functional_dropout"], "evaluate.held_out_models"),
        ([EVALUATORS % "python:tests.support.absent:net"], "is the package on PYTHONPATH?"),
        (['neurons=[{layer="stage2", references="no-such-folder"}]'], "does not exist"),
    ],
)
def test_mistakes_are_found_by_plan_and_before_the_first_stage(shards, tmp_path, overrides, message):
    recipe = tiny_recipe(shards, tmp_path / "out", *overrides)
    for work in (make_plan, run):
        with pytest.raises(RecipeError, match=re.escape(message)):
            work(recipe)
    assert not (tmp_path / "out").exists()


def test_workers_that_the_machine_has_no_room_for_are_refused_before_collect(shards, tmp_path):
    with pytest.raises(UserError, match="gpus_per_actor = 64: this machine has"):
        run(tiny_recipe(shards, tmp_path / "out", "compute.gpus_per_actor=64", "compute.gpus_per_task=0"))
    assert not (tmp_path / "out/run/shard_statistics").exists()


def test_a_notebook_is_told_before_anything_is_optimized():
    references = [torch.randn(2, 3, SIZE_PX, SIZE_PX)]
    model = model_of(OddNet())
    with pytest.raises(UserError, match=r'has no layer "body\.9"'):
        visualize(model, [("body.4", 0)], references, steps=1, feature_layers=["body.9"])
    with pytest.raises(UserError, match="aligns nothing"):
        visualize(model, [("body.4", 0)], method="fourier", steps=1, feature_layers=["body.0"])
    with pytest.raises(UserError, match="it has no gradient"):
        visualize(model_of(OddNet(body=without_grad)), [("body.3", 0)], method="fourier", steps=1)
    with pytest.raises(UserError, match=r"training=self\.training"):
        visualize(model_of(OddNet(pooled=torch.nn.functional.dropout)), [("fc", 0)], method="fourier", steps=1)
    chosen = [
        visualize(model, [("body.4", 0)], references, preset="fast", steps=2, feature_layers=layers)[0].loss
        for layers in (["body.0"], [FeatureLayer(layer="body.0", weight=2.0)])
    ]
    assert chosen[0] != chosen[1]


def test_missing_targets_are_told_with_their_cause(shards, tmp_path, monkeypatch):
    def failing(*_arguments):
        raise RuntimeError("the disk hums")

    recipe = tiny_recipe(shards, tmp_path, 'neurons=[{layer="stage2", units="0:2"}]')
    monkeypatch.setattr(jobs.stages.targets, "build_targets", failing)
    with pytest.raises(RunStoppedError, match=r"none of the 2 targets could be made.*RuntimeError: the disk hums"):
        run(recipe)


def test_layers_of_any_name_from_the_recipe_to_the_site(shards, tmp_path):
    recipe = tiny_recipe(
        shards,
        tmp_path / "out",
        f"model.name={ODD}slashes",
        'statistics.layers=["/features/*/Relu", "conv 2:ü"]',
        'neurons=[{layer="/features/1/Relu", units="0:2"}, {layer="conv 2:ü", units=[1]}, {layer="/fc/Gemm", units=0}]',
        'targets.feature_layers=["/features/0/Conv"]',
        'targets.relevance="correlation"',
    )
    make_plan(recipe)
    run(recipe)
    run(recipe)
    root = Root.open(str(tmp_path / "out"))
    assert not list(validate(root))
    assert {"_--2Ffeatures-2F1-2FRelu.parquet", "conv-202-3A-C3-BC.parquet"} <= set(root.list("layers"))
    write_site(tmp_path / "site", [root], SiteForm(neuron_pages_url="https://example.org/"))
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {name for name in pages if name.startswith("neurons/") and "conv-202" in name} == {
        f"neurons/tiny/conv-202-3A-C3-BC/{name}.html" for name in ("1", "index")
    }
    page = (tmp_path / "site/neurons/tiny/_--2Ffc-2FGemm/index.html").read_text()
    assert 'href="../conv-202-3A-C3-BC/index.html"' in page
    assert "conv 2:ü" in page
