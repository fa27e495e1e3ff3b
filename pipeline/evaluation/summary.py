"""Scores of the methods of an atlas: means over neurons, distances between sets of visualizations and dataset images.

Written as `run/evaluation/scores.parquet` and `scores.md`, which `build` publishes. The text lists what a run cannot
measure, with the reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from pipeline.activations.store import StatisticsStore
from pipeline.atlas.format.schema import STATUSES, VISUALIZED_STATUSES
from pipeline.atlas.format.scores import DATASET_IMAGES, KINDS, SUMMARY_SCHEMA, code, scores_text
from pipeline.evaluation.comparison_images import ComparisonImages
from pipeline.evaluation.derived import held_out_classifiers, two_afc_columns
from pipeline.evaluation.metrics.accuracy import class_rank
from pipeline.evaluation.metrics.bootstrap import mean_interval
from pipeline.evaluation.metrics.diversity import diversity
from pipeline.evaluation.metrics.fid_kid import frechet_distance, inception_score, kernel_distance
from pipeline.evaluation.predictions import FOLDER, MODEL, EvaluatorRecord, PredictionFolder, read_dataset_images
from pipeline.io.parquet import write_table
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe

SUMMARY_TABLE: Final = f"{FOLDER}/scores.parquet"
SUMMARY_TEXT: Final = f"{FOLDER}/scores.md"
SUMMARY_MARKER: Final = f"{FOLDER}/summary.json"
# Fewer visualizations or dataset images have no distribution worth the name.
MIN_VISUALIZATIONS: Final = 10
RESAMPLES: Final = 2_000  # of the bootstrap: its own error is then a twentieth of the interval's width

Row = dict[str, Any]
Key = tuple[str, int, str, int]  # layer, unit, method, seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Summarizer:
    """Makes the rows of a summary, and notes what cannot be made.

    Attributes:
        root: the atlas folder.
        recipe: of the run.
        statistics: of the run.
        dataset_images: that the visualizations are compared with.
        evaluators: the model's record first.
        rows: of the requested visualizations, with all their scores; failed ones too.
        class_layer: the layer whose neurons are classes, None if there is none.
        left_out: what could not be measured, filled in by `summarize`.
    """

    root: Root
    recipe: Recipe
    statistics: StatisticsStore
    dataset_images: ComparisonImages
    evaluators: Sequence[EvaluatorRecord]
    rows: Sequence[Row]
    class_layer: str | None
    left_out: list[str] = field(default_factory=list)

    def summarize(self) -> list[dict[str, Any]]:
        """The rows of SUMMARY_SCHEMA."""
        summary: list[dict[str, Any]] = []
        for kind in KINDS:
            of_kind = [row for row in self.rows if kind in (self._kind(row), "all")]
            for method in self._methods(of_kind):
                rows = [row for row in of_kind if row["method"] == method]
                place = {"method": method, "layer": "", "kind": kind}
                found = [*_counts(rows), *self._means(rows)]
                if kind == "all":  # accuracy is of the classes alone
                    found = [one for one in found if not one["metric"].startswith("accuracy")]
                summary += [place | one for one in found]
                if kind == "intermediate":
                    for layer in dict.fromkeys(row["layer"] for row in rows):
                        of_layer = self._means([row for row in rows if row["layer"] == layer])
                        summary += [place | {"layer": layer} | one for one in of_layer]
            for evaluator in self.evaluators:
                summary += [
                    {"layer": "", "kind": kind} | found for found in self._of_evaluator(evaluator, kind, of_kind)
                ]
        self._note_what_is_missing(summary)
        return [
            {name: row.get(name) for name in SUMMARY_SCHEMA}
            for row in summary
            if row["value"] is not None and np.isfinite(row["value"])
        ]

    # ---- means over neurons of the scores of visualizations ----

    def _means(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        rows = [
            row | {"exceeds_max_activation": _exceeds_max(row)} for row in rows if row["status"] in VISUALIZED_STATUSES
        ]
        for metric, evaluator, column in self._columns():
            by_neuron: dict[tuple[str, int], list[float]] = {}
            for row in rows:
                if row.get(column) is not None:
                    by_neuron.setdefault((row["layer"], row["unit"]), []).append(row[column])
            if by_neuron:
                means = [float(np.mean(values)) for _, values in sorted(by_neuron.items())]
                yield _interval(metric, evaluator, means, sum(map(len, by_neuron.values())))

    def _columns(self) -> list[tuple[str, str, str]]:
        """(metric, evaluator, column of the visualizations' rows) of what is averaged over neurons."""
        found = [
            ("activation_percentile", "", "activation_percentile"),
            ("activation_ratio", "", "activation_ratio"),
            ("exceeds_max_activation", "", "exceeds_max_activation"),
            ("path_similarity", MODEL, "path_similarity"),
            ("alignment_distance", MODEL, "alignment_distance"),
        ]
        found += [("two_afc", evaluator.slug, column) for column, evaluator in two_afc_columns(self.evaluators).items()]
        for k in (1, 5):
            found.append((f"accuracy_top{k}", MODEL, f"accuracy_top{k}"))
            found += [
                (f"accuracy_top{k}", evaluator.slug, f"accuracy_top{k}_{evaluator.slug}")
                for evaluator in held_out_classifiers(self.evaluators)
            ]
        return found

    # ---- sets of visualizations against sets of dataset images, in the space of one evaluator ----

    def _of_evaluator(self, evaluator: EvaluatorRecord, kind: str, of_kind: Sequence[Row]) -> Iterator[dict[str, Any]]:
        visualized = [row for row in of_kind if row["status"] in VISUALIZED_STATUSES]
        keys = [(row["layer"], row["unit"], row["method"], row["seed"]) for row in visualized]
        columns = ["embedding", *(["logits"] if evaluator.num_classes else [])]
        predictions = PredictionFolder(self.root, evaluator.key, "visualizations").read(columns, keys)
        dataset_images = read_dataset_images(
            self.root, evaluator.key, columns, {*self.dataset_images.random_sample, *self._labeled}
        )
        real = self._real(kind, dataset_images)
        sizes = []
        for method in self._methods(visualized):
            of_method = [key for key in keys if key[2] == method and key in predictions]
            if not of_method:
                continue
            made = np.stack([predictions[key]["embedding"] for key in of_method])
            place = {"method": method, "evaluator": evaluator.slug, "num_visualizations": len(of_method)}
            yield from _diversity(place, of_method, predictions)
            if len(of_method) < MIN_VISUALIZATIONS or len(real) < MIN_VISUALIZATIONS:
                continue
            sizes.append(len(of_method))
            yield from _distances(place, real, made)
            if evaluator.num_classes:
                logits = np.stack([predictions[key]["logits"] for key in of_method])
                yield place | {"metric": "inception_score", "value": inception_score(logits)}
        place = {"method": DATASET_IMAGES, "evaluator": evaluator.slug}
        # Between two disjoint sets of dataset images, one as large as the visualizations of a method: the lower bound.
        size = min(max(sizes, default=0), len(real) // 2)
        if size >= MIN_VISUALIZATIONS:
            order = np.random.default_rng(self.recipe.seed).permutation(len(real))
            yield from _distances(place | {"num_visualizations": size}, real[order[size:]], real[order[:size]])
        if (
            kind == "class"
            and evaluator.num_classes
            and evaluator in (self.evaluators[0], *held_out_classifiers(self.evaluators))
        ):
            yield from self._accuracy_on_dataset_images(place, dataset_images)

    def _accuracy_on_dataset_images(self, place: Row, dataset_images: Mapping[int, Any]) -> Iterator[dict[str, Any]]:
        """Accuracy of the evaluator on the labeled images of the random sample, of all classes."""
        samples = np.array(
            [sample for sample in self.dataset_images.random_sample if sample in dataset_images], np.int64
        )
        ranks = [
            class_rank(dataset_images[sample]["logits"], int(label))
            for sample, label in zip(samples.tolist(), self.statistics.samples.labels(samples), strict=True)
            if label >= 0
        ]
        for k in (1, 5):
            if ranks:
                right = [float(rank < k) for rank in ranks]
                yield place | _interval(f"accuracy_top{k}", place["evaluator"], right, len(ranks))

    def _real(self, kind: str, dataset_images: Mapping[int, Mapping[str, np.ndarray]]) -> np.ndarray:
        """Embeddings [N, D] of the dataset images that visualizations of a kind are compared with.

        Of classes those labeled with one of them, if there are enough; else the random sample.
        """
        chosen = self._labeled if kind == "class" and self._real_are_labeled else self.dataset_images.random_sample
        found = [dataset_images[sample]["embedding"] for sample in chosen if sample in dataset_images]
        return np.stack(found) if found else np.empty((0, 0))

    @cached_property
    def _labeled(self) -> list[int]:
        """The dataset images labeled with one of the visualized classes."""
        classes = {row["unit"] for row in self.rows if row["layer"] == self.class_layer}
        return self.dataset_images.labeled(self.statistics, self.class_layer or "", classes)

    @property
    def _real_are_labeled(self) -> bool:
        return len(self._labeled) >= MIN_VISUALIZATIONS

    # ---- the text ----

    def facts(self) -> list[str]:
        """What the numbers are computed from, a sentence each."""
        (model, *others) = self.evaluators
        count = self.recipe.evaluate.num_top_images
        labeled = "those labeled with one of the classes" if self._real_are_labeled else "the random sample"
        lines = [
            f"Visualizations are compared with a random sample of {len(self.dataset_images.random_sample)} of the data "
            f"set's {self.statistics.num_samples} images, and with up to {count} top-activating images per neuron that "
            "are not among its references.",
            f"FID and KID of classes are distances to {labeled}, all others to the random sample.",
            f"`{MODEL}` is the network of the atlas itself, {code(model.name)} (weights {model.weights_sha256[:12]}).",
        ]
        lines += [
            f"`{evaluator.slug}` is {code(evaluator.name)} (weights {evaluator.weights_sha256[:12]}), held out: it was "
            "not used to make the visualizations."
            for evaluator in others
        ]
        return lines

    def _note_what_is_missing(self, summary: Sequence[Row]) -> None:
        notes, found = self.left_out, {row["metric"] for row in summary}
        if len(self.evaluators) == 1:
            notes.append(
                "Held-out accuracy: `evaluate.held_out_models` names no network, so the model is the only evaluator of "
                "its own visualizations."
            )
        if self.recipe.evaluate.clip is None:
            notes.append("CLIP zero-shot accuracy: `evaluate.clip` names no network.")
        classifiers = held_out_classifiers(self.evaluators)
        for evaluator in self.evaluators[1:]:
            if evaluator not in classifiers:
                notes.append(
                    f"Accuracy by `{evaluator.slug}`: it has {evaluator.num_classes or 'no'} classes, the model "
                    f"{self.evaluators[0].num_classes}."
                )
        has_classes = any(self._kind(row) == "class" for row in self.rows)
        if has_classes and not any(r["method"] == DATASET_IMAGES and r["metric"] == "accuracy_top1" for r in summary):
            notes.append("Accuracy on dataset images: none of the random sample is labeled with a class of the model.")
        if has_classes and not self._real_are_labeled:
            notes.append(
                f"FID and KID of classes to dataset images of those classes: fewer than {MIN_VISUALIZATIONS} of the "
                "comparison images are labeled with one."
            )
        if "diversity" not in found:
            notes.append("Diversity: one visualization per neuron; `visualize.seeds` makes more.")
        for kind in KINDS[:-1]:
            of_kind = [row for row in self.rows if self._kind(row) == kind]
            for method in self._methods(of_kind):
                notes += self._missing_of_method(kind, method, [row for row in of_kind if row["method"] == method])

    def _missing_of_method(self, kind: str, method: str, rows: Sequence[Row]) -> Iterator[str]:
        """What cannot be measured of the visualizations of one kind of neurons by one method."""
        place = f"of {kind} neurons by `{method}`"
        visualized = [row for row in rows if row["status"] in VISUALIZED_STATUSES]
        count, num_images = len(visualized), len(self.dataset_images.random_sample)
        if min(count, num_images) < MIN_VISUALIZATIONS:
            yield (
                f"FID, KID and Inception Score {place}: {count} visualizations, {num_images} dataset images; at least "
                f"{MIN_VISUALIZATIONS} of each are needed."
            )
        for column, what in (("two_afc", "2-AFC"), ("path_similarity", "Path similarity")):
            without = sum(row.get(column) is None for row in visualized)
            if without:
                yield (
                    f"{what} {place}: {without} of {count} visualizations have none: too few top-activating images of "
                    "their neuron are not among its references (raise `statistics.top_k`), or the network does not "
                    "separate them from others."
                )

    def _kind(self, row: Row) -> str:
        return "class" if row["layer"] == self.class_layer else "intermediate"

    def _methods(self, rows: Sequence[Row]) -> list[str]:
        used = {row["method"] for row in rows}
        return [method for method in self.recipe.visualize.methods if method in used]


def write_summary(summarizer: Summarizer, *, sources: str) -> dict[str, Any]:
    """Make and commit the summary; the marker, written last, records its sources. Returns the marker."""
    rows = summarizer.summarize()
    root = summarizer.root
    text = scores_text(
        rows,
        methods=summarizer.recipe.visualize.methods,
        facts=summarizer.facts(),
        left_out=summarizer.left_out,
    )
    marker = {
        "sources": sources,
        "evaluators": [evaluator.published() for evaluator in summarizer.evaluators],
        "left_out": summarizer.left_out,
    }
    write_table(root, SUMMARY_TABLE, rows, SUMMARY_SCHEMA)
    root.write_text(SUMMARY_TEXT, text)
    root.write_json(SUMMARY_MARKER, marker)
    return marker


def _counts(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for status in STATUSES:
        count = sum(row["status"] == status for row in rows)
        yield {"metric": f"num_{status}", "evaluator": "", "value": float(count), "num_visualizations": len(rows)}


def _interval(metric: str, evaluator: str, values: Sequence[float], num_visualizations: int) -> dict[str, Any]:
    mean, low, high = mean_interval(values, resamples=RESAMPLES)
    # A mean of equal values may lie a rounding error outside of the interval of its own resamples.
    low, high = min(low, mean), max(high, mean)
    return {
        "metric": metric,
        "evaluator": evaluator,
        "value": mean,
        "low": low,
        "high": high,
        "num_visualizations": num_visualizations,
    }


def _distances(place: Row, real: np.ndarray, made: np.ndarray) -> Iterator[dict[str, Any]]:
    distances: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"fid": frechet_distance, "kid": kernel_distance}
    for metric, distance in distances.items():
        yield {**place, "metric": metric, "value": distance(real, made)}


def _diversity(place: Row, keys: Sequence[Key], predictions: Mapping[Key, Any]) -> Iterator[dict[str, Any]]:
    """Mean over neurons of the diversity of each one's visualizations, if there are several."""
    by_neuron: dict[tuple[str, int], list[Key]] = {}
    for key in keys:
        by_neuron.setdefault(key[:2], []).append(key)
    several = {neuron: members for neuron, members in sorted(by_neuron.items()) if len(members) > 1}
    if several:
        embeddings = [np.stack([predictions[key]["embedding"] for key in members]) for members in several.values()]
        values = [diversity(of_neuron) for of_neuron in embeddings]
        yield {**place, **_interval("diversity", place["evaluator"], values, sum(map(len, several.values())))}


def _exceeds_max(row: Row) -> float | None:
    """1 if the visualization activates its neuron more than any dataset image does, 0 if not."""
    if row.get("activation") is None or row.get("max_activation") is None:
        return None
    return float(row["activation"] > row["max_activation"])
