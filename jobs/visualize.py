"""Stage 3: actors load the model once and optimize the pictures of a batch of neurons together.

A batch is committed whole: its pictures first, then its fragment. A batch that keeps failing is done again one
neuron at a time; what fails alone gets a row of status "failed" with the reason, and the run goes on.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jobs.portions import CudaMemory, Portions
from jobs.schedule import Resources, RunStoppedError, Work
from jobs.session import Session, StageReport, isolate
from jobs.targets import read_committed, read_failures, require_statistics
from jobs.wanted import Batch, batch_sizes, facet_of, num_seeds, plan_batches
from jobs.worker import Shared, model_on
from pipeline.neurons import Neuron, neuron_seed
from pipeline.recipe import Recipe
from pipeline.storage import Root

if TYPE_CHECKING:
    from pipeline.models import Model

STAGE: Final = "visualize"
IMAGE_QUALITY: Final = 90
MAX_REASON_LENGTH: Final = 500


def run(session: Session) -> StageReport:
    """Make the pictures that are left; neurons that failed in an earlier run are tried again.

    Raises:
        RunStoppedError: statistics or targets are not there yet, or nothing at all succeeds.
    """
    from pipeline.atlas.fragments import read_statuses

    resolved, started = session.resolved, time.perf_counter()
    recipe, root = resolved.recipe, resolved.root
    statuses = read_statuses(root)
    done_before = {key for key in resolved.keys if statuses.get(key, "failed") != "failed"}
    if len(done_before) == len(resolved.keys):
        return StageReport(stage=STAGE, noun="pictures", done=0, already=len(done_before))
    require_statistics(root)
    batches = plan_batches(
        resolved.pictures,
        num_seeds=num_seeds(recipe),
        batch_sizes=batch_sizes(recipe, session.resources.device),
        done=done_before,
    )
    batches, without_target = _split_off_missing_targets(root, batches)
    if without_target and not batches and not done_before:
        raise RunStoppedError(f"{root.url} has no targets yet: run `neuron-atlas targets RECIPE` first")
    _commit_without_target(session, without_target)

    works = [Work(name=batch.name, arguments={"batch": batch}) for batch in batches]
    factory = partial(Visualizer, session.shared_model, session.resources, root, recipe, _plans(session, batches))
    outcomes = isolate(
        lambda some, resources: session.engine.run_actors(factory, some, resources),
        works,
        session.resources,
        split=lambda work: [Work(name=b.name, arguments={"batch": b}) for b in work.arguments["batch"].split()],
        on_split=lambda outcome: session.note(STAGE, outcome, count=0),
        patience=session.patience(len(done_before)),
    )
    done, failures = 0, sum(len(batch.units) for batch in without_target)
    total = sum(num_neurons(work) for work in works)
    for outcome in session.follow(STAGE, outcomes, total=total, noun="pictures", size=num_neurons):
        if outcome.ok:
            done += num_neurons(outcome.work)
            continue
        failures += num_neurons(outcome.work)
        commit_failure(session, outcome.work.arguments["batch"], _reason(outcome.attempt.error))
    return StageReport(
        stage=STAGE,
        noun="pictures",
        done=done,
        already=len(done_before),
        failed=failures,
        seconds=time.perf_counter() - started,
    )


def num_neurons(work: Work) -> int:
    """How many neurons a work is for."""
    return len(work.arguments["batch"].units)


def commit_failure(session: Session, batch: Batch, reason: str) -> None:
    """Give every member of a batch a row of status "failed"; its real images, if they are known, stay with it."""
    from pipeline.atlas.fragments import write_fragment
    from pipeline.targets.store import read_references

    resolved = session.resolved
    references = read_references(resolved.root, batch.layer, facet_of(resolved.recipe, batch.seed))
    committed = []
    for single in batch.split():
        (unit,) = single.units
        row = base_row(resolved.model, resolved.recipe, single, unit) | reference_columns(references.get(unit, {}))
        row |= {"status": "failed", "status_reason": reason}
        committed.append(write_fragment(resolved.root, f"{single.name}-failed", [row]))
    session.confirm(committed)


def base_row(model: "Model", recipe: Recipe, batch: Batch, unit: int) -> dict[str, Any]:
    """The columns of a row that are known before anything is optimized."""
    from pipeline.synthesis.methods import method_named
    from pipeline.targets.build import options_for

    options = options_for(recipe, batch.method)
    return {
        "neuron_id": Neuron(model.name, batch.layer, unit).id,
        "layer": batch.layer,
        "unit": unit,
        "label": model.unit_label(batch.layer, unit),
        "method": batch.method,
        "seed": batch.seed,
        "facet": facet_of(recipe, batch.seed),
        "num_facets": recipe.targets.facets,
        "status_reason": "",
        "alignment": options.alignment if method_named(batch.method).needs_targets else "none",
        "preset": recipe.visualize.preset,
        "parameterization": options.parameterization,
        "recipe_fingerprint": recipe.fingerprint(STAGE),
        "seed_value": str(neuron_seed(recipe.seed, batch.method, batch.layer, unit, batch.seed)),
    }


def reference_columns(references: Mapping[str, Any]) -> dict[str, Any]:
    """What a unit's row of references says in the columns of a fragment: the images, and `dead` with its reason."""
    from pipeline.atlas.schema import FRAGMENT_SCHEMA

    return {name: value for name, value in references.items() if name in FRAGMENT_SCHEMA}


