"""Stage 3: actors load the model once and optimize the pictures of a batch of neurons together.

A batch is committed whole: its pictures first, then its fragment. A batch that keeps failing is done again one
neuron at a time; what fails alone gets a row of status "failed" with the reason, and the run goes on.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jobs.schedule import Outcome, RunStoppedError, Work
from jobs.session import Session, StageReport, isolate
from jobs.targets import read_committed, require_statistics
from jobs.wanted import Batch, Key, batch_size, plan_batches
from jobs.worker import Shared, model_on
from pipeline.neurons import Neuron, neuron_seed
from pipeline.recipe import Recipe
from pipeline.storage import Root

if TYPE_CHECKING:
    from pipeline.models import Model

STAGE: Final = "visualize"
IMAGE_QUALITY: Final = 90
# If so many works in a row fail from the start and none succeeds, the fault is not in the neurons.
GIVE_UP_AFTER: Final = 3
MAX_REASON_LENGTH: Final = 500


def read_statuses(root: Root) -> dict[Key, str]:
    """Status of every committed visualization; of a neuron in two fragments the one that did not fail."""
    from pipeline.atlas.fragments import read_statuses as read

    return read(root)


def run(session: Session) -> StageReport:
    """Make the pictures that are left; neurons that failed in an earlier run are tried again.

    Raises:
        RunStoppedError: statistics or targets are not there yet, or nothing at all succeeds.
    """
    resolved, started = session.resolved, time.perf_counter()
    recipe, root = resolved.recipe, resolved.root
    statuses = read_statuses(root)
    done_before = {key for key in resolved.keys if statuses.get(key, "failed") != "failed"}
    if len(done_before) == len(resolved.keys):
        return StageReport(stage=STAGE, noun="neurons", done=0, already=len(done_before))
    require_statistics(root)
    batches = plan_batches(
        resolved.units,
        methods=recipe.visualize.methods,
        num_seeds=recipe.visualize.seeds,
        batch_size=batch_size(recipe, session.resources.device),
        done=done_before,
    )
    batches, without_target = _split_off_missing_targets(root, batches)
    if without_target and not batches and not done_before:
        raise RunStoppedError(f"{root.url} has no targets yet: run `neuron-atlas targets RECIPE` first")
    for batch in without_target:
        commit_failure(session, batch, "its targets could not be made: run `neuron-atlas targets` again")

    works = [Work(name=batch.name, arguments={"batch": batch}) for batch in batches]
    factory = partial(
        Visualizer, session.shared_model, session.resources.device, root, recipe, _plans(session, batches)
    )
    outcomes = isolate(
        lambda some, resources: session.engine.run_actors(factory, some, resources),
        works,
        session.resources,
        split=lambda work: [Work(name=b.name, arguments={"batch": b}) for b in work.arguments["batch"].split()],
        on_split=lambda outcome: session.note(STAGE, outcome, count=0),
    )
    done, failures = 0, sum(len(batch.units) for batch in without_target)
    total = sum(num_neurons(work) for work in works)
    for outcome in session.follow(STAGE, outcomes, total=total, noun="neurons", size=num_neurons):
        if outcome.ok:
            done += num_neurons(outcome.work)
            continue
        failures += num_neurons(outcome.work)
        commit_failure(session, outcome.work.arguments["batch"], _reason(outcome))
        if not done and not done_before and failures >= GIVE_UP_AFTER and len(works) > 1:
            raise RunStoppedError(
                f"the first {failures} neurons all failed, the last with:\n"
                f"{outcome.attempt.traceback or outcome.attempt.error}"
            )
    return StageReport(
        stage=STAGE,
        noun="neurons",
        done=done,
        already=len(done_before),
        failed=failures,
        seconds=time.perf_counter() - started,
    )


def num_neurons(work: Work) -> int:
    """How many neurons a work is for."""
    return len(work.arguments["batch"].units)


def commit_failure(session: Session, batch: Batch, reason: str) -> None:
    """Give every member of a batch a row of status "failed"."""
    from pipeline.atlas.fragments import write_fragment

    resolved = session.resolved
    for single in batch.split():
        row = base_row(resolved.model, resolved.recipe, single, single.units[0])
        write_fragment(resolved.root, f"{single.name}-failed", [row | {"status": "failed", "status_reason": reason}])


def base_row(model: "Model", recipe: Recipe, batch: Batch, unit: int) -> dict[str, Any]:
    """The columns of a row that are known before anything is optimized."""
    from pipeline.targets.build import options_for

    options = options_for(recipe)
    return {
        "neuron_id": Neuron(model.name, batch.layer, unit).id,
        "layer": batch.layer,
        "unit": unit,
        "label": model.class_names[unit] if batch.layer == model.classifier_layer else "",
        "method": batch.method,
        "seed": batch.seed,
        "status_reason": "",
        "alignment": options.alignment,
        "preset": recipe.visualize.preset,
        "parameterization": options.parameterization,
        "recipe_fingerprint": recipe.fingerprint(STAGE),
        "seed_value": str(neuron_seed(recipe.seed, batch.method, batch.layer, unit, batch.seed)),
    }


class Visualizer:
    """The actor: keeps the model, the statistics and the plan of each layer between batches."""

    def __init__(
        self,
        shared_model: "Shared[Model]",
        device: str,
        root: Root,
        recipe: Recipe,
        plans: Mapping[str, Any],
    ) -> None:
        self._model = model_on(shared_model, device)
        self._root = root
        self._recipe = recipe
        self._plans = plans

    def __call__(self, *, batch: Batch) -> dict[str, int]:
        """Make and commit the pictures of one batch. Returns how many rows have which status."""
        from pipeline.atlas.fragments import write_fragment
        from pipeline.atlas.schema import FRAGMENT_SCHEMA
        from pipeline.synthesis import synthesize
        from pipeline.targets.build import options_for
        from pipeline.targets.store import read_targets

        plan = self._plans[batch.layer]
        rows, targets = {}, {}
        for unit, (target, references) in read_targets(self._root, plan, batch.units).items():
            known = {name: value for name, value in references.items() if name in FRAGMENT_SCHEMA}
            rows[unit] = base_row(self._model, self._recipe, batch, unit) | {"relevance": plan.rule} | known
            if target is not None:
                targets[unit] = target
        if targets:
            seeds = [int(rows[unit]["seed_value"]) for unit in targets]
            visualizations = synthesize(
                self._model,
                [(batch.layer, unit) for unit in targets],
                list(targets.values()),
                method=batch.method,
                options=options_for(self._recipe),
                image_size_px=plan.image_size_px,
                seeds=seeds,
            )
            for unit, visualization in zip(targets, visualizations, strict=True):
                rows[unit] |= write_pictures(self._root, batch, unit, visualization)
        write_fragment(self._root, batch.name, list(rows.values()))
        return {"ok": len(targets), "skipped": len(rows) - len(targets)}


def write_pictures(root: Root, batch: Batch, unit: int, visualization: Any) -> dict[str, Any]:
    """Write picture and mask of one neuron and return the columns that describe them."""
    from pipeline.atlas.schema import alpha_path, image_path
    from pipeline.images import encode_webp

    key = (batch.layer, unit, batch.method, batch.seed)
    picture = encode_webp(visualization.image, quality=IMAGE_QUALITY)
    root.write_bytes(image_path(*key), picture)
    root.write_bytes(alpha_path(*key), encode_webp(mask(visualization.alpha), lossless=True))
    height_px, width_px = visualization.image.shape[:2]
    return {
        "image_path": image_path(*key),
        "image_sha256": hashlib.sha256(picture).hexdigest(),
        "alpha_path": alpha_path(*key),
        "width_px": width_px,
        "height_px": height_px,
        "steps": visualization.steps,
        "seconds": visualization.seconds,
        "loss": visualization.loss,
        "activation": visualization.activation,
    }


def mask(alpha: np.ndarray) -> np.ndarray:
    """Transparency [H, W] in [0, 1] as a black RGBA picture, uint8 [H, W, 4], the form that CSS `mask-image` takes."""
    picture = np.zeros((*alpha.shape, 4), np.uint8)
    picture[..., 3] = np.round(np.clip(alpha, 0, 1) * 255)
    return picture


def _reason(outcome: Outcome) -> str:
    error = " ".join(outcome.attempt.error.split())
    return error if len(error) <= MAX_REASON_LENGTH else error[: MAX_REASON_LENGTH - 1] + "…"


def _split_off_missing_targets(root: Root, batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Batches with the neurons that have targets, and batches with those that have none."""
    committed = read_committed(root, list(dict.fromkeys(batch.layer for batch in batches)))
    ready: list[Batch] = []
    missing: list[Batch] = []
    for batch in batches:
        for there, parts in ((True, ready), (False, missing)):
            units = tuple(unit for unit in batch.units if (unit in committed[batch.layer]) == there)
            if units:
                parts.append(Batch(layer=batch.layer, method=batch.method, seed=batch.seed, units=units))
    return ready, missing


def _plans(session: Session, batches: Sequence[Batch]) -> dict[str, Any]:
    """Layer → how its targets lie in the store."""
    from pipeline.targets.build import plan_targets

    resolved = session.resolved
    layers = dict.fromkeys(batch.layer for batch in batches)
    return {layer: plan_targets(resolved.recipe, resolved.model, layer) for layer in layers}
