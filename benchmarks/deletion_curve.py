"""Which relevance rule names the parts of dataset images that a vision transformer's neurons depend on.

    python benchmarks/deletion_curve.py PHOTOGRAPHS --model MODEL --weights FILE [--images 60] [--out FILE]

Patches of a dataset image are deleted one after the other, the most relevant first, and the neuron's activation is
measured after each: the lower the area under this curve, the better the rule (Samek et al., "Evaluating the
visualization of what a deep neural network has learned", 2017; Petsiuk et al., RISE, 2018). A deleted patch shows the
dataset image strongly blurred, or its mean color with `--fill mean`.

Neurons: the class that the network names first, and in each `--layers` the unit that the dataset image activates most,
in standard deviations over all dataset images. Their activation is the logit, or the mean over patch tokens.

A patch's relevance is the sum over its share of a layer: of the stem (for `lrp` and `gradient × input`, at the same
layer), and of the pixels (`gradient × input (pixels)` and `|gradient| (pixels)`, the saliency map). `random` deletes in
random order. Areas are those of the activation above its value with all patches deleted, in units of the mean fall to
that value: 1 if nothing fell before the end, 0 if everything fell at once. Means over dataset images with their
standard error; differences are paired by dataset image.

The distilled ViT of `distill_vit.py`: --model python:distill_vit:student --weights the file that it wrote; of its
dataset images only held-out ones are taken then.
"""

import argparse
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from distill_vit import dataset_images, is_held_out
from PIL import Image
from torch import Tensor, nn

from pipeline.attribution.relevance import relevance
from pipeline.models import Model, features_of, load_model

