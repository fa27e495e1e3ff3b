"""The same network whichever way its weights come: what the libraries' constructors change for weights of their own."""

import contextlib
import functools
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models import load_model, torchvision_operators
from pipeline.models.weights import timm_conventions, torchvision_conventions

torchvision_operators.declare()

import timm  # noqa: E402
import torchvision  # noqa: E402
from torchvision.models import WeightsEnum, get_model_weights  # noqa: E402

MODELS = torchvision.models.list_models(module=torchvision.models)


class Recorder(nn.Module):
    """Stands for a network of torchvision; keeps what its constructor was given, defaults included."""

    def __init__(self, network: type[nn.Module], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        bound = inspect.signature(network).bind(*args, **kwargs)
        bound.apply_defaults()
        # Whether initial parameters are drawn is no part of the network.
        self.given = {name: described(value) for name, value in bound.arguments.items() if name != "init_weights"}
        self.aux_logits = bound.arguments.get("aux_logits")  # which builders change afterwards

    def load_state_dict(self, *_args: object, **_options: object) -> None:  # type: ignore[override]
        """Nothing to load into."""


def described(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if isinstance(value, nn.Module):
        return repr(value)
    if type(value).__module__.startswith("torchvision"):
        return {name: described(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return {name: described(item) for name, item in value.items() if name != "init_weights"}
    return repr(value)


@contextlib.contextmanager
def recorded_networks() -> Iterator[None]:
    """torchvision's builders make recorders, and no weights are downloaded."""
    with contextlib.ExitStack() as stack:
        for place in {sys.modules[torchvision.models.get_model_builder(name).__module__] for name in MODELS}:
            for name, network in vars(place).copy().items():
                is_network = inspect.isclass(network) and network.__module__ == place.__name__ and name in place.__all__
                if is_network and issubclass(network, nn.Module):
                    stack.enter_context(patch.object(place, name, functools.partial(Recorder, network)))
        stack.enter_context(patch.object(WeightsEnum, "get_state_dict", lambda *_args, **_options: {}))
        yield


def test_torchvision_s_constructors_get_the_same_arguments_without_weights() -> None:
    """Of every builder and every entry of weights, given by the name of its file."""
    changed = set()
    with recorded_networks():
        for name in MODELS:
            network = torchvision.models.get_model(name, weights=None)
            plain = network.given | {"aux_logits": network.aux_logits}
            for entry in get_model_weights(name):
                file = f"/weights/{entry.url.rpartition('/')[2]}"
                assert torchvision_conventions.weights_entry(name, file) is entry
                truth = torchvision.models.get_model(name, weights=entry)
                arguments = torchvision_conventions.arguments(
                    name, entry.transforms().crop_size[0], is_initialized=False
                )
                ours = torchvision.models.get_model(name, weights=None, **arguments)
                for network in (truth, ours):
                    network.given["aux_logits"] = network.aux_logits
                assert ours.given == truth.given, (name, entry)
                if truth.given != plain:
                    changed.add(name)
    assert len(MODELS) >= 80
    assert {"googlenet", "inception_v3", "vit_h_14"} <= changed


def perturbed(module: nn.Module) -> dict[str, Tensor]:
    """The network's state, with numbers in every tensor that no constructor gives."""
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand(value.shape))
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_googlenet_is_the_same_network_by_the_path_of_its_file(tmp_path: Path) -> None:
    """The file has auxiliary heads, which the network drops, and the input is transformed."""
    torch.manual_seed(0)
    state = perturbed(torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False))
    images = torch.randn(1, 3, 64, 64)
    with patch.object(WeightsEnum, "get_state_dict", lambda *_args, **_options: state):
        truth = torchvision.models.googlenet(weights="IMAGENET1K_V1").eval()
    for name, saved in (("googlenet-1378be20.pth", state), ("mine.ckpt", {"state_dict": truth.state_dict()})):
        torch.save(saved, tmp_path / name)
        model = load_model("torchvision:googlenet", str(tmp_path / name))
        assert model.module.transform_input
        torch.testing.assert_close(model.module(images), truth(images))
    # A network of one's own that was trained without it says so.
    assert not load_model("torchvision:googlenet", "random", options={"transform_input": False}).module.transform_input


def test_torchvision_s_files_bring_their_own_preprocessing(tmp_path: Path) -> None:
    network = torchvision.models.mnasnet0_5(weights=None)  # one whose layers know versions
    state = perturbed(network)
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_model("torchvision:mnasnet0_5", str(tmp_path / "weights.pth"), input_size_px=32)
    assert all(torch.equal(value, state[name]) for name, value in loaded.module.state_dict().items())
    assert torchvision_conventions.weights_entry("resnet50", "s3://b/resnet50-11ad3fa6.pth").name == "IMAGENET1K_V2"
    assert torchvision_conventions.weights_entry("resnet50", "mine.pth").name == "IMAGENET1K_V1"


def test_weights_for_another_size_are_resampled_only_when_a_size_was_asked_for(tmp_path: Path) -> None:
    options = {"embed_dim": 24, "num_heads": 3, "depth": 1}
    torch.save(timm.create_model("vit_tiny_patch16_224", img_size=96, **options).state_dict(), tmp_path / "96.pth")
    for size_px, side in ((96, 6), (224, 14)):
        model = load_model(
            "timm:vit_tiny_patch16_224", str(tmp_path / "96.pth"), input_size_px=size_px, options=options
        )
        assert model.module.pos_embed.shape[1] == 1 + side**2
    with pytest.raises(UserError, match=r"is for images of 96 px \(6 × 6 patches\).*set model.input_size_px = 96"):
        load_model("timm:vit_tiny_patch16_224", str(tmp_path / "96.pth"), options=options)


@contextlib.contextmanager
def recorded_builds() -> Iterator[dict[str, str]]:
    """What timm would build networks with, of which the building itself is left out."""
    given: dict[str, str] = {}

    def record(*args: object, **kwargs: object) -> nn.Module:
        texts = {
            str(place): re.sub(" at 0x[0-9a-f]+", "", repr(value))
            for place, value in (*enumerate(args), *kwargs.items())
        }
        given.clear()
        given.update({place: text for place, text in texts.items() if text not in ("True", "False")})
        raise StopIteration

    modules = [m for n, m in sys.modules.items() if n.startswith("timm.models.") and hasattr(m, "build_model_with_cfg")]
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch.object(module, "build_model_with_cfg", record))
        yield given


def test_timm_s_constructors_get_the_same_arguments_without_weights() -> None:
    changed = set()
    with recorded_builds() as given:

        def arguments(name: str, **options: Any) -> dict[str, str]:
            with contextlib.suppress(StopIteration):
                timm.create_model(name, **options)
            return dict(given)

        for name in timm.list_models():
            truth = arguments(name, pretrained=True)
            assert truth == arguments(name, **timm_conventions.arguments(name)), name
            if timm_conventions.arguments(name):
                assert truth != arguments(name)
                changed.add(name)
    assert changed == {"fbnetc_100"}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "levit_128s"])
