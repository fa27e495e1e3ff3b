"""The run folder belongs to one recipe, and its log survives a killed writer."""

import json
import re
import time

import pytest

from jobs.run.run_folder import LOG_PATH, RESULTS, RunLog, check_recipe, claim, read_log
from pipeline.io.root import Root
from tests.support.tiny_run import tiny_recipe


@pytest.fixture
def remote_root(tmp_path):
    """A root without appending, like an object store."""
    remote = Root.open(f"memory://{tmp_path.name}")
    yield remote
    remote.remove("run")


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    """A root on the disk, and one without appending."""
    return Root.open(tmp_path / "out") if request.param == "local" else request.getfixturevalue("remote_root")


def results_of(root, recipe, stage):
    """Stand in for a stage that has claimed the folder and committed its first result."""
    claim(root, recipe, stage)
    if stage in RESULTS:
        root.write_text(f"{RESULTS[stage]}/first", "")


def test_the_same_recipe_comes_back(root):
    recipe = tiny_recipe("a.tar", root.url)
    check_recipe(root, recipe)
    for stage in ("collect", "targets"):
        results_of(root, recipe, stage)
    check_recipe(root, recipe)
    assert set(root.read_json("run/recipe.json")["stages"]) == {"collect", "targets"}


def test_another_recipe_is_refused_with_keys_and_both_values(root):
    results_of(root, tiny_recipe("a.tar", root.url), "visualize")
    other = tiny_recipe("a.tar", root.url, "visualize.steps=3", "targets.num_references=5")
    with pytest.raises(ValueError) as refused:
        check_recipe(root, other)
    text = str(refused.value)
    assert "visualize.steps: 2 in the folder, 3 in the recipe" in text
    assert "targets.num_references: 4 in the folder, 5 in the recipe" in text
    assert "statistics.top_k" not in text
    assert "output.root" in text


@pytest.mark.parametrize(
    "harmless",
    [
        "compute.max_retries=9",
        'neurons=[{layer="stage2"}]',
        "atlas.title=Other",
        "visualize.batch_size=3",
        "visualize.seeds=2",
    ],
)
def test_what_changes_no_result_is_accepted(root, harmless):
    recipe = tiny_recipe("a.tar", root.url)
    for stage in ("collect", "targets", "visualize", "evaluate", "build"):
        results_of(root, recipe, stage)
    check_recipe(root, tiny_recipe("a.tar", root.url, harmless))


def test_a_stage_that_stopped_before_its_first_result_binds_nobody(root):
    other = tiny_recipe("a.tar", root.url, "statistics.top_k=9")
    claim(root, other, "collect")
    recipe = tiny_recipe("a.tar", root.url)
    check_recipe(root, recipe)
    results_of(root, recipe, "collect")
    with pytest.raises(ValueError, match=r"statistics\.top_k: 8 in the folder, 9 in the recipe"):
        check_recipe(root, other)


def test_more_shards_bind_targets_but_not_collect_and_layers_bind_nothing(root):
    recipe = tiny_recipe("a.tar", root.url)
    more = tiny_recipe("a.tar", root.url, 'data.shards=["a.tar", "b.tar"]', 'statistics.layers=["stage2", "stem"]')
    results_of(root, recipe, "collect")
    check_recipe(root, more)
    results_of(root, recipe, "targets")
    with pytest.raises(ValueError, match="copy the folder run/shard_statistics") as refused:
        check_recipe(root, more)
    assert 'data.shards: ["a.tar"] in the folder, ["a.tar", "b.tar"] in the recipe' in str(refused.value)
    assert "statistics.layers" not in str(refused.value)


def test_a_folder_of_another_version_is_refused(root):
    root.write_json("run/recipe.json", {"schema": "run/0"})
    with pytest.raises(ValueError, match="schema 'run/0', expected 'run/1'"):
        check_recipe(root, tiny_recipe("a.tar", root.url))


def test_the_log_keeps_lines_of_earlier_runs(root):
    for number in (1, 2):
        with RunLog(root) as log:
            log.append(stage="collect", task=f"shard {number}", status="done")
        time.sleep(0.002)  # lines are put in order by their milliseconds
    entries = read_log(root)
    assert [entry["task"] for entry in entries] == ["shard 1", "shard 2"]
    assert all(entry["time"].endswith("+00:00") for entry in entries)
    assert len({entry["run"] for entry in entries}) == 2
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", entry["run"]) for entry in entries)


def test_half_a_line_of_a_killed_run_costs_that_line_only(tmp_path):
    root = Root.open(tmp_path)
    with RunLog(root) as log:
        log.append(task="first")
    with (tmp_path / LOG_PATH).open("a") as file:
        file.write('{"task": "ha')
    with RunLog(root) as log:
        log.append(task="next")
    assert [entry["task"] for entry in read_log(root)] == ["first", "next"]


def test_lines_are_on_disk_at_once(tmp_path):
    with RunLog(Root.open(tmp_path)) as log:
        log.append(task="first")
        assert json.loads((tmp_path / LOG_PATH).read_text())["task"] == "first"


def test_on_an_object_store_the_log_is_sent_in_parts(remote_root, monkeypatch):
    monkeypatch.setattr("jobs.run.run_folder.PART_BYTES", 1000)
    monkeypatch.setattr("jobs.run.run_folder.REMOTE_FLUSH_S", -1.0)  # after every line
    sent: list[str] = []
    write = Root.write_text
    monkeypatch.setattr(Root, "write_text", lambda root, path, text: (sent.append(text), write(root, path, text)))
    with RunLog(remote_root) as log:
        for number in range(100):
            log.append(task=str(number))
        assert [entry["task"] for entry in read_log(remote_root)] == [str(number) for number in range(100)]
    assert len(sent) == 100  # the end has nothing to send
    largest = max(map(len, sent))
    assert 1000 <= largest < 1200
    assert len(remote_root.list("run/log")) == 1 + sum(len(text) >= 1000 for text in sent[:-1])
    with RunLog(remote_root) as log:
        log.append(task="of another run")
    assert [entry["task"] for entry in read_log(remote_root)][-2:] == ["99", "of another run"]
