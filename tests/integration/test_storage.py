"""Storage that fails, and atlases that were damaged afterwards: one clear message each, and nothing written is lost."""

import errno
import shutil
from pathlib import Path

import pytest

import pipeline.io.root
from jobs.cli import DONE, FAILED, main
from tests.support.tiny_run import dataset_image, recipe_toml, write_data


@pytest.fixture
def recipe(tmp_path):
    """The path of a tiny recipe whose output is <tmp_path>/out."""
    path = tmp_path / "tiny.toml"
    path.write_text(recipe_toml(write_data(tmp_path / "data"), tmp_path / "out"))
    return str(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a tiny recipe and its finished atlas."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(recipe_toml(write_data(folder / "data"), folder / "out"))
    assert main(["run", str(folder / "tiny.toml"), "--address", "inline"]) == DONE
    return folder


@pytest.fixture
def atlas(finished, tmp_path):
    """A copy of a finished atlas that a test may damage."""
    shutil.copytree(finished / "out", tmp_path / "atlas")
    return tmp_path / "atlas"


def let_writes_fail(patch: pytest.MonkeyPatch, error: int, *, of: str) -> None:
    real = pipeline.io.root._write_local

    def write(full: str, data: bytes) -> None:
        if of in full:
            raise OSError(error, "as the kernel says it", full)
        real(full, data)

    patch.setattr(pipeline.io.root, "_write_local", write)


@pytest.mark.parametrize(
    ("error", "of", "remedy"),
    [
        (errno.ENOSPC, "run/shard_statistics", "the disk is full: free space there or choose another output.root"),
        (errno.EDQUOT, "run/targets/", "the disk quota is used up"),
        (errno.EROFS, "images/", "mounted read-only: choose another output.root"),
        (errno.EACCES, "run/scores", "no permission: check the owner and mode"),
        (errno.ENOSPC, "/index.parquet", "the disk is full"),
        (errno.EROFS, "run/recipe.json", "mounted read-only"),
    ],
)
def test_an_output_that_fails_stops_the_run_and_what_was_written_stays(
    recipe, tmp_path, monkeypatch, capsys, error, of, remedy
):
    with monkeypatch.context() as patch:
        let_writes_fail(patch, error, of=of)
        assert main(["run", recipe, "--address", "inline"]) == FAILED
    message = capsys.readouterr().err
    assert remedy in message
    assert f"{tmp_path}/out" in message
    assert of in message
    assert message.count("as the kernel says it") == 1
    assert "Traceback (most recent call last)" not in message
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}

    assert main(["run", recipe, "--address", "inline"]) == DONE
    assert main(["validate", str(tmp_path / "out")]) == DONE
    untouched = {path for path, time_ns in before.items() if path.stat().st_mtime_ns == time_ns}
    assert {path.name for path in before.keys() - untouched} <= {"fc.parquet", "stage2.parquet"}  # a build is done anew


@pytest.mark.parametrize("place", ["{folder}/file/out", "/proc/out"])
def test_an_output_where_no_folder_can_be_is_named(recipe, tmp_path, capsys, place):
    (tmp_path / "file").write_text("in the way")
    root = place.format(folder=tmp_path)
    assert main(["collect", recipe, "--address", "inline", "--set", f"output.root={root}"]) == FAILED
    message = capsys.readouterr().err
    assert message.startswith("neuron-atlas collect: ")
    assert f"cannot write {root}/run/recipe.json" in message
    assert main(["status", recipe, "--set", f"output.root={root}"]) == DONE  # it reads only


def test_a_log_that_cannot_be_written_stops_the_run(recipe, tmp_path, capsys):
    (tmp_path / "out/run/log.jsonl").mkdir(parents=True)
    assert main(["collect", recipe, "--address", "inline"]) == FAILED
    message = capsys.readouterr().err
    assert f"{tmp_path}/out/run/log.jsonl" in message
    assert "Traceback (most recent call last)" not in message


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        ("images/fc/00002-vital-s0.webp", flip_a_byte),
        ("images/stage2/00001-vital-s0-alpha.webp", Path.unlink),
        ("layers/stage2.parquet", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("sheets/fc/0000.webp", flip_a_byte),
        ("index.parquet", Path.unlink),
    ],
)
def test_validate_names_what_was_damaged(atlas, path, damage, capsys):
    assert main(["validate", str(atlas)]) == DONE
    damage(atlas / path)
    capsys.readouterr()
    assert main(["validate", str(atlas)]) == FAILED
    printed = capsys.readouterr()
    assert path in printed.out
    assert f"{atlas}: " in printed.err
    assert "fault" in printed.err


def test_validate_names_all_faults_at_once(atlas, capsys):
    flip_a_byte(atlas / "images/fc/00002-vital-s0.webp")
    (atlas / "images/fc/00003-vital-s0.webp").unlink()
    (atlas / "images/fc/stranger.webp").write_bytes(b"")
    assert main(["validate", str(atlas)]) == FAILED
    printed = capsys.readouterr().out
    for name in ("00002-vital-s0.webp", "00003-vital-s0.webp", "stranger.webp"):
        assert f"images/fc/{name}" in printed


@pytest.mark.parametrize("command", ["serve", "validate"])
def test_a_path_that_is_not_there(command, tmp_path, capsys):
    assert main([command, str(tmp_path / "nothing")]) == FAILED
    printed = capsys.readouterr()
    assert f"{tmp_path}/nothing" in printed.out + printed.err
    assert "Traceback (most recent call last)" not in printed.err


def test_shards_of_a_flat_folder_have_no_labels_and_a_bad_image_is_named(tmp_path, capsys):
    for number in range(3):
        (tmp_path / f"flat/photo{number}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"flat/photo{number}.png").write_bytes(dataset_image(number))
    (tmp_path / "flat/broken.jpg").write_bytes(b"\xff\xd8 not much of a JPEG")
    (tmp_path / "flat/notes.txt").write_text("not an image by its name")
    assert main(["shards", str(tmp_path / "flat"), str(tmp_path / "out"), "--name", "mine"]) == DONE
    printed = capsys.readouterr().out
    assert "3 samples in 1 tar shards" in printed
    assert "broken.jpg" in printed
    assert "1 files ignored" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine-000000.tar"]

    text = recipe_toml(f"{tmp_path}/out/mine-*.tar", tmp_path / "atlas")
    (tmp_path / "tiny.toml").write_text(text)
    assert main(["collect", str(tmp_path / "tiny.toml"), "--address", "inline"]) == DONE
    assert "3 images" in capsys.readouterr().out


def test_shards_into_a_place_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/photo.png").write_bytes(dataset_image(1))
    (tmp_path / "file").write_text("in the way")
    assert main(["shards", str(tmp_path / "flat"), str(tmp_path / "file/out")]) == FAILED
    assert f"{tmp_path}/file/out" in capsys.readouterr().err
    let_writes_fail(monkeypatch, errno.EACCES, of="flat-000000.tar")
    assert main(["shards", str(tmp_path / "flat"), str(tmp_path / "out")]) == FAILED
    message = capsys.readouterr().err
    assert "no permission: check the owner and mode" in message
    assert "Traceback (most recent call last)" not in message
