"""The liveness of a run: when its last task ended, how fast it is now, and whether it seems to be going on."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import torch

from jobs.commands.status import describe_status, read_status
from jobs.reporting.liveness import MIN_QUIET_S, describe_liveness, read_liveness
from jobs.run.run_folder import LOG_PATH, RunLog
from jobs.runner import run_stages
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe
from tests.support.tiny_run import recipe_toml, small_net, write_data

START = datetime(2026, 11, 24, 12, tzinfo=UTC)


def entry(at_s: float, stage: str = "visualize", status: str = "done", run: str = "b", **more):
    defaults = {"task": "conv1-00000", "count": 10, "seconds": 60.0, "worker": "node7/123"}
    time = (START + timedelta(seconds=at_s)).isoformat(timespec="milliseconds")
    return {"time": time, "run": run, "stage": stage, "status": status} | defaults | more


def after(at_s: float) -> datetime:
    return START + timedelta(seconds=at_s)


def test_a_log_without_tasks_has_no_liveness():
    assert read_liveness([], START) is None
    assert read_liveness([entry(0, status="finished", task="stage")], START) is None


def test_rate_and_time_left_are_those_of_the_last_run():
    earlier = [entry(at_s, run="a", count=1000) for at_s in range(-900, 0, 60)]
    of_run = [entry(at_s) for at_s in range(60, 660, 60)]
    liveness = read_liveness([*earlier, *of_run], after(600))
    assert liveness.rates == {"visualize": pytest.approx(10 / 60)}
    assert liveness.seems_alive
    assert describe_liveness(liveness, {"collect": 0, "visualize": 50}).splitlines() == [
        "last task: visualize conv1-00000 done on node7/123, 0 s ago",
        "visualize: 10.0/min recently, 5 min 0 s left",
    ]


def test_two_stages_at_once_have_a_rate_each_and_wholes_that_were_split_count_for_nothing():
    entries = [entry(60, "targets"), entry(60), entry(90, "targets", count=0, status="failed"), entry(120, "targets")]
    assert read_liveness(entries, after(120)).rates == {
        "targets": pytest.approx(10 / 60),  # the later half of the time
        "visualize": pytest.approx(10 / 120),
    }
    assert set(read_liveness([entry(60), entry(90, "targets", count=0, status="failed")], after(90)).rates) == {
        "visualize"
    }


def test_remarks_are_signs_of_life_but_no_tasks():
    liveness = read_liveness([entry(0), entry(400, "targets", status="finished", task="stage")], after(500))
    assert (liveness.age_s, liveness.last_age_s, liveness.last["stage"]) == (100, 500, "visualize")
    assert liveness.seems_alive


@pytest.mark.parametrize(
    ("seconds", "silent_s", "alive"),
    [(1, MIN_QUIET_S - 1, True), (1, MIN_QUIET_S + 1, False), (600, 1700, True), (600, 1900, False)],
)
def test_silence_is_compared_with_the_longest_task(seconds, silent_s, alive):
    liveness = read_liveness([entry(0, seconds=1.0), entry(1, seconds=float(seconds)), entry(2)], after(2 + silent_s))
    longest = max(60.0, seconds)
    assert liveness.longest_s == longest
    assert liveness.seems_alive == alive
    assert ("the log is silent for" in describe_liveness(liveness, {"visualize": 5})) != alive


def test_a_run_whose_first_task_has_not_ended_yet_has_no_rate_of_the_run_before():
    entries = [entry(0, run="a"), entry(5000, "collect", status="finished", task="stage", run="b")]
    liveness = read_liveness(entries, after(5001))
    assert (liveness.rates, liveness.seems_alive) == ({}, True)
    assert describe_liveness(liveness, {"visualize": 5}).endswith("1 h 23 min ago\nthe run seems to be going on")


def test_a_finished_run_is_not_called_silent():
    liveness = read_liveness([entry(0)], after(1e6))
    assert describe_liveness(liveness, {"visualize": 0}) == (
        "last task: visualize conv1-00000 done on node7/123, 11 d 13 h ago"
    )


def test_a_clock_that_is_behind_gives_no_negative_age():
    assert read_liveness([entry(100)], after(0)).age_s == 0


def test_status_needs_neither_the_weights_nor_the_data(tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save(small_net().state_dict(), weights)
    shards, out = write_data(tmp_path / "data", num_shards=2), tmp_path / "out"
    text = recipe_toml(shards, out).replace('"random"', f'"{weights}"')
    recipe = Recipe.from_toml(text)
    run_stages(recipe, ["collect", "targets"], address="inline", echo=lambda _: None)
    weights.unlink()
    status = read_status(recipe)
    assert [(stage.stage, stage.todo) for stage in status.stages][:3] == [
        ("collect", 0),
        ("targets", 0),
        ("visualize", 8),
    ]
    assert "last task: targets" in describe_status(status)
    assert "going on" in describe_status(status)  # it ended a moment ago

    with RunLog(Root.open(out)) as log:
        log.append(stage="visualize", task="stage2-0", status="done", count=2, seconds=3600.0, worker="node/1")
    lines = describe_status(read_status(recipe)).splitlines()
    assert any(line.startswith("visualize: 2.0/h recently, 4 h 0 min left") for line in lines)
    lines = (out / LOG_PATH).read_text().splitlines()
    (out / LOG_PATH).write_text(
        "\n".join(json.dumps(json.loads(line) | {"time": "2025-01-01T00:00:00+00:00"}) for line in lines)
    )
    assert "the log is silent for" in describe_status(read_status(recipe))
