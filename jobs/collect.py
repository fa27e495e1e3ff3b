"""Stage 1: one task per tar shard surveys its images once; then the partials are merged into the statistics."""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from jobs.runfolder import read_log
from jobs.schedule import Resources, RunStoppedError, Work
from jobs.session import Session, StageReport, stop_if_all_fail
from jobs.worker import Shared, model_on
from pipeline.recipe import Recipe
from pipeline.storage import Root

if TYPE_CHECKING:
    from pipeline.models import Model

STAGE: Final = "collect"
NUM_EXAMPLES_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True)
class CollectPlan:
    """Which tar shards are left to survey."""

    todo: tuple[int, ...]
    done: int
    merged: bool  # the statistics of all tar shards are there

    @property
    def finished(self) -> bool:
        """Whether nothing is left."""
        return not self.todo and self.merged


def plan_collect(num_shards: int, committed: Collection[int], statistics: dict[str, Any] | None) -> CollectPlan:
    """`todo = wanted − committed`. Pure. Merged statistics make the partials dispensable."""
    if statistics is not None:
        return CollectPlan(todo=(), done=num_shards, merged=True)
    todo = tuple(index for index in range(num_shards) if index not in committed)
    return CollectPlan(todo=todo, done=num_shards - len(todo), merged=False)


def read_plan(root: Root, shard_urls: Sequence[str], fingerprint: str) -> CollectPlan:
    """The plan of what is in storage now; statistics of another recipe or data count as none."""
    from pipeline.statistics.store import committed_shards, committed_statistics

    statistics = committed_statistics(root)
    if statistics is not None and statistics.get("recipe_fingerprint") != fingerprint:
        statistics = None
    committed = committed_shards(root, recipe_fingerprint=fingerprint, shard_urls=shard_urls)
    return plan_collect(len(shard_urls), committed, statistics)


def run(session: Session) -> StageReport:
    """Survey the tar shards that are left, then merge all.

    Raises:
        RunStoppedError: a tar shard could not be surveyed (statistics of the others alone would be wrong), too many
            samples are bad, or there is none.
    """
    resolved, started = session.resolved, time.perf_counter()
    recipe, root, fingerprint = resolved.recipe, resolved.root, resolved.collect_fingerprint
    plan = read_plan(root, resolved.shard_urls, fingerprint)
    if plan.finished:
        return StageReport(stage=STAGE, noun="tar shards", done=0, already=plan.done)
    correlated = _correlated_layers(session)
    task = partial(
        survey_shard, session.shared_model, session.resources.device, root, recipe, resolved.layers, correlated
    )
    works = [
        Work(name=f"shard {index:06d}", arguments={"index": index, "url": resolved.shard_urls[index]})
        for index in plan.todo
    ]
    outcomes = stop_if_all_fail(session.engine.run_tasks(task, works, session.resources), session.patience(plan.done))
    failed: dict[str, str] = {}
    for outcome in session.follow(STAGE, outcomes, total=len(works), noun="tar shards", size=lambda _: 1):
        if outcome.ok:
            session.log.append(stage=STAGE, work=outcome.work.name, status="counted", **outcome.attempt.result)
        else:
            failed[outcome.work.arguments["url"]] = outcome.attempt.error
    if failed:
        url, error = next(iter(failed.items()))
        raise RunStoppedError(
            f"{len(failed)} of {len(resolved.shard_urls)} tar shards could not be surveyed, "
            f"the first is {url}: {error}\n"
            "The others are kept; run the command again to retry these, or take them out of data.shards. "
            f"Tracebacks are in {root.url}/run/log.jsonl"
        )
    _merge(session)
    return StageReport(
        stage=STAGE,
        noun="tar shards",
        done=len(works),
        already=plan.done,
        seconds=time.perf_counter() - started,
        remark=describe_samples(root),
    )


def survey_shard(
    shared_model: "Shared[Model]",
    device: str,
    root: Root,
    recipe: Recipe,
    layers: Sequence[str],
    correlated_layers: Sequence[str],
    *,
    index: int,
    url: str,
) -> dict[str, Any]:
    """The task: survey one tar shard and commit its partial. Returns counts, and some skipped samples as text."""
    from pipeline.shards import ErrorBudget, iterate_samples
    from pipeline.statistics.store import write_partial
    from pipeline.statistics.survey import survey

    model = model_on(shared_model, device)
    budget = ErrorBudget(recipe.data.max_error_fraction)
    samples = iterate_samples(
        url,
        image_key=recipe.data.image_key,
        label_key=recipe.data.label_key,
        num_classes=model.num_classes or None,  # a backbone takes any label
        on_skip=budget.add_skip,
    )
    surveyed = survey(
        model,
        samples,
        shard_index=index,
        layers=layers,
        feature_layers=correlated_layers,
        top_k=recipe.statistics.top_k,
        batch_size=recipe.statistics.batch_size,
        activation=recipe.statistics.activation,
        budget=budget,
        max_pixels=recipe.data.max_pixels,
    )
    write_partial(root, index, surveyed, recipe_fingerprint=recipe.fingerprint(STAGE), shard_url=url)
    return {
        "num_samples": surveyed.num_samples,
        "num_skipped": surveyed.num_skipped,
        "skipped_for": budget.counts(),
        "skipped_examples": [
            f"{skip.reason} ({skip.key or 'whole shard'} in {skip.tar_shard}: {skip.detail})"
            for skip in budget.skipped[:NUM_EXAMPLES_SHOWN]
        ],
    }


