"""Checkpoints as trainers leave them: which tensors are the network's, and one clear sentence where none are."""

import argparse
import collections
import io
import os
import re
import shelve
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from jobs.commands.layers import describe_layers, list_layers
from pipeline.errors import UserError
from pipeline.models import load_model
from pipeline.models.weights.files import read_checkpoint
from pipeline.models.weights.loading import load_into


class Backbone(nn.Module):
    """A network with BatchNorm and a classifier `fc`."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, num_classes)


def network(seed: int = 0, num_classes: int = 3) -> Backbone:
    torch.manual_seed(seed)
    made = Backbone(num_classes)
    for value in made.state_dict().values():
        value.add_(torch.rand(value.shape) if value.is_floating_point() else seed + 1)
    return made


TRUTH = dict(network(1).state_dict())
OTHER = dict(network(2).state_dict())  # an earlier step, say


def under(prefix: str, state: Mapping[str, Tensor] = TRUTH) -> dict[str, Tensor]:
    return collections.OrderedDict((prefix + name, value) for name, value in state.items())


def only(state: Mapping[str, Tensor], *, head: bool) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith("fc.") == head}


def cast(dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in TRUTH.items()}


PARAMETERS = {name for name, _ in network().named_parameters()}
ZERO, TWO = torch.zeros(1, dtype=torch.float64), torch.tensor(2)
NORMALIZER = {"module.normalizer.new_mean": torch.tensor([0.5, 0.4, 0.3]), "module.normalizer.new_std": torch.ones(3)}


@pytest.mark.parametrize(
    ("checkpoint", "remark"),
    [
        (TRUTH, None),
        (under("module."), 'prefix "module."'),
        ({"epoch": 90, "state_dict": under("module."), "optimizer": {"state": {0: OTHER}}}, '"state_dict", prefix'),
        (under("_orig_mod."), 'prefix "_orig_mod."'),
        (under("module._orig_mod."), 'prefix "module._orig_mod."'),
        (under("_orig_mod.module."), 'prefix "_orig_mod.module."'),
        ({name.replace("layer1.", "layer1._orig_mod."): value for name, value in TRUTH.items()}, None),
        ({"state_dict": under("model."), "hyper_parameters": {"lr": 0.1}}, '"state_dict", prefix "model."'),
        ({"state_dict": under("net.") | {"criterion.weight": torch.ones(9)}}, "1 tensors .* criterion.weight"),
        (under("backbone.", only(TRUTH, head=False)) | under("head.", only(TRUTH, head=True)), "prefixes .* and"),
        (under("backbone.", only(TRUTH, head=False)) | only(TRUTH, head=True), 'prefix "backbone."'),
        ({"net": under("module."), "acc": 95.1}, '"net", prefix "module."'),
        ({"model_state_dict": TRUTH, "loss": 0.1}, '"model_state_dict" of'),
        ({"a": {"b": [{"any name": TRUTH}]}}, "a.b.0.any name"),
        ({"n_averaged": TWO} | under("module."), 'averaged weights .EMA., prefix "module."'),
        # Averages go first, wherever they stand.
        ({"state_dict": OTHER, "state_dict_ema": TRUTH}, ".EMA., .state_dict_ema.*preferred to .state_dict"),
        ({"model_ema": under("module."), "model": OTHER}, "averaged weights"),
        ({"ema": {"module": TRUTH, "decay": 0.9}, "model": OTHER}, "averaged weights .EMA., .ema.module."),
        (under("online_model.", OTHER) | under("ema_model.") | {"step": TWO}, "averaged weights"),
        ({"model": OTHER, "swa_model": {"n_averaged": TWO} | under("module.")}, "averaged weights"),
        ({"state_dict": TRUTH, "current_model_state": OTHER, "averaging_state": {}}, "averaged weights"),
        ({"model": TRUTH | {n: OTHER[n] for n in PARAMETERS}, "ema": {n: TRUTH[n] for n in PARAMETERS}}, "averaged"),
        ({"model": TRUTH, "ema": {"shadow_params": list(OTHER.values())}}, "averaged ones .* do not fit"),
        # Two places with the same numbers are no question.
        (under("module.model.") | under("module.attacker.model.") | NORMALIZER, r"new_mean = \(0.5, 0.4, 0.3\)"),
        ({name: value for name, value in TRUTH.items() if "num_batches" not in name}, None),
        (TRUTH | {"total_ops": ZERO, "total_params": ZERO, "layer1.0.total_ops": ZERO}, None),
        (cast(torch.float64), None),
    ],
)  # fmt: skip
def test_the_network_s_part_is_taken_and_said(checkpoint: dict[str, Any], remark: str | None) -> None:
    module = network()
    remarks = load_into(module, checkpoint, "file.pth")
    for name, value in module.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, TRUTH[name], rtol=0, atol=0)
    if remark is None:
        assert remarks == ()
    else:
        assert "file.pth" in remarks[0]
        assert any(re.search(remark, line) for line in remarks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_numbers_become_float32(dtype: torch.dtype) -> None:
    module = network()
    assert load_into(module, cast(dtype), "file.pth") == ()
    assert torch.equal(module.conv1.weight, TRUTH["conv1.weight"].to(dtype).float())


NAN = TRUTH | {"fc.bias": torch.full((3,), torch.nan)}
QUANTIZED = TRUTH | {"fc.weight": torch.ones(3, 4, dtype=torch.int8)}


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"student": TRUTH, "teacher": OTHER}, r'fit and differ: "student"; "teacher".*\["student"\], "weights.pth"'),
        (under("encoder_q.") | under("encoder_k.", OTHER), 'prefix "encoder_k."; prefix "encoder_q."'),
        ({"ema_0.999": TRUTH, "ema_0.9999": OTHER, "model": OTHER}, "fit and differ"),
        (dict(network(1, num_classes=7).state_dict()), r"options = \{ num_classes = 7 \}"),
        (only(TRUTH, head=False), r"2 names are missing \(first: \['fc.bias', 'fc.weight'\]\)"),
        (TRUTH | {"layer1.2.weight": torch.ones(4, 4, 3, 3)}, r"1 are unknown \(first: \['layer1.2.weight'\]\)"),
        (TRUTH | {"fc.lora_A": torch.ones(1, 4), "fc.lora_B": torch.ones(3, 1)}, "fc.lora_A"),
        ({"model": under("module.", only(TRUTH, head=False))}, 'of "model", prefix "module.": 2 names are missing'),
        (NAN, "3 of 3 numbers of fc.bias are NaN or infinite"),
        (QUANTIZED, r"fc.weight is torch.int8.*before they were quantized"),
        ({"epoch": 3, "optimizer": {"state": TRUTH}}, "holds no state dict"),
    ],
)  # fmt: skip
def test_what_does_not_fit_or_is_not_clear_is_refused(checkpoint: dict[str, Any], message: str) -> None:
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_into(module, checkpoint, "file.pth")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name in names:
            opened.writestr(name, "text")
    return file.getvalue()


class Settings(dict):
    """A trainer's own kind of dict."""


