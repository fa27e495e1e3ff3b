"""Whole runs of a tiny network: resumable, idempotent, the same bytes anywhere, and honest about what failed."""

import errno
import os
import shutil
from pathlib import Path

import pytest

import jobs.stages.collect
import jobs.stages.targets
import jobs.stages.visualize_actor
import pipeline.io.root
from jobs.commands.status import describe_status, read_status
from jobs.engine.tasks import RunStoppedError
from jobs.run.run_folder import STAGES, read_log
from jobs.runner import run_stages
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.recipe.recipe import RecipeError
from tests.support.tiny_run import NUM_NEURONS, tiny_recipe, write_data

NOWHERE = "ray://127.0.0.1:1"  # proves that no engine was started


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The folder of one uninterrupted run, for tests that only read it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(tiny_recipe(shards, out))
    return out


@pytest.fixture
def copied(whole, tmp_path):
    """The same, to go on with."""
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


def run(recipe, stages=STAGES, **options):
    echoed = []
    reports = run_stages(recipe, stages, **{"address": "inline", "echo": echoed.append} | options)
    assert [line.partition(":")[0] for line in echoed] == list(stages)
    return {report.stage: report for report in reports}


def published(out: Path) -> dict[str, bytes]:
    """Files of the atlas that must not depend on how the run went; the layer tables hold elapsed times."""
    files = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for folder in ("images", "sheets", "examples")
        for path in sorted((out / folder).rglob("*.webp"))
    }
    return files | {name: (out / name).read_bytes() for name in ("index.parquet", "scores.parquet", "scores.md")}


def rows_of(out: Path, layer: str) -> dict[int, dict]:
    return {row["unit"]: row for row in read_rows(Root.open(out), f"layers/{layer}.parquet")}


def synthesize_with(monkeypatch, before):
    """Call `before(neurons)` ahead of every batch; it may raise. Returns the list of batches that got through."""
    real, batches = jobs.stages.visualize_actor.synthesize, []

    def synthesize(model, neurons, *args, **options):
        before(neurons)
        batches.append(tuple(neurons))
        return real(model, neurons, *args, **options)

    monkeypatch.setattr(jobs.stages.visualize_actor, "synthesize", synthesize)
    return batches


def test_a_run_makes_a_valid_atlas(whole):
    assert validate(str(whole)) == []
    atlas = Root.open(whole).read_json("atlas.json")
    assert atlas["counts"]["neurons"] == NUM_NEURONS
    assert [(layer["name"], layer["num_neurons"]) for layer in atlas["layers"]] == [("stage2", 3), ("fc", 5)]
    row = rows_of(whole, "stage2")[1]
    assert len(row["reference_keys"]) == row["num_references"] == row["num_examples"] == 4
    assert row["examples_path"] == "examples/stage2/00001.webp"
    assert (row["width_px"], row["steps"], row["method"], row["seed"]) == (32, 2, "vital", 0)
    assert row["relevance"] == "lrp"
    assert rows_of(whole, "fc")[1]["relevance"] == "none"


def test_the_log_has_one_line_per_task(whole):
    done = [entry for entry in read_log(Root.open(whole)) if entry["status"] == "done" and entry["count"]]
    counts = {stage: sum(entry["count"] for entry in done if entry["stage"] == stage) for stage in STAGES}
    # evaluate: 8 visualizations scored, and the model as the only evaluator predicts 24 dataset images and 8
    # visualizations
    assert counts == {"collect": 3, "targets": 8, "visualize": 8, "evaluate": 40, "build": 8}
    assert all(entry["seconds"] >= 0 and entry["worker"].endswith(f"/{os.getpid()}") for entry in done)


def test_a_second_run_does_nothing_and_reports_it(shards, copied):
    recipe = tiny_recipe(shards, copied)
    run(recipe, ("build",))  # the recipe names another output.root than that of the copy
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    echoed = []
    reports = run_stages(recipe, STAGES, address=NOWHERE, echo=echoed.append)
    assert all("nothing to do" in line for line in echoed)
    assert [(report.done, report.already) for report in reports] == [(0, 3), (0, 8), (0, 8), (0, 8), (0, 8)]
    after = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} == {"log.jsonl"}


def test_an_interrupted_run_goes_on_to_the_same_bytes(shards, whole, tmp_path, monkeypatch):
    recipe = tiny_recipe(shards, tmp_path)
    started = []

    def interrupt_third(neurons):
        started.append(neurons)
        if len(started) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        synthesize_with(patch, interrupt_third)
        with pytest.raises(KeyboardInterrupt):
            run(recipe)
    assert read_status(recipe).stages[2].done == 4

    batches = synthesize_with(monkeypatch, lambda neurons: None)
    reports = run(recipe)
    assert (reports["visualize"].done, reports["visualize"].already) == (4, 4)
    assert len(batches) == 3
    assert published(tmp_path) == published(whole)


def test_ray_gives_the_bytes_of_one_process(shards, whole, tmp_path, ray_engine):
    run(tiny_recipe(shards, tmp_path), engine=ray_engine)
    index, expected = (read_rows(Root.open(out), "index.parquet") for out in (tmp_path, whole))
    assert index == expected  # first, because its difference can be read
    assert published(tmp_path) == published(whole)