class Visualizer:
    """The actor: keeps the model, the plan of each layer and the data's spectrum between batches."""

    def __init__(
        self,
        shared_model: "Shared[Model]",
        resources: Resources,
        root: Root,
        recipe: Recipe,
        plans: Mapping[str, Any],
    ) -> None:
        self._model = model_on(shared_model, resources.device)
        self._root = root
        self._recipe = recipe
        self._plans = plans
        self._portions = Portions(CudaMemory(resources.gpus) if resources.device == "cuda" else None)

    def __call__(self, *, batch: Batch) -> dict[str, Any]:
        """Make and commit the pictures of one batch.

        Returns how many rows have which status, and `at_once`, how many pictures were optimized together.
        """
        from pipeline.atlas.fragments import write_fragment
        from pipeline.synthesis.methods import method_named
        from pipeline.targets.store import read_targets

        plan = self._plans[batch.layer]
        rows, targets = {}, {}
        facet = facet_of(self._recipe, batch.seed)
        for unit, (target, references) in read_targets(self._root, plan, batch.units, facet).items():
            rows[unit] = base_row(self._model, self._recipe, batch, unit) | reference_columns(references)
            rows[unit]["relevance"] = plan.rule if method_named(batch.method).needs_targets else "none"
            if target is not None:
                targets[unit] = target
        if targets:
            for unit, visualization in self._synthesize(batch, targets, rows).items():
                rows[unit] |= write_pictures(self._root, batch, unit, visualization)
        committed = write_fragment(self._root, batch.name, list(rows.values()))
        at_once = min(len(targets), self._portions.size(_kind(batch)) or len(targets))
        num_skipped = len(rows) - len(targets)
        return {"ok": len(targets), "skipped": num_skipped, "at_once": at_once, "committed": committed}

    def _synthesize(
        self, batch: Batch, targets: Mapping[int, Any], rows: Mapping[int, Mapping[str, Any]]
    ) -> dict[int, Any]:
        """Unit → its visualization, as many at once as memory holds."""
        from pipeline.synthesis import synthesize
        from pipeline.targets.build import options_for

        options = options_for(self._recipe, batch.method)

        def make(units: Sequence[int], steps: int = options.steps) -> list[Any]:
            return synthesize(
                self._model,
                [(batch.layer, unit) for unit in units],
                [targets[unit] for unit in units],
                method=batch.method,
                options=replace(options, steps=steps),
                image_size_px=self._plans[batch.layer].image_size_px,
                seeds=[int(rows[unit]["seed_value"]) for unit in units],
                spectrum=self._spectrum if options.needs_spectrum else None,
            )

        made = self._portions.run(_kind(batch), list(targets), make, probe=lambda unit: make([unit], steps=1))
        return dict(zip(targets, made, strict=True))

    @cached_property
    def _spectrum(self) -> np.ndarray:
        """Mean magnitude spectrum of the data set, [C, S, S // 2 + 1]."""
        from pipeline.statistics.store import StatisticsStore

        return StatisticsStore.open(self._root).spectrum().magnitude


def _kind(batch: Batch) -> tuple[str, str]:
    """Pictures of one layer by one method need equal memory."""
    return batch.layer, batch.method


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
    """Transparency [H, W] in [0, 1] as a black RGBA picture, uint8 [⌈H/2⌉, ⌈W/2⌉, 4], what CSS `mask-image` takes.

    Half the resolution: browsers enlarge it smoothly, and at full size it would take thrice its picture's bytes.
    """
    H, W = alpha.shape
    even = np.pad(alpha, ((0, H % 2), (0, W % 2)), mode="edge")
    halved = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3))
    picture = np.zeros((*halved.shape, 4), np.uint8)
    picture[..., 3] = np.round(np.clip(halved, 0, 1) * 255)
    return picture


def _reason(error: str) -> str:
    text = " ".join(error.split())
    return text if len(text) <= MAX_REASON_LENGTH else text[: MAX_REASON_LENGTH - 1] + "…"


def _commit_without_target(session: Session, batches: Sequence[Batch]) -> None:
    """Give neurons that have no target a row that says why."""
    if not batches:
        return
    session.log.flush()  # it is asked for the reasons
    reasons = read_failures(session.resolved.root)
    for batch in batches:
        for single in batch.split():
            error = reasons.get((single.layer, single.units[0]))
            remedy = "run `neuron-atlas targets RECIPE`"
            reason = f"its target could not be made: {error}" if error else f"it has no target yet: {remedy}"
            commit_failure(session, single, _reason(reason))


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