@pytest.mark.parametrize("options", [{}, {"in_chans": 1}, {"num_classes": 0, "in_chans": 4}], ids=str)
def test_timm_s_files_load_by_path_as_timm_loads_them(tmp_path: Path, name: str, options: dict[str, int]) -> None:
    state = perturbed(timm.create_model(name))
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "last.pth")
    overlay = {"state_dict": {key: value.clone() for key, value in state.items()}, "source": ""}
    truth = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options).state_dict()
    ours = load_model(f"timm:{name}", str(tmp_path / "last.pth"), options=options).module.state_dict()
    assert ours.keys() == truth.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, truth[key], rtol=0, atol=0)


def test_a_deeper_network_s_weights_are_no_backbone_s(tmp_path: Path) -> None:
    """ResNet-18's names and shapes are all in ResNet-34; only the classifier may be too much."""
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "34.pth")
    with pytest.raises(UserError, match="does not fit the model: 0 names are missing"):
        load_model("timm:resnet18", str(tmp_path / "34.pth"), options={"num_classes": 0})


def test_names_of_the_original_code_are_converted_as_timm_does(tmp_path: Path) -> None:
    """Those of ConvNeXt in Liu et al., "A ConvNet for the 2020s", CVPR 2022."""
    state = perturbed(timm.create_model("test_convnext"))
    original = {}
    for name, value in state.items():
        for pattern, old in (
            (r"^stem\.", "downsample_layers.0."), (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
            (r"\.blocks\.", "."), ("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"), (r"^head\.norm", "norm"),
            (r"^head\.fc", "head"),
        ):  # fmt: skip
            name = re.sub(pattern, old, name)
        original[name] = value
    assert "stages.0.0.dwconv.weight" in original
    torch.save({"model": original, "model_ema": None}, tmp_path / "convnext.pth")
    ours = load_model("timm:test_convnext", str(tmp_path / "convnext.pth")).module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in ours.items())
