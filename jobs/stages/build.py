"""Stage 5: example strips, then tables, contact sheets and atlas.json from what the other stages committed."""

import hashlib
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from jobs.engine.tasks import RunStoppedError
from jobs.reporting.progress import Progress
from jobs.run.resolved import ResolvedRecipe
from jobs.run.session import Session
from jobs.run.stage import StageReport
from jobs.stages.captions import require_captions
from jobs.stages.collect_plan import SET_ASIDE
from jobs.stages.evaluate_plan import summary_is_current
from jobs.stages.example_strips import draw_missing_strips
from jobs.stages.label_notes import label_warning
from jobs.stages.neighbors import nearest_neighbors, neighbors_digest, neighbors_remark
from jobs.stages.rows import requested_rows
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.build.build import build_atlas
from pipeline.atlas.format.fragments import committed_neurons, read_statuses
from pipeline.atlas.format.scores import SCORES_TABLE, SCORES_TEXT
from pipeline.evaluation.summary import SUMMARY_MARKER, SUMMARY_TABLE, SUMMARY_TEXT
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe

MARKER: Final = "run/build.json"
PACKAGES: Final = ("neuron-atlas", "torch", "torchvision", "timm", "numpy", "pillow", "pyarrow", "zarr")


class Build:
    """The stage `build`."""

    name: Final = "build"
    noun: Final = "visualizations"

    def run(self, session: Session) -> StageReport:
        """Build the atlas unless it is there already, made of the same rows under the same recipe.

        Raises:
            RunStoppedError: a visualization is not made yet, captions are requested that were not collected, or an
                example strip could not be drawn.
        """
        resolved = session.resolved
        root, recipe = resolved.root, resolved.recipe
        sources = source_digest(root, recipe)
        built = committed_build(root, sources)
        if built is not None:
            return StageReport(
                stage=self.name, noun=self.noun, already=built["done"], failed=built["failed"], nothing_to_do=True
            )
        _require_visualizations(resolved)
        require_captions(root, recipe, StatisticsStore.open(root))
        if recipe.atlas.publish_examples == "thumbnails":
            draw_missing_strips(session)
        root.remove(MARKER)
        _build(session)
        statuses = read_statuses(root)
        failed = sum(statuses[key] == "failed" for key in resolved.keys)
        done = len(resolved.keys) - failed
        root.write_json(MARKER, {"sources": sources, "done": done, "failed": failed})
        return StageReport(stage=self.name, noun=self.noun, done=done, failed=failed, remark=neighbors_remark())


def committed_build(root: Root, sources: str) -> dict[str, Any] | None:
    """The marker of the atlas that is there, or None if there is none or it was made of something else."""
    if not root.exists("atlas.json") or not root.exists(MARKER):
        return None
    marker = root.read_json(MARKER)
    return marker if marker["sources"] == sources else None


def source_digest(root: Root, recipe: Recipe) -> str:
    """What the atlas is made of, as a hash.

    The recipe without [compute], every fragment and score by name and size, the sources of the methods' scores, and the
    version of the nearest neighbors.
    """
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


def _require_visualizations(resolved: ResolvedRecipe) -> None:
    """Raise RunStoppedError if a visualization that the recipe requests is not made yet."""
    requested = set(resolved.keys)
    missing = len(requested - committed_neurons(resolved.root))
    if missing:
        raise RunStoppedError(
            f"{resolved.root.url}: {missing} of {len(requested)} visualizations are not made yet: "
            "run `neuron-atlas visualize RECIPE` first"
        )


def _build(session: Session) -> None:
    resolved = session.resolved
    scores, evaluators = _scores_of_methods(resolved)
    neighbors = nearest_neighbors(resolved)
    with Progress("build", total=len(neighbors.neurons), noun="neurons", stream=session.stream) as progress:
        build_atlas(
            resolved.root,
            recipe=resolved.recipe,
            rows=requested_rows(session, captions=bool(resolved.recipe.data.caption_key)),
            model=_model_entry(resolved),
            provenance=_provenance(resolved) | {"evaluators": evaluators},
            layers={layer: resolved.model.units(layer) for layer in resolved.layers},
            scores=scores,
            neighbors=neighbors,
            advance=progress.advance,
        )


def _model_entry(resolved: ResolvedRecipe) -> dict[str, object]:
    model = resolved.model
    return {
        "name": model.name,
        "weights": resolved.recipe.model.weights,
        "weights_sha256": model.weights_sha256,
        "input_size_px": model.input_size_px,
        "num_classes": model.num_classes,
        "classifier_layer": model.classifier_layer,
    }


def _provenance(resolved: ResolvedRecipe) -> dict[str, object]:
    statistics = StatisticsStore.open(resolved.root)
    warning = label_warning(resolved)
    return {
        **({"label_warning": warning} if warning else {}),
        "versions": {package: version(package) for package in PACKAGES},
        "weights_sha256": resolved.model.weights_sha256,
        **({"weights_remarks": list(resolved.model.remarks)} if resolved.model.remarks else {}),
        "data_fingerprint": statistics.attrs["data_fingerprint"],
        "num_samples": statistics.num_samples,
        "num_skipped": statistics.attrs["num_skipped"],
        "num_shards_set_aside": len(statistics.attrs.get(SET_ASIDE, ())),
        "recipe_fingerprint": resolved.recipe.fingerprint("build"),
        "git_commit": git_commit(),
    }


def _scores_of_methods(resolved: ResolvedRecipe) -> tuple[dict[str, bytes], list[object]]:
    """The files of the methods' scores, and the evaluators; none if they are of other visualizations than these."""
    root = resolved.root
    if not summary_is_current(resolved):
        return {}, []
    files = {SCORES_TABLE: root.read_bytes(SUMMARY_TABLE), SCORES_TEXT: root.read_bytes(SUMMARY_TEXT)}
    return files, root.read_json(SUMMARY_MARKER)["evaluators"]
