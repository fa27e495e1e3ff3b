"""Stage 5: example strips, then tables, contact sheets and atlas.json from what the other stages committed."""

import hashlib
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.engine.work import RunStoppedError, Work
from jobs.engine.worker import Shared, model_on
from jobs.reporting.progress import Progress
from jobs.run.session import Session, StageReport
from jobs.run.work_plan import chunk
from jobs.stages.captions import add_captions, require_captions
from jobs.stages.collect_plan import SET_ASIDE
from jobs.stages.evaluate_plan import summary_is_current
from jobs.stages.neighbors import nearest_neighbors, neighbors_digest, neighbors_remark
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.atlas.format.fragments import RunRows
    from pipeline.models import Model

STAGE: Final = "build"
MARKER: Final = "run/build.json"
NUM_EXAMPLES: Final = 9  # dataset images shown beside a visualization, as on the pages people know (VIEWER)
EXAMPLES_QUALITY: Final = 80
STRIPS_PER_TASK: Final = 64
PACKAGES: Final = ("neuron-atlas", "torch", "torchvision", "timm", "numpy", "pillow", "pyarrow", "zarr")


def run(session: Session) -> StageReport:
    """Build the atlas unless it is there already, made of the same rows under the same recipe.

    Raises:
        RunStoppedError: nothing was visualized yet, captions are wanted that were not collected, or an example strip
            could not be drawn.
    """
    from pipeline.activations.store import StatisticsStore

    resolved, started = session.resolved, time.perf_counter()
    root, recipe = resolved.root, resolved.recipe
    sources = source_digest(root, recipe)
    built = committed_build(root, sources)
    if built is not None:
        return StageReport(stage=STAGE, noun="visualizations", done=0, already=built["done"], failed=built["failed"])
    _require_visualizations(session)
    require_captions(root, recipe, StatisticsStore.open(root))
    if recipe.atlas.publish_examples == "thumbnails":
        _draw_strips(session)
    root.remove(MARKER)
    _build(session)
    failed = _num_failed(session)
    done = len(resolved.keys) - failed
    root.write_json(MARKER, {"sources": sources, "done": done, "failed": failed})
    return StageReport(
        stage=STAGE,
        noun="visualizations",
        done=done,
        already=0,
        failed=failed,
        seconds=time.perf_counter() - started,
        remark=neighbors_remark(),
    )


def committed_build(root: Root, sources: str) -> dict[str, Any] | None:
    """The marker of the atlas that is there, or None if there is none or it was made of something else."""
    if not root.exists("atlas.json") or not root.exists(MARKER):
        return None
    marker: dict[str, Any] = root.read_json(MARKER)
    return marker if marker["sources"] == sources else None


def source_digest(root: Root, recipe: Recipe) -> str:
    """What the atlas is made of: the recipe but for [compute], every fragment and score by name and size, and what the
    scores of its methods were made of, and what finds similar neurons.
    """
    from pipeline.evaluation.summary import SUMMARY_MARKER

    digest = hashlib.sha256()
    text = recipe.to_toml()
    digest.update(text.partition("[compute]")[0].encode())
    for folder in ("run/fragments", "run/scores"):
        for name in root.list(folder):
            digest.update(f"{folder}/{name}:{root.size_bytes(f'{folder}/{name}')}\n".encode())
    if root.exists(SUMMARY_MARKER):
        digest.update(root.read_bytes(SUMMARY_MARKER))
    digest.update(neighbors_digest().encode())
    return digest.hexdigest()


def _require_visualizations(session: Session) -> None:
    """Raise RunStoppedError if a visualization that the recipe wants is not made yet."""
    from pipeline.atlas.format.fragments import committed_neurons

    root, requested = session.resolved.root, set(session.resolved.keys)
    missing = len(requested - committed_neurons(root))
    if missing:
        raise RunStoppedError(
            f"{root.url}: {missing} of {len(requested)} visualizations are not made yet: "
            "run `neuron-atlas visualize RECIPE` first"
        )


