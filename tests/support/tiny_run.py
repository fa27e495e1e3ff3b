"""A whole run in seconds: a random network of 32 px, tar shards of a few colored images, a recipe for both."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from pipeline.recipe.recipe import Recipe
from tests.support.tiny_networks import TinyResidualNet

NUM_CLASSES = 5
SIZE_PX = 32


def small_net() -> nn.Module:
    """The factory of `python:tests.support.tiny_run:small_net`."""
    module = TinyResidualNet()
    module.input_size_px = SIZE_PX
    return module


def dataset_image(seed: int) -> bytes:
    """Stripes and noise in colors of the seed, so that images activate units differently."""
    rng = np.random.default_rng(seed)
    rows = np.arange(40)[:, None, None] // (2 + seed % 5) % 2
    pixels = rng.integers(0, 256, (1, 1, 3)) * rows + rng.integers(0, 60, (40, 40, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_data(folder: Path, *, num_shards: int = 3, per_shard: int = 8, num_broken: int = 0) -> str:
    """Tar shards with labels 0, 1, 2, … and captions; the first `num_broken` of all are no images.

    Returns the pattern.
    """
    seed = 0
    for shard in range(num_shards):
        members = []
        for _ in range(per_shard):
            image = b"not an image" if seed < num_broken else dataset_image(seed)
            members += [
                (f"photo{seed:03d}.png", image),
                (f"photo{seed:03d}.cls", str(seed % NUM_CLASSES).encode()),
                (f"photo{seed:03d}.txt", f"stripes, number {seed}".encode()),
            ]
            seed += 1
        write_tar(folder / f"tiny-{shard:06d}.tar", members)
    return f"{folder}/tiny-{{000000..{num_shards - 1:06d}}}.tar"


def recipe_toml(shards: str, root: Path | str, **changes: str) -> str:
    """The recipe as TOML; `changes` are lines to add to a section, e.g. atlas='publish_examples = "keys"'."""

    def more(section: str) -> str:
        return changes.get(section, "")

    return f"""
schema = "recipe/2"
name = "tiny"
seed = 7
[model]
name = "python:tests.support.tiny_run:small_net"
weights = "random"
[data]
shards = {json.dumps(shards)}
{more("data")}
[output]
root = {json.dumps(str(root))}
[statistics]
layers = ["stage1", "stage2", "stage3"]
top_k = 8
batch_size = 4
[[neurons]]
layer = "classifier"
units = "all"
[[neurons]]
layer = "stage2"
units = "0:3"
[targets]
num_references = 4
min_references = 2
{more("targets")}
[visualize]
preset = "fast"
steps = 2
batch_size = 2
{more("visualize")}
[evaluate]
{more("evaluate")}
[atlas]
title = "Tiny"
{more("atlas") or 'publish_examples = "thumbnails"'}
[compute]
max_retries = 1
{more("compute")}
"""


def tiny_recipe(shards: str, root: Path | str, *overrides: str, **changes: str) -> Recipe:
    return Recipe.from_toml(recipe_toml(shards, root, **changes), overrides=overrides)


NUM_NEURONS = NUM_CLASSES + 3


def net_with_dead_unit() -> nn.Module:
    """As `small_net`, but unit 0 of stage2 is zero whatever the image."""
    module = small_net()
    with torch.no_grad():
        module.stage2.down.weight[0] = 0
        module.stage2.block[0].weight[0] = 0
    return module
