"""Near-duplicates: copies of a dataset image are found, different dataset images are not."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.activations.store import StatisticsStore
from pipeline.data.shards import iterate_samples
from pipeline.io.images import decode_image
from pipeline.models import Model
from pipeline.references.near_duplicates import (
    DistinctImages,
    Fingerprint,
    fingerprint_of,
    hash_distance,
    is_near_duplicate,
)
from pipeline.references.selection import gather_references
from tests.support.paths import ROOT
from tests.support.tiny_networks import tiny_model
from tests.support.tiny_targets import random_images, targets_recipe, tiny_reader, top_images, write_tiny_store

SHARDS = sorted((ROOT / "jobs" / "demo_data" / "shards").glob("*.tar"))
MAX_DISTANCE = targets_recipe().targets.duplicate_distance  # the default
NUM_DATASET_IMAGES = 60


def square_crop(dataset_image: Image.Image) -> Image.Image:
    """The input of a model that crops 224 of 256 px."""
    return tiny_model(size_px=224).preprocessing.square_crop(dataset_image)


@pytest.fixture(scope="module")
def dataset_images() -> list[Image.Image]:
    samples = (sample for url in SHARDS for sample in iterate_samples(str(url), num_classes=None, on_skip=print))
    return [decode_image(sample.image) for sample, _ in zip(samples, range(NUM_DATASET_IMAGES), strict=False)]


@pytest.fixture(scope="module")
def fingerprints(dataset_images: list[Image.Image]) -> list[Fingerprint]:
    return [fingerprint_of(square_crop(dataset_image)) for dataset_image in dataset_images]


def recompressed(dataset_image: Image.Image, quality: int = 40) -> Image.Image:
    buffer = io.BytesIO()
    dataset_image.save(buffer, "JPEG", quality=quality)
    return decode_image(buffer.getvalue())


def cropped(dataset_image: Image.Image, fraction: float = 0.98) -> Image.Image:
    """The middle of a dataset image, so much of each side's length."""
    return ImageOps.crop(dataset_image, tuple(round(side * (1 - fraction) / 2) for side in dataset_image.size * 2))


