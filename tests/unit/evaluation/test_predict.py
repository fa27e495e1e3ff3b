"""Runs that cannot score everything: gaps are reported, failures counted, evaluators that do not load refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from jobs.cli import DONE, DONE_WITH_FAILED_UNITS, main
from jobs.commands.status import read_status
from jobs.run.run_folder import STAGES, read_log
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.recipe.recipe import RecipeError
from tests.support.evaluated_run import BACKBONE, EVALUATOR, evaluated_by, rows_of, run, scores_of
from tests.support.tiny_run import recipe_toml, small_net, tiny_recipe, write_data

PICKY = "python:tests.unit.evaluation.test_predict:picky_net"


class Picky(nn.Module):
    """A network that fails on bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_net()
        self.input_size_px = self.network.input_size_px

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean(dim=(1, 2, 3)).max() > BRIGHT:
            raise ArithmeticError("too bright")
        return self.network(x)


BRIGHT = 0.1  # normalized as ImageNet's mean is 0


def picky_net() -> nn.Module:
    return Picky()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def test_what_cannot_be_measured_is_reported(shards, tmp_path):
    all_are_references = ("statistics.top_k=4", "targets.duplicate_distance=-1")
    recipe = tiny_recipe(shards, tmp_path, evaluated_by(BACKBONE), *all_are_references)
    report = run(recipe)["evaluate"]
    assert (report.done, report.failed) == (8, 0)
    text = (tmp_path / "scores.md").read_text()
    slug = "python_tests_support_evaluated_run_backbone"
    assert f"Accuracy by `{slug}`: it has no classes, the model 5." in text
    assert "CLIP zero-shot accuracy: `evaluate.clip` names no network." in text
    assert "FID, KID and Inception Score of class neurons by `vital`: 5 visualizations, 24 dataset images" in text
    assert "Diversity: one visualization per neuron" in text
    assert "raise `statistics.top_k`" in text
    metrics = {row["metric"] for row in read_rows(Root.open(tmp_path), "scores.parquet")}
    assert not metrics & {"fid", "kid", "inception_score", "diversity"}
    # All top-activating images of intermediate units are references; those of classes are the labeled ones.
    assert not scores_of(tmp_path, kind="intermediate").keys() & {"two_afc", "path_similarity"}
    assert rows_of(tmp_path, "stage2")[0, 0]["two_afc"] is None
    reasons = [entry["reason"] for entry in read_log(Root.open(tmp_path)) if entry["status"] == "left out"]
    assert len(reasons) >= 5
    assert all(reason in text for reason in reasons)
    assert validate(str(tmp_path)) == []


def test_the_model_alone_evaluates_if_no_other_is_named(shards, tmp_path):
    recipe = tiny_recipe(shards, tmp_path)
    assert "scored by the model itself" in str(run(recipe)["evaluate"])
    assert "the model is the only evaluator of its own visualizations" in (tmp_path / "scores.md").read_text()
    assert scores_of(tmp_path, method="vital", kind="class", evaluator="model")["two_afc"]["num_visualizations"] == 5
    assert rows_of(tmp_path, "fc")[0, 0]["two_afc"] is not None
    columns = Root.open(tmp_path).read_json("atlas.json")["columns"]
    assert EVALUATOR in columns["two_afc"]["meaning"]  # the network of the atlas by its name


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (evaluated_by("torchvision:squeezenet9"), ["evaluate.held_out_models", "squeezenet9", "no such model"]),
        (evaluated_by("python:tests.integration.test_evaluation:nothing"), ["nothing", "leave this evaluator out"]),
        (
            f'evaluate.held_out_models=[{{name="{EVALUATOR}", weights="absent.safetensors"}}]',
            [EVALUATOR, "absent.safetensors", "cannot be used"],
        ),
        (
            'evaluate.clip={name="open_clip:ViT-B-32", weights="absent.pt"}',
            ["evaluate.clip", "open_clip:ViT-B-32", "absent.pt"],
        ),
    ],
)
def test_an_evaluator_that_cannot_be_loaded_stops_the_run_before_any_work(shards, tmp_path, override, said):
    with pytest.raises(RecipeError) as refused:
        run(tiny_recipe(shards, tmp_path / "out", override), address="ray://127.0.0.1:1")
    assert all(words in str(refused.value) for words in said), refused.value
    assert not (tmp_path / "out").exists()


def test_an_evaluator_that_fails_on_some_images_is_counted_and_tried_again(shards, tmp_path, capsys, monkeypatch):
    path, out = tmp_path / "tiny.toml", tmp_path / "out"
    path.write_text(recipe_toml(shards, out, evaluate=f'held_out_models = ["{PICKY}"]'))
    assert main(["run", str(path), "--address", "inline"]) == DONE_WITH_FAILED_UNITS
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("evaluate"))
    assert "times an evaluator failed on a dataset image" in line
    failures = [e for e in read_log(Root.open(out)) if e["status"] == "failed" and e["count"]]
    assert failures
    assert all("ArithmeticError: too bright" in entry["error"] for entry in failures)
    assert 0 < sum(e["task"].split("/")[1] == "random_sample" for e in failures) < 24
    assert validate(str(out)) == []
    monkeypatch.setattr("tests.unit.evaluation.test_predict.BRIGHT", 99.0)
    assert main(["run", str(path), "--address", "inline"]) == DONE


def test_a_dataset_image_that_cannot_be_decoded_any_more_is_left_out_and_counted(tmp_path):
    shards = write_data(tmp_path / "data")
    recipe = tiny_recipe(shards, tmp_path / "out", atlas='publish_examples = "keys"')
    run(recipe, STAGES[:3])
    statistics = StatisticsStore.open(Root.open(tmp_path / "out"))
    top_image = statistics.top_images_of(statistics.samples.ids.tolist())[5]
    with Path(top_image.tar_shard).open("r+b") as file:
        file.seek(top_image.offset)
        file.write(b"not an image")
    report = run(recipe, STAGES[3:])["evaluate"]
    assert (report.done, report.failed) == (8, 0)
    assert f'1 dataset images cannot be read any more, the first is "{top_image.key}" in' in report.remark
    assert read_status(recipe).stages[3].todo == 0
    assert run(recipe)["evaluate"].seconds == 0  # nothing is tried again
    assert validate(str(tmp_path / "out")) == []