SETTINGS = {
    "best": np.float64(70.1), "args": argparse.Namespace(lr=1), "path": Path("out"), "curve": np.arange(3.0),
    "config": Settings(a=1), "counts": collections.defaultdict(int, a=1),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".pth.tar", ".pt.tar", ""])
def test_files_are_known_by_what_they_hold(tmp_path: Path, suffix: str) -> None:
    for data in (
        saved({"state_dict": TRUTH} | SETTINGS),
        saved({"state_dict": TRUTH} | SETTINGS, _use_new_zipfile_serialization=False),
        save({"state_dict." + name: value for name, value in TRUTH.items()}),
    ):
        (tmp_path / f"last{suffix}").write_bytes(data)
        module = network()
        load_into(module, read_checkpoint(str(tmp_path / f"last{suffix}")), "last")
        assert torch.equal(module.fc.weight, TRUTH["fc.weight"])


LEGACY = {"_use_new_zipfile_serialization": False}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is an empty file"),
        (saved(TRUTH)[:2000], "is cut off after 2,000 bytes"),
        (saved(TRUTH, **LEGACY)[:200], "cut off .it has 200 bytes."),
        (saved(TRUTH, **LEGACY)[:-100], "damaged, cut off"),
        (save(TRUTH)[:-100], "damaged or cut safetensors file"),
        (save(TRUTH)[:100], "damaged or cut safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"Entry not found", "is a text that begins with 'Entry not found'"),
        (b'{"weight_map": {}}', "is a text that begins with"),
        (archive("a.png", "b.png"), r"zip archive that torch.save did not write .it holds \['a.png', 'b.png'\]"),
        (bytes(range(129, 256)) * 4, "neither safetensors nor written by torch.save"),
        (b"\x1f\x8b" + bytes(90), "is a gzip archive"),
        (saved(network()), r"whole pickled model .*Backbone.*state_dict\(\), \"weights.pth\""),
        (
            saved({"model": network(), "loss": torch.ones(1)}),
            r"pickled.*\)\[\"model\"\]\.state_dict",
        ),
        (saved([1, 2]), "holds no state dict"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(UserError, match=message) as refused:
        load_into(network(), read_checkpoint(str(tmp_path / "w.pth")), str(tmp_path / "w.pth"))
    assert "\n" not in str(refused.value)


def test_folders_archives_of_torchscript_and_absent_files_are_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():  # TorchScript is deprecated; its files are still around
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "traced.pt"))
    for name, message in (
        (str(tmp_path), "is a folder; give one of its files, such as traced.pt"),
        (f"{tmp_path}/", "is a folder"),
        (str(tmp_path / "traced.pt"), "TorchScript archive.*torch.jit.load"),
        (str(tmp_path / "absent.pth"), "there is no such file"),
        ("pretraind", 'expected "pretrained", "random"'),
    ):
        with pytest.raises(UserError, match=message):
            read_checkpoint(name)


