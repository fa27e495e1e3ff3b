"""`neuron-atlas plan`: what a run would do, how long it would take and how much it would write. No work is done.

Times come from the run's own log where it has any; before that from a stated rule of thumb, which only says the
order of magnitude.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jobs.evaluate_plan import count_looks
from jobs.progress import format_bytes, format_duration
from jobs.resolved import resolve
from jobs.runfolder import read_log
from jobs.status import RunStatus, describe_status, status_of
from pipeline.storage import Root

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.synthesis.reference_target import AlignmentPlan

# Seconds per thing on one CPU core with a network of EfficientNet-lite0's size (0.4 GMAC), and on one current
# GPU. CPU: from the log of a demo run on two busy cores (2026-11-24). GPU: guesses, nothing was run on one; but of an
# image, decoding and resizing take 3 ms of the worker's one core (JPEGs of 500 × 375 px, 2026-11-24).
SECONDS_PER_IMAGE: Final = {"cpu": 0.18, "cuda": 0.005}  # collect: decode and forward
SECONDS_PER_REFERENCE: Final = {"cpu": 0.16, "cuda": 0.005}
SECONDS_PER_STEP: Final = {"cpu": 0.14, "cuda": 0.002}  # per image that the model sees
SECONDS_PER_LOOK: Final = {"cpu": 0.2, "cuda": 0.005}  # evaluate: one network at one picture or photograph
BYTES_PER_IMAGE: Final = 110_000  # of the ImageNet training set: 138 GB, 1,281,167 images
BYTES_PER_NEURON: Final = 60_000  # picture, mask, tile and strip of photographs (VIEWER, "Measured")
MIN_LOGGED: Final = 1


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What is left of one stage."""

    stage: str
    todo: int
    noun: str
    worker_seconds: float
    measured: bool


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run would do now."""

    status: RunStatus
    estimates: tuple[StageEstimate, ...]
    num_neurons: int
    num_pictures: int
    data_bytes: int
    target_bytes: int
    atlas_bytes: int
    device: str
    gpus_per_worker: float
    num_workers: int
    is_here: bool  # the workers are those of this machine


def make_plan(recipe: "Recipe", *, num_workers: int | None = None) -> RunPlan:
    """The plan of a recipe.

    Args:
        recipe: what would be run. Its `compute.gpus_per_actor` says whether workers have GPUs; "auto" looks at this
            machine.
        num_workers: workers to reckon with; None is as many as this machine has room for.

    Raises:
        RecipeError: the recipe does not fit its model, its data or its output folder.
    """
    import os

    import torch

    from pipeline.targets.build import plan_targets

    resolved = resolve(recipe)
    status = status_of(resolved)
    gpus = recipe.compute.gpus_per_actor
    gpus_per_worker = float(torch.cuda.is_available()) if isinstance(gpus, str) else float(gpus)
    device = "cuda" if gpus_per_worker else "cpu"
    if gpus_per_worker:
        here = max(1, int(torch.cuda.device_count() / gpus_per_worker))
    else:
        here = max(1, (os.cpu_count() or 1) // recipe.compute.cpus_per_task)
    plans = {layer: plan_targets(recipe, resolved.model, layer) for layer in resolved.units}
    shard_bytes = first_shard_bytes(resolved.shard_urls)
    rules = {
        "collect": SECONDS_PER_IMAGE[device] * max(1.0, shard_bytes / BYTES_PER_IMAGE),
        "targets": SECONDS_PER_REFERENCE[device] * recipe.targets.num_references,
        "visualize": SECONDS_PER_STEP[device]
        * mean_views(recipe, Counter(method for _, _, method, _ in resolved.keys)),
        "evaluate": SECONDS_PER_LOOK[device],
        "build": 1.0,
    }
    rates = logged_rates(read_log(resolved.root), device)
    # A picture is scored, and every judge looks at it and at the photographs that it is compared with.
    num_things = {stage.stage: stage.todo for stage in status.stages} | {"evaluate": count_looks(resolved)}
    estimates = tuple(
        StageEstimate(
            stage=stage.stage,
            todo=stage.todo,
            noun=stage.noun,
            worker_seconds=num_things[stage.stage] * rates.get(stage.stage, rules[stage.stage]),
            measured=stage.stage in rates,
        )
        for stage in status.stages
    )
    return RunPlan(
        status=status,
        estimates=estimates,
        num_neurons=sum(map(len, resolved.units.values())),
        num_pictures=len(resolved.keys),
        data_bytes=shard_bytes * len(resolved.shard_urls),
        target_bytes=sum(
            target_bytes(resolved.model, plans[layer]) * len(units) * recipe.targets.facets
            for layer, units in resolved.units.items()
        ),
        atlas_bytes=BYTES_PER_NEURON * len(resolved.keys),
        device=device,
        gpus_per_worker=gpus_per_worker,
        num_workers=num_workers or here,
        is_here=num_workers is None,
    )


def first_shard_bytes(shard_urls: Sequence[str]) -> int:
    """Size of the first tar shard; the others are taken to be like it, as asking thousands of remote files is slow."""
    folder, _, name = shard_urls[0].rpartition("/")
    return Root.open(folder).size_bytes(name)


def target_bytes(model: Any, plan: "AlignmentPlan") -> int:
    """Bytes of one neuron's quantile functions in the target store, before compression."""
    from pipeline.synthesis.reference_target import target_shapes

    return sum(4 * rows * levels for rows, levels in target_shapes(model, plan).values())


