"""The stage `evaluate` in whole runs: what it finds, and what it does again and what not."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.commands.plan import describe_plan, make_plan
from jobs.commands.status import read_status
from jobs.run.resolved import resolve
from jobs.run.run_folder import STAGES, read_log
from jobs.stages.evaluate_plan import PHOTOGRAPHS_PER_TASK, PhotographChunk, count_looks, plan_photographs
from pipeline.activations.store import Exemplar, StatisticsStore
from pipeline.atlas.format.file_list import build_id, file_entry
from pipeline.atlas.validation.validate import validate
from pipeline.data.shards import read_image_bytes
from pipeline.evaluation.comparison_images import Photographs
from pipeline.evaluation.evaluators.load import load_judge
from pipeline.evaluation.metrics.fid_kid import frechet_distance, kernel_distance
from pipeline.evaluation.predictions import MODEL, judge_key
from pipeline.io.images import decode_image, decode_webp
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.recipe.recipe import RecipeError
from tests.support.evaluated_run import BACKBONE, ENOUGH, JUDGE, SLUG, judged_by, rows_of, run, scores_of
from tests.support.tiny_run import tiny_recipe, write_data

EVALUATED = ("index.parquet", "scores.parquet", "scores.md")


def photograph_of(exemplar: Exemplar) -> Image.Image:
    return decode_image(read_image_bytes(exemplar.tar_shard, exemplar.offset, exemplar.size))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def judged(shards, tmp_path_factory):
    """The folder of a run with one judge, for tests that only look."""
    out = tmp_path_factory.mktemp("judged") / "out"
    run(tiny_recipe(shards, out, judged_by(JUDGE), *ENOUGH))
    return out


@pytest.fixture
def copied(judged, tmp_path):
    """The same, to go on with."""
    shutil.copytree(judged, tmp_path / "out")
    return tmp_path / "out"


def works_of(out):
    """Work → how often it was done in the stage."""
    done = [entry for entry in read_log(Root.open(out)) if entry["stage"] == "evaluate" and entry["status"] == "done"]
    return [entry["work"] for entry in done]


# ---- what is found ----


def test_a_judge_gets_columns_notes_and_a_place_in_the_provenance(judged):
    assert validate(str(judged)) == []
    atlas = Root.open(judged).read_json("atlas.json")
    assert [(judge["slug"], judge["role"]) for judge in atlas["provenance"]["judges"]] == [
        ("model", "model"),
        (SLUG, "held-out"),
    ]
    judge = load_judge(JUDGE)
    assert atlas["provenance"]["judges"][1]["weights_sha256"] == judge.weights_sha256
    assert {"scores.parquet", "scores.md"} <= {entry["path"] for entry in atlas["files"]}
    for column in ("mis", f"accuracy_top1_{SLUG}", f"accuracy_top5_{SLUG}"):
        assert JUDGE in atlas["columns"][column]["meaning"]
    index = read_rows(Root.open(judged), "index.parquet")
    assert {"mis", "path_similarity", f"accuracy_top1_{SLUG}"} <= index[0].keys()
    assert all(0 <= row["mis"] <= 1 for row in index)


def test_what_a_judge_says_is_what_it_says_when_asked_directly(judged):
    judge, root = load_judge(JUDGE), Root.open(judged)
    for (unit, _), row in rows_of(judged, "fc").items():
        logits = judge.look([decode_webp(root.read_bytes(row["image_path"]))]).logits[0]
        assert row[f"accuracy_top1_{SLUG}"] == float(logits.argmax() == unit)
        assert row[f"accuracy_top5_{SLUG}"] == 1.0  # of five classes, any is among the first five
    assert all(row[f"accuracy_top1_{SLUG}"] is None for row in rows_of(judged, "stage2").values())


def test_mis_is_the_share_of_photographs_told_apart_with_the_picture(judged, shards):
    """By hand: photographs cropped anew, no store of looks, no metric's code."""
    root, judge = Root.open(judged), load_judge(JUDGE)
    recipe = tiny_recipe(shards, judged, judged_by(JUDGE), *ENOUGH)
    statistics = StatisticsStore.open(root)
    row = rows_of(judged, "stage2")[2, 1]
    # top_k is 8 of 24 and 4 are references, so 4 exemplars are left.
    exemplars = [e for e in statistics.exemplars("stage2", 2) if e.key not in row["reference_keys"]]
    assert 1 < len(exemplars) <= 8 - row["num_references"] == 4

    def embedding(exemplar):
        photograph = photograph_of(exemplar)
        return judge.look([photograph]).embedding[0].astype(np.float64)

    model = resolve(recipe).model
    samples = statistics.samples.ids.tolist()
    activations = {}
    for found in statistics.exemplars_of(samples):
        inputs = model.preprocess(photograph_of(found))[None]
        with model.capture(["stage2"]) as features, torch.no_grad():
            model.module(inputs)
        activations[found.key] = float(features["stage2"][0, 2].max())
    own = {exemplar.key for exemplar in exemplars} | set(row["reference_keys"])
    others = sorted((value, key) for key, value in activations.items() if key not in own)
    assert len({value for value, _ in others[:10]}) == 10  # no ties at the end that matters
    weak = {key for _, key in others[: recipe.evaluate.num_exemplars]}
    low = [embedding(found) for found in statistics.exemplars_of(samples) if found.key in weak]
    high = [embedding(exemplar) for exemplar in exemplars]
    made = judge.look([decode_webp(root.read_bytes(row["image_path"]))]).embedding[0].astype(np.float64)

    def cosine(a):
        return a @ made / np.linalg.norm(a) / np.linalg.norm(made)

    wins = [cosine(strong) > cosine(weak_one) for strong in high for weak_one in low]
    assert row["mis"] == pytest.approx(np.mean(wins))


