"""`neuron-atlas plan`: what a run would do, how long it would take and how much it would write. Nothing is done.

Times come from the run's own log where it has any; before that from a stated rule of thumb, which only gives the
order of magnitude.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from jobs.commands.status import RunStatus, describe_status, status_of
from jobs.reporting.liveness import LogEntry
from jobs.reporting.progress import format_bytes, format_duration
from jobs.run.requirements import check_requirements
from jobs.run.resolved import ResolvedRecipe, resolve
from jobs.run.run_folder import read_log
from jobs.stages.evaluate_plan import count_predictions
from jobs.stages.evaluators import check_evaluators
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.sections import ComputeSection
from pipeline.references.build import options_for, plan_targets
from pipeline.synthesis.methods.vital_target import AlignmentPlan, target_shapes
from pipeline.synthesis.transforms import num_views

# Seconds per item with a network of EfficientNet-Lite0's size (0.4 GMAC), on one CPU core and on one current GPU, from
# runs and benchmarks (benchmarks/step_time.py, benchmarks/gpu_speed.py). A prediction on a GPU is a guess.
SECONDS_PER_IMAGE: Final = {"cpu": 0.02, "cuda": 0.005}  # collect: decode and forward
SECONDS_PER_REFERENCE: Final = {"cpu": 0.08, "cuda": 0.01}
SECONDS_PER_STEP: Final = {"cpu": 0.05, "cuda": 0.0005}  # per image that the model sees
SECONDS_PER_PREDICTION: Final = {"cpu": 0.03, "cuda": 0.005}  # evaluate: one network, one image
BYTES_PER_IMAGE: Final = 110_000  # of the ImageNet training set: 138 GB, 1,281,167 images
BYTES_PER_NEURON: Final = 60_000  # visualization, mask, tile and strip of dataset images
MIN_LOGGED: Final = 1


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of a stage: on which kind of device, with how many GPUs each, and how many there are."""

    device: str
    gpus: float
    count: int

    @property
    def kind(self) -> str:
        """For people."""
        return "GPU" if self.gpus else "CPU"


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What is left of one stage."""

    stage: str
    todo: int
    noun: str
    worker_seconds: float
    measured: bool
    workers: Workers

    @property
    def elapsed_s(self) -> float:
        """How long it takes: no more workers can help than there are items to do."""
        return self.worker_seconds / max(1, min(self.workers.count, self.todo))


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run would do now."""

    status: RunStatus
    estimates: tuple[StageEstimate, ...]
    num_neurons: int
    num_visualizations: int
    data_bytes: int
    target_bytes: int
    atlas_bytes: int
    actors: Workers  # of `visualize`
    tasks: Workers  # of the other stages
    is_here: bool  # the workers are those of this machine
    remarks: tuple[str, ...] = ()  # on the model's weights

    @property
    def elapsed_s(self) -> float:
        """How long all stages take, one after the other."""
        return sum(estimate.elapsed_s for estimate in self.estimates)


def make_plan(recipe: Recipe, *, num_workers: int | None = None, num_cpu_workers: int | None = None) -> RunPlan:
    """The plan of a recipe.

    Args:
        recipe: what would be run. Its `compute.gpus_per_actor` and `gpus_per_task` decide whether workers have GPUs;
            "auto" looks at this machine.
        num_workers: workers to plan for; None is as many as this machine has room for.
        num_cpu_workers: workers without GPUs, where others have some; None is `num_workers`.

    Raises:
        RecipeError: the recipe does not fit its model, its data or its output folder.
    """
    resolved = resolve(recipe)
    check_requirements(resolved)
    check_evaluators(resolved)
    status = status_of(resolved)
    actors, tasks = plan_workers(recipe.compute, num_workers, num_cpu_workers)
    plans = {layer: plan_targets(recipe, resolved.model, layer) for layer in resolved.units}
    shard_bytes = first_shard_bytes(resolved.shard_urls)
    rates = {
        "collect": SECONDS_PER_IMAGE[tasks.device] * max(1.0, shard_bytes / BYTES_PER_IMAGE),
        "targets": SECONDS_PER_REFERENCE[tasks.device] * recipe.targets.num_references,
        "visualize": SECONDS_PER_STEP[actors.device]
        * mean_views(recipe, Counter(method for _, _, method, _ in resolved.keys)),
        "evaluate": SECONDS_PER_PREDICTION[tasks.device],
        "build": 1.0,
    }
    return RunPlan(
        status=status,
        estimates=tuple(estimate_stages(resolved, status, rates, actors=actors, tasks=tasks)),
        num_neurons=sum(map(len, resolved.units.values())),
        num_visualizations=len(resolved.keys),
        data_bytes=shard_bytes * len(resolved.shard_urls),
        target_bytes=sum(
            target_bytes(resolved.model, plans[layer]) * len(units) * recipe.targets.facets
            for layer, units in resolved.units.items()
        ),
        atlas_bytes=BYTES_PER_NEURON * len(resolved.keys),
        actors=actors,
        tasks=tasks,
        is_here=num_workers is None,
        remarks=resolved.model.remarks,
    )


