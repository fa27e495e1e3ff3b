"""The command line: commands, exit codes, and one clear message for what a user can mend."""

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import jobs.commands.demo
import jobs.runner
import jobs.stages.visualize_actor
from jobs import cli
from jobs.cli import BAD_USAGE, DONE, DONE_WITH_FAILED_UNITS, FAILED, exit_code_of, main
from jobs.commands.demo import PACKAGE, RECIPE, demo_recipe, describe
from jobs.run.run_folder import STAGES
from pipeline.io.root import Root, expand_urls
from pipeline.recipe.recipe import Recipe, load_recipe
from pipeline.synthesis.methods.presets import METHODS
from tests.support.paths import ROOT
from tests.support.tiny_run import dataset_image, recipe_toml, write_data

COMMANDS = {"demo", "shards", "plan", "run", *STAGES, "status", "site", "validate", "serve"}


@pytest.fixture
def recipe(tmp_path):
    """The path of a tiny recipe whose output is <tmp_path>/out."""
    path = tmp_path / "tiny.toml"
    path.write_text(recipe_toml(write_data(tmp_path / "data"), tmp_path / "out"))
    return str(path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A finished tiny atlas."""
    folder = tmp_path_factory.mktemp("built")
    path = folder / "tiny.toml"
    path.write_text(recipe_toml(write_data(folder / "data"), folder / "out"))
    assert main(["run", str(path), "--address", "inline"]) == DONE
    return folder


def test_every_command_has_help(capsys):
    assert main(["--help"]) == DONE
    printed = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command}" in printed
        assert main([command, "--help"]) == DONE
        assert f"usage: neuron-atlas {command}" in capsys.readouterr().out


def test_help_needs_no_heavy_library():
    code = (
        "import sys; from jobs.cli import main; main(['--help']); main(['run', '--help']); "
        "print([name for name in ('torch', 'ray', 'numpy', 'pyarrow', 'zarr') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["run"],
        ["run", "a.toml", "--until", "paint"],
        ["run", "a.toml", "--address", "http://head"],
        ["serve", "atlas", "--port", "70000"],
        ["shards", "images", "out", "--max-samples", "0"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    assert main(arguments) == BAD_USAGE
    assert "usage: neuron-atlas" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("visualize.step=3", 'did you mean "steps"'),
        ("visualize.steps=many", "visualize.steps"),
        ("visualize.steps", "expected section.key=value"),
        ("model.name=timm:resnet17", "no such model"),
        ('neurons=[{layer="stage9"}]', "did you mean"),
        ('statistics.layers=["stage9"]', "matches no layer"),
    ],
)
def test_a_bad_recipe_is_exit_code_2_and_one_message(recipe, override, message, capsys):
    assert main(["run", recipe, "--address", "inline", "--set", override]) == BAD_USAGE
    error = capsys.readouterr().err
    assert error.startswith("neuron-atlas run: ")
    assert message in error
    assert "Traceback" not in error


def test_a_missing_recipe_is_named(capsys):
    assert main(["plan", "no-such.toml"]) == BAD_USAGE
    assert "no-such.toml: there is no such recipe" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_exit_code_1(recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["run", recipe, "--address", "inline", "--set", f"output.root={tmp_path}/file/out"]) == FAILED
    error = capsys.readouterr().err
    assert f"{tmp_path}/file/out" in error
    assert "Traceback" not in error


def test_run_until_a_stage_then_single_stages(recipe, tmp_path, capsys):
    assert main(["run", recipe, "--until", "targets", "--address", "inline"]) == DONE
    assert not (tmp_path / "out/images").exists()
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["collect", "targets"]
    for stage in STAGES[2:]:
        assert main([stage, recipe, "--address", "inline"]) == DONE
    assert main(["validate", str(tmp_path / "out")]) == DONE


def test_a_stage_out_of_order_is_exit_code_1_and_says_what_to_run(recipe, capsys):
    assert main(["visualize", recipe, "--address", "inline"]) == FAILED
    assert "run `neuron-atlas collect RECIPE` first" in capsys.readouterr().err


def test_failed_units_are_exit_code_3(recipe, tmp_path, monkeypatch, capsys):
    real = jobs.stages.visualize_actor.synthesize

    def poison(model, neurons, *args, **options):
        if ("fc", 1) in neurons:
            raise FloatingPointError("not finite")
        return real(model, neurons, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(jobs.stages.visualize_actor, "synthesize", poison)
        assert main(["run", recipe, "--address", "inline"]) == DONE_WITH_FAILED_UNITS
    assert "7 visualizations done, 1 failed" in capsys.readouterr().out

    assert main(["status", recipe]) == DONE
    assert "/fc/1: FloatingPointError: not finite" in capsys.readouterr().out
    assert main(["build", recipe, "--address", "inline"]) == DONE_WITH_FAILED_UNITS
    assert main(["validate", str(tmp_path / "out")]) == DONE


def test_status_and_plan_before_and_after(built, capsys, tmp_path):
    recipe = str(built / "tiny.toml")
    assert main(["plan", recipe]) == DONE
    assert "nothing to do" in capsys.readouterr().out

    fresh = ["--set", f"output.root={tmp_path}/fresh"]
    assert main(["plan", recipe, *fresh]) == DONE
    printed = capsys.readouterr().out
    assert "8 neurons, 8 visualizations" in printed
    assert "rule of thumb" in printed
    assert "hours" in printed
    assert main(["status", recipe, *fresh]) == DONE
    assert "visualize           0        0        8  visualizations" in capsys.readouterr().out
    assert not (tmp_path / "fresh").exists()  # neither of them writes

    more = ["--set", "visualize.seeds=2"]
    assert main(["plan", recipe, *more]) == DONE
    printed = capsys.readouterr().out
    assert "visualize           8        0        8  visualizations" in printed
    assert "measured in this run" in printed


def test_the_folder_of_another_recipe_is_refused(built, capsys):
    arguments = ["run", str(built / "tiny.toml"), "--address", "inline", "--set", "targets.num_references=3"]
    assert main(arguments) == BAD_USAGE
    error = capsys.readouterr().err
    assert "targets.num_references: 4 in the folder, 3 in the recipe" in error
    assert "give another output.root" in error


def test_validate_names_the_fault(built, tmp_path, capsys):
    import shutil

    atlas = tmp_path / "atlas"
    shutil.copytree(built / "out", atlas)
    (atlas / "images/fc/00002-vital-s0.webp").write_bytes(b"damaged")
    assert main(["validate", str(atlas)]) == FAILED
    assert "images/fc/00002-vital-s0.webp" in capsys.readouterr().out


def test_site(built, tmp_path, capsys):
    assert main(["site", str(tmp_path / "site"), str(built / "out")]) == DONE
    assert (tmp_path / "site/index.html").exists()
    assert main(["validate", str(tmp_path / "site")]) == DONE
    capsys.readouterr()
    assert main(["site", str(tmp_path / "site2"), str(tmp_path)]) == FAILED
    assert "Traceback" not in capsys.readouterr().err


def test_shards(tmp_path, capsys):
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "photo.png").write_bytes(dataset_image(number))
    assert main(["shards", str(tmp_path / "pets"), str(tmp_path / "out"), "--max-samples", "1"]) == DONE
    shards = sorted((tmp_path / "out").glob("pets-*.tar"))
    assert [path.name for path in shards] == ["pets-000000.tar", "pets-000001.tar"]
    with tarfile.open(shards[1]) as tar:
        assert {Path(name).suffix for name in tar.getnames()} >= {".cls", ".json"}
    capsys.readouterr()
    assert main(["shards", str(tmp_path / "nothing"), str(tmp_path / "out2")]) == FAILED
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(recipe, monkeypatch):
    def buggy(*args, **options):
        raise TypeError("a bug")

    monkeypatch.setattr(jobs.runner, "run_stages", buggy)
    with pytest.raises(TypeError, match="a bug"):
        main(["run", recipe, "--address", "inline"])


@pytest.mark.parametrize(
    ("module", "statement", "code"),
    [
        (
            "pipeline.fake",
            "from pipeline.errors import UserError; raise UserError('images: expected a folder')",
            FAILED,
        ),
        ("jobs.fake", "raise OSError('disk full')", FAILED),
        ("jobs.fake", "int('nonsense')", None),
        ("jobs.fake", "import numpy; numpy.zeros(3).reshape(2, 2)", None),
        ("jobs.fake", "import json; json.loads('{')", None),
        ("somewhere.else", "raise ValueError('not ours')", None),
    ],
)
def test_only_what_we_raise_ourselves_is_a_message(module, statement, code):
    with pytest.raises((ValueError, OSError)) as caught:
        exec(f"def fail():\n    {statement}\nfail()", {"__name__": module})
    assert exit_code_of(caught.value) == code


def test_a_value_error_of_ours_is_a_message(tmp_path, capsys):
    assert main(["site", str(tmp_path), "s4://bucket/atlas"]) == FAILED
    error = capsys.readouterr().err
    assert error.startswith("neuron-atlas site: ")
    assert "s4://bucket/atlas" in error
    assert "Traceback" not in error


def test_ctrl_c_says_how_to_go_on(recipe, monkeypatch, capsys):
    def interrupted(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)  # SIGTERM does what Ctrl-C does
        time.sleep(5)
        raise AssertionError("the signal did not stop the run")

    monkeypatch.setattr(jobs.runner, "run_stages", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["run", recipe, "--set", "visualize.steps=3"]) == FAILED
    assert signal.getsignal(signal.SIGTERM) == before
    error = capsys.readouterr().err
    assert "Finished tasks are stored" in error
    assert f"neuron-atlas run {recipe} --set visualize.steps=3" in error


def test_output_into_a_closed_pipe_is_no_traceback(built):
    command = f"{sys.executable} -m jobs.cli status {built}/tiny.toml | true"
    finished = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in finished.stderr


def test_the_demo_recipe_shows_classes_and_intermediate_units_of_several_layers(tmp_path):
    recipe = demo_recipe(str(tmp_path), ["visualize.steps=5"])
    assert recipe.output.root == str(tmp_path)
    assert recipe.visualize.steps == 5
    assert all(Path(url).is_relative_to(PACKAGE) for url in expand_urls(recipe.data.shards))
    neurons = {(block.layer, unit) for block in recipe.neurons for unit in block.units}
    intermediate = [(layer, unit) for layer, unit in neurons if layer != "classifier"]
    assert len(neurons) - len(intermediate) >= 16
    assert len(intermediate) >= 15
    assert len({layer for layer, _ in intermediate}) >= 3
    compared = {(block.layer, unit) for block in recipe.neurons if not block.methods for unit in block.units}
    assert recipe.visualize.methods == METHODS
    assert {layer == "classifier" for layer, _ in compared} == {True, False}


def test_all_shipped_recipes_are_valid():
    for path in (PACKAGE / "recipes").glob("*.toml"):
        recipe = load_recipe(str(path))
        assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert (PACKAGE / RECIPE).exists()


def test_the_demo_s_summary(built):
    root = Root.open(built / "out")
    from pipeline.io.parquet import read_rows

    text = describe(root.read_json("atlas.json"), read_rows(root, "index.parquet"), "demo-atlas")
    assert "8 neurons in demo-atlas" in text
    assert "5 classes, of which the model names" in text
    assert "3 intermediate neurons of stage2" in text
    assert text.endswith("Look at it: make serve")
    assert describe(root.read_json("atlas.json"), [], "my atlas").endswith("neuron-atlas serve 'my atlas'")


def test_demo_returns_3_when_units_failed(monkeypatch):
    for failed, code in ((0, DONE), (2, DONE_WITH_FAILED_UNITS)):
        monkeypatch.setattr(jobs.commands.demo, "run_demo", lambda out, address, overrides, failed=failed: failed)
        assert cli.main(["demo", "--out", "x", "--address", "inline"]) == code
