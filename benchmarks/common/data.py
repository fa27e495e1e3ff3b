"""Data for measurements: the demo's dataset images, drawn tar shards, drawn captions."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jobs.commands.demo import PACKAGE
from pipeline.models import Model

DEMO_SHARDS = sorted((PACKAGE / "demo_data" / "shards").glob("*.tar"))
DRAWN_IMAGE_PX = 224
NUM_WORDS = 4000
WORDS_PER_CAPTION = 11  # some 60 characters, as in COCO


def images_of(shard: str | Path) -> Iterator[Image.Image]:
    """The JPEGs of a tar shard, RGB, in its order."""
    with tarfile.open(shard) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".jpg") else None
            if file is not None:
                yield Image.open(io.BytesIO(file.read())).convert("RGB")


def demo_images(model: Model, count: int, size_px: int) -> torch.Tensor:
    """The first dataset images of the demo: [count, 3, size, size]."""
    images = (image for shard in DEMO_SHARDS for image in images_of(shard))
    return torch.stack([model.preprocess_at(image, size_px) for image, _ in zip(images, range(count), strict=False)])


def write_shard(path: Path, count: int, *, seed: int) -> str:
    """Write a tar shard of `count` labeled JPEGs drawn at random; returns its path."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for index in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            coarse.resize((DRAWN_IMAGE_PX, DRAWN_IMAGE_PX), Image.Resampling.BILINEAR).save(buffer, "JPEG")
            members = {"jpg": buffer.getvalue(), "cls": str(index % 1000).encode()}
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{path.stem}-{index:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(path)


def drawn_captions(count: int) -> list[str]:
    """Captions of 11 words each, of 4,000 made-up words; the frequent ones come more often (Zipf)."""
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnoprstuvwxyz"))
    found: dict[str, None] = {}
    while len(found) < NUM_WORDS:
        found["".join(generator.choice(letters, size=generator.integers(2, 8)))] = None
    words = list(found)
    chance = 1 / np.arange(1, NUM_WORDS + 1)
    drawn = np.random.default_rng(1).choice(NUM_WORDS, size=(count, WORDS_PER_CAPTION), p=chance / chance.sum())
    return [" ".join(words[word] for word in row) for row in drawn]