def estimate_stages(
    resolved: ResolvedRecipe, status: RunStatus, rates: Mapping[str, float], *, actors: Workers, tasks: Workers
) -> Iterator[StageEstimate]:
    """What is left of each stage; `rates` are the worker seconds per item where the run's log has none."""
    log = read_log(resolved.root)
    logged = {device: logged_rates(log, device) for device in (actors.device, tasks.device)}
    # A visualization is scored, and every evaluator predicts it and the dataset images that it is compared with.
    num_items = {stage.stage: stage.todo for stage in status.stages} | {"evaluate": count_predictions(resolved)}
    for stage in status.stages:
        workers = actors if stage.stage == "visualize" else tasks
        rate = logged[workers.device].get(stage.stage)
        yield StageEstimate(
            stage=stage.stage,
            todo=stage.todo,
            noun=stage.noun,
            worker_seconds=num_items[stage.stage] * (rates[stage.stage] if rate is None else rate),
            measured=rate is not None,
            workers=workers,
        )


def plan_workers(
    compute: ComputeSection, num_workers: int | None, num_cpu_workers: int | None
) -> tuple[Workers, Workers]:
    """The actors of `visualize`, and what does the tasks of the other stages; see `make_plan`."""

    def workers(gpus: float) -> Workers:
        here = torch.cuda.device_count() / gpus if gpus else (os.cpu_count() or 1) / compute.cpus_per_task
        requested = num_workers if gpus or num_cpu_workers is None else num_cpu_workers
        return Workers(device="cuda" if gpus else "cpu", gpus=gpus, count=max(1, requested or int(here)))

    of_actor, of_task = compute.gpus_per_actor, compute.gpus_per_task
    gpus = float(torch.cuda.is_available()) if isinstance(of_actor, str) else float(of_actor)
    return workers(gpus), workers(gpus if isinstance(of_task, str) else float(of_task))


def first_shard_bytes(shard_urls: Sequence[str]) -> int:
    """Size of the first tar shard; the others are taken to be like it, as asking thousands of remote files is slow."""
    folder, _, name = shard_urls[0].rpartition("/")
    return Root.open(folder).size_bytes(name)


def target_bytes(model: Model, plan: AlignmentPlan) -> int:
    """Bytes of one neuron's quantile functions in the target store, before compression."""
    return sum(4 * rows * levels for rows, levels in target_shapes(model, plan).values())


def mean_views(recipe: Recipe, num_visualizations: Mapping[str, int]) -> float:
    """How many images the model sees for one visualization, steps × views: the mean over visualizations."""
    options = {method: options_for(recipe, method) for method in num_visualizations}
    total = sum(
        options[method].steps * num_views(options[method]) * count for method, count in num_visualizations.items()
    )
    return total / sum(num_visualizations.values())


def logged_rates(entries: Sequence[LogEntry], device: str) -> dict[str, float]:
    """Stage → worker seconds per item, over all its tasks in the log that ran on this kind of device."""
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
    lines = [
        describe_status(plan.status),
        *plan.remarks,
        "",
        f"{plan.num_neurons} neurons, {plan.num_visualizations} visualizations; reads about "
        f"{format_bytes(plan.data_bytes)} of tar shards, writes {format_bytes(plan.target_bytes)} of targets "
        f"before compression and an atlas of about {format_bytes(plan.atlas_bytes)}",
    ]
    for estimate in plan.estimates:
        if estimate.todo:
            source = "measured in this run" if estimate.measured else "rule of thumb"
            lines.append(
                f"  {estimate.stage:<11}{estimate.todo:>7} {estimate.noun:<11}"
                f"{format_duration(estimate.worker_seconds):>10} of one {estimate.workers.kind} worker ({source})"
            )
    if not plan.elapsed_s:
        return "\n".join([*lines, "nothing to do"])
    kinds = {plan.actors.kind: plan.actors, plan.tasks.kind: plan.tasks}
    hours = " and ".join(_hours(plan, kind) for kind in kinds)
    where = " and ".join(f"{workers.count} {kind} workers" for kind, workers in kinds.items())
    here = "here, " if plan.is_here else ""
    return "\n".join([*lines, f"{hours}; {here}with {where}, {format_duration(plan.elapsed_s)}"])


def _hours(plan: RunPlan, kind: str) -> str:
    of_kind = [estimate for estimate in plan.estimates if estimate.workers.kind == kind]
    hours = sum(estimate.worker_seconds * (estimate.workers.gpus or 1) for estimate in of_kind) / 3600
    amount = f"about {hours:.2f}" if hours >= 0.01 else "less than 0.01"
    return f"{amount} {'GPU-hours' if kind == 'GPU' else 'CPU-worker hours'}"
