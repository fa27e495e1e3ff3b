"""Labels that are not the model's classes: found by the model's own top-1 classes, and said wherever one looks."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from jobs.cli import BAD_USAGE, DONE, main
from pipeline.atlas.validation.validate import validate
from pipeline.io.root import Root
from tests.support.tiny_run import recipe_toml, write_tar

NUM_CLASSES = 5


def net_that_knows_its_classes() -> nn.Module:
    """The factory of a network whose top-1 class is the seed of `plain_image`: how bright the image is, in 5 steps."""

    class Brightness(nn.Module):
        input_size_px = 32
        mean, std = (0.0,) * 3, (1.0,) * 3

        def __init__(self) -> None:
            super().__init__()
            self.stage1 = nn.Conv2d(3, 4, 1)
            self.stage2 = nn.Conv2d(4, 4, 1)
            self.fc = nn.Linear(4, NUM_CLASSES)
            middle = (torch.arange(NUM_CLASSES) + 0.5) / NUM_CLASSES
            with torch.no_grad():
                for layer in (self.stage1, self.stage2):
                    layer.weight.fill_(1 / layer.in_channels)
                    layer.bias.zero_()
                # −(x − m)² without what all classes share.
                self.fc.weight.copy_((2 * middle)[:, None].expand(-1, 4) / 4)
                self.fc.bias.copy_(-(middle**2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.stage2(torch.relu(self.stage1(x))).mean(dim=(2, 3)))

    return Brightness()


def plain_image(true: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = 255 * (true + 0.5) / NUM_CLASSES + rng.integers(-15, 16, (40, 40, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_recipe(folder: Path, label_of) -> str:
    """A recipe whose images have the labels that `label_of` gives to their classes; None for no label."""
    members = []
    for seed in range(20):
        members.append((f"photo{seed:03d}.png", plain_image(seed % NUM_CLASSES, seed)))
        if (label := label_of(seed % NUM_CLASSES)) is not None:
            members.append((f"photo{seed:03d}.cls", str(label).encode()))
    write_tar(folder / "data/tiny-000000.tar", members)
    text = recipe_toml(f"{folder}/data/tiny-*.tar", folder / "out", data="max_error_fraction = 0.5")
    text = text.replace("tests.support.tiny_run:small_net", f"{__name__}:net_that_knows_its_classes")
    text = text.replace('["stage1", "stage2", "stage3"]', '["stage2"]').replace(
        "num_references = 4", "num_references = 2"
    )
    text = text.replace("[targets]\n", '[targets]\nfeature_layers = [{layer = "stage1"}]\n')
    (folder / "recipe.toml").write_text(text)
    return str(folder / "recipe.toml")


def test_labels_that_count_from_one_are_said_everywhere(tmp_path, capsys):
    recipe = write_recipe(tmp_path, lambda true: true + 1)
    inline = ["--address", "inline"]
    assert main(["run", recipe, *inline]) == DONE
    warning = "labels agree with the model's top-1 class on 0 of 16 labeled images (0 %), but labels − 1 agree on 100 %"
    printed = "".join(capsys.readouterr())
    assert printed.count(f"WARNING: {warning}") == 2  # after `collect`, and at the end
    assert "4 bad-label" in printed  # class 4 is called 5
    assert main(["run", recipe, *inline]) == DONE
    assert f"WARNING: {warning}" in capsys.readouterr().err  # though nothing was to do
    for command in ("status", "plan"):
        assert main([command, recipe]) == DONE
        assert f"WARNING: {warning}" in capsys.readouterr().out
    provenance = Root.open(tmp_path / "out").read_json("atlas.json")["provenance"]
    assert provenance["label_warning"].startswith(warning)
    assert validate(str(tmp_path / "out")) == []
    assert main(["site", str(tmp_path / "site"), str(tmp_path / "out")]) == DONE
    assert "labels − 1 agree on 100 %" in next((tmp_path / "site/cards").glob("*.md")).read_text()


def test_labels_that_fit_are_not_mentioned_and_missing_ones_are(tmp_path, capsys):
    recipe = write_recipe(tmp_path, lambda true: true)
    collect = ["collect", recipe, "--address", "inline"]
    assert main(collect) == DONE
    assert "label" not in "".join(capsys.readouterr())
    assert main([*collect, "--set", f"output.root={tmp_path}/none", "--set", "data.label_key=class"]) == DONE
    assert 'WARNING: no image has a label (data.label_key = "class")' in capsys.readouterr().err


def test_class_lists_are_compared_before_collect(tmp_path, capsys):
    recipe = write_recipe(tmp_path, lambda true: true)
    (tmp_path / "names.txt").write_text("night\ndusk\nhaze\nday\nnoon\n")
    (tmp_path / "data/tiny-classes.tsv").write_text("0\tDay\n1\tdusk\n2\thaze\n3\tnight\n4\tnoon\n")
    named = ["--set", f"model.labels={tmp_path}/names.txt"]
    assert main(["plan", recipe, *named]) == DONE
    assert "WARNING" not in capsys.readouterr().out  # most fit
    (tmp_path / "data/tiny-classes.tsv").write_text("0\tday\n1\tdusk\n2\tnight\n7\tnoon\n")
    assert main(["plan", recipe, *named]) == DONE
    printed = capsys.readouterr().out
    assert "('noon' is 7, the model has 5 classes)" in printed
    (tmp_path / "data/tiny-classes.tsv").write_text("0\tday\n1\thaze\n2\tdusk\n")
    assert main(["plan", recipe, *named]) == DONE
    assert "(folder 'day' is 0, which the model calls 'night')" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "message"), [(b"a\nb\n", "has 2 lines, the model has 5 classes"), (b"\xe4\n" * 5, "is not UTF-8")]
)
def test_a_wrong_list_of_class_names_is_refused_before_collect(tmp_path, capsys, data, message):
    recipe = write_recipe(tmp_path, lambda true: true)
    (tmp_path / "names.txt").write_bytes(data)
    for command in (["plan", recipe], ["run", recipe, "--address", "inline"]):
        assert main([*command, "--set", f"model.labels={json.dumps(str(tmp_path / 'names.txt'))}"]) == BAD_USAGE
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
