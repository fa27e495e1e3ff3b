"""Seconds and memory of `build` and `validate` by the number of neurons, on atlases of drawn rows and images.

    python -m benchmarks.big_atlas FOLDER [--neurons 12500 25000 50000 100000] [--no-validate] [--again] [--captions]

Each atlas is `FOLDER/atlas-N`; one that is there already is kept, and only validated (`--again` builds it once more
from its fragments, `--captions` with drawn captions for the references). Rows have what a run writes
at ImageNet's size: fifty references with keys, labels and activations, a histogram, seven scores. A few distinct
visualizations of usual size (224 px at quality 80, strips of nine dataset images, masks) are linked under every
neuron's name, so that a large atlas takes little room; contact sheets are painted from them as always. Neighbors and
map are of the drawn top-activating images of `neighbors.py`, which has the times of their parts.
`atlas_browser.py` shows the atlases. Every step runs in a process of its own, so that its peak memory is its own.
"""

import hashlib
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.common.data import drawn_captions
from benchmarks.common.program import make_parser, print_header
from benchmarks.common.timing import Usage, in_process
from benchmarks.neighbors import drawn_top_images
from pipeline.atlas.build.build import build_atlas
from pipeline.atlas.format import schema
from pipeline.atlas.format.fragments import RunRows, write_fragment, write_scores
from pipeline.atlas.format.schema import FRAGMENT_SCHEMA, KEY_COLUMNS, MAX_EXAMPLES, VISUALIZED_STATUSES
from pipeline.atlas.format.sheets import draw_examples
from pipeline.atlas.neighbors.find import NeighborTables, find_neighbors
from pipeline.atlas.neighbors.projection import layout, layout_name
from pipeline.atlas.validation.validate import validate
from pipeline.io.images import encode_webp
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe

NUM_LAYERS: Final = 48  # beside the classes: about two thousand units each at 100,000 neurons, as in a large ResNet
NUM_CLASSES: Final = 1000
BATCH_SIZE: Final = 128
CLASSIFIER: Final = "classifier"
NUM_VISUALIZATIONS: Final = 48
NUM_REFERENCES: Final = 50
NUM_EXAMPLES: Final = 9
NUM_DATASET_IMAGES: Final = 50_000  # with captions
VISUALIZATION_PX: Final = 224
MODEL_NAME: Final = "timm:drawn_net"
_SYLLABLES: Final = ("ta", "ri", "mon", "el", "ka", "sha", "dor", "ven", "lu", "pin", "gra", "bo", "zet", "ni", "ous")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--neurons", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    parser.add_argument("--no-validate", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--captions", action="store_true")
    arguments = parser.parse_args()
    print_header()
    print(f"{'neurons':>8}  {'step':<9}{'seconds':>9}{'CPU s':>9}{'CPU ms/neuron':>15}{'peak MiB':>10}{'load':>6}")
    for num_neurons in arguments.neurons:
        folder = arguments.folder / f"atlas-{num_neurons}"
        if not (folder / "drawn" / "neighbors.pickle").exists():
            in_process(write_visualizations, folder, num_neurons)
            in_process(write_run, folder, num_neurons)
            report(num_neurons, "neighbors", in_process(make_neighbors, folder, num_neurons))
        if arguments.again or not (folder / "atlas.json").exists():
            build = make_captioned_atlas if arguments.captions else make_atlas
            report(num_neurons, "build", in_process(build, folder, num_neurons))
        if not arguments.no_validate:
            report(num_neurons, "validate", in_process(check_atlas, folder, num_neurons))


def report(num_neurons: int, step: str, usage: Usage) -> None:
    print(
        f"{num_neurons:>8}  {step:<9}{usage.wall_s:>9.1f}{usage.cpu_s:>9.1f}{1000 * usage.cpu_s / num_neurons:>15.2f}"
        f"{usage.peak_mib:>10.0f}{os.getloadavg()[0]:>6.1f}",
        flush=True,
    )


def make_neighbors(folder: Path, num_neurons: int) -> None:
    """Unit embeddings, neighbors and, with openTSNE, the map, kept beside the atlas."""
    top_images, _ = drawn_top_images(num_neurons)
    name = layout_name()
    found = find_neighbors(neurons_of(num_neurons), top_images, layout=layout if name else None, layout_name=name)
    (folder / "drawn" / "neighbors.pickle").write_bytes(pickle.dumps(found))


def neurons_of(num_neurons: int) -> list[tuple[str, int]]:
    return [(layer, unit) for layer, num_units in layer_units(num_neurons).items() for unit in range(num_units)]