class Payload:
    """What an attacker would put into a weights file."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> Any:
        return self.call


def test_no_code_of_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, function in enumerate((exec, eval, os.system, shelve.open)):
        argument = f"{tmp_path}/ran{number}"
        torch.save({"state_dict": TRUTH, "x": Payload(function, argument)}, tmp_path / "evil.pth")
        refusal = pytest.raises(UserError, match="only tensors are read")
        with nullcontext() if function is shelve.open else refusal:  # what is no builtin is replaced
            load_into(network(), read_checkpoint(str(tmp_path / "evil.pth")), "evil.pth")
        assert capsys.readouterr().out == ""
        assert not list(tmp_path.glob("ran*"))


def test_old_names_of_torchvision_s_files(tmp_path: Path) -> None:
    from torchvision.models import DenseNet, VisionTransformer

    dense = DenseNet(4, (2, 1), 8, num_classes=3)
    vit = VisionTransformer(32, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=3)
    for module, old in ((dense, {"norm1": "norm.1", "conv2": "conv.2"}), (vit, {"mlp.0": "mlp.linear_1"})):
        renamed = {}
        for name, value in module.state_dict().items():
            for new_part, old_part in old.items():
                if "denselayer" in name or "mlp" in name:
                    name = name.replace(f".{new_part}.", f".{old_part}.")
            renamed[name] = torch.rand(value.shape) if value.is_floating_point() else value
        assert renamed.keys() != module.state_dict().keys()
        load_into(module, {"state_dict": under("module.", renamed)}, "old.pth")
        assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), renamed.values(), strict=True))


def test_remarks_reach_the_model(tmp_path: Path) -> None:
    from tests.support.tiny_run import small_net

    torch.save({"model_ema": small_net().state_dict()}, tmp_path / "last.ckpt")
    model = load_model("python:tests.support.tiny_run:small_net", str(tmp_path / "last.ckpt"))
    assert model.remarks == (f'weights: averaged weights (EMA), "model_ema" of {tmp_path}/last.ckpt',)
    assert model.remarks[0] in describe_layers(model, list_layers(model)).splitlines()