RULES = (
    "lrp",
    "gradient × input",
    "gradient × input (pixels)",
    "|gradient| (pixels)",
    "random",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_images", type=Path, help="a folder of visualizations")
    parser.add_argument("--model", default="python:distill_vit:student")
    parser.add_argument("--weights", required=True, help="as in a recipe: a file, `package:NAME`, `pretrained`")
    parser.add_argument("--stem", default="", help="layer where relevance is read; default: the first feature layer")
    parser.add_argument(
        "--layers", nargs="*", default=[], help="of the intermediate neurons; default: three of the blocks"
    )
    parser.add_argument("--patch", type=int, default=16, help="side of a deleted patch in pixels")
    parser.add_argument("--fill", choices=("blur", "mean"), default="blur")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="also write what is printed to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model = load_model(arguments.model, arguments.weights)
    stem = arguments.stem or model.default_feature_layers()[0].layer
    layers = arguments.layers or [entry.layer for entry in model.default_feature_layers()[1:]]
    paths = dataset_images(arguments.dataset_images)
    if arguments.model.endswith("distill_vit:student"):
        paths = [path for path in paths if is_held_out(path)]
    chosen = torch.randperm(len(paths), generator=torch.Generator().manual_seed(arguments.seed))[: arguments.images]
    images = torch.stack([read(model, paths[i]) for i in sorted(chosen.tolist())])

    lines = [
        f"{arguments.model}, {model.input_size_px} px, patches of {arguments.patch} px deleted ({arguments.fill}), "
        f"{len(images)} dataset images, seed {arguments.seed}, weights {model.weights_sha256[:12]}",
        f"relevance at {stem} and at the pixels; torch {torch.__version__}, {arguments.threads} threads, "
        f"{time.strftime('%Y-%m-%d')}",
    ]
    print("\n".join(lines), flush=True)
    for layer in [*([model.classifier_layer] if model.classifier_layer else []), *layers]:
        units = most_excited(model, images, layer)
        areas = deletion_areas(model, images, layer, units, stem, arguments.patch, arguments.fill, arguments.seed)
        lines += (new := table(layer, areas))
        print("\n".join(new), flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join([*lines, ""]), encoding="utf-8")


def read(model: Model, path: Path) -> Tensor:
    """A dataset image in the model's input space, [3, H, W]."""
    with Image.open(path) as image:
        return model.preprocess(image)


@torch.no_grad()
def most_excited(model: Model, images: Tensor, layer: str) -> list[int]:
    """Per dataset image the class named first, or the unit most above its mean over the dataset images."""
    values_BU = torch.cat([own_activations(model, batch, layer) for batch in images.split(32)])
    if layer == model.classifier_layer:
        return values_BU.argmax(dim=1).tolist()
    return ((values_BU - values_BU.mean(0)) / (values_BU.std(0) + 1e-6)).argmax(dim=1).tolist()


def own_activations(model: Model, images: Tensor, layer: str) -> Tensor:
    """All units' activations, [B, U]: logits, or means over the positions that lie on the image."""
    features = features_of(model.module, images, [layer])[layer]
    values = features.flatten(2) if features.ndim > 2 else features[:, :, None]
    return values[..., model.num_prefix(layer) :].mean(dim=2)


def deletion_areas(
    model: Model,
    images: Tensor,
    layer: str,
    units: Sequence[int],
    stem: str,
    patch_px: int,
    fill: str,
    seed: int,
) -> dict[str, Tensor]:
    """Rule → area under the deletion curve of each dataset image, in units of the mean fall, [B]."""
    scores = patch_scores(model, images, layer, units, stem, patch_px, seed)
    blank = blurred(images) if fill == "blur" else images.mean((2, 3), keepdim=True).expand_as(images)
    curves = {
        rule: torch.stack([
            deletion_curve(model, image, empty, order, layer, unit, patch_px)
            for image, empty, order, unit in zip(images, blank, score.argsort(1, descending=True), units, strict=True)
        ])
        for rule, score in scores.items()
    }  # fmt: skip
    start, end = curves["random"][:, 0], curves["random"][:, -1]  # the same for all rules
    return {rule: (curve.mean(dim=1) - end) / (start - end).mean() for rule, curve in curves.items()}


def patch_scores(
    model: Model, images: Tensor, layer: str, units: Sequence[int], stem: str, patch_px: int, seed: int
) -> dict[str, Tensor]:
    """Rule → the relevance of each patch, [B, patches], row by row."""
    side = model.input_size_px // patch_px
    network = nn.Sequential(OrderedDict(pixels=nn.Identity(), network=model.module)).eval()
    ask = {"layer": f"network.{layer}", "units": units, "feature_layers": ["pixels", f"network.{stem}"]}
    lrp, products = (relevance(network, images, rule=rule, **ask) for rule in ("lrp", "gradient_x_activation"))

    def at_stem(maps: Mapping[str, Tensor]) -> Tensor:
        total = maps[f"network.{stem}"].sum(dim=1)  # [B, h, w] or [B, T]
        if total.ndim == 2:
            grid = model.token_grid(stem)
            total = total[:, grid.num_prefix :].unflatten(1, (grid.height, grid.width))
        return F.interpolate(total[:, None], (side, side), mode="area").flatten(1)

    def at_pixels(map_: Tensor) -> Tensor:
        return F.avg_pool2d(map_.sum(dim=1, keepdim=True), patch_px).flatten(1)

    gradient = products["pixels"] / torch.where(images == 0, 1.0, images)
    return {
        "lrp": at_stem(lrp),
        "gradient × input": at_stem(products),
        "gradient × input (pixels)": at_pixels(products["pixels"]),
        "|gradient| (pixels)": at_pixels(gradient.abs()),
        "random": torch.rand(len(images), side * side, generator=torch.Generator().manual_seed(seed)),
    }


@torch.no_grad()
def deletion_curve(
    model: Model, image: Tensor, empty: Tensor, order: Tensor, layer: str, unit: int, patch_px: int
) -> Tensor:
    """The unit's activation with 0, 1, …, all patches deleted in the order given, [patches + 1]."""
    side = model.input_size_px // patch_px
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order)))
    is_deleted = rank[None] < torch.arange(len(order) + 1)[:, None]  # [patches + 1, patches]
    masks = is_deleted.view(-1, 1, side, side).repeat_interleave(patch_px, 2).repeat_interleave(patch_px, 3)
    masks = F.pad(masks, (0, image.shape[2] - masks.shape[3], 0, image.shape[1] - masks.shape[2]))
    return own_activations(model, torch.where(masks, empty, image), layer)[:, unit]


def blurred(images: Tensor) -> Tensor:
    """Dataset images [B, 3, H, W] of which only colors in eighths of the side are left."""
    small = F.adaptive_avg_pool2d(images, 4)
    return F.interpolate(small, images.shape[2:], mode="bilinear", align_corners=False)


def table(layer: str, areas: Mapping[str, Tensor]) -> list[str]:
    """Lines: area per rule with its standard error, and how much more than that of `lrp` it is."""
    count = len(areas["lrp"])

    def in_words(values: Tensor) -> str:
        return f"{values.mean():+8.3f} ± {values.std() / count**0.5:.3f}"

    lines = [f"\n{layer}: {count} dataset images", f"{'rule':<28}{'area':>16}{'minus lrp':>20}"]
    for rule in RULES:
        difference = "" if rule == "lrp" else in_words(areas[rule] - areas["lrp"])
        lines.append(f"{rule:<28}{in_words(areas[rule]):>16}{difference:>20}")
    return lines


if __name__ == "__main__":
    main()
