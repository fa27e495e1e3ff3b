"""The stage `evaluate` in whole runs: the scores, and what it does again and what not."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.commands.plan import describe_plan, make_plan
from jobs.commands.status import read_status
from jobs.run.resolved import resolve
from jobs.run.run_folder import STAGES, read_log
from jobs.stages.evaluate_plan import DATASET_IMAGES_PER_TASK, DatasetImageChunk, count_predictions, plan_dataset_images
from pipeline.activations.store import StatisticsStore, TopImage
from pipeline.atlas.format.file_list import build_id, file_entry
from pipeline.atlas.validation.validate import validate
from pipeline.data.shards import read_image_bytes
from pipeline.evaluation.comparison_images import ComparisonImages
from pipeline.evaluation.evaluators.load import load_evaluator
from pipeline.evaluation.metrics.fid_kid import frechet_distance, kernel_distance
from pipeline.evaluation.predictions import MODEL, evaluator_key
from pipeline.io.images import decode_image, decode_webp
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.recipe.recipe import RecipeError
from tests.support.evaluated_run import BACKBONE, ENOUGH, EVALUATOR, SLUG, evaluated_by, rows_of, run, scores_of
from tests.support.tiny_run import tiny_recipe, write_data

EVALUATED = ("index.parquet", "scores.parquet", "scores.md")


def dataset_image_of(top_image: TopImage) -> Image.Image:
    return decode_image(read_image_bytes(top_image.tar_shard, top_image.offset, top_image.size))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def evaluated(shards, tmp_path_factory):
    """The folder of a run with one evaluator, for tests that only read it."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    run(tiny_recipe(shards, out, evaluated_by(EVALUATOR), *ENOUGH))
    return out


@pytest.fixture
def copied(evaluated, tmp_path):
    """The same, to go on with."""
    shutil.copytree(evaluated, tmp_path / "out")
    return tmp_path / "out"


def tasks_of(out):
    """The tasks that were done in the stage, in order."""
    done = [entry for entry in read_log(Root.open(out)) if entry["stage"] == "evaluate" and entry["status"] == "done"]
    return [entry["task"] for entry in done]


# ---- what is found ----


def test_an_evaluator_gets_columns_notes_and_a_place_in_the_provenance(evaluated):
    assert validate(str(evaluated)) == []
    atlas = Root.open(evaluated).read_json("atlas.json")
    assert [(evaluator["slug"], evaluator["role"]) for evaluator in atlas["provenance"]["evaluators"]] == [
        ("model", "model"),
        (SLUG, "held-out"),
    ]
    evaluator = load_evaluator(EVALUATOR)
    assert atlas["provenance"]["evaluators"][1]["weights_sha256"] == evaluator.weights_sha256
    assert {"scores.parquet", "scores.md"} <= {entry["path"] for entry in atlas["files"]}
    for column in ("two_afc", f"accuracy_top1_{SLUG}", f"accuracy_top5_{SLUG}"):
        assert EVALUATOR in atlas["columns"][column]["meaning"]
    index = read_rows(Root.open(evaluated), "index.parquet")
    assert {"two_afc", "path_similarity", f"accuracy_top1_{SLUG}"} <= index[0].keys()
    assert all(0 <= row["two_afc"] <= 1 for row in index)


def test_the_predictions_of_an_evaluator_are_those_it_makes_directly(evaluated):
    evaluator, root = load_evaluator(EVALUATOR), Root.open(evaluated)
    for (unit, _), row in rows_of(evaluated, "fc").items():
        logits = evaluator.predict([decode_webp(root.read_bytes(row["image_path"]))]).logits[0]
        assert row[f"accuracy_top1_{SLUG}"] == float(logits.argmax() == unit)
        assert row[f"accuracy_top5_{SLUG}"] == 1.0  # of five classes, any is among the first five
    assert all(row[f"accuracy_top1_{SLUG}"] is None for row in rows_of(evaluated, "stage2").values())