COPIES = {
    "the same": lambda dataset_image: dataset_image,
    "mirrored": ImageOps.mirror,
    "recompressed": recompressed,
    "of half the size": lambda dataset_image: dataset_image.resize([side // 2 for side in dataset_image.size]),
    "slightly cropped": cropped,
    "all of it": lambda dataset_image: recompressed(ImageOps.mirror(cropped(dataset_image)), 70),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_a_dataset_image_are_found(
    dataset_images: list[Image.Image], fingerprints: list[Fingerprint], copy: str
) -> None:
    found = [
        is_near_duplicate(fingerprint_of(square_crop(COPIES[copy](dataset_image))), fingerprint, MAX_DISTANCE)
        for dataset_image, fingerprint in zip(dataset_images, fingerprints, strict=True)
    ]
    assert sum(found) >= 0.98 * NUM_DATASET_IMAGES


def test_most_copies_without_a_twentieth_of_each_side_are_found(
    dataset_images: list[Image.Image], fingerprints: list[Fingerprint]
) -> None:
    copies = [fingerprint_of(square_crop(cropped(dataset_image, 0.95))) for dataset_image in dataset_images]
    found = [
        is_near_duplicate(copy, fingerprint, MAX_DISTANCE)
        for copy, fingerprint in zip(copies, fingerprints, strict=True)
    ]
    assert sum(found) >= 0.75 * NUM_DATASET_IMAGES


def test_different_dataset_images_are_not_near_duplicates(fingerprints: list[Fingerprint]) -> None:
    # Birds, castles and fruit among them: several dataset images of one kind of object.
    assert not any(is_near_duplicate(one, other, MAX_DISTANCE) for one, other in combinations(fingerprints, 2))
    assert min(hash_distance(one, other) for one, other in combinations(fingerprints, 2)) > MAX_DISTANCE


def test_the_hash_equals_the_cosine_transform_written_out(dataset_images: list[Image.Image]) -> None:
    image = square_crop(dataset_images[0])
    gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    angles = np.pi * (np.arange(32) + 0.5) / 32
    spectrum = [[(gray * np.outer(np.cos(angles * v), np.cos(angles * u))).sum() for u in range(8)] for v in range(8)]
    values = np.array(spectrum).flatten()
    assert fingerprint_of(image).bits.tolist() == (values > np.median(values[1:])).tolist()


def test_the_mirrored_hash_is_the_hash_of_the_mirror_image(dataset_images: list[Image.Image]) -> None:
    for dataset_image in dataset_images[:10]:
        fingerprint, mirror = (
            fingerprint_of(square_crop(dataset_image)),
            fingerprint_of(ImageOps.mirror(square_crop(dataset_image))),
        )
        assert (fingerprint.mirrored_bits != mirror.bits).sum() <= 1  # resizing rounds to whole gray levels
        assert hash_distance(fingerprint, mirror) <= 1


def test_colors_tell_apart_what_has_one_pattern() -> None:
    stripes = np.arange(64)[:, None, None] // 8 % 2
    red, blue = (
        Image.fromarray(np.broadcast_to(stripes * color, (64, 64, 3)).astype(np.uint8))
        for color in ((200, 60, 60), (60, 60, 200))
    )
    assert hash_distance(fingerprint_of(red), fingerprint_of(blue)) <= MAX_DISTANCE
    assert not is_near_duplicate(fingerprint_of(red), fingerprint_of(blue), MAX_DISTANCE)
    assert is_near_duplicate(fingerprint_of(red), fingerprint_of(red), 0)


def test_a_gray_image_has_a_fingerprint_too() -> None:
    assert fingerprint_of(Image.new("L", (32, 32), 7)).colors.shape == (8, 8, 3)


def test_duplicates_are_skipped_and_counted_and_no_more_are_compared_than_needed(
    fingerprints: list[Fingerprint],
) -> None:
    compared = []

    def fingerprint_at(index: int) -> Fingerprint:
        compared.append(index)
        return fingerprints[index // 2]  # 2k and 2k + 1 are near-duplicates

    distinct = DistinctImages(fingerprint_at, MAX_DISTANCE)
    assert distinct.take(range(20), 3) == [0, 2, 4]
    assert distinct.num_duplicates == 2
    assert compared == [0, 1, 2, 3, 4]
    assert distinct.take(range(5, 20), 1) == [6]  # 5 is one that was taken before
    everything = DistinctImages(fingerprint_at, -1)
    assert everything.take(range(20), 4) == [0, 1, 2, 3]
    assert everything.num_duplicates == 0


def test_the_next_best_images_take_the_place_of_duplicates(tmp_path: Path) -> None:
    # Class a has three visualizations twice, once mirrored; a mirror image activates a unit about as much.
    model: Model = tiny_model()
    visualizations = random_images({"a": 3, "b": 4})
    visualizations["a"] += [ImageOps.mirror(visualization) for visualization in visualizations["a"]]
    statistics = StatisticsStore.open(write_tiny_store(tmp_path, model, visualizations))

    def dataset_image(key: str) -> str:
        name, index = key.rsplit("/", 1)[-1][0], int(key[-1])
        return f"{name}{index % 3 if name == 'a' else index}"

    for unit in range(3):
        kept, _ = gather_references(model, statistics, tiny_reader(model), "stage2", unit, targets_recipe().targets)
        best_first = [dataset_image(key) for key in top_images(statistics, "stage2", unit)]
        expected = list(dict.fromkeys(best_first))[:4]
        assert [dataset_image(e.key) for e in kept.top_images] == expected
        used = max(best_first.index(name) for name in expected) + 1
        assert kept.num_duplicates == kept.columns([""] * 5)["num_duplicates"] == used - 4
        off = targets_recipe(duplicate_distance=-1).targets
        everything, _ = gather_references(model, statistics, tiny_reader(model), "stage2", unit, off)
        assert [dataset_image(e.key) for e in everything.top_images] == best_first[:4]
    labeled, _ = gather_references(model, statistics, tiny_reader(model), "fc", 0, targets_recipe().targets)
    assert (labeled.source, len(labeled.top_images), labeled.num_duplicates) == ("label", 3, 3)
