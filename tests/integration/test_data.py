"""Bad data and bad code in a run: bad samples are counted and bounded, an error of the code never passes for one."""

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from jobs.cli import BAD_USAGE, DONE, DONE_WITH_FAILED_UNITS, FAILED, main
from jobs.run.run_folder import read_log
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_table
from pipeline.io.root import Root
from tests.support.tiny_run import NUM_CLASSES, dataset_image, recipe_toml, small_net, write_data, write_tar

ROTATED_90 = 6  # EXIF orientation


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def scene() -> Image.Image:
    return Image.open(io.BytesIO(dataset_image(1)))


def animated() -> bytes:
    return encoded(scene(), "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 40), "blue")], duration=50)


def sixteen_bit() -> bytes:
    return encoded(Image.fromarray(np.linspace(0, 65535, 1600).astype(np.uint16).reshape(40, 40)), "PNG")


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = ROTATED_90
    return encoded(scene(), "JPEG", exif=exif)


def bomb() -> bytes:
    """A PNG of a hundred bytes whose header claims 3.6 gigapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


GOOD = {
    "cmyk.jpg": lambda: encoded(scene().convert("CMYK"), "JPEG"),
    "gray.png": lambda: encoded(scene().convert("L"), "PNG"),
    "palette.png": lambda: encoded(scene().convert("P"), "PNG"),
    "sixteen-bit.png": sixteen_bit,
    "animated.webp": animated,
    "rotated.jpg": rotated,
}
BAD: dict[str, Callable[[], bytes]] = {
    "corrupt.png": lambda: dataset_image(2)[:60] + b"\xff" * 200 + dataset_image(2)[260:],
    "truncated.png": lambda: dataset_image(3)[: len(dataset_image(3)) // 2],
    "zero-byte.jpg": lambda: b"",
    "bomb.png": bomb,
    "not-an-image.jpg": lambda: b"<html>404 not found</html>",
}
SKIPPED = {
    "corrupt": 1,
    "truncated": 1,
    "empty": 1,
    "too-large": 1,
    "unsupported": 1,
    "bad-label": 2,
    "duplicate-key": 1,
    "no-image": 1,
    "dotted-name": 2,
}


def write_zoo(folder: Path) -> None:
    """A tar shard with every kind of image and mistake."""
    members: list[tuple[str, bytes]] = []

    def add(name: str, image: bytes, label: str | None) -> None:
        members.append((name, image))
        if label is not None:
            members.append((f"{name.rpartition('.')[0]}.cls", label.encode()))

    for number, (name, make) in enumerate((GOOD | BAD).items()):
        add(name, make(), str(number % NUM_CLASSES))
    add("unlabeled.png", dataset_image(10), None)
    add("label-out-of-range.png", dataset_image(11), str(NUM_CLASSES))
    add("label-no-number.png", dataset_image(12), "cat")
    add("gray.png", dataset_image(13), "0")  # its key was there before
    members.append(("no-image.cls", b"1"))
    members += [(f"dots.{number}.png", dataset_image(30 + number)) for number in range(2)]
    members += [("cmyk2.jpg", GOOD["cmyk.jpg"]()), ("cmyk2.png", dataset_image(14)), ("._cmyk2.jpg", b"AppleDouble")]
    write_tar(folder / "zoo-000000.tar", members)


@pytest.fixture
def zoo(tmp_path):
    """The path of a recipe for the zoo and two clean tar shards; its output is <tmp_path>/out."""
    clean = write_data(tmp_path / "clean", num_shards=2)
    write_zoo(tmp_path / "data")
    shards = f"{tmp_path}/data/zoo-000000.tar"
    text = recipe_toml(shards, tmp_path / "out").replace(json.dumps(shards), json.dumps([clean, shards]))
    path = tmp_path / "zoo.toml"
    path.write_text(text)
    return str(path)


def test_every_bad_sample_is_recorded_and_every_good_one_used(zoo, tmp_path, capsys):
    allowed = ["--set", "data.max_error_fraction=0.4"]
    assert main(["run", zoo, "--address", "inline", *allowed]) == DONE
    root = Root.open(tmp_path / "out")
    counted = {entry["task"]: entry for entry in read_log(root) if entry["status"] == "counted"}
    assert counted["shard 000002"]["skipped_for"] == SKIPPED
    assert counted["shard 000002"]["passed_over"] == {"other-format": 1, "hidden-file": 1}
    assert all(counted[f"shard 00000{n}"]["num_skipped"] == 0 for n in (0, 1))

    samples = read_table(root, "run/samples.parquet")
    zoo_keys = [key for key in samples["key"] if not key.startswith("photo")]
    used = {key: label for key, label in zip(samples["key"], samples["label"], strict=True) if key in zoo_keys}
    assert used == {name.rpartition(".")[0]: number % NUM_CLASSES for number, name in enumerate(GOOD)} | {
        "unlabeled": -1,
        "cmyk2": -1,
    }
    assert [key for key, label in zip(samples["key"], samples["label"], strict=True) if label == -1] == [
        "unlabeled", "cmyk2",
    ]  # fmt: skip

    provenance = root.read_json("atlas.json")["provenance"]
    assert (provenance["num_samples"], provenance["num_skipped"]) == (16 + 8, sum(SKIPPED.values()))
    printed = capsys.readouterr().out
    assert "24 images, 11 samples left out: 2 bad-label, 2 dotted-name, 1 corrupt" in printed
    assert "2 further images passed over: 1 hidden-file, 1 other-format, 37 in all" in printed
    assert main(["status", zoo]) == DONE
    assert "data: 24 images, 11 samples left out" in capsys.readouterr().out
    assert validate(str(tmp_path / "out")) == []


def test_beyond_the_bound_the_run_stops_and_goes_on_from_there_when_it_is_raised(zoo, tmp_path, capsys):
    assert main(["run", zoo, "--address", "inline"]) == FAILED
    error = capsys.readouterr().err.partition("neuron-atlas run: ")[2]
    assert "11 of 35 samples are bad (31.43%, allowed 1.00%)" in error
    assert "zoo-000000.tar" in error
    assert "data.max_error_fraction" in error
    assert "Traceback (most recent call last)" not in error
    assert not (tmp_path / "out/run/statistics.json").exists()

    assert main(["collect", zoo, "--address", "inline", "--set", "data.max_error_fraction=0.4"]) == DONE
    tasks = [entry["task"] for entry in read_log(Root.open(tmp_path / "out")) if entry["status"] == "done"]
    assert sorted(tasks) == ["merge", *(f"shard {n:06d}" for n in range(3))]  # none was recorded twice


def net_with_a_bug() -> nn.Module:
    """As `small_net`, but its code cannot stand more than two images at a time."""
    module = small_net()

    def refuse(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 3:  # more than a trial pass has
            raise AttributeError("'NoneType' object has no attribute 'shape'")

    module.fc.register_forward_pre_hook(refuse)
    return module


def net_that_never_runs() -> nn.Module:
    module = small_net()
    module.fc = nn.Linear(3, NUM_CLASSES)
    return module


def test_an_error_in_the_model_s_code_stops_the_run_with_its_traceback(tmp_path, capsys):
    shards = write_data(tmp_path / "data", num_shards=8, per_shard=4)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(shards, tmp_path / "out", data="max_error_fraction = 1.0"))
    factory = "model.name=python:tests.integration.test_data:net_with_a_bug"
    assert main(["run", str(recipe), "--address", "inline", "--set", factory]) == FAILED
    error = capsys.readouterr().err
    assert "AttributeError: 'NoneType' object has no attribute 'shape'" in error
    assert "in refuse" in error  # the traceback leads to the user's line
    assert "the first 3 tasks all failed" in error
    log = read_log(Root.open(tmp_path / "out"))
    assert [entry["status"] for entry in log] == ["failed"] * 3  # not all eight, and none is called a bad sample
    assert not (tmp_path / "out/run/shard_statistics").exists()


def test_a_model_that_cannot_run_at_all_is_told_before_any_work(tmp_path, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(write_data(tmp_path / "data"), tmp_path / "out"))
    factory = "model.name=python:tests.integration.test_data:net_that_never_runs"
    assert main(["run", str(recipe), "--address", "inline", "--set", factory]) == BAD_USAGE
    error = capsys.readouterr().err
    assert "does not run on images of 32 px with 3 channels: mat1 and mat2 shapes cannot be multiplied" in error
    assert "Traceback (most recent call last)" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shards", "code", "message"),
    [
        ("missing-{000000..000003}.tar", BAD_USAGE, "missing-000000.tar (from"),
        ("missing-*.tar", BAD_USAGE, "matches no file"),
        ("tiny-{000000..", BAD_USAGE, "braces are not balanced"),
        ("", BAD_USAGE, "data.shards"),
    ],
)
def test_tar_shards_that_are_not_there(tmp_path, shards, code, message, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(shards, tmp_path / "out"))
    assert main(["run", str(recipe), "--address", "inline"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback (most recent call last)" not in error
    assert not (tmp_path / "out").exists()


def test_a_tar_shard_that_cannot_be_read_costs_nothing_of_the_others(tmp_path, capsys):
    shards = write_data(tmp_path / "data")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(shards, tmp_path / "out"))
    second = tmp_path / "data/tiny-000001.tar"
    plain = second.read_bytes()
    second.write_bytes(gzip.compress(plain))
    assert main(["run", str(recipe), "--address", "inline"]) == FAILED
    error = capsys.readouterr().err
    assert "1 of 3 tar shards could not be recorded" in error
    assert f"{second} is compressed with gzip" in error
    assert "Traceback (most recent call last)" not in error

    second.write_bytes(plain)
    assert main(["run", str(recipe), "--address", "inline"]) == DONE
    assert "collect: 1 tar shards done, 2 already done" in capsys.readouterr().out


def test_damaged_shards_are_left_out_by_name_and_read_again_until_results_depend_on_them(tmp_path, capsys):
    """Of five tar shards two are damaged: a download that is finished later, and an error page; one is empty."""
    shards = write_data(tmp_path / "data", num_shards=4)
    (tmp_path / "data/empty.tar").write_bytes(bytes(10_240))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        recipe_toml(shards, tmp_path / "out").replace(
            json.dumps(shards), json.dumps([shards, f"{tmp_path}/data/e*.tar"])
        )
    )
    second, third = tmp_path / "data/tiny-000001.tar", tmp_path / "data/tiny-000002.tar"
    plain, page = second.read_bytes(), b"<html><body>503 Slow down</body></html>"
    second.write_bytes(plain[:20_000])
    third.write_bytes(page)
    command = [str(recipe), "--address", "inline"]
    assert main(["collect", *command]) == FAILED
    error = capsys.readouterr().err
    assert f"2 of 5 tar shards could not be recorded, the first is {second}: DamagedShardError: {second} is" in error
    assert f"Also {third}" in error
    assert "allows 0 such shards to be left out" in error
    log = read_log(Root.open(tmp_path / "out"))
    attempts = {entry["task"]: entry["attempts"] for entry in log if entry["status"] == "failed"}
    assert attempts == {"shard 000002": 1, "shard 000003": 1}  # of empty.tar, tiny-000000.tar, …

    command += ["--set", "data.max_error_fraction=0.4"]
    assert main(["collect", *command]) == DONE_WITH_FAILED_UNITS
    printed = capsys.readouterr().out
    assert "2 failed" in printed
    assert f"16 images, 1 tar shards are empty; damaged tar shards left out: {second}, {third}" in printed
    before = (tmp_path / "out/run/statistics.json").read_bytes()
    assert main(["collect", *command]) == DONE_WITH_FAILED_UNITS
    assert "nothing to do, 3 tar shards already done, 2 failed" in capsys.readouterr().out
    assert (tmp_path / "out/run/statistics.json").read_bytes() == before

    second.write_bytes(plain)
    assert main(["collect", *command]) == DONE_WITH_FAILED_UNITS
    printed = capsys.readouterr().out
    assert "1 tar shards done, 3 already done, 1 failed" in printed
    assert f"24 images, 1 tar shards are empty; damaged tar shards left out: {third}" in printed
    assert main(["targets", *command]) == DONE
    third.write_bytes(plain)
    before = (tmp_path / "out/run/statistics.json").read_bytes()
    assert main(["collect", *command]) == DONE_WITH_FAILED_UNITS  # the targets are made of the statistics as they are
    assert "nothing to do, 4 tar shards already done, 1 failed" in capsys.readouterr().out
    assert (tmp_path / "out/run/statistics.json").read_bytes() == before
    assert main(["status", str(recipe)]) == DONE
    assert f"failed  {third}: DamagedShardError: {third} is damaged: it is a web page" in capsys.readouterr().out


def test_thin_images_small_values_of_16_bits_and_keys_that_come_again_are_named(tmp_path, capsys):
    line, twelve_bits = Image.new("RGB", (30_000, 1)), np.arange(1600, dtype=np.uint16).reshape(40, 40)
    members = [(f"photo{number}.png", encoded(Image.fromarray(twelve_bits), "PNG")) for number in range(9)]
    for name in ("first", "again"):  # one data set that was packed twice
        write_tar(tmp_path / f"{name}.tar", [*members, ("line.png", encoded(line, "PNG"))])
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(f"{tmp_path}/{{first,again}}.tar", tmp_path / "out", data="max_error_fraction = 0.1"))
    assert main(["collect", str(recipe), "--address", "inline"]) == DONE
    printed = capsys.readouterr().out
    assert "18 images, 2 samples left out: 2 too-thin, 20 in all" in printed
    assert "9 images have the key of an earlier one in another tar shard" in printed
    assert "18 images of 16 bits have no value above 1599" in printed
    assert "set data.max_value = 2047" in printed
    ranged = ["--set", "data.max_value=2047", "--set", f"output.root={tmp_path}/ranged"]
    assert main(["collect", str(recipe), "--address", "inline", *ranged]) == DONE
    assert "of 16 bits" not in capsys.readouterr().out
    fingerprints = [
        Root.open(tmp_path / name).read_json("run/statistics.json")["data_fingerprint"] for name in ("out", "ranged")
    ]
    assert fingerprints[0] == fingerprints[1]  # the same images, seen otherwise
    means = [StatisticsStore.open(Root.open(tmp_path / name)).moments("stage1").mean for name in ("out", "ranged")]
    assert not np.allclose(*means)
    assert main(["collect", str(recipe), "--address", "inline", *ranged[:2]]) == BAD_USAGE
    assert "data.max_value" in capsys.readouterr().err