def test_two_afc_is_the_share_of_dataset_images_told_apart_with_the_visualization(evaluated, shards):
    """By hand: dataset images cropped anew, no stored predictions, no metric's code."""
    root, evaluator = Root.open(evaluated), load_evaluator(EVALUATOR)
    recipe = tiny_recipe(shards, evaluated, evaluated_by(EVALUATOR), *ENOUGH)
    statistics = StatisticsStore.open(root)
    row = rows_of(evaluated, "stage2")[2, 1]
    # top_k is 8 of 24 and 4 are references, so 4 top-activating images are left.
    top_images = [e for e in statistics.top_images("stage2", 2) if e.key not in row["reference_keys"]]
    assert 1 < len(top_images) <= 8 - row["num_references"] == 4

    def embedding(top_image):
        dataset_image = dataset_image_of(top_image)
        return evaluator.predict([dataset_image]).embedding[0].astype(np.float64)

    model = resolve(recipe).model
    samples = statistics.samples.ids.tolist()
    activations = {}
    for found in statistics.top_images_of(samples):
        inputs = model.preprocess(dataset_image_of(found))[None]
        with model.capture(["stage2"]) as features, torch.no_grad():
            model.module(inputs)
        activations[found.key] = float(features["stage2"][0, 2].max())
    own = {top_image.key for top_image in top_images} | set(row["reference_keys"])
    others = sorted((value, key) for key, value in activations.items() if key not in own)
    assert len({value for value, _ in others[:10]}) == 10  # no ties at the end that matters
    weak = {key for _, key in others[: recipe.evaluate.num_top_images]}
    low = [embedding(found) for found in statistics.top_images_of(samples) if found.key in weak]
    high = [embedding(top_image) for top_image in top_images]
    made = evaluator.predict([decode_webp(root.read_bytes(row["image_path"]))]).embedding[0].astype(np.float64)

    def cosine(a):
        return a @ made / np.linalg.norm(a) / np.linalg.norm(made)

    wins = [cosine(strong) > cosine(weak_one) for strong in high for weak_one in low]
    assert row["two_afc"] == pytest.approx(np.mean(wins))


def test_methods_are_scored_by_the_mean_over_neurons_of_their_mean_over_seeds(evaluated):
    for layer, kind in (("fc", "class"), ("stage2", "intermediate")):
        rows = rows_of(evaluated, layer)
        scores = scores_of(evaluated, method="vital", kind=kind, layer="", evaluator=SLUG)
        units = sorted({unit for unit, _ in rows})
        means = [np.mean([rows[unit, seed]["two_afc"] for seed in (0, 1)]) for unit in units]
        assert scores["two_afc"]["value"] == pytest.approx(np.mean(means), rel=1e-6)
        assert scores["two_afc"]["low"] <= scores["two_afc"]["value"] <= scores["two_afc"]["high"]
        assert scores["two_afc"]["num_visualizations"] == len(rows)
    counts = scores_of(evaluated, method="vital", kind="all", evaluator="")
    statuses = [row["status"] for layer in ("fc", "stage2") for row in rows_of(evaluated, layer).values()]
    assert [counts[f"num_{status}"]["value"] for status in ("ok", "weak")] == [
        statuses.count("ok"),
        statuses.count("weak"),
    ]
    assert "accuracy_top1" not in counts


def dataset_images_of(out):
    """(labels, dataset images) of the whole data set, which are the comparison images here."""
    statistics = StatisticsStore.open(Root.open(out))
    found = statistics.top_images_of(statistics.samples.ids.tolist())
    return [e.label for e in found], [dataset_image_of(e) for e in found]


def test_classes_are_compared_with_dataset_images_of_their_labels(shards, tmp_path):
    blocks = 'neurons=[{layer="classifier", units=[0, 1]}]'
    run(tiny_recipe(shards, tmp_path, evaluated_by(EVALUATOR), blocks, "visualize.seeds=5", "visualize.steps=1"))
    evaluator, root = load_evaluator(EVALUATOR), Root.open(tmp_path)
    dataset_images = [
        dataset_image for label, dataset_image in zip(*dataset_images_of(tmp_path), strict=True) if label < 2
    ]
    assert len(dataset_images) == 10
    visualizations = [decode_webp(root.read_bytes(row["image_path"])) for row in rows_of(tmp_path, "fc").values()]
    expected = frechet_distance(
        evaluator.predict(dataset_images).embedding, evaluator.predict(visualizations).embedding
    )
    scores = scores_of(tmp_path, method="vital", kind="class", evaluator=SLUG)
    assert scores["fid"]["value"] == pytest.approx(expected, rel=1e-3)


