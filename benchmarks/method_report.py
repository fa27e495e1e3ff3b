"""What finished runs show: tables of scores with their intervals and differences, and contact sheets."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from benchmarks.method_runs import BASELINES, KINDS, VariantRun
from pipeline.atlas.format.scores import DATASET_IMAGES
from pipeline.evaluation.metrics.bootstrap import jackknife_interval, paired_difference
from pipeline.evaluation.metrics.fid_kid import frechet_distance, kernel_distance

BASES = {
    "class": ("published", "published-400", "published-full", "fast", "best"),
    "intermediate": ("published", "published-400", "fast", "best"),
}  # what the other variants of VITAL are compared with
Distance = Callable[[np.ndarray, np.ndarray], float]
SHEET_COLUMNS, TILE_PX, CAPTION_PX = 10, 112, 12
# Lines of the tables, from `scores.parquet`: metric → decimals.
METRICS = {
    "class": {"accuracy_top1": 2, "accuracy_top5": 2, "fid": 1, "kid": 3, "path_similarity": 2},
    "intermediate": {"exceeds_max_activation": 2, "activation_ratio": 2, "two_afc": 3, "path_similarity": 2, "kid": 3},
}


def report(runs: Sequence[VariantRun]) -> str:
    """The tables of all runs, as Markdown."""
    lines = []
    for kind in KINDS:
        own = [run for run in runs if run.kind == kind]
        if own:
            lines += [f"## {kind} neurons", "", *scores_table(own, kind), ""]
            for base in BASES[kind]:
                lines += [*differences_table(own, kind, base), ""]
            lines += [*differences_table(own, kind, "best", BASELINES), ""]
            lines += [*agreement_table(own), ""] if kind == "class" else []
    return "\n".join(lines)


def scores_table(runs: Sequence[VariantRun], kind: str) -> list[str]:
    """One column per variant and method: means over neurons, with 95 % intervals where they were measured."""
    scores = pd.concat([run.scores() for run in runs])
    # What is measured on dataset images is the same in all runs of the same visualizations; the first stands for all.
    dataset_images = scores[(scores["method"] == DATASET_IMAGES) & (scores["variant"] == runs[0].name)]
    made = scores[scores["method"] != DATASET_IMAGES]
    columns = {
        f"{variant} {method}": table for (variant, method), table in made.groupby(["variant", "method"], sort=False)
    }
    columns["dataset images"] = dataset_images
    means = pd.concat([run.rows() for run in runs]).groupby(["variant", "method"])[["steps", "seconds"]].mean()
    places = [tuple(name.split(" ")) for name in columns]
    lines = [
        table_line(["metric", "evaluator", *columns]),
        "|---|---|" + "---:|" * len(columns),
        table_line(["visualizations", "", *(f"{table['num_visualizations'].max():.0f}" for table in columns.values())]),
    ]
    for column in ("steps", "seconds"):
        cells = [f"{means.loc[place][column]:.0f}" if place in means.index else "" for place in places]
        lines.append(table_line([f"{column} per visualization", "", *cells]))
    for metric, decimals in METRICS[kind].items():
        for evaluator in sorted(made[made["metric"] == metric]["evaluator"].unique()):
            values = [table.set_index(["metric", "evaluator"]) for table in columns.values()]
            lines.append(
                table_line([metric, evaluator, *(format_score(v, metric, evaluator, decimals) for v in values)])
            )
    return lines


def format_score(values: pd.DataFrame, metric: str, evaluator: str, decimals: int) -> str:
    """A value with its interval; nothing where it was not measured."""
    if (metric, evaluator) not in values.index:
        return ""
    found = values.loc[(metric, evaluator)]
    interval = "" if np.isnan(found.low) else f" [{found.low:.{decimals}f}, {found.high:.{decimals}f}]"
    return f"{found.value:.{decimals}f}{interval}"


def differences_table(
    runs: Sequence[VariantRun], kind: str, base: str, methods: Sequence[str] = ("vital",)
) -> list[str]:
    """Variants of the methods minus one variant of VITAL on the neurons of both, with paired bootstrap intervals.

    Args:
        runs: of one kind of neuron.
        kind: of neuron.
        base: the variant of VITAL, which is not compared with itself.
        methods: those that are compared with it.
    """
    tables = {run.name: run.rows() for run in runs}
    made = {
        (name, method): rows[rows["method"] == method]
        for name, rows in tables.items()
        for method in ["vital", *methods]
    }
    others = [place for place in made if place[1] in methods and place != (base, "vital") and len(made[place])]
    if not others or not len(made.get((base, "vital"), ())):
        return []
    rows = {" ".join(place): made[place] for place in [(base, "vital"), *others]}
    first, *names_of_others = rows
    accuracies = [name for name in rows[first] if name.startswith("accuracy_top")]
    names = (
        accuracies if kind == "class" else ["activation_ratio", *(n for n in rows[first] if n.startswith("two_afc"))]
    )
    lines = [table_line([f"minus {first}", *names_of_others]), "|---|" + "---:|" * len(others)]
    # Not `alignment_distance`: the targets of presets with other cells are other ones.
    for name in [*names, "path_similarity"]:
        cells = []
        for other in names_of_others:
            means = [rows[place].groupby(["layer", "unit"])[name].mean() for place in (other, first)]  # over seeds
            both = pd.concat(means, axis=1, keys=["other", "base"], join="inner")
            difference, low, high = paired_difference(both["other"], both["base"])
            cells.append(f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(table_line([name, *cells]))
    named = {run.name: run for run in runs}
    return lines + distance_lines({name: named[name.split(" ")[0]] for name in rows}, rows, names_of_others, first)


def distance_lines(
    runs: Mapping[str, VariantRun], rows: Mapping[str, pd.DataFrame], others: Sequence[str], base: str
) -> list[str]:
    """Differences of FID and KID of the neurons of both, with intervals of the jackknife over neurons."""
    cells: dict[tuple[str, str], list[str]] = {}
    for evaluator in runs[base].evaluators():
        real = runs[base].dataset_images(evaluator)
        visualizations = {name: runs[name].visualizations(evaluator, rows[name]) for name in (base, *others)}
        shared = {name: sorted(visualizations[name].keys() & visualizations[base].keys()) for name in others}
        for metric, distance in (("fid", frechet_distance), ("kid", kernel_distance)):
            for name in others:
                if len(shared[name]) < 2:  # an evaluator of one of the runs only
                    cells.setdefault((metric, evaluator), []).append("")
                    continue
                both = [[visualizations[run][neuron] for neuron in shared[name]] for run in (name, base)]
                fewest = min(len(embeddings) for run in both for embeddings in run)  # seeds: FID depends on how many
                sets = [[embeddings[:fewest] for embeddings in run] for run in both]
                statistic = partial(distance_difference, distance, real, *sets)
                value, low, high = jackknife_interval(statistic, len(shared[name]))
                cells.setdefault((metric, evaluator), []).append(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]")
    return [table_line([f"{metric}_{evaluator}", *cells[metric, evaluator]]) for metric, evaluator in sorted(cells)]


def agreement_table(runs: Sequence[VariantRun]) -> list[str]:
    """Class visualizations that a network names right, by how many images of the class it names right; the wrong names.

    A visualization made of images that a network takes for something else is taken for that, too: the last line
    of each network counts, of its wrong names, those that it also gives to a dataset image of the class.
    """
    made = {(run.name, method): rows for run in runs for method, rows in run.rows().groupby("method", sort=False)}
    named = {run.name: run for run in runs}
    lines = [
        table_line(["evaluator", "dataset images named right", *map(" ".join, made)]),
        "|---|---|" + "---:|" * len(made),
    ]
    for evaluator in runs[0].evaluators("logits"):
        names = {c: logits.argmax(axis=1) for c, logits in runs[0].dataset_images_of_classes(evaluator).items()}
        share = {c: (found == c).mean() for c, found in names.items()}
        visualizations = {
            place: {
                unit: logits.argmax(axis=1)
                for (_, unit), logits in named[place[0]].visualizations(evaluator, rows, "logits").items()
                if unit in names
            }
            for place, rows in made.items()
        }
        for share_name in ("all", "some", "none"):
            classes = [c for c, fraction in share.items() if share_name == {1: "all", 0: "none"}.get(fraction, "some")]
            cells = [
                f"{np.mean([(found[c] == c).mean() for c in classes if c in found]):.2f}"
                for found in visualizations.values()
            ]
            lines.append(table_line([evaluator, f"{share_name} ({len(classes)} classes)", *cells]))
        wrong = [
            [(c, name) for c, given in found.items() for name in given if name != c]
            for found in visualizations.values()
        ]
        cells = [f"{sum(name in names[c] for c, name in pairs)} of {len(pairs)}" for pairs in wrong]
        lines.append(table_line([evaluator, "wrong names, as a dataset image's", *cells]))
    return lines


def distance_difference(
    distance: Distance,
    real: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    chosen: Sequence[int],
) -> float:
    """By how much one method's visualizations of the chosen neurons are farther from dataset images than another's."""
    far, near = (distance(real, np.concatenate([embeddings[i] for i in chosen])) for embeddings in (first, second))
    return far - near


def table_line(cells: Sequence[str]) -> str:
    """Cells as a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def draw_sheets(runs: Sequence[VariantRun], work: Path) -> None:
    """A contact sheet of each kind: a column per neuron, a row per variant and method."""
    for kind in KINDS:
        own = [run for run in runs if run.kind == kind]
        if not own:
            continue
        neurons = own[0].rows()[["layer", "unit", "label"]].drop_duplicates(["layer", "unit"])
        neurons = neurons.iloc[:: max(1, len(neurons) // SHEET_COLUMNS)].head(SHEET_COLUMNS)
        lines = [(run, method) for run in own for method in run.variant.methods]
        step = TILE_PX + CAPTION_PX
        sheet = Image.new("RGB", (TILE_PX * len(neurons), step * len(lines)), "white")
        draw = ImageDraw.Draw(sheet)
        for row, (run, method) in enumerate(lines):
            paths = run.rows().query("method == @method and seed == 0").set_index(["layer", "unit"])["image_path"]
            for column, neuron in enumerate(neurons.itertuples()):
                caption = f"{run.name} {method}" if column == 0 else neuron.label or f"{neuron.layer}:{neuron.unit}"
                draw.text((column * TILE_PX + 2, row * step), caption[:20], fill="black")
                path = paths.get((neuron.layer, neuron.unit))
                if path:
                    with Image.open(run.folder / path) as image:
                        tile = image.convert("RGB").resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
                    sheet.paste(tile, (column * TILE_PX, row * step + CAPTION_PX))
        sheet.save(work / f"methods-{kind}.webp", quality=80)
