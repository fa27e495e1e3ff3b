"""A small, complete atlas of a model that does not exist, built by `build_atlas` in a few seconds.

It has what real ones have and tests need: three layers with a class layer, every status, two methods, two
seeds, two sheets in one layer, example strips, a score of a held-out model, and labels and keys that try to
break out of tables and pages. The visualizations are drawn: every one differs from every other. `COMPARISON` are the
options of another one: every method, though not for every neuron, three facets, a layer of concepts and a combination.

As a program: `python -m tests.support.synthetic_atlas FOLDER`.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.atlas.build.build import build_atlas
from pipeline.atlas.format import schema
from pipeline.atlas.format.fragments import Key, Row, RunRows, write_fragment, write_scores
from pipeline.atlas.format.sheets import draw_examples
from pipeline.atlas.neighbors.embeddings import TopImages
from pipeline.atlas.neighbors.find import NeighborTables, find_neighbors
from pipeline.data.captions import one_line
from pipeline.io.images import encode_webp
from pipeline.io.root import Root
from pipeline.neurons import Neuron, neuron_seed
from pipeline.recipe.recipe import Recipe

MODEL_NAME = "timm:synthetic_net"
# name → (units in the model, units in the atlas); "blocks.2.1" fills two sheets.
LAYERS = {"conv_stem": (16, 12), "blocks.2.1": (96, 70), "classifier": (1000, 24)}
CLASS_LAYER = "classifier"
HELD_OUT_COLUMN = "accuracy_top1_squeezenet1_1"
VISUALIZATION_PX = 64
NUM_REFERENCES = 6
HOSTILE_STRINGS = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "../../../../etc/passwd",
    "quote \" and ' and `backtick`",
    "tab\tnewline\nnull\x00bell\x07",
    "مرحبا ‮ right to left",
    "é̂́ combining, 🦆 astral",
    "{{7*7}} ${7*7} %s %00 &amp; javascript:alert(3)",
    "x" * 300,
    "",
)
CLASS_NAMES = (
    "tench, Tinca tinca",
    "goldfish",
    "great white shark",
    *HOSTILE_STRINGS,
    *(f"class {i}" for i in range(40)),
)
CAPTIONS = (
    "A heron waits at the edge of a pond",
    "Two bicycles lean against a brick wall",
    "Steam rises from a bowl of noodles",
    "Rain on the window of a night train, seen from the last seat of the last car, with the lamps of a village that "
    "nobody on board has ever heard of, and a reflection of the photographer asleep",
    "",
    *HOSTILE_STRINGS,
)
METHODS = ("vital", "maco", "fourier", "deepinversion", "pixel")


def some_methods(layer: str, unit: int) -> tuple[str, ...]:
    """What a recipe of several blocks may ask for: two units of the stem by fewer methods, the rest by all."""
    fewer = {("conv_stem", 1): ("vital",), ("conv_stem", 2): ("maco", "pixel")}
    return fewer.get((layer, unit), METHODS)


def all_methods(layer: str, unit: int) -> tuple[str, ...]:
    """What a recipe of one block asks for."""
    return METHODS


COMPARISON: dict[str, Any] = {
    "name": "comparison",
    "layers": {"conv_stem": (16, 11), "concepts.textures": (2, 2), "combinations.eye": (1, 1), "classifier": (1000, 4)},
    "methods": METHODS,
    "seeds": 1,
    "facets": 3,
    "methods_of": some_methods,
}
_REASONS = {
    "weak": "activation at the 42nd percentile of the data set, below 99",
    "dead": "no image of the data set activates this unit",
    "failed": "RuntimeError: <b>CUDA out of memory</b> at step 17",
    "skipped": "class has 1 labelled image, 3 are needed",
}


def recipe(
    *,
    name: str = "synthetic",
    publish_examples: str = "thumbnails",
    methods: Sequence[str] = ("vital", "maco"),
    seeds: int = 2,
    facets: int = 1,
) -> Recipe:
    """The recipe that such an atlas would come from."""
    return Recipe.from_toml(
        f"""
        schema = "recipe/1"
        name = "{name}"
        [model]
        name = "{MODEL_NAME}"
        weights = "random"
        [data]
        shards = "shards/photos-000000.tar"
        [output]
        root = "atlas"
        [statistics]
        layers = ["conv_stem", "blocks.2.1"]
        [[neurons]]
        layer = "classifier"
        [targets]
        facets = {facets}
        [visualize]
        methods = {list(methods)!r}
        seeds = {seeds}
        [atlas]
        title = "Synthetic <em>atlas</em> & co."
        publish_examples = "{publish_examples}"
        license = "CC0-1.0"
        homepage = "https://example.org/atlas"
        """.replace("'", '"')
    )


def draw_visualization(seed: int, size_px: int = VISUALIZATION_PX) -> np.ndarray:
    """uint8 [size, size, 3]: colored waves; another seed gives clearly other colors and directions."""
    generator = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[0:size_px, 0:size_px] / size_px
    channels = []
    for _ in range(3):
        frequency_x, frequency_y = generator.uniform(-3, 3, size=2)
        wave = np.sin(2 * np.pi * (frequency_x * x_HW + frequency_y * y_HW) + generator.uniform(0, 6))
        channels.append(generator.uniform(60, 195) + generator.uniform(30, 60) * wave)
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def status_of(unit: int) -> str:
    """Every eighth unit or so is something other than ok; unit 0 always is ok."""
    return {3: "weak", 4: "dead", 5: "failed", 6: "skipped"}.get(unit % 11, "ok")


def write_run(
    root: Root,
    rows_per_batch: int = 16,
    layers: dict[str, tuple[int, int]] = LAYERS,
    methods: Sequence[str] = ("vital", "maco"),
    seeds: int = 2,
    facets: int = 1,
    methods_of: Callable[[str, int], Sequence[str]] = all_methods,
) -> None:
    """Write visualizations, fragments and scores in batches, as `visualize` and `evaluate` would.

    Args:
        root: the atlas folder.
        rows_per_batch: rows of one fragment.
        layers: name → (units in the model, units in the atlas).
        methods: those of the recipe, in order.
        seeds: visualizations per neuron, method and facet.
        facets: clusters of every neuron's references; the seed index of a row is seed · facets + facet.
        methods_of: (layer, unit) → the methods that one neuron has, if they are among `methods`.
    """
    keys = [
        (layer, unit, method, seed)
        for layer, (_, num_neurons) in layers.items()
        for method in methods
        for seed in range(seeds * facets)
        for unit in range(num_neurons)
        if method in methods_of(layer, unit)
    ]
    for start in range(0, len(keys), rows_per_batch):
        batch = keys[start : start + rows_per_batch]
        name = f"batch-{hashlib.sha256(repr(batch).encode()).hexdigest()[:8]}"
        write_fragment(root, name, [_fragment_row(root, *key, facets) for key in batch])
        write_scores(root, name, list(_score_rows(batch)))


def build(
    root: Root,
    *,
    name: str = "synthetic",
    publish_examples: str = "thumbnails",
    layers: dict[str, tuple[int, int]] = LAYERS,
    methods: Sequence[str] = ("vital", "maco"),
    seeds: int = 2,
    facets: int = 1,
    neighbors: bool = False,
    captions: bool = False,
) -> None:
    """The build step over what `write_run` left in `root`; `captions`: the dataset images have some."""
    build_atlas(
        root,
        recipe=recipe(name=name, publish_examples=publish_examples, methods=methods, seeds=seeds, facets=facets),
        rows=RunRows(root, _with_captions) if captions else RunRows(root),
        model={
            "name": MODEL_NAME,
            "weights": "random",
            "weights_sha256": "ab" * 32,
            "input_size_px": VISUALIZATION_PX,
            "num_classes": layers[CLASS_LAYER][0] if CLASS_LAYER in layers else 1000,
            "classifier_layer": CLASS_LAYER,
        },
        provenance={
            "versions": {"torch": "2.13.0", "neuron-atlas": "0.1.0"},
            "weights_sha256": "ab" * 32,
            "data_fingerprint": "0123456789abcdef",
            "num_samples": 231,
            "num_skipped": 2,
            "recipe_fingerprint": "fedcba9876543210",
            "git_commit": "0" * 40,
        },
        layers={layer: num_units for layer, (num_units, _) in layers.items()},
        neighbors=nearest_neighbors(layers) if neighbors else None,
    )


def nearest_neighbors(layers: dict[str, tuple[int, int]]) -> NeighborTables:
    """Neighbors and a map: units with the same remainder by 5 share dataset images, in all layers, but for dead ones."""
    neurons = [(layer, unit) for layer, (_, num_neurons) in layers.items() for unit in range(num_neurons)]
    rng = np.random.default_rng(0)
    groups = np.array([unit % 5 for _, unit in neurons])
    dead = np.array([status_of(unit) == "dead" for _, unit in neurons])
    activation = np.sort(rng.uniform(1, 2, (len(neurons), 8)))[:, ::-1] * ~dead[:, None]
    top_images = TopImages(
        activation=activation.astype(np.float32),
        sample=groups[:, None] * 20 + rng.permuted(np.tile(np.arange(20), (len(neurons), 1)), axis=1)[:, :8],
        mean=np.zeros(len(neurons)),
    )
    ring = np.stack([np.cos(groups), np.sin(groups)], axis=1)[~dead]  # the groups around a circle, each a small cloud
    places = ring + rng.normal(0, 0.2, ring.shape)
    return find_neighbors(neurons, top_images, layout=lambda _: places, layout_name="a drawn layout")


def build_synthetic_atlas(folder: str, **options: Any) -> Root:
    """A complete atlas in `folder` (any URL that Root opens), and its root.

    Options are those of `write_run` and of `build`.
    """
    root = Root.open(str(folder))
    write_run(
        root,
        **{
            key: value
            for key, value in options.items()
            if key not in ("name", "publish_examples", "neighbors", "captions")
        },
    )
    build(root, **{key: value for key, value in options.items() if key != "methods_of"})
    return root


def _with_captions(_layer: str, rows: list[Row]) -> list[Row]:
    """The rows with a caption for each reference, other ones for the next neuron."""
    for row in rows:
        row["reference_captions"] = [
            one_line(CAPTIONS[(row["unit"] + rank) % len(CAPTIONS)]) for rank in range(len(row["reference_keys"] or ()))
        ]
    return rows


def _fragment_row(root: Root, layer: str, unit: int, method: str, seed: int, facets: int) -> dict[str, Any]:
    status = status_of(unit)
    is_class = layer == CLASS_LAYER
    number = neuron_seed(0, method, layer, unit, seed)
    row: dict[str, Any] = {
        "neuron_id": Neuron(MODEL_NAME, layer, unit).id,
        "layer": layer,
        "unit": unit,
        "label": CLASS_NAMES[unit] if is_class else "",
        "method": method,
        "seed": seed,
        "facet": seed % facets,
        "num_facets": facets,
        "status": status if status in ("failed", "skipped", "dead") else "ok",
        "status_reason": _REASONS[status] if status in ("failed", "skipped", "dead") else "",
        "relevance": "none" if is_class else "lrp",
        "alignment": "sort",
        "preset": "fast",
        "parameterization": "fourier",
        "precision": "float32",
        "recipe_fingerprint": "fedcba9876543210",
        "seed_value": str(number),
    }
    if status != "dead":
        row |= _references(root, layer, unit, seed % facets)
    if row["status"] == "ok":
        visualization = encode_webp(draw_visualization(number), quality=90)
        alpha = np.zeros((VISUALIZATION_PX, VISUALIZATION_PX, 4), np.uint8)
        alpha[..., 3] = np.linspace(0, 255, VISUALIZATION_PX, dtype=np.uint8)
        row |= {
            "image_path": schema.image_path(layer, unit, method, seed),
            "image_sha256": hashlib.sha256(visualization).hexdigest(),
            "alpha_path": schema.alpha_path(layer, unit, method, seed),
            "width_px": VISUALIZATION_PX,
            "height_px": VISUALIZATION_PX,
            "steps": 120,
            "seconds": 1.5,
            "loss": 0.25 + unit / 100,
        }
        root.write_bytes(row["image_path"], visualization)
        root.write_bytes(row["alpha_path"], encode_webp(alpha, lossless=True))
    return row


def _references(root: Root, layer: str, unit: int, facet: int) -> dict[str, Any]:
    path = schema.examples_path(layer, unit, facet)
    is_class = layer == CLASS_LAYER
    ranks = range(facet * NUM_REFERENCES, (facet + 1) * NUM_REFERENCES)  # every facet has dataset images of its own
    if not root.exists(path):
        visualizations = [draw_visualization(1000 * unit + rank) for rank in ranks]
        root.write_bytes(path, encode_webp(draw_examples(visualizations), quality=80))
    labels = [CLASS_NAMES[(unit + rank // 2) % len(CLASS_NAMES)] for rank in ranks]
    return {
        "reference_keys": [f"photo-{unit:04d}-{rank}" for rank in ranks[:-1]]
        + [HOSTILE_STRINGS[unit % len(HOSTILE_STRINGS)]],
        "reference_activations": [12.5 - rank for rank in ranks],
        "reference_labels": labels,
        "reference_positions": [] if is_class else [0.25, 0.25, 0.5, 0.5] * NUM_REFERENCES,
        "reference_source": "label" if is_class else "top_activation",
        "examples_path": path,
        "num_examples": NUM_REFERENCES,
        "num_references": NUM_REFERENCES,
    }


def _score_rows(batch: Sequence[Key]) -> Iterator[dict[str, Any]]:
    for layer, unit, method, seed in batch:
        status = status_of(unit)
        if status in ("failed", "skipped"):
            continue
        row: dict[str, Any] = {
            "layer": layer,
            "unit": unit,
            "method": method,
            "seed": seed,
            "status": status,
            "status_reason": _REASONS.get(status, ""),
            "max_activation": 12.5,
            "mean_activation": 0.75,
            "histogram_counts": [int(231 * 0.5**i) for i in range(32)],
            "histogram_low": -1.0,
            "histogram_high": 15.0,
        }
        if status != "dead":
            percentile = 42.0 if status == "weak" else 99.0 + unit % 10 / 10
            row |= {
                "activation": 10.0 + unit % 7,
                "activation_percentile": percentile,
                "activation_ratio": (10.0 + unit % 7) / 12.5,
                HELD_OUT_COLUMN: float(unit % 2),
            }
            if layer == CLASS_LAYER:
                row |= {
                    "accuracy_top1": float(unit % 3 != 0),
                    "accuracy_top5": 1.0,
                    "predicted_label": CLASS_NAMES[unit if unit % 3 else unit + 1],
                }
        yield row


if __name__ == "__main__":
    print(build_synthetic_atlas(sys.argv[1]).url)