def test_a_bad_neuron_costs_only_itself_and_is_tried_again_next_time(shards, whole, tmp_path, monkeypatch):
    recipe = tiny_recipe(shards, tmp_path)

    def poison(neurons):
        if ("fc", 3) in neurons:
            raise FloatingPointError("the loss of neuron 3 is not finite")

    with monkeypatch.context() as patch:
        batches = synthesize_with(patch, poison)
        reports = run(recipe)
    assert (reports["visualize"].done, reports["visualize"].failed) == (7, 1)
    assert reports["build"].failed == 1
    assert (("fc", 2),) in batches  # its neighbor was done alone

    row = rows_of(tmp_path, "fc")[3]
    assert (row["status"], row["image_path"]) == ("failed", "")
    assert row["status_reason"] == "FloatingPointError: the loss of neuron 3 is not finite"
    assert len(row["reference_keys"]) == 4
    assert row["examples_path"]
    assert row["max_activation"] is not None
    assert validate(str(tmp_path)) == []
    text = describe_status(read_status(recipe))
    assert "fc/3: FloatingPointError: the loss of neuron 3 is not finite" in text
    failed = [entry for entry in read_log(Root.open(tmp_path)) if entry["status"] == "failed"]
    assert [(entry["attempts"], entry["count"]) for entry in failed] == [(2, 0), (1, 1)]
    assert all("in poison" in entry["traceback"] for entry in failed)

    healed = run(recipe)
    assert (healed["visualize"].done, healed["visualize"].already, healed["build"].failed) == (1, 7, 0)
    assert rows_of(tmp_path, "fc")[3]["status"] != "failed"
    assert set(published(tmp_path)) == set(published(whole))


def test_a_fault_that_hits_every_neuron_stops_the_run(shards, tmp_path, monkeypatch):
    def broken(neurons):
        raise TypeError("a bug, not a bad neuron")

    synthesize_with(monkeypatch, broken)
    with pytest.raises(RunStoppedError, match=r"the first 3 tasks all failed(.|\n)*in broken(.|\n)*a bug, not a bad"):
        run(tiny_recipe(shards, tmp_path))


def test_a_target_that_cannot_be_made_is_a_failed_neuron(shards, tmp_path, monkeypatch):
    real = jobs.stages.targets.build_targets

    def poison(root, recipe, model, statistics, plan, units, chosen):
        if plan.layer == "fc" and 2 in units:
            raise OverflowError("no relevance")
        return real(root, recipe, model, statistics, plan, units, chosen)

    monkeypatch.setattr(jobs.stages.targets, "build_targets", poison)
    reports = run(tiny_recipe(shards, tmp_path))
    assert (reports["targets"].done, reports["targets"].failed) == (7, 1)
    assert (reports["visualize"].done, reports["visualize"].failed) == (7, 1)
    row = rows_of(tmp_path, "fc")[2]
    assert row["status"] == "failed"
    assert row["status_reason"] == "its target could not be made: OverflowError: no relevance"
    assert validate(str(tmp_path)) == []


def test_a_dead_unit_keeps_its_row_without_a_visualization(shards, tmp_path):
    recipe = tiny_recipe(shards, tmp_path, "model.name=python:tests.support.tiny_run:net_with_dead_unit")
    assert run(recipe)["visualize"].failed == 0
    row = rows_of(tmp_path, "stage2")[0]
    assert (row["status"], row["image_path"], row["num_references"]) == ("dead", "", 0)
    assert "activates this unit" in row["status_reason"]
    assert row["max_activation"] == 0
    assert validate(str(tmp_path)) == []


def test_more_neurons_only_add_tasks(shards, whole, tmp_path):
    classes = tiny_recipe(shards, tmp_path, 'neurons=[{layer="classifier"}]')
    run(classes)
    reports = run(tiny_recipe(shards, tmp_path))
    assert {stage: (report.done, report.already) for stage, report in reports.items()} == {
        "collect": (0, 3),
        "targets": (3, 5),
        "visualize": (3, 5),
        "evaluate": (3, 5),
        "build": (8, 0),
    }
    assert published(tmp_path) == published(whole)


def test_seeds_make_different_visualizations(shards, tmp_path):
    run(tiny_recipe(shards, tmp_path, "visualize.seeds=2", 'neurons=[{layer="stage2", units="0:1"}]'))
    first, second = read_rows(Root.open(tmp_path), "layers/stage2.parquet")
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["seed_value"] != second["seed_value"]
    assert first["image_sha256"] != second["image_sha256"]


def test_bad_samples_are_skipped_and_counted(tmp_path):
    shards = write_data(tmp_path / "data", num_broken=2)
    recipe = tiny_recipe(shards, tmp_path / "out", data="max_error_fraction = 0.1")
    run(recipe)
    provenance = Root.open(tmp_path / "out").read_json("atlas.json")["provenance"]
    assert (provenance["num_samples"], provenance["num_skipped"]) == (22, 2)


