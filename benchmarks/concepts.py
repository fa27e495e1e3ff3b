"""Concepts in place of channels on real weights: NMF factors of a layer's activations, as an atlas.

    python benchmarks/concepts.py OUT [--layer blocks.4] [--concepts 8]

Factors the positive activations of EfficientNet-lite0 at all N positions of the demo's dataset images, [N, C] ≈ [N,
K]·[K, C] (as CRAFT does: Fel et al., CVPR 2023; multiplicative updates: Lee and Seung, NeurIPS 2000), writes the K rows
to OUT/concepts.npz, runs the demo's recipe with them in place of its neurons, and prints one line per concept. The
sheet OUT/concepts.png shows each concept's visualization and the dataset images that activate it most. Needs the demo's
weights.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jobs.commands.demo import demo_recipe
from jobs.run.resolved import resolve
from jobs.runner import run_stages
from pipeline.atlas.format.schema import EXAMPLE_TILE_PX
from pipeline.data.sample_errors import ErrorBudget
from pipeline.data.shards import iterate_samples
from pipeline.io.images import decode_image
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.models import Model, features_of
from pipeline.recipe.recipe import STAGES

NMF_STEPS = 200
BATCH_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layer", default="blocks.4")
    parser.add_argument("--concepts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps per visualization")
    parser.add_argument("--address", default="inline", help="of the Ray cluster; inline: in this process")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    resolved = resolve(demo_recipe(str(arguments.out / "unused")))
    features = torch.cat(list(positive_features(resolved.model, resolved.shard_urls, arguments.layer)))  # [N, C]
    directions, error = nmf(features, arguments.concepts)
    np.savez(arguments.out / "concepts.npz", directions=directions.numpy())
    print(
        f"{resolved.model.name} {arguments.layer}: {arguments.concepts} concepts of {len(features)} positions, "
        f"relative error {error:.3f}, {time.strftime('%Y-%m-%d')}"
    )
    recipe = demo_recipe(
        str(arguments.out),
        [
            f'concepts=[{{name="nmf", layer="{arguments.layer}", directions="{arguments.out / "concepts.npz"}"}}]',
            'neurons=[{layer="concepts.nmf"}]',
            "statistics.layers=[]",
            f"visualize.steps={arguments.steps}",
            "atlas.title=Concepts",
        ],
    )
    run_stages(recipe, STAGES, address=arguments.address)
    rows = read_rows(Root.open(arguments.out), "layers/concepts.nmf.parquet")
    for row in rows:
        labels = list(dict.fromkeys(label for label in row["reference_labels"] if label))
        print(
            f"concept {row['unit']}: {row['status']}, percentile {row['activation_percentile']:.1f}, "
            f"{row['activation_ratio']:.2f} of the strongest dataset image's activation; {', '.join(labels)}"
        )
    sheet(arguments.out, rows).save(arguments.out / "concepts.png")


@torch.no_grad()
def positive_features(model: Model, shard_urls: list[str], layer: str) -> Iterator[torch.Tensor]:
    """Positive activations at every position of every dataset image, [positions, C] per batch."""
    budget = ErrorBudget(0.0)
    images = [
        model.preprocess(decode_image(sample.image))
        for url in shard_urls
        for sample in iterate_samples(
            url, image_key="jpg", label_key="cls", num_classes=model.num_classes, on_skip=budget.add_skip
        )
    ]
    for batch in torch.stack(images).split(BATCH_SIZE):
        features = features_of(model.module, batch, [layer])[layer]
        yield features.clamp(min=0).flatten(2).transpose(1, 2).flatten(0, 1)


def nmf(values: torch.Tensor, count: int) -> tuple[torch.Tensor, float]:
    """Factors H ≥ 0, [count, C], of values ≥ 0, [N, C] ≈ W H, and the relative error of the product."""
    generator = torch.Generator().manual_seed(0)
    W = torch.rand(len(values), count, generator=generator)
    H = torch.rand(count, values.shape[1], generator=generator)
    for _ in range(NMF_STEPS):
        W *= (values @ H.T) / (W @ (H @ H.T) + 1e-9)
        H *= (W.T @ values) / ((W.T @ W) @ H + 1e-9)
    return H, float((values - W @ H).norm() / values.norm())


def sheet(out: Path, rows: list[dict]) -> Image.Image:
    """A row per concept: its visualization, then its dataset images."""
    tile = EXAMPLE_TILE_PX
    columns = max(row["num_examples"] for row in rows)
    page = Image.new("RGB", ((columns + 1) * tile, len(rows) * tile), "white")
    for y, row in enumerate(rows):
        with Image.open(out / row["image_path"]) as visualization, Image.open(out / row["examples_path"]) as strip:
            page.paste(visualization.resize((tile, tile)), (0, y * tile))
            page.paste(strip, (tile, y * tile))
    return page


if __name__ == "__main__":
    main()
