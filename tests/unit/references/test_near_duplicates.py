"""Near-duplicates: copies of a photograph are found, different photographs are not."""

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
from pipeline.references.near_duplicates import DistinctPictures, Look, hash_distance, is_same_photograph, look_at
from pipeline.references.selection import gather_references
from tests.support.paths import ROOT
from tests.support.tiny_networks import tiny_model
from tests.support.tiny_targets import exemplars, random_pictures, targets_recipe, tiny_reader, write_tiny_store

SHARDS = sorted((ROOT / "jobs" / "demo_data" / "shards").glob("*.tar"))
MAX_DISTANCE = targets_recipe().targets.duplicate_distance  # the default
NUM_PHOTOGRAPHS = 60


def seen(photograph: Image.Image) -> Image.Image:
    """The square crop that a model with a crop of 224 of 256 px sees."""
    return tiny_model(size_px=224).preprocessing.square_crop(photograph)


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    samples = (sample for url in SHARDS for sample in iterate_samples(str(url), num_classes=None, on_skip=print))
    return [decode_image(sample.image) for sample, _ in zip(samples, range(NUM_PHOTOGRAPHS), strict=False)]


@pytest.fixture(scope="module")
def looks(photographs: list[Image.Image]) -> list[Look]:
    return [look_at(seen(photograph)) for photograph in photographs]


def recompressed(photograph: Image.Image, quality: int = 40) -> Image.Image:
    buffer = io.BytesIO()
    photograph.save(buffer, "JPEG", quality=quality)
    return decode_image(buffer.getvalue())


def cropped(photograph: Image.Image, fraction: float = 0.98) -> Image.Image:
    """The middle of a photograph, so much of each side's length."""
    return ImageOps.crop(photograph, tuple(round(side * (1 - fraction) / 2) for side in photograph.size * 2))


COPIES = {
    "the same": lambda photograph: photograph,
    "mirrored": ImageOps.mirror,
    "recompressed": recompressed,
    "of half the size": lambda photograph: photograph.resize([side // 2 for side in photograph.size]),
    "slightly cropped": cropped,
    "all of it": lambda photograph: recompressed(ImageOps.mirror(cropped(photograph)), 70),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_a_photograph_are_found(photographs: list[Image.Image], looks: list[Look], copy: str) -> None:
    found = [
        is_same_photograph(look_at(seen(COPIES[copy](photograph))), look, MAX_DISTANCE)
        for photograph, look in zip(photographs, looks, strict=True)
    ]
    assert sum(found) >= 0.98 * NUM_PHOTOGRAPHS


def test_most_copies_without_a_twentieth_of_each_side_are_found(
    photographs: list[Image.Image], looks: list[Look]
) -> None:
    copies = [look_at(seen(cropped(photograph, 0.95))) for photograph in photographs]
    found = [is_same_photograph(copy, look, MAX_DISTANCE) for copy, look in zip(copies, looks, strict=True)]
    assert sum(found) >= 0.75 * NUM_PHOTOGRAPHS


def test_different_photographs_are_told_apart(looks: list[Look]) -> None:
    # Birds, castles and fruit among them: several photographs of one kind of object.
    assert not any(is_same_photograph(one, other, MAX_DISTANCE) for one, other in combinations(looks, 2))
    assert min(hash_distance(one, other) for one, other in combinations(looks, 2)) > MAX_DISTANCE


def test_the_hash_equals_the_cosine_transform_written_out(photographs: list[Image.Image]) -> None:
    picture = seen(photographs[0])
    gray = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    angles = np.pi * (np.arange(32) + 0.5) / 32
    spectrum = [[(gray * np.outer(np.cos(angles * v), np.cos(angles * u))).sum() for u in range(8)] for v in range(8)]
    values = np.array(spectrum).flatten()
    assert look_at(picture).bits.tolist() == (values > np.median(values[1:])).tolist()


def test_the_mirrored_hash_is_the_hash_of_the_mirror_image(photographs: list[Image.Image]) -> None:
    for photograph in photographs[:10]:
        look, mirror = look_at(seen(photograph)), look_at(ImageOps.mirror(seen(photograph)))
        assert (look.mirrored_bits != mirror.bits).sum() <= 1  # resizing rounds to whole gray levels
        assert hash_distance(look, mirror) <= 1


def test_colors_tell_apart_what_has_one_pattern() -> None:
    stripes = np.arange(64)[:, None, None] // 8 % 2
    red, blue = (
        Image.fromarray(np.broadcast_to(stripes * color, (64, 64, 3)).astype(np.uint8))
        for color in ((200, 60, 60), (60, 60, 200))
    )
    assert hash_distance(look_at(red), look_at(blue)) <= MAX_DISTANCE
    assert not is_same_photograph(look_at(red), look_at(blue), MAX_DISTANCE)
    assert is_same_photograph(look_at(red), look_at(red), 0)


def test_a_gray_picture_has_a_look_too() -> None:
    assert look_at(Image.new("L", (32, 32), 7)).colors.shape == (8, 8, 3)


def test_duplicates_are_skipped_and_counted_and_no_more_are_looked_at_than_needed(looks: list[Look]) -> None:
    looked_at = []

    def look_of(index: int) -> Look:
        looked_at.append(index)
        return looks[index // 2]  # 2k and 2k + 1 are one photograph

    distinct = DistinctPictures(look_of, MAX_DISTANCE)
    assert distinct.take(range(20), 3) == [0, 2, 4]
    assert distinct.num_duplicates == 2
    assert looked_at == [0, 1, 2, 3, 4]
    assert distinct.take(range(5, 20), 1) == [6]  # 5 is one that was taken before
    everything = DistinctPictures(look_of, -1)
    assert everything.take(range(20), 4) == [0, 1, 2, 3]
    assert everything.num_duplicates == 0


def test_the_next_best_images_take_the_place_of_duplicates(tmp_path: Path) -> None:
    # Class a has three pictures twice, once mirrored; a mirror image excites a unit about as much.
    model: Model = tiny_model()
    pictures = random_pictures({"a": 3, "b": 4})
    pictures["a"] += [ImageOps.mirror(picture) for picture in pictures["a"]]
    statistics = StatisticsStore.open(write_tiny_store(tmp_path, model, pictures))

    def photograph(key: str) -> str:
        name, index = key.rsplit("/", 1)[-1][0], int(key[-1])
        return f"{name}{index % 3 if name == 'a' else index}"

    for unit in range(3):
        kept, _ = gather_references(model, statistics, tiny_reader(model), "stage2", unit, targets_recipe().targets)
        best_first = [photograph(key) for key in exemplars(statistics, "stage2", unit)]
        expected = list(dict.fromkeys(best_first))[:4]
        assert [photograph(e.key) for e in kept.exemplars] == expected
        used = max(best_first.index(name) for name in expected) + 1
        assert kept.num_duplicates == kept.columns([""] * 5)["num_duplicates"] == used - 4
        off = targets_recipe(duplicate_distance=-1).targets
        everything, _ = gather_references(model, statistics, tiny_reader(model), "stage2", unit, off)
        assert [photograph(e.key) for e in everything.exemplars] == best_first[:4]
    labeled, _ = gather_references(model, statistics, tiny_reader(model), "fc", 0, targets_recipe().targets)
    assert (labeled.source, len(labeled.exemplars), labeled.num_duplicates) == ("label", 3, 3)
