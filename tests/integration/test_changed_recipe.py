"""A recipe that changed: what adds only adds, what changes results is refused, what is only shown is built again."""

import shutil

import pytest

from jobs.cli import BAD_USAGE, DONE, FAILED, main
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.io.zarr_arrays import open_group, read_array
from tests.support.tiny_run import recipe_toml, write_data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a tiny recipe and its finished atlas."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(recipe_toml(write_data(folder / "data"), folder / "out"))
    assert main(["run", str(folder / "tiny.toml"), "--address", "inline"]) == DONE
    return folder


@pytest.fixture
def run_again(finished, tmp_path, capsys):
    """Run it again on a copy of the atlas with overrides; returns what was echoed of each stage."""
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
    visualizations = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")}
    assert run_again("atlas.title=Anew") == [
        "collect: nothing to do, 3 tar shards already done",
        "targets: nothing to do, 8 neurons already done",
        "visualize: nothing to do, 8 visualizations already done",
        "evaluate: nothing to do, 8 visualizations already done",
        "build: 8 visualizations done",
    ]
    assert Root.open(tmp_path / "out").read_json("atlas.json")["title"] == "Anew"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")} == visualizations


def test_one_more_seed_adds_only_its_visualizations(run_again, tmp_path):
    visualizations = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")}
    assert run_again("visualize.seeds=2") == [
        "collect: nothing to do, 3 tar shards already done",
        "targets: nothing to do, 8 neurons already done",
        "visualize: 8 visualizations done, 8 already done",
        "evaluate: 8 visualizations done, 8 already done",
        "build: 16 visualizations done",
    ]
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")}
    assert len(now) == 2 * len(visualizations)
    assert now | visualizations == now  # the old ones were not touched


def test_captions_are_collected_anew_and_nothing_else(run_again, tmp_path):
    root = Root.open(tmp_path / "out")
    visualizations = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")}
    assert not any(row["reference_captions"] for row in read_rows(root, "layers/stage2.parquet"))
    before = root.read_json("run/statistics.json")
    assert run_again("data.caption_key=txt") == [
        "collect: 3 tar shards done",
        "targets: nothing to do, 8 neurons already done",
        "visualize: nothing to do, 8 visualizations already done",
        "evaluate: nothing to do, 8 visualizations already done",
        "build: 8 visualizations done",
    ]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.webp")} == visualizations
    after = root.read_json("run/statistics.json")
    assert {key for key in after if after[key] != before.get(key)} == {"caption_key", "recipe_fingerprint"}
    for layer in ("fc", "stage2"):
        for row in read_rows(root, f"layers/{layer}.parquet"):
            assert row["reference_captions"] == [f"stripes, number {int(key[5:])}" for key in row["reference_keys"]]
            assert row["reference_captions"]
    assert all(row["top_captions"] for row in read_rows(root, "labels.parquet"))
    assert root.read_json("head.json")["has_captions"] is True
    assert validate(str(tmp_path / "out")) == []
    assert run_again("data.caption_key=txt")[0] == "collect: nothing to do, 3 tar shards already done"


def test_a_build_asks_for_captions_that_were_not_collected(finished, tmp_path, capsys):
    shutil.copytree(finished / "out", tmp_path / "out")
    command = ["build", str(finished / "tiny.toml"), "--address", "inline", "--set", f"output.root={tmp_path}/out"]
    assert main([*command, "--set", "data.caption_key=txt"]) == FAILED
    message = capsys.readouterr().err
    assert 'data.caption_key = "txt", but the statistics there hold no captions' in message
    assert "`neuron-atlas collect RECIPE` first" in message