def test_sets_are_compared_in_the_space_of_each_evaluator(evaluated):
    """FID and KID against the comparison images, which are the whole data set, measured anew from the files."""
    root, evaluator = Root.open(evaluated), load_evaluator(EVALUATOR)
    labels, dataset_images = dataset_images_of(evaluated)
    real = evaluator.predict(dataset_images)
    visualizations = [decode_webp(root.read_bytes(row["image_path"])) for row in rows_of(evaluated, "stage2").values()]
    made = evaluator.predict(visualizations).embedding
    scores = scores_of(evaluated, method="vital", kind="intermediate", evaluator=SLUG)
    assert scores["fid"]["value"] == pytest.approx(frechet_distance(real.embedding, made), rel=1e-3)
    assert scores["kid"]["value"] == pytest.approx(kernel_distance(real.embedding, made), rel=1e-3)
    assert 1 <= scores["inception_score"]["value"] <= 5
    assert 0 < scores["diversity"]["value"] < 2
    of_dataset_images = scores_of(evaluated, method="dataset_images", kind="class", evaluator=SLUG)
    assert of_dataset_images["fid"]["num_visualizations"] == 10
    named = real.logits.argmax(axis=1) == labels
    assert of_dataset_images["accuracy_top1"]["value"] == pytest.approx(named.mean())


def test_validate_reads_the_scores(copied):
    (copied / "scores.md").write_text((copied / "scores.md").read_text().replace("`two_afc`", "`miss`"))
    root = Root.open(copied)
    atlas = root.read_json("atlas.json")
    entries = [e for e in atlas["files"] if e["path"] != "scores.md"]
    atlas["files"] = sorted([*entries, file_entry("scores.md", root.read_bytes("scores.md"))], key=lambda e: e["path"])
    atlas["build_id"] = build_id(atlas["files"])
    root.write_json("atlas.json", atlas)
    assert [str(fault) for fault in validate(str(copied))] == [
        "head.json: does not say what atlas.json and the index say",  # it quotes the build id and the size of all files
        "scores.md: does not hold the tables that scores.parquet gives",
    ]
    assert MODEL in (copied / "scores.md").read_text()


# ---- what is done again, and what not ----


def test_an_evaluator_that_is_added_does_only_its_own_tasks(copied, shards):
    predictions = {path: path.stat().st_mtime_ns for path in copied.rglob("run/evaluation/*/*/*")}
    before = tasks_of(copied)
    recipe = tiny_recipe(shards, copied, evaluated_by(EVALUATOR, BACKBONE), *ENOUGH)
    reports = run(recipe)
    assert [reports[stage].done for stage in STAGES[:3]] == [0, 0, 0]
    new = [task for task in tasks_of(copied)[len(before) :] if not task.startswith("scores")]
    key = evaluator_key(recipe.evaluate.evaluators[1])
    assert new
    assert all(task.startswith(f"{key}/") for task in new)
    assert predictions == {path: path.stat().st_mtime_ns for path in predictions}
    slug = "python_tests_support_evaluated_run_backbone"
    row = rows_of(copied, "stage2")[0, 0]
    assert row[f"two_afc_{slug}"] is not None
    assert scores_of(copied, method="vital", kind="intermediate", evaluator=slug)["fid"]["value"] >= 0
    assert validate(str(copied)) == []


def test_an_evaluator_that_is_taken_away_leaves_no_trace_and_no_task(copied, shards, evaluated):
    before = tasks_of(copied)
    run(tiny_recipe(shards, copied, *ENOUGH))
    assert all(task.startswith("scores") for task in tasks_of(copied)[len(before) :])
    assert f"accuracy_top1_{SLUG}" not in rows_of(copied, "fc")[0, 0]
    assert SLUG not in (copied / "scores.md").read_text()
    assert validate(str(copied)) == []
    run(tiny_recipe(shards, copied, evaluated_by(EVALUATOR), *ENOUGH))
    assert [(copied / name).read_bytes() for name in EVALUATED] == [
        (evaluated / name).read_bytes() for name in EVALUATED
    ]