def requested_rows(session: Session, *, captions: bool = False) -> "RunRows":
    """Layer → what the atlas has of it: fragments joined with all scores, of the neurons that the recipe wants.

    `captions`: with those of the references.
    """
    from pipeline.activations.store import StatisticsStore
    from pipeline.atlas.format.fragments import RunRows, join_rows, row_key
    from pipeline.evaluation.derived import read_derived
    from pipeline.evaluation.scores import data_columns

    root, recipe, requested = session.resolved.root, session.resolved.recipe, set(session.resolved.keys)
    published = recipe.atlas.publish_examples
    captioned = StatisticsStore.open(root) if captions else None  # keeps what it has read of them, whatever the layer

    def finish(layer: str, joined: list[dict[str, Any]]) -> list[dict[str, Any]]:
        statistics = StatisticsStore.open(root)  # of this layer alone: it keeps what it has read
        rows = [row for row in join_rows(joined, read_derived(root, layer)) if row_key(row) in requested]
        for row in rows:
            if is_bare(
                row
            ):  # without a visualization it was not scored; what the data set does to it is known all the same
                row |= data_columns(statistics, layer, row["unit"]) | row
            if published == "thumbnails":
                row |= _examples_columns(row)
            if published == "none":  # which samples they are stays here; their labels and scores go out
                row["reference_keys"] = [""] * len(row["reference_keys"] or ())
        if captioned is not None:
            add_captions(root, captioned, layer, rows)
        return rows

    return RunRows(root, finish)


def is_bare(row: dict[str, Any]) -> bool:
    """Whether a joined row lacks what `evaluate` adds."""
    return row.get("max_activation") is None


def _draw_strips(session: Session) -> None:
    """Draw the strips of dataset images that are not there yet, in tasks."""
    from pipeline.atlas.format.schema import examples_path

    resolved = session.resolved
    requested = requested_rows(session)
    works = []
    for layer in resolved.units:
        present = set(_strips_present(resolved.root, layer))
        units: dict[int, set[int]] = {facet: set() for facet in range(resolved.recipe.targets.facets)}
        for row in requested[layer]:
            if row["num_references"]:
                units[row["facet"]].add(row["unit"])
        for facet, of_facet in units.items():
            left = [unit for unit in sorted(of_facet) if examples_path(layer, unit, facet) not in present]
            works += [
                Work(
                    name=f"{layer}-examples-f{facet}-{members[0]:05d}-{len(members)}",
                    arguments={"layer": layer, "facet": facet, "units": members},
                )
                for members in chunk(left, STRIPS_PER_TASK)
            ]
    if not works:
        return
    task = partial(draw_strips, session.shared_model, session.task_resources.device, resolved.root, resolved.recipe)
    outcomes = session.engine.run_tasks(task, works, session.task_resources)
    total = sum(len(work.arguments["units"]) for work in works)
    for outcome in session.follow(
        STAGE, outcomes, total=total, noun="example strips", size=lambda work: len(work.arguments["units"])
    ):
        if not outcome.ok:
            raise RunStoppedError(
                f"the dataset images of {outcome.work.name} could not be drawn: {outcome.attempt.error}"
            )


def _strips_present(root: Root, layer: str) -> list[str]:
    return [f"examples/{layer}/{name}" for name in root.list(f"examples/{layer}")]