def test_too_many_bad_samples_stop_the_run_and_nothing_is_read_twice(tmp_path):
    shards = write_data(tmp_path / "data", num_broken=2)
    with pytest.raises(RunStoppedError, match=r"2 of 24 samples are bad .*photo000.*max_error_fraction"):
        run(tiny_recipe(shards, tmp_path / "out"))
    reports = run(tiny_recipe(shards, tmp_path / "out", data="max_error_fraction = 0.1"))
    assert (reports["collect"].done, reports["collect"].already) == (0, 3)
    assert reports["build"].done == NUM_NEURONS


def test_a_data_set_without_one_image_is_refused(tmp_path):
    shards = write_data(tmp_path / "data", num_shards=1, per_shard=2, num_broken=2)
    with pytest.raises(RunStoppedError, match="no usable image"):
        run(tiny_recipe(shards, tmp_path / "out", data="max_error_fraction = 1.0"))


def test_an_error_of_the_code_is_not_taken_for_bad_data(shards, tmp_path, monkeypatch):
    real = jobs.stages.collect.collect

    def collect(model, samples, *, shard_index, **options):
        if shard_index == 1:
            raise TypeError("a bug")
        return real(model, samples, shard_index=shard_index, **options)

    recipe = tiny_recipe(shards, tmp_path, data="max_error_fraction = 1.0")
    with monkeypatch.context() as patch:
        patch.setattr(jobs.stages.collect, "collect", collect)
        with pytest.raises(RunStoppedError, match=r"1 of 3 tar shards could not be recorded.*TypeError: a bug"):
            run(recipe)
    assert not (tmp_path / "run/statistics.json").exists()
    reports = run(recipe, ("collect",))
    assert (reports["collect"].done, reports["collect"].already) == (1, 2)


def test_a_full_disk_stops_the_run_with_its_remedy(shards, tmp_path, monkeypatch):
    recipe = tiny_recipe(shards, tmp_path)
    run(recipe, ("collect", "targets"))
    real = pipeline.io.root._write_local

    def full(path, data):
        if path.endswith(".webp"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(pipeline.io.root, "_write_local", full)
    with pytest.raises(RunStoppedError, match="disk is full: free space"):
        run(recipe)
    assert not list((tmp_path / "run/fragments").glob("*"))


@pytest.mark.parametrize(
    ("before", "stage", "message"),
    [
        ((), "targets", "no statistics yet: run `neuron-atlas collect RECIPE` first"),
        (("collect",), "visualize", "no targets yet: run `neuron-atlas targets RECIPE` first"),
        (("collect", "targets"), "evaluate", "no visualizations yet: run `neuron-atlas visualize RECIPE` first"),
        (("collect", "targets"), "build", "8 of 8 visualizations are not made yet"),
    ],
)
def test_a_stage_needs_the_one_before(shards, tmp_path, before, stage, message):
    recipe = tiny_recipe(shards, tmp_path)
    run(recipe, before)
    with pytest.raises(RunStoppedError, match=message):
        run(recipe, (stage,))


@pytest.mark.parametrize(("publish", "keys"), [("none", False), ("keys", True)])
def test_examples_are_opt_in(shards, copied, publish, keys):
    run(tiny_recipe(shards, copied, atlas=f'publish_examples = "{publish}"'), ("build",))
    row = rows_of(copied, "stage2")[0]
    assert [bool(key) for key in row["reference_keys"]] == [keys] * 4
    assert all(row["reference_labels"])
    assert row["num_examples"] == 0
    listed = [entry["path"] for entry in Root.open(copied).read_json("atlas.json")["files"]]
    assert not any(path.startswith("examples/") for path in listed)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=timm:resnet17", "no such model"),
        ('neurons=[{layer="stage7"}]', "did you mean"),
        ('neurons=[{layer="classifier", units=[5]}]', "layer .fc., which has 5"),
        ("data.shards=missing-{0..1}.tar", "does not exist"),
        ("output.root=no-such-protocol://x", "no-such-protocol"),
    ],
)
def test_mistakes_of_the_recipe_are_found_before_work_starts(shards, tmp_path, override, message):
    recipe = tiny_recipe(shards, tmp_path / "out", override)
    with pytest.raises(RecipeError, match=message):
        run_stages(recipe, STAGES, address=NOWHERE)
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_recipe_is_refused(whole, shards):
    with pytest.raises(RecipeError, match=r"visualize\.steps: 2 in the folder, 9 in the recipe"):
        run(tiny_recipe(shards, whole, "visualize.steps=9"))


def test_a_remote_root_works_like_a_local_one(shards, whole):
    """An object store has no folders, no renames and no appending; memory:// has none of them either."""
    root = Root.open("memory://remote-run")
    try:
        run(tiny_recipe(shards, root.url))
        assert root.read_bytes("index.parquet") == (whole / "index.parquet").read_bytes()
        assert {entry["stage"] for entry in read_log(root)} == set(STAGES)
        assert all(report.done == 0 for report in run(tiny_recipe(shards, root.url)).values())
    finally:
        root.remove("")
