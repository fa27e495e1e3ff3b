"""The authors' published code of VITAL, imported from a checkout and made to run here, for `published_code.py`.

It is changed in memory only, and no more than that takes:

- `device="cuda"` is written into it: in its optimization modules `torch.zeros` makes its result on the CPU, and
  `torch.randn` gives the image that we start from too;
- `obtain_real_imgs` gives the images at hand, `save_images` and `save_maco` save nothing, Adam and `print` record;
- its table of LRP rules lacks the two DenseNet classes that it has rules for: they are entered;
- it finds feature layers by map sizes that hold at 224 px: they are scaled to the size of the image;
- matplotlib is imported and not used: an empty module stands in where it is not installed.
"""

import importlib
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models import torchvision_operators

# Class that computes relevance → the module it comes from, and its method that gives the maps, last stage first.
_RELEVANCE = {
    "LRPModel": ("lrp", "forward"),
    "LRPModelRestricted": ("lrp", "forward"),
    "LayerGuidedBackprop": ("guided_backprop", "attribute"),
}
_CHANNELS = (1024, 512, 256, 64)  # of stages 3, 2, 1 and the stem, in both networks
_STRIDES = (16, 8, 4, 2)


@dataclass(kw_only=True)
class Record:
    """What the published optimization computed: per step, and the maps of the references before all others."""

    losses: list[float] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    maps: list[list[Tensor]] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)

    def seconds_per_step(self) -> list[float]:
        """Of all steps but the first, which prepares the references."""
        return [after - before for before, after in pairwise(self.done_s)]


class AuthorsCode:
    """One part of a checkout: `intermediate_fvis` with `opt_intermediate`, or `class_fvis` with `opt_utils`.

    Raises:
        ValueError: the folder holds no such part.
    """

    def __init__(self, checkout: Path, part: str, main_module: str) -> None:
        path = checkout / part / "utils" / f"{main_module}.py"
        if not path.exists():
            raise ValueError(f"{path} does not exist; expected a checkout of github.com/adagorgun/VITAL")
        torchvision_operators.declare()
        try:
            importlib.import_module("matplotlib.pyplot")
        except ImportError:
            sys.modules.update(dict.fromkeys(("matplotlib", "matplotlib.pyplot"), ModuleType("matplotlib")))
        self._modules = _import_utils(checkout / part, main_module)
        self.main = self._modules[main_module]
        if "lrp" in self._modules:
            _enter_densenet(self._modules)

    def optimize(self, net: nn.Module, start: Tensor, references: Tensor, *, steps: int, **settings: Any) -> Record:
        """Run the published optimization without jitter and image priors.

        Args:
            net: the network in evaluation mode.
            start: [1, 3, H, W], the first image.
            references: [R, 3, H, W].
            steps: of the optimization.
            settings: `arch_name`, `layer_weights`, and for intermediate neurons `layer`, `channel` and `method`, for
                class neurons `target`.
        """
        record, size_px = Record(), start.shape[-1]
        image = start.clone().requires_grad_()
        self._patch(image, references, record)
        for name, (home, method) in _RELEVANCE.items():
            if hasattr(self.main, name):
                original = getattr(self._modules[home], name)
                setattr(self.main, name, _recording(original, method, record, size_px))
        parameters = {"resolution": size_px, "do_flip": False, "setting_id": 1, "bs": 1, "jitter": 0, "epochs": steps}
        parameters |= {"num_real_img": len(references), "topk_dir": "", **settings}
        coefficients = {"tv_l1": 0.0, "tv_l2": 0.0, "l2": 0.0, "lr": 1.0, "feat_dist": 1.0}
        coefficients["layer_weights"] = settings["layer_weights"]
        engine = self.main.DeepFeaturesClass(net, parameters, coefficients, folder_name="")
        engine.print_every = 1
        engine.save_images = lambda _: None
        engine.get_images(**({"targets": settings["target"]} if "target" in settings else {}))
        return record

    def _patch(self, image: Tensor, references: Tensor, record: Record) -> None:
        """Make the optimization module start from `image`, read `references` and report to `record`."""

        class Adam(torch.optim.Adam):
            def step(self) -> None:  # type: ignore[override]
                assert image.grad is not None
                record.gradients.append(image.grad.clone())
                super().step()
                record.done_s.append(time.perf_counter())

        def note(*words: Any) -> None:
            if words[0] == "total loss":
                record.losses.append(words[1])

        changes = {
            "torch": _Torch(image),
            "optim": SimpleNamespace(Adam=Adam),
            "print": note,
            "obtain_real_imgs": lambda **_: references.clone(),
            "save_maco": lambda *_, **__: None,
        }
        vars(self.main).update(changes)


class _Torch:
    """`torch`, but for the two calls that ask for a GPU."""

    def __init__(self, image: Tensor) -> None:
        self._image = image

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def randn(self, *_: Any, **__: Any) -> Tensor:
        return self._image

    def zeros(self, *shape: Any, device: str, dtype: torch.dtype) -> Tensor:
        return torch.zeros(*shape, dtype=dtype)


def _recording(base: type, method: str, record: Record, size_px: int) -> type:
    """A class of the published code that records its maps and looks for layers of the sizes that `size_px` gives."""

    def call(self: Any, *arguments: Any, **options: Any) -> list[Tensor]:
        if "return_nodes" in options:
            options["return_nodes"] = {"fdim": list(_CHANNELS), "res": [size_px // stride for stride in _STRIDES]}
        maps: list[Tensor] = getattr(base, method)(self, *arguments, **options)
        record.maps.append([value.detach() for value in maps])
        return maps

    return type(base.__name__, (base,), {method: call})


def _import_utils(folder: Path, main_module: str) -> dict[str, ModuleType]:
    """Import `folder`/utils/`main_module`.py and what it needs.

    Both parts call their package `utils`, so the importer is made to forget it again at once.
    """
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module(f"utils.{main_module}")
        names = [name for name in sys.modules if name.startswith("utils.")]
        return {name.removeprefix("utils."): sys.modules.pop(name) for name in names}
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("utils", None)


def _enter_densenet(modules: dict[str, ModuleType]) -> None:
    from torchvision.models import densenet

    lookup = modules["lrp"].layers_lookup
    rules = {
        densenet._DenseLayer: modules["lrp_layers"].RelevancePropagationDenseLayer,
        densenet._Transition: modules["lrp_layers"].RelevancePropagationTransitionBlock,
    }
    vars(modules["lrp"])["layers_lookup"] = lambda version: {**lookup(version), **rules}
