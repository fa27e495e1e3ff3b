"""A recipe that changed: what adds only adds, what changes results is refused, and what is only said is built again."""

import shutil

import pytest

from jobs.cli import BAD_USAGE, DONE, main
from pipeline.storage import Root
from tests.tiny_run import recipe_toml, write_data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a tiny recipe and its finished atlas."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(recipe_toml(write_data(folder / "data"), folder / "out"))
    assert main(["run", str(folder / "tiny.toml"), "--address", "inline"]) == DONE
    return folder


@pytest.fixture
def run_again(finished, tmp_path, capsys):
    """Run it again on a copy of the atlas with overrides; returns what was said of each stage."""
    shutil.copytree(finished / "out", tmp_path / "out")

    def run(*overrides: str) -> list[str]:
        command = ["run", str(finished / "tiny.toml"), "--address", "inline"]
        for override in (f"output.root={tmp_path}/out", *overrides):
            command += ["--set", override]
        capsys.readouterr()
        assert main(command) == DONE
        return [line.partition(" (")[0] for line in capsys.readouterr().out.splitlines()]

    return run


def test_a_new_title_only_builds_again(run_again, tmp_path):
    pictures = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")}
    assert run_again("atlas.title=Anew") == [
        "collect: nothing to do, 3 tar shards already done",
        "targets: nothing to do, 8 neurons already done",
        "visualize: nothing to do, 8 pictures already done",
        "evaluate: nothing to do, 8 pictures already done",
        "build: 8 pictures done",
    ]
    assert Root.open(tmp_path / "out").read_json("atlas.json")["title"] == "Anew"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")} == pictures


def test_one_more_seed_adds_only_its_pictures(run_again, tmp_path):
    pictures = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")}
    assert run_again("visualize.seeds=2") == [
        "collect: nothing to do, 3 tar shards already done",
        "targets: nothing to do, 8 neurons already done",
        "visualize: 8 pictures done, 8 already done",
        "evaluate: 8 pictures done, 8 already done",
        "build: 16 pictures done",
    ]
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")}
    assert len(now) == 2 * len(pictures)
    assert now | pictures == now  # the old ones were not touched


def test_more_units_of_a_layer_add_only_themselves(run_again):
    blocks = 'neurons=[{layer="classifier"}, {layer="stage2", units="0:5"}, {layer="stage3", units=[1]}]'
    assert run_again(blocks) == [
        "collect: nothing to do, 3 tar shards already done",
        "targets: 3 neurons done, 8 already done",
        "visualize: 3 pictures done, 8 already done",
        "evaluate: 3 pictures done, 8 already done",
        "build: 11 pictures done",
    ]


@pytest.mark.parametrize(
    "override", ["targets.num_references=3", "statistics.top_k=9", "seed=8", "evaluate.weak_percentile=50"]
)
def test_what_changes_results_is_refused_and_changes_nothing(finished, override, capsys):
    out = finished / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert main(["run", str(finished / "tiny.toml"), "--address", "inline", "--set", override]) == BAD_USAGE
    message = capsys.readouterr().err
    key, _, value = override.partition("=")
    (line,) = [line for line in message.splitlines() if line.startswith(f"  {key}: ")]
    assert line.endswith((f" {value} in the recipe", f" {value}.0 in the recipe"))
    assert "--set output.root=FOLDER" in message
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