def test_more_comparison_images_are_predicted_alone(shards, tmp_path):
    run(tiny_recipe(shards, tmp_path, "evaluate.num_dataset_images=10", "evaluate.num_top_images=1"))
    small = count_dataset_images(tmp_path)
    run(tiny_recipe(shards, tmp_path, "evaluate.num_dataset_images=15", "evaluate.num_top_images=1"))
    assert 10 <= small <= 18
    assert 5 <= count_dataset_images(tmp_path) - small <= 13


def count_dataset_images(out):
    entries = read_log(Root.open(out))
    return sum(e["count"] for e in entries if e["task"].startswith(("model/random_sample", "model/top_images")))


def test_scores_of_other_visualizations_are_not_published(copied, shards):
    recipe = tiny_recipe(
        shards, copied, evaluated_by(EVALUATOR), *ENOUGH[:1], 'neurons=[{layer="classifier"}]', ENOUGH[2]
    )
    run(recipe, ("build",))
    assert not (copied / "scores.parquet").exists()
    run(recipe)
    assert {row["kind"] for row in read_rows(Root.open(copied), "scores.parquet")} == {"class", "all"}


def test_two_workers_find_what_one_process_finds(copied, evaluated, shards, ray_engine):
    for folder in ("run/evaluation", "run/scores"):
        shutil.rmtree(copied / folder)
    report = run(tiny_recipe(shards, copied, evaluated_by(EVALUATOR), *ENOUGH), engine=ray_engine)["evaluate"]
    assert (report.done, report.failed) == (22, 0)
    for name in EVALUATED:
        assert (copied / name).read_bytes() == (evaluated / name).read_bytes(), name


def test_the_plan_and_the_status_know_what_is_left(copied, shards):
    recipe = tiny_recipe(shards, copied, evaluated_by(EVALUATOR, BACKBONE), *ENOUGH)
    stage = next(stage for stage in read_status(recipe).stages if stage.stage == "evaluate")
    assert (stage.done, stage.todo) == (0, 22)
    assert count_predictions(resolve(recipe)) == 22 + 24  # of the new evaluator only
    assert "evaluate        22 visualizations" in describe_plan(make_plan(recipe))
    run(recipe)
    assert count_predictions(resolve(recipe)) == 0


def test_dataset_images_are_planned_once_per_evaluator():
    top_images = {"x": {0: (5, 900), 1: (901, 5)}}
    dataset_images = ComparisonImages(random_sample=tuple(range(100)), top_images=top_images, references={})
    done = {(evaluator, kind): set() for evaluator in ("a", "b") for kind in ("random_sample", "top_images")}
    done["a", "random_sample"] = set(range(DATASET_IMAGES_PER_TASK))
    done["b", "top_images"] = {900}
    chunks = plan_dataset_images(["a", "b"], dataset_images, done)
    expected = [
        ("a", "random_sample", tuple(range(DATASET_IMAGES_PER_TASK, 100))),
        ("a", "top_images", (900, 901)),
        ("b", "random_sample", tuple(range(DATASET_IMAGES_PER_TASK))),
        ("b", "random_sample", tuple(range(DATASET_IMAGES_PER_TASK, 100))),
        ("b", "top_images", (901,)),
    ]
    assert chunks == [DatasetImageChunk(evaluator=j, kind=k, samples=s) for j, k, s in expected]
    assert len({chunk.name for chunk in chunks}) == 4  # the same dataset images, the same name


def test_an_evaluator_whose_weights_have_changed_is_refused(copied, shards):
    (path,) = [p for p in copied.glob("run/evaluation/*/evaluator.json") if p.parent.name != "model"]
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"weights_sha256": "0" * 64}))
    with pytest.raises(
        RecipeError, match=r"are not those that it scored with .*then 000000000000.*a path of their own"
    ):
        run(tiny_recipe(shards, copied, evaluated_by(EVALUATOR), *ENOUGH, "visualize.seeds=3"))
    assert json.loads(path.read_text())["weights_sha256"] == "0" * 64