def test_methods_are_scored_by_the_mean_over_neurons_of_their_mean_over_seeds(judged):
    for layer, kind in (("fc", "class"), ("stage2", "inner")):
        rows = rows_of(judged, layer)
        scores = scores_of(judged, method="vital", kind=kind, layer="", judge=SLUG)
        units = sorted({unit for unit, _ in rows})
        means = [np.mean([rows[unit, seed]["mis"] for seed in (0, 1)]) for unit in units]
        assert scores["mis"]["value"] == pytest.approx(np.mean(means), rel=1e-6)
        assert scores["mis"]["low"] <= scores["mis"]["value"] <= scores["mis"]["high"]
        assert scores["mis"]["num_pictures"] == len(rows)
    counts = scores_of(judged, method="vital", kind="all", judge="")
    statuses = [row["status"] for layer in ("fc", "stage2") for row in rows_of(judged, layer).values()]
    assert [counts[f"num_{status}"]["value"] for status in ("ok", "weak")] == [
        statuses.count("ok"),
        statuses.count("weak"),
    ]
    assert "accuracy_top1" not in counts


def photographs_of(out):
    """(labels, photographs) of the whole data set, which the panel is here."""
    statistics = StatisticsStore.open(Root.open(out))
    found = statistics.exemplars_of(statistics.samples.ids.tolist())
    return [e.label for e in found], [photograph_of(e) for e in found]


def test_classes_are_held_against_photographs_with_their_labels(shards, tmp_path):
    blocks = 'neurons=[{layer="classifier", units=[0, 1]}]'
    run(tiny_recipe(shards, tmp_path, judged_by(JUDGE), blocks, "visualize.seeds=5", "visualize.steps=1"))
    judge, root = load_judge(JUDGE), Root.open(tmp_path)
    photographs = [photograph for label, photograph in zip(*photographs_of(tmp_path), strict=True) if label < 2]
    assert len(photographs) == 10
    pictures = [decode_webp(root.read_bytes(row["image_path"])) for row in rows_of(tmp_path, "fc").values()]
    expected = frechet_distance(judge.look(photographs).embedding, judge.look(pictures).embedding)
    scores = scores_of(tmp_path, method="vital", kind="class", judge=SLUG)
    assert scores["fid"]["value"] == pytest.approx(expected, rel=1e-3)


def test_sets_are_compared_in_the_space_of_each_judge(judged):
    """FID and KID against the panel, which is the whole data set, measured anew from the files."""
    root, judge = Root.open(judged), load_judge(JUDGE)
    labels, photographs = photographs_of(judged)
    real = judge.look(photographs)
    pictures = [decode_webp(root.read_bytes(row["image_path"])) for row in rows_of(judged, "stage2").values()]
    made = judge.look(pictures).embedding
    scores = scores_of(judged, method="vital", kind="inner", judge=SLUG)
    assert scores["fid"]["value"] == pytest.approx(frechet_distance(real.embedding, made), rel=1e-3)
    assert scores["kid"]["value"] == pytest.approx(kernel_distance(real.embedding, made), rel=1e-3)
    assert 1 <= scores["inception_score"]["value"] <= 5
    assert 0 < scores["diversity"]["value"] < 2
    of_photographs = scores_of(judged, method="photographs", kind="class", judge=SLUG)
    assert of_photographs["fid"]["num_pictures"] == 10
    named = real.logits.argmax(axis=1) == labels
    assert of_photographs["accuracy_top1"]["value"] == pytest.approx(named.mean())


def test_validate_reads_the_scores(copied):
    (copied / "scores.md").write_text((copied / "scores.md").read_text().replace("`mis`", "`miss`"))
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


def test_a_judge_that_is_added_does_only_its_own_work(copied, shards):
    looks = {path: path.stat().st_mtime_ns for path in copied.rglob("run/evaluation/*/*/*")}
    before, started = works_of(copied), time.monotonic()
    recipe = tiny_recipe(shards, copied, judged_by(JUDGE, BACKBONE), *ENOUGH)
    reports = run(recipe)
    assert time.monotonic() - started < 60
    assert [reports[stage].done for stage in STAGES[:3]] == [0, 0, 0]
    new = [work for work in works_of(copied)[len(before) :] if not work.startswith("scores")]
    key = judge_key(recipe.evaluate.judges[1])
    assert new
    assert all(work.startswith(f"{key}/") for work in new)
    assert looks == {path: path.stat().st_mtime_ns for path in looks}
    slug = "python_tests_judged_run_backbone"
    row = rows_of(copied, "stage2")[0, 0]
    assert row[f"mis_{slug}"] is not None
    assert scores_of(copied, method="vital", kind="inner", judge=slug)["fid"]["value"] >= 0
    assert validate(str(copied)) == []


