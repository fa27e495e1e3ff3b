"""The methods against one another: the same neurons, real weights, scored by held-out networks.

    python -m benchmarks.method_table DATASET_IMAGES WORK [--evaluator NAME=WEIGHTS …] [--variants NAME …] [--try …]

DATASET_IMAGES is a folder with `manifest.csv`: `file`, `caption`, `imagenet` (class indices separated by spaces).
The subject is EfficientNet-Lite0; its neurons are every class that two dataset images or more show, and units of three
intermediate layers drawn at random. Each variant (a preset and its methods) is a run of the whole pipeline in a folder
of its own below WORK, classes and intermediate units apart, which resumes; the numbers are those of its `evaluate`
stage. Printed:

    the scores of each variant and method, with 95 % intervals over neurons,
    the paired differences of the variants of `vital` from `published`, `fast` and others on the same neurons,
    and, into WORK, a contact sheet of the first neurons.

`--try patient=best,steps=400,activation_growth=3` adds a variant with other settings of [visualize].
`--evaluator` names the held-out networks; the weights of lite1 and lite2 are in packages, and
`benchmarks/squeezenet_weights.py` makes those of squeezenet1_1.
"""

import collections
import csv
import hashlib
from functools import partial
from pathlib import Path

import torch

from benchmarks.common.program import make_parser, print_header
from benchmarks.method_report import draw_sheets, report
from benchmarks.method_runs import KINDS, ON_GPUS, VARIANTS, VariantRun, recipe_of, variant_of
from pipeline.data.shards import NewSample, unique_slugs, write_tar_shards
from pipeline.io.root import Root
from pipeline.recipe.recipe import STAGES


def write_shards(dataset_images: Path, out: Path) -> list[int]:
    """Write the dataset images as tar shards unless they are there; returns the classes that at least two show.

    A dataset image that several classes fit is labeled with the one that most dataset images show alone.
    """
    with open(dataset_images / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["file"])
    fitting = [[int(index) for index in row["imagenet"].split()] for row in rows]
    alone = collections.Counter(classes[0] for classes in fitting if len(classes) == 1)
    shown = collections.Counter(index for classes in fitting for index in classes)
    labels = [max(c, key=lambda i: (alone[i], shown[i], -i)) if c else None for c in fitting]
    root = Root.open(str(out))
    if not root.list(""):
        keys = unique_slugs(Path(row["file"]).stem for row in rows)
        samples = [
            NewSample(
                key=key,
                suffix="jpg",
                image=(dataset_images / row["file"]).read_bytes(),
                label=label,
                description={"caption": row["caption"]},
            )
            for key, row, label in zip(keys, rows, labels, strict=True)
        ]
        samples.sort(key=lambda sample: hashlib.sha256(sample.key.encode()).digest())
        write_tar_shards(samples, root, name="images", max_samples=128, max_bytes=50_000_000)
    counts = collections.Counter(label for label in labels if label is not None)
    return sorted(index for index, count in counts.items() if count > 1)


def main() -> None:
    parser = make_parser(__doc__, threads=True)
    parser.add_argument("dataset_images", type=Path, metavar="DATASET_IMAGES")
    parser.add_argument("work", type=Path, metavar="WORK", help="folder of the runs; finished work is not done again")
    parser.add_argument("--evaluator", action="append", default=[], metavar="NAME=WEIGHTS", help="a held-out network")
    parser.add_argument("--variants", nargs="*", choices=[*VARIANTS, *ON_GPUS], default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--try", action="append", default=[], dest="tried", metavar="NAME=PRESET[,KEY=VALUE …]")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="of neurons")
    parser.add_argument("--batch-size", type=int, default=8, help="visualizations optimized together")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="stop every run after this stage")
    parser.add_argument(
        "--seeds", type=int, default=1, help="visualizations of each neuron; intervals are over neurons"
    )
    parser.add_argument("--tables-only", action="store_true", help="of the runs that are finished")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    classes = write_shards(arguments.dataset_images, arguments.work / "shards")
    named = {name: (VARIANTS | ON_GPUS)[name] for name in arguments.variants}
    variants = named | dict(variant_of(text) for text in arguments.tried)
    runs = [
        VariantRun(name, variant, kind, arguments.work)
        for name, variant in variants.items()
        for kind in variant.kinds
        if kind in arguments.kinds
    ]
    stages = STAGES[: STAGES.index(arguments.until) + 1]
    make_recipe = partial(
        recipe_of,
        classes=classes,
        shards=arguments.work / "shards",
        evaluators=arguments.evaluator,
        seeds=arguments.seeds,
        batch_size=arguments.batch_size,
    )
    for run in () if arguments.tables_only else runs:
        run.make(make_recipe(run.variant, run.kind, out=run.folder), stages)
    finished = [run for run in runs if run.is_finished]
    if finished:
        print_header("timm:tf_efficientnet_lite0", f"{len(classes)} classes", f"{arguments.seeds} seeds")
        print(report(finished))
        draw_sheets(finished, arguments.work)


if __name__ == "__main__":
    main()