def draw_strips(
    shared_model: "Shared[Model]",
    device: str,
    root: Root,
    recipe: Recipe,
    *,
    layer: str,
    facet: int,
    units: Sequence[int],
) -> int:
    """The task: draw the dataset images of some units, as the model sees them. Returns how many strips were written."""
    import numpy as np

    from pipeline.activations.store import StatisticsStore
    from pipeline.atlas.format.schema import EXAMPLE_TILE_PX, examples_path
    from pipeline.atlas.format.sheets import draw_examples
    from pipeline.io.images import encode_webp
    from pipeline.references.reading import ReferenceReader, top_images_of_row
    from pipeline.references.store import read_references

    model, statistics = model_on(shared_model, device), StatisticsStore.open(root)
    reader = ReferenceReader(
        model, image_size_px=max(EXAMPLE_TILE_PX, model.input_size_px), max_pixels=recipe.data.max_pixels
    )
    references = read_references(root, layer, facet)
    for unit in units:
        top_images = top_images_of_row(statistics, references[unit], NUM_EXAMPLES)
        reader.load(top_images)
        strip = draw_examples([np.asarray(reader.crop(top_image).convert("RGB")) for top_image in top_images])
        root.write_bytes(examples_path(layer, unit, facet), encode_webp(strip, quality=EXAMPLES_QUALITY))
    return len(units)


def _examples_columns(row: dict[str, Any]) -> dict[str, Any]:
    from pipeline.atlas.format.schema import examples_path

    if not row["num_references"]:
        return {"examples_path": "", "num_examples": 0}
    return {
        "examples_path": examples_path(row["layer"], row["unit"], row["facet"]),
        "num_examples": min(NUM_EXAMPLES, row["num_references"]),
    }


def _num_failed(session: Session) -> int:
    """How many of the wanted visualizations failed."""
    from pipeline.atlas.format.fragments import read_statuses

    statuses = read_statuses(session.resolved.root)
    return sum(statuses[key] == "failed" for key in session.resolved.keys)


def _build(session: Session) -> None:
    from pipeline.activations.store import StatisticsStore
    from pipeline.atlas.build.build import build_atlas

    resolved = session.resolved
    model, statistics = resolved.model, StatisticsStore.open(resolved.root)
    scores, evaluators = _scores_of_methods(session)
    neighbors = nearest_neighbors(resolved)
    with Progress(STAGE, total=len(neighbors.neurons), noun="neurons", stream=session.stream) as progress:
        build_atlas(
            resolved.root,
            recipe=resolved.recipe,
            rows=requested_rows(session, captions=bool(resolved.recipe.data.caption_key)),
            model={
                "name": model.name,
                "weights": resolved.recipe.model.weights,
                "weights_sha256": model.weights_sha256,
                "input_size_px": model.input_size_px,
                "num_classes": model.num_classes,
                "classifier_layer": model.classifier_layer,
            },
            provenance={
                "versions": {package: version(package) for package in PACKAGES},
                "weights_sha256": model.weights_sha256,
                "data_fingerprint": statistics.attrs["data_fingerprint"],
                "num_samples": statistics.num_samples,
                "num_skipped": statistics.attrs["num_skipped"],
                "num_shards_set_aside": len(statistics.attrs.get(SET_ASIDE, ())),
                "recipe_fingerprint": resolved.recipe.fingerprint(STAGE),
                "git_commit": git_commit(),
                "evaluators": evaluators,
            },
            layers={layer: model.units(layer) for layer in resolved.layers},
            scores=scores,
            neighbors=neighbors,
            advance=progress.advance,
        )


def _scores_of_methods(session: Session) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The files that say what the methods are worth, and the evaluators; none if they are of other visualizations than these."""
    from pipeline.atlas.format.scores import SCORES_TABLE, SCORES_TEXT
    from pipeline.evaluation.summary import SUMMARY_MARKER, SUMMARY_TABLE, SUMMARY_TEXT

    root = session.resolved.root
    if not summary_is_current(session.resolved):
        return {}, []
    files = {SCORES_TABLE: root.read_bytes(SUMMARY_TABLE), SCORES_TEXT: root.read_bytes(SUMMARY_TEXT)}
    return files, root.read_json(SUMMARY_MARKER)["evaluators"]


def git_commit() -> str:
    """The commit of this checkout, "" where the package is not run from one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):  # no git, or not one commit yet
        return ""
    return found.stdout.strip()
