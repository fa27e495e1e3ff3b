"""`neuron-atlas status`: what is done, failed and left per stage, and why neurons failed. Reads, never writes.

It needs the recipe, the output folder and the libraries, no weights and no data: it runs on any machine.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.reporting.liveness import Liveness, describe_liveness, read_liveness
from jobs.run.resolved import ResolvedRecipe, resolve
from jobs.run.run_folder import read_log
from jobs.stages.build import committed_build, source_digest
from jobs.stages.collect_plan import describe_samples, read_plan
from jobs.stages.evaluate_plan import EvaluationState, count_predictions
from jobs.stages.label_notes import label_notes
from jobs.stages.targets import read_committed
from pipeline.activations.store import committed_statistics
from pipeline.atlas.format.fragments import join_rows, read_fragments, read_scores, row_key
from pipeline.recipe.recipe import Recipe

MAX_FAILURES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """Counts of one stage."""

    stage: str
    noun: str
    done: int
    failed: int
    todo: int


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Counts of all stages, statuses, the neurons that failed, each with its reason, and the signs of life.

    `left` is what is to do in the units of the log, which in `evaluate` are predictions and not visualizations;
    `samples` says what became of the images in the tar shards, once `collect` has finished, and `label_notes` what
    there is to say about their labels.
    """

    root: str
    stages: tuple[StageStatus, ...]
    statuses: dict[str, int]
    failures: tuple[tuple[str, str], ...]
    liveness: Liveness | None
    left: dict[str, int]
    samples: str = ""
    label_notes: tuple[str, ...] = ()


def read_status(recipe: Recipe) -> RunStatus:
    """The status of a recipe's output folder.

    Raises:
        RecipeError: the recipe does not fit its model, its data or its output folder.
    """
    return status_of(resolve(recipe, with_weights=False))


def status_of(resolved: ResolvedRecipe) -> RunStatus:
    """The status of a resolved recipe."""
    root, requested = resolved.root, resolved.keys
    collect = read_plan(resolved)
    set_aside, statistics = collect.set_aside, committed_statistics(root)
    targets = read_committed(root, list(resolved.units))
    num_targets = sum(len(set(units) & targets[layer]) for layer, units in resolved.units.items())
    num_units = sum(map(len, resolved.units.values()))

    rows = {row_key(row): row for row in join_rows(read_fragments(root), read_scores(root))}
    present = [rows[key] for key in requested if key in rows]
    failed = [row for row in present if row["status"] == "failed"]
    visualizations = [row for row in present if row["image_path"]]
    num_evaluated = len(EvaluationState(resolved=resolved).finished)
    built = committed_build(root, source_digest(root, resolved.recipe)) is not None
    num_visualized = len(present) - len(failed)

    def stage(name: str, noun: str, done: int, total: int, failed: int = 0) -> StageStatus:
        return StageStatus(stage=name, noun=noun, done=done, failed=failed, todo=total - done - failed)

    stages = (
        stage("collect", "tar shards", collect.done - len(set_aside), len(resolved.shard_urls), len(set_aside)),
        stage("targets", "neurons", num_targets, num_units),
        stage("visualize", "visualizations", num_visualized, len(requested), len(failed)),
        stage("evaluate", "visualizations", num_evaluated, len(visualizations) + len(requested) - len(present)),
        stage("build", "atlas", int(built), 1),
    )
    liveness = read_liveness(read_log(root), datetime.now(UTC))
    left = {each.stage: each.todo for each in stages}
    if liveness is not None and left["evaluate"] and "evaluate" in liveness.rates:
        left["evaluate"] = count_predictions(resolved)
    return RunStatus(
        root=root.url,
        stages=stages,
        statuses=dict(Counter(row["status"] for row in present)),
        failures=(*set_aside.items(), *((row["neuron_id"], row["status_reason"]) for row in failed)),
        liveness=liveness,
        left=left,
        samples=describe_samples(statistics) if statistics else "",
        label_notes=tuple(label_notes(resolved)),
    )


def describe_status(status: RunStatus) -> str:
    """The status as a table for a terminal."""
    lines = [status.root, f"{'stage':<12}{'done':>9}{'failed':>9}{'to do':>9}"]
    lines += [f"{s.stage:<12}{s.done:>9}{s.failed:>9}{s.todo:>9}  {s.noun}" for s in status.stages]
    if status.liveness is not None:
        lines.append(describe_liveness(status.liveness, status.left))
    if status.samples:
        lines.append(f"data: {status.samples}")
    lines += status.label_notes
    if status.statuses:
        lines.append("neurons: " + ", ".join(f"{count} {name}" for name, count in sorted(status.statuses.items())))
    for neuron, reason in status.failures[:MAX_FAILURES_SHOWN]:
        lines.append(f"failed  {neuron}: {reason}")
    if len(status.failures) > MAX_FAILURES_SHOWN:
        num_more = len(status.failures) - MAX_FAILURES_SHOWN
        lines.append(f"… and {num_more} more; all are in run/log.jsonl (on object storage in run/log)")
    return "\n".join(lines)