def test_more_units_of_a_layer_add_only_themselves(run_again):
    blocks = 'neurons=[{layer="classifier"}, {layer="stage2", units="0:5"}, {layer="stage3", units=[1]}]'
    assert run_again(blocks) == [
        "collect: nothing to do, 3 tar shards already done",
        "targets: 3 neurons done, 8 already done",
        "visualize: 3 visualizations done, 8 already done",
        "evaluate: 3 visualizations done, 8 already done",
        "build: 11 visualizations done",
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


def test_one_more_layer_is_recorded_alone_and_what_was_there_is_not_touched(run_again, tmp_path):
    root = Root.open(tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/run").rglob("*") if path.is_file()}
    blocks = 'neurons=[{layer="classifier"}, {layer="stage2", units="0:3"}, {layer="stem", units=[1]}]'
    assert run_again('statistics.layers=["stage1", "stage2", "stage3", "stem"]', blocks) == [
        "collect: 3 tar shards done",
        "targets: 1 neurons done, 8 already done",
        "visualize: 1 visualizations done, 8 already done",
        "evaluate: 1 visualizations done, 8 already done",
        "build: 9 visualizations done",
    ]
    statistics = root.read_json("run/statistics.json")
    assert statistics["layers"] == ["stem", "stage1", "stage2", "stage3", "fc"]  # in model order
    assert open_group(root, "run/statistics.zarr").attrs["layers"] == statistics["layers"]
    old = [
        path
        for path in before
        if "statistics.zarr/layers" in path.as_posix() or "/shard_statistics/" in path.as_posix()
    ]
    assert len(old) > 50
    assert [path for path in old if path.stat().st_mtime_ns != before[path]] == []
    assert validate(str(tmp_path / "out")) == []


def test_a_layer_added_later_has_the_statistics_of_one_that_was_there_from_the_start(finished, run_again, tmp_path):
    run_again('statistics.layers=["stage1", "stage2", "stage3", "stem"]')
    command = ["collect", str(finished / "tiny.toml"), "--address", "inline"]
    for override in (f"output.root={tmp_path}/all", 'statistics.layers=["stem", "stage1", "stage2", "stage3"]'):
        command += ["--set", override]
    assert main(command) == DONE
    added, whole = (open_group(Root.open(tmp_path / name), "run/statistics.zarr") for name in ("out", "all"))
    names = sorted(path for path, _ in whole["layers/stem"].arrays())
    assert names == sorted(path for path, _ in added["layers/stem"].arrays())
    for name in names:
        assert read_array(added, f"layers/stem/{name}").tobytes() == read_array(whole, f"layers/stem/{name}").tobytes()


def test_layers_cannot_be_added_from_other_visualizations(finished, tmp_path, capsys):
    """The tar shards of the same names hold other visualizations now."""
    shutil.copytree(finished / "out", tmp_path / "out")
    write_data(tmp_path / "data", per_shard=7)
    for shard in (finished / "data").iterdir():
        shutil.copy(shard, tmp_path / f"kept-{shard.name}")
    try:
        for shard in (tmp_path / "data").iterdir():
            shutil.copy(shard, finished / "data" / shard.name)
        command = [
            "collect",
            str(finished / "tiny.toml"),
            "--address",
            "inline",
            "--set",
            f"output.root={tmp_path}/out",
        ]
        assert main([*command, "--set", 'statistics.layers=["stage2", "stage3", "stem"]']) == FAILED
    finally:
        for shard in (tmp_path / "data").iterdir():
            shutil.copy(tmp_path / f"kept-{shard.name}", finished / "data" / shard.name)
    assert "the tar shards have changed since their statistics were made" in capsys.readouterr().err


def test_more_shards_are_recorded_alone_until_targets_are_made_of_them(tmp_path, capsys):
    shards = write_data(tmp_path / "data", num_shards=4)
    three = shards.replace("000003}", "000002}")
    path, out = tmp_path / "tiny.toml", tmp_path / "out"
    path.write_text(recipe_toml(three, out))
    command = ["--address", "inline", "--set", f"data.shards={shards}"]
    assert main(["collect", str(path), "--address", "inline"]) == DONE
    capsys.readouterr()
    assert main(["collect", str(path), *command]) == DONE
    assert "collect: 1 tar shards done, 3 already done" in capsys.readouterr().out
    assert Root.open(out).read_json("run/statistics.json")["num_samples"] == 32

    assert main(["targets", str(path), *command]) == DONE
    assert main(["run", str(path), "--address", "inline"]) == BAD_USAGE  # the three alone, now that four were used
    message = capsys.readouterr().err
    assert "data.shards" in message
    assert "copy the folder run/shard_statistics" in message

    shutil.copytree(out / "run/shard_statistics", tmp_path / "new/run/shard_statistics")
    assert main(["collect", str(path), "--address", "inline", "--set", f"output.root={tmp_path}/new"]) == DONE
    assert "collect: nothing" not in (echoed := capsys.readouterr().out)
    assert "3 already done" in echoed
