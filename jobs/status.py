"""`neuron-atlas status`: what is done, failed and left per stage, and why neurons failed. Reads, never writes."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.evaluate_plan import EvaluationState
from jobs.resolved import ResolvedRecipe, resolve

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

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
    """Counts of all stages, the verdicts, and the neurons that failed, each with its reason."""

    root: str
    stages: tuple[StageStatus, ...]
    verdicts: dict[str, int]
    failures: tuple[tuple[str, str], ...]


def read_status(recipe: "Recipe") -> RunStatus:
    """The status of a recipe's output folder.

    Raises:
        RecipeError: the recipe does not fit its model, its data or its output folder.
    """
    return status_of(resolve(recipe))


def status_of(resolved: ResolvedRecipe) -> RunStatus:
    """The status of a resolved recipe."""
    from jobs.build import committed_build, source_digest
    from jobs.collect import read_plan
    from jobs.targets import read_committed
    from pipeline.atlas.fragments import join_rows, read_fragments, read_scores, row_key

    root, wanted = resolved.root, resolved.keys
    collect = read_plan(root, resolved.shard_urls, resolved.collect_fingerprint)
    targets = read_committed(root, list(resolved.units))
    num_targets = sum(len(set(units) & targets[layer]) for layer, units in resolved.units.items())
    num_units = sum(map(len, resolved.units.values()))

    rows = {row_key(row): row for row in join_rows(read_fragments(root), read_scores(root))}
    present = [rows[key] for key in wanted if key in rows]
    failed = [row for row in present if row["status"] == "failed"]
    pictures = [row for row in present if row["image_path"]]
    num_judged = len(EvaluationState(resolved=resolved).finished)
    built = committed_build(root, source_digest(root, resolved.recipe)) is not None
    num_visualized = len(present) - len(failed)

    def stage(name: str, noun: str, done: int, total: int, failed: int = 0) -> StageStatus:
        return StageStatus(stage=name, noun=noun, done=done, failed=failed, todo=total - done - failed)

    return RunStatus(
        root=root.url,
        stages=(
            stage("collect", "tar shards", collect.done, len(resolved.shard_urls)),
            stage("targets", "neurons", num_targets, num_units),
            stage("visualize", "pictures", num_visualized, len(wanted), len(failed)),
            stage("evaluate", "pictures", num_judged, len(pictures) + len(wanted) - len(present)),
            stage("build", "atlas", int(built), 1),
        ),
        verdicts=dict(Counter(row["status"] for row in present)),
        failures=tuple((row["neuron_id"], row["status_reason"]) for row in failed),
    )


def describe_status(status: RunStatus) -> str:
    """The status as a table for a terminal."""
    lines = [status.root, f"{'stage':<12}{'done':>9}{'failed':>9}{'to do':>9}"]
    lines += [f"{s.stage:<12}{s.done:>9}{s.failed:>9}{s.todo:>9}  {s.noun}" for s in status.stages]
    if status.verdicts:
        lines.append("neurons: " + ", ".join(f"{count} {name}" for name, count in sorted(status.verdicts.items())))
    for neuron, reason in status.failures[:MAX_FAILURES_SHOWN]:
        lines.append(f"failed  {neuron}: {reason}")
    if len(status.failures) > MAX_FAILURES_SHOWN:
        lines.append(f"… and {len(status.failures) - MAX_FAILURES_SHOWN} more; all are in run/log.jsonl")
    return "\n".join(lines)
