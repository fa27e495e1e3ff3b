"""An atlas folder with the statistics of a few images, for tests of references and targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.activations.collect import collect
from pipeline.activations.store import StatisticsStore, merge_shard_statistics, write_shard_statistics, write_statistics
from pipeline.data.sample_errors import ErrorBudget
from pipeline.data.shard_writing import write_shards
from pipeline.data.shards import iterate_samples
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.recipe.recipe import Recipe
from pipeline.references.near_duplicates import DistinctImages
from pipeline.references.reading import ReferenceReader

ImageFolders = Mapping[str, Sequence[Image.Image]]  # folder of a class → its images
RECORDED = ("stage2", "stage3")


def random_images(counts: Mapping[str, int], seed: int = 0) -> dict[str, list[Image.Image]]:
    """Smooth random images of 48 × 40 px, all unlike."""
    rng = np.random.default_rng(seed)

    def image() -> Image.Image:
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        return coarse.resize((48, 40), Image.Resampling.BILINEAR)

    return {name: [image() for _ in range(count)] for name, count in counts.items()}


def write_folder(folder: Path, images: ImageFolders) -> Path:
    """Write images as `CLASS/CLASSi.png`; a class "" lies in the folder itself."""
    for name, members in images.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(members):
            image.save(folder / name / f"{name or 'image'}{index}.png")
    return folder


def write_tiny_store(folder: Path, model: Model, images: ImageFolders, *, feature_layers: Sequence[str] = ()) -> Root:
    """Collect the images in tar shards of five; returns the atlas folder."""
    write_shards(str(write_folder(folder / "images", images)), str(folder / "shards"), name="tiny", max_samples=5)
    urls = sorted(str(path) for path in (folder / "shards").glob("*.tar"))
    root = Root.open(str(folder / "atlas"))
    for index, url in enumerate(urls):
        budget = ErrorBudget(0.0)
        samples = iterate_samples(url, num_classes=5, on_skip=budget.add_skip)
        shard_statistics = collect(
            model,
            samples,
            shard_index=index,
            layers=RECORDED,
            feature_layers=feature_layers,
            top_k=8,
            batch_size=4,
            budget=budget,
        )
        write_shard_statistics(root, index, shard_statistics, recipe_fingerprint="f", shard_url=url)
    merged = merge_shard_statistics(root, urls, recipe_fingerprint="f")
    write_statistics(root, merged, {"model": model.name, "recipe_fingerprint": "f"})
    return root


def targets_recipe(*overrides: str, neurons: str = "", **targets: object) -> Recipe:
    """A recipe for a TinyResidualNet; `targets` are keys of [targets], `neurons` more lines of [[neurons]]."""
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in {"num_references": 4, **targets}.items()]
    text = f"""
name = "tiny"
[model]
name = "python:tests.support.tiny_networks:TinyResidualNet"
[data]
shards = ["x.tar"]
[output]
root = "out"
[statistics]
top_k = 8
[[neurons]]
layer = "stage2"
{neurons}
[targets]
{chr(10).join(lines)}
[visualize]
preset = "fast"
grid = 2
"""
    return Recipe.from_toml(text, overrides)


def any_images() -> DistinctImages:
    """Takes all candidates, duplicates too."""
    return DistinctImages(lambda _: None, -1)


def tiny_reader(model: Model) -> ReferenceReader:
    return ReferenceReader(model, image_size_px=model.input_size_px, max_pixels=10**6)


def top_images(statistics: StatisticsStore, layer: str, unit: int) -> list[str]:
    """Keys of the images that activate a unit, best first."""
    return [top_image.key for top_image in statistics.top_images(layer, unit)]