def test_a_judge_that_is_taken_away_leaves_no_trace_and_no_work(copied, shards, judged):
    before = works_of(copied)
    run(tiny_recipe(shards, copied, *ENOUGH))
    assert all(work.startswith("scores") for work in works_of(copied)[len(before) :])
    assert f"accuracy_top1_{SLUG}" not in rows_of(copied, "fc")[0, 0]
    assert SLUG not in (copied / "scores.md").read_text()
    assert validate(str(copied)) == []
    run(tiny_recipe(shards, copied, judged_by(JUDGE), *ENOUGH))
    assert [(copied / name).read_bytes() for name in EVALUATED] == [(judged / name).read_bytes() for name in EVALUATED]


def test_a_larger_panel_looks_only_at_what_is_new(shards, tmp_path):
    run(tiny_recipe(shards, tmp_path, "evaluate.num_photographs=10", "evaluate.num_exemplars=1"))
    small = count_photographs(tmp_path)
    run(tiny_recipe(shards, tmp_path, "evaluate.num_photographs=15", "evaluate.num_exemplars=1"))
    assert 10 <= small <= 18
    assert 5 <= count_photographs(tmp_path) - small <= 13


def count_photographs(out):
    entries = read_log(Root.open(out))
    return sum(e["count"] for e in entries if e["work"].startswith(("model/panel", "model/exemplars")))


def test_scores_of_other_pictures_are_not_published(copied, shards):
    recipe = tiny_recipe(shards, copied, judged_by(JUDGE), *ENOUGH[:1], 'neurons=[{layer="classifier"}]', ENOUGH[2])
    run(recipe, ("build",))
    assert not (copied / "scores.parquet").exists()
    run(recipe)
    assert {row["kind"] for row in read_rows(Root.open(copied), "scores.parquet")} == {"class", "all"}


def test_two_workers_find_what_one_process_finds(copied, judged, shards, ray_engine):
    for folder in ("run/evaluation", "run/scores"):
        shutil.rmtree(copied / folder)
    report = run(tiny_recipe(shards, copied, judged_by(JUDGE), *ENOUGH), engine=ray_engine)["evaluate"]
    assert (report.done, report.failed) == (22, 0)
    for name in EVALUATED:
        assert (copied / name).read_bytes() == (judged / name).read_bytes(), name


def test_the_plan_and_the_status_know_what_is_left(copied, shards):
    recipe = tiny_recipe(shards, copied, judged_by(JUDGE, BACKBONE), *ENOUGH)
    stage = next(stage for stage in read_status(recipe).stages if stage.stage == "evaluate")
    assert (stage.done, stage.todo) == (0, 22)
    assert count_looks(resolve(recipe)) == 22 + 24  # of the new judge only
    assert "evaluate        22 pictures" in describe_plan(make_plan(recipe))
    run(recipe)
    assert count_looks(resolve(recipe)) == 0


def test_photographs_are_planned_once_per_judge():
    exemplars = {"x": {0: (5, 900), 1: (901, 5)}}
    photographs = Photographs(panel=tuple(range(100)), exemplars=exemplars, references={})
    done = {(judge, kind): set() for judge in ("a", "b") for kind in ("panel", "exemplars")}
    done["a", "panel"] = set(range(PHOTOGRAPHS_PER_TASK))
    done["b", "exemplars"] = {900}
    chunks = plan_photographs(["a", "b"], photographs, done)
    expected = [
        ("a", "panel", tuple(range(PHOTOGRAPHS_PER_TASK, 100))),
        ("a", "exemplars", (900, 901)),
        ("b", "panel", tuple(range(PHOTOGRAPHS_PER_TASK))),
        ("b", "panel", tuple(range(PHOTOGRAPHS_PER_TASK, 100))),
        ("b", "exemplars", (901,)),
    ]
    assert chunks == [PhotographChunk(judge=j, kind=k, samples=s) for j, k, s in expected]
    assert len({chunk.name for chunk in chunks}) == 4  # the same photographs, the same name


def test_a_judge_whose_weights_have_changed_is_refused(copied, shards):
    (path,) = [p for p in copied.glob("run/evaluation/*/judge.json") if p.parent.name != "model"]
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"weights_sha256": "0" * 64}))
    with pytest.raises(
        RecipeError, match=r"are not those that it judged with .*then 000000000000.*a path of their own"
    ):
        run(tiny_recipe(shards, copied, judged_by(JUDGE), *ENOUGH, "visualize.seeds=3"))
    assert json.loads(path.read_text())["weights_sha256"] == "0" * 64