def make_captioned_atlas(folder: Path, num_neurons: int) -> None:
    """As `make_atlas`; each dataset image has one caption, whatever neuron it activates."""
    captions = drawn_captions(NUM_DATASET_IMAGES)

    def finish(_layer: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            keys = (row["reference_keys"] or ())[:MAX_EXAMPLES]
            row["reference_captions"] = [captions[zlib.crc32(key.encode()) % NUM_DATASET_IMAGES] for key in keys]
        return rows

    make_atlas(folder, num_neurons, finish)


def make_atlas(
    folder: Path,
    num_neurons: int,
    finish: Callable[[str, list[dict[str, Any]]], list[dict[str, Any]]] = lambda _, rows: rows,
) -> None:
    """The build step over the drawn rows."""
    neighbors: NeighborTables = pickle.loads((folder / "drawn" / "neighbors.pickle").read_bytes())
    root = Root.open(str(folder))
    build_atlas(
        root,
        recipe=recipe(num_neurons),
        rows=RunRows(root, finish),
        model={
            "name": MODEL_NAME,
            "weights": "random",
            "weights_sha256": "ab" * 32,
            "input_size_px": VISUALIZATION_PX,
            "num_classes": NUM_CLASSES,
            "classifier_layer": CLASSIFIER,
        },
        provenance={
            "versions": {},
            "weights_sha256": "ab" * 32,
            "data_fingerprint": "0123456789abcdef",
            "num_samples": 1_281_167,
            "num_skipped": 0,
            "recipe_fingerprint": "fedcba9876543210",
            "git_commit": "",
        },
        layers=layer_units(num_neurons),
        neighbors=neighbors,
    )


def check_atlas(folder: Path, num_neurons: int) -> None:
    faults = validate(folder)
    assert not faults, [str(fault) for fault in faults[:5]]


def recipe(num_neurons: int) -> Recipe:
    return Recipe.from_toml(
        f"""
        schema = "recipe/2"
        name = "drawn-{num_neurons}"
        [model]
        name = "{MODEL_NAME}"
        weights = "random"
        [data]
        shards = "shards/photos-000000.tar"
        [output]
        root = "atlas"
        [statistics]
        layers = ["stages.*"]
        [[neurons]]
        layer = "{CLASSIFIER}"
        [visualize]
        methods = ["vital"]
        [atlas]
        title = "{num_neurons:,} drawn neurons"
        publish_examples = "thumbnails"
        license = "CC0-1.0"
        """
    )


def layer_units(num_neurons: int) -> dict[str, int]:
    """Layer → units; the units of the intermediate layers differ by one at most."""
    intermediate = num_neurons - NUM_CLASSES
    return {f"stages.{i // 12}.blocks.{i % 12}": (intermediate + i) // NUM_LAYERS for i in range(NUM_LAYERS)} | {
        CLASSIFIER: NUM_CLASSES
    }


def class_names() -> list[str]:
    """1,000 names of two or four words, about as long as those of ImageNet."""
    generator = np.random.default_rng(7)

    def word() -> str:
        return "".join(generator.choice(_SYLLABLES, size=generator.integers(2, 5)))

    return [f"{word()} {word()}" + (f", {word()} {word()}" if i % 3 == 0 else "") for i in range(NUM_CLASSES)]


def write_run(folder: Path, num_neurons: int) -> None:
    """Fragments and scores in batches of neurons of one layer, as `visualize` and `evaluate` leave them."""
    root = Root.open(str(folder))
    for layer, members in groupby(rows(num_neurons), key=lambda row: row["layer"]):
        while batch := list(islice(members, BATCH_SIZE)):
            name = f"{layer}-vital-s0-{batch[0]['unit']:05d}-{len(batch)}"
            write_fragment(root, name, [{key: row[key] for key in row if key in FRAGMENT_SCHEMA} for row in batch])
            scored = [row for row in batch if row["status"] != "failed"]
            of_scores = {*KEY_COLUMNS, "status", "status_reason", "activation"}
            write_scores(
                root,
                name,
                [{key: row[key] for key in row if key in of_scores or key not in FRAGMENT_SCHEMA} for row in scored],
            )


def rows(num_neurons: int) -> Iterator[dict[str, Any]]:
    """What fragments joined with scores would hold: one method, one seed, a few of every status."""
    names = class_names()
    files = {kind: _files_of(kind) for kind in ("visualization", "alpha")}
    digests = {kind: [hashlib.sha256(data).hexdigest() for data in found] for kind, found in files.items()}
    number = 0
    for layer, num_units in layer_units(num_neurons).items():
        for unit in range(num_units):
            yield _row(number, layer, unit, names, digests["visualization"][number % NUM_VISUALIZATIONS])
            number += 1


def status_of(number: int) -> str:
    """Three neurons of 97 are not ok."""
    return {5: "weak", 7: "dead", 11: "failed"}.get(number % 97, "ok")


def _row(number: int, layer: str, unit: int, names: list[str], sha256: str) -> dict[str, Any]:
    generator = np.random.default_rng(number)
    status = status_of(number)
    is_class = layer == CLASSIFIER
    row: dict[str, Any] = {"layer": layer, "unit": unit, "method": "vital", "seed": 0, "status": status}
    row |= {
        "label": names[unit] if is_class else "",
        "status_reason": "" if status == "ok" else f"made {status} for this benchmark",
        "facet": 0,
        "num_facets": 1,
        "steps": 2000,
        "seconds": 3.5,
        "relevance": "lrp",
        "alignment": "sort",
        "preset": "published",
        "parameterization": "fourier",
        "recipe_fingerprint": "fedcba9876543210",
        "seed_value": str(generator.integers(1 << 62)),
    }
    if status not in VISUALIZED_STATUSES:
        return row
    # A neuron has a few favorite classes, like real ones: most of its top-activating images are of five or so.
    favorites = generator.choice(NUM_CLASSES, size=12)
    chosen = favorites[np.minimum(generator.geometric(0.25, size=NUM_REFERENCES) - 1, 11)]
    activations = np.sort(generator.gamma(4, 2, size=NUM_REFERENCES))[::-1]
    scores = generator.uniform(size=5)
    return row | {
        "image_path": schema.image_path(layer, unit, "vital", 0),
        "image_sha256": sha256,
        "alpha_path": schema.alpha_path(layer, unit, "vital", 0),
        "width_px": VISUALIZATION_PX,
        "height_px": VISUALIZATION_PX,
        "loss": float(scores[0]),
        "activation": float(activations[0] * (0.5 + scores[1])),
        "activation_percentile": 42.0 if status == "weak" else 99 + float(scores[1]),
        "activation_ratio": 0.5 + float(scores[1]),
        "accuracy_top1": float(scores[2] > 0.2) if is_class else None,
        "accuracy_top5": 1.0 if is_class else None,
        "predicted_label": names[unit] if is_class else "",
        "max_activation": float(activations[0]),
        "mean_activation": 1.0,
        "two_afc": float(scores[3]),
        "path_similarity": float(scores[4]),
        "histogram_counts": [int(1_281_167 * 0.5**i) for i in range(1, 33)],
        "histogram_low": -1.0,
        "histogram_high": float(activations[0]),
        "reference_keys": [f"n{10_000_000 + label:08d}_{generator.integers(50_000)}" for label in chosen],
        "reference_activations": activations.tolist(),
        "reference_labels": [names[label] for label in chosen],
        "reference_positions": [] if is_class else [0.25, 0.25, 0.5, 0.5] * NUM_REFERENCES,
        "reference_source": "label" if is_class else "top_activation",
        "examples_path": schema.examples_path(layer, unit),
        "num_examples": NUM_EXAMPLES,
        "num_references": NUM_REFERENCES,
    }


def write_visualizations(folder: Path, num_neurons: int) -> None:
    """The visualizations, masks and strips of every neuron: links to NUM_VISUALIZATIONS distinct files of each kind."""
    kinds = {"image_path": "visualization", "alpha_path": "alpha", "examples_path": "strip"}
    sources: dict[str, list[Path]] = {}
    for column, kind in kinds.items():
        sources[column] = [folder / "drawn" / f"{kind}-{i}.webp" for i in range(NUM_VISUALIZATIONS)]
        for path, data in zip(sources[column], _files_of(kind), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    number = 0
    for layer, num_units in layer_units(num_neurons).items():
        for place in ("images", "examples"):
            (folder / place / layer).mkdir(parents=True, exist_ok=True)
        for unit in range(num_units):
            for column, path in _paths_of(layer, unit).items() if status_of(number) in VISUALIZED_STATUSES else ():
                target = folder / path
                target.unlink(missing_ok=True)
                os.link(sources[column][number % NUM_VISUALIZATIONS], target)
            number += 1


def _paths_of(layer: str, unit: int) -> dict[str, str]:
    return {
        "image_path": schema.image_path(layer, unit, "vital", 0),
        "alpha_path": schema.alpha_path(layer, unit, "vital", 0),
        "examples_path": schema.examples_path(layer, unit),
    }


def _files_of(kind: str) -> list[bytes]:
    """NUM_VISUALIZATIONS WebP files: 224 px near 12 kB, masks of 2 kB, strips of nine dataset images near 29 kB."""
    files = []
    for number in range(NUM_VISUALIZATIONS):
        visualization = draw_visualization(number)
        if kind == "visualization":
            files.append(encode_webp(visualization, quality=80))
        elif kind == "alpha":
            alpha = np.zeros((56, 56, 4), np.uint8)
            alpha[..., 3] = visualization[::4, ::4, 0]
            files.append(encode_webp(alpha, lossless=True))
        else:
            files.append(
                encode_webp(draw_examples([np.roll(visualization, 20 * i, axis=1) for i in range(9)]), quality=80)
            )
    return files


def draw_visualization(seed: int) -> np.ndarray:
    """uint8 [224, 224, 3]: colored noise with the 1/f spectrum of dataset images."""
    generator = np.random.default_rng(seed)
    frequency_y, frequency_x = np.meshgrid(
        np.fft.fftfreq(VISUALIZATION_PX), np.fft.rfftfreq(VISUALIZATION_PX), indexing="ij"
    )
    frequency = np.maximum(np.hypot(frequency_y, frequency_x), 1 / VISUALIZATION_PX)
    noise = np.fft.rfft2(generator.normal(size=(3, VISUALIZATION_PX, VISUALIZATION_PX))) / frequency**1.45
    waves = np.fft.irfft2(noise, s=(VISUALIZATION_PX, VISUALIZATION_PX))
    waves /= waves.std(axis=(1, 2), keepdims=True)
    return (128 + 55 * waves).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


if __name__ == "__main__":
    main()