def mean_views(recipe: "Recipe", num_pictures: Mapping[str, int]) -> float:
    """How many images the model sees for one picture, steps × views: the mean over pictures, counted by method."""
    from pipeline.synthesis.transforms import num_views
    from pipeline.targets.build import options_for

    options = {method: options_for(recipe, method) for method in num_pictures}
    total = sum(options[method].steps * num_views(options[method]) * count for method, count in num_pictures.items())
    return total / sum(num_pictures.values())


def logged_rates(entries: Sequence[Mapping[str, Any]], device: str) -> dict[str, float]:
    """Stage → worker seconds per thing done, over all works that the log has of it on this kind of device."""
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}
    for entry in entries:
        is_counted = entry.get("status") == "done" and entry.get("count", 0) >= MIN_LOGGED
        if is_counted and entry.get("device") == device:
            seconds[entry["stage"]] = seconds.get(entry["stage"], 0.0) + entry["seconds"]
            counts[entry["stage"]] = counts.get(entry["stage"], 0) + entry["count"]
    return {stage: seconds[stage] / counts[stage] for stage in counts}


def describe_plan(plan: RunPlan) -> str:
    """The plan as text for a terminal."""
    total_s = sum(estimate.worker_seconds for estimate in plan.estimates)
    # Stages follow each other, and no more workers can help than there are things to do.
    elapsed_s = sum(e.worker_seconds / max(1, min(plan.num_workers, e.todo)) for e in plan.estimates)
    lines = [
        describe_status(plan.status),
        "",
        f"{plan.num_neurons} neurons, {plan.num_pictures} pictures; reads about {format_bytes(plan.data_bytes)} of "
        f"tar shards, writes {format_bytes(plan.target_bytes)} of targets before compression and an atlas of about "
        f"{format_bytes(plan.atlas_bytes)}",
    ]
    for estimate in plan.estimates:
        if estimate.todo:
            source = "measured in this run" if estimate.measured else "rule of thumb"
            lines.append(
                f"  {estimate.stage:<11}{estimate.todo:>7} {estimate.noun:<11}"
                f"{format_duration(estimate.worker_seconds):>10} of one worker ({source})"
            )
    kind, unit = ("GPU", "GPU-hours") if plan.device == "cuda" else ("CPU", "CPU-worker hours")
    num_hours = total_s / 3600 * (plan.gpus_per_worker or 1)
    hours = f"about {num_hours:.2f}" if num_hours >= 0.01 else "less than 0.01"
    where = f"{'here, ' if plan.is_here else ''}with {plan.num_workers} {kind} workers"
    lines.append(f"{hours} {unit}; {where}, {format_duration(elapsed_s)}" if total_s else "nothing to do")
    return "\n".join(lines)