def merge_shards(root: Root, recipe: Recipe, shard_urls: Sequence[str], attrs: dict[str, Any]) -> None:
    """The last task: merge all partials and commit the statistics.

    Raises:
        TooManyBadSamples: more than `data.max_error_fraction` of all samples, or no sample is left.
    """
    from pipeline.statistics.store import merge_partials, write_statistics

    merged = merge_partials(root, shard_urls, recipe_fingerprint=recipe.fingerprint(STAGE))
    check_error_fraction(root, recipe, num_samples=merged.num_samples, num_skipped=merged.num_skipped)
    write_statistics(root, merged, attrs)


def describe_samples(root: Root) -> str:
    """How many images the statistics are of, and how many samples were left out for which reasons."""
    from pipeline.statistics.store import committed_statistics

    statistics = committed_statistics(root)
    assert statistics is not None
    text = f"{statistics['num_samples']} images"
    if not statistics["num_skipped"]:
        return text
    text += f", {statistics['num_skipped']} samples left out"
    # By shard, since one that was surveyed twice (a lost worker) is in the log twice.
    counted = {entry["work"]: entry["skipped_for"] for entry in read_log(root) if entry.get("status") == "counted"}
    reasons = sum((Counter(skipped_for) for skipped_for in counted.values()), Counter[str]())
    if reasons.total() != statistics["num_skipped"]:  # the driver was killed between a partial and its log line
        return text
    return f"{text}: {', '.join(f'{count} {reason}' for reason, count in reasons.most_common())}"


def check_error_fraction(root: Root, recipe: Recipe, *, num_samples: int, num_skipped: int) -> None:
    """Hold the data set as a whole against `data.max_error_fraction`, whatever shards the bad samples are in.

    Raises:
        TooManyBadSamples: with the counts and the first reasons from the log.
    """
    from pipeline.shards import TooManyBadSamples

    total = num_samples + num_skipped
    allowed = recipe.data.max_error_fraction
    if num_samples and num_skipped <= allowed * total:
        return
    shown = [text for entry in read_log(root) for text in entry.get("skipped_examples", ())]
    reasons = "; ".join(dict.fromkeys(shown[:NUM_EXAMPLES_SHOWN]))
    if not num_samples:
        raise TooManyBadSamples(f"data.shards gives no usable image ({num_skipped} bad samples): {reasons or 'empty'}")
    raise TooManyBadSamples(
        f"{num_skipped} of {total} samples are bad ({num_skipped / total:.2%}, allowed {allowed:.2%}): {reasons}. "
        "Raise data.max_error_fraction and run the command again; or repair the shards, into another output.root"
    )


def _merge(session: Session) -> None:
    resolved = session.resolved
    attrs = {
        "model": resolved.model.name,
        "weights_sha256": resolved.model.weights_sha256,
        "preprocessing": str(resolved.model.preprocessing),
        "recipe_fingerprint": resolved.collect_fingerprint,
    }
    task = partial(merge_shards, resolved.root, resolved.recipe, resolved.shard_urls, attrs)
    session.log.flush()  # the task quotes it
    on_cpu = Resources(cpus=session.resources.cpus, max_retries=session.resources.max_retries)
    for outcome in session.engine.run_tasks(task, [Work(name="merge")], on_cpu):
        session.note(STAGE, outcome, count=0)
        if not outcome.ok:
            raise RunStoppedError(
                f"the partials could not be merged: {outcome.attempt.error}\n{outcome.attempt.traceback}"
            )


def _correlated_layers(session: Session) -> list[str]:
    """Feature layers whose channels are correlated with all units; none unless the recipe's relevance needs it."""
    recipe, model = session.resolved.recipe, session.resolved.model
    if recipe.targets.relevance != "correlation":
        return []
    chosen = recipe.targets.feature_layers or model.default_feature_layers()
    return [model.resolve_layer(entry.layer) for entry in chosen if entry.weight > 0]
