"""Lets torchvision (and timm, which imports it) load beside a CPU build of torch.

The packaged torchvision is linked against CUDA torch. Beside a CPU build its `_C` extension cannot load,
and `import torchvision` dies with `operator torchvision::nms does not exist`, because torchvision registers
shape functions for two operators whose schemas live in that extension. Declaring the two schemas first is
enough for every model and transform; `torchvision.ops.nms` and `torchvision.io.read_image` stay unavailable,
and nothing here uses them.

`load` declares them when `pipeline.models` is imported, before anything here imports torchvision or timm.
"""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

# Schemas as torchvision 0.21–0.28 declares them in torchvision/csrc/ops/{nms,quantized/cpu/qnms_kernel}.cpp.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []  # a torch.library.Library un-registers its schemas when collected


def declare() -> None:
    """Declare torchvision's two operator schemas where its extension cannot load; otherwise do nothing."""
    if "torchvision" in sys.modules or _libraries:
        return
    import torch

    if _extension_loads(torch):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)


def _extension_loads(torch: object) -> bool:
    """Whether torchvision's compiled extension can be loaded beside this torch."""
    spec = importlib.util.find_spec("torchvision")  # locates the package without running it
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is not installed; `pip install -e .` installs it")
    folder = Path(spec.origin).parent
    candidates = [folder / f"_C{suffix}" for suffix in (*EXTENSION_SUFFIXES, ".so")]
    extension = next((path for path in candidates if path.exists()), None)
    if extension is None:
        return False
    try:
        torch.ops.load_library(str(extension))  # type: ignore[attr-defined]
    except OSError:  # a CUDA library that this build of torch does not bring
        return False
    return True
