"""Stage 1: one task per tar shard runs its images through the model once; then the shard statistics are merged."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from jobs.engine.tasks import Attempt, RunStoppedError, Task, TaskResult
from jobs.engine.worker import Shared, allocator_for_models, threads_beside
from jobs.run.run_folder import log_place, read_log
from jobs.run.session import Session
from jobs.run.stage import StageReport
from jobs.stages.collect_plan import (
    DAMAGED,
    SET_ASIDE,
    CollectPlan,
    check_failures,
    describe_samples,
    read_plan,
    shards_digest,
)
from jobs.stages.worker_model import model_on
from pipeline.activations.collect import collect
from pipeline.activations.store import (
    add_layers,
    committed_statistics,
    merge_shard_statistics,
    write_shard_statistics,
    write_statistics,
)
from pipeline.data.sample_errors import ErrorBudget, TooManyBadSamples
from pipeline.data.shards import iterate_samples
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.recipe.recipe import Recipe

NUM_EXAMPLES_SHOWN: Final = 3
COUNTED: Final = ("num_samples", "num_skipped", "skipped_for", "passed_over", "skipped_examples")


@dataclass(frozen=True, kw_only=True)
class TarShard:
    """A tar shard by its number in the sorted list."""

    index: int
    url: str


@dataclass(frozen=True, kw_only=True)
class SampleCounts(TaskResult):
    """How many samples of a tar shard were used, left out and passed over, for which reasons, and some left out."""

    num_samples: int
    num_skipped: int
    skipped_for: Mapping[str, int]
    passed_over: Mapping[str, int]
    skipped_examples: Sequence[str]


class Collect:
    """The stage `collect`."""

    name: Final = "collect"
    noun: Final = "tar shards"

    def run(self, session: Session) -> StageReport:
        """Record the tar shards that are left, then merge all.

        A tar shard that is damaged or killed its worker twice is set aside, if `data.max_error_fraction` of the shards
        allows it. A damaged one is tried again by the next run.

        Raises:
            RunStoppedError: a tar shard could not be recorded (statistics of the others alone would be wrong), too many
                are set aside, too many samples are bad, or there is none.
        """
        resolved = session.resolved
        plan = read_plan(resolved)
        if plan.finished:
            return _finished(plan, resolved.root)
        failed = self._collect(session, plan)
        if plan.retries and len(failed) == len(plan.todo) and all(attempt.is_final for attempt in failed.values()):
            return _finished(plan, resolved.root)  # as before
        # Layers are added to statistics of certain shards: of all of these, or not at all.
        bound = 0.0 if plan.adds and not plan.retries else resolved.recipe.data.max_error_fraction
        set_aside = check_failures(failed, resolved.shard_urls, bound, log=log_place(resolved.root))
        if plan.retries:
            indices = {url: index for index, url in enumerate(resolved.shard_urls)}
            before = {indices[url]: error for url, error in plan.set_aside.items()}
            set_aside |= {index: error for index, error in before.items() if index not in plan.todo}
        damaged = [resolved.shard_urls[index] for index in failed if failed[index].is_final]
        self._merge(session, plan, set_aside, damaged)
        statistics = committed_statistics(resolved.root)
        assert statistics is not None
        return StageReport(
            stage=self.name,
            noun=self.noun,
            done=len(plan.todo) - len(failed),
            already=plan.done - (len(plan.set_aside) if plan.retries else 0),
            failed=len(set_aside),
            remark=describe_samples(statistics),
        )

    def _collect(self, session: Session, plan: CollectPlan) -> dict[int, Attempt[SampleCounts]]:
        """Record the tar shards that are left. Returns index → last attempt of those that failed."""
        resolved, resources = session.resolved, session.task_resources
        tasks = [
            Task(name=f"shard {index:06d}", argument=TarShard(index=index, url=resolved.shard_urls[index]))
            for index in plan.todo
        ]
        function = partial(
            collect_shard,
            session.shared_model,
            resources.device,
            resolved.root,
            resolved.recipe,
            plan,
            _correlated_layers(session),
        )
        run = partial(session.engine.run_tasks, function)
        failed = {}
        for outcome in session.do(self.name, run, tasks, resources, noun=self.noun, already=plan.done):
            if outcome.ok:
                counts = {name: value for name, value in asdict(outcome.result).items() if name in COUNTED}
                session.log.append(stage=self.name, task=outcome.task.name, status="counted", **counts)
            else:
                failed[outcome.task.argument.index] = outcome.attempt
        return failed

    def _merge(self, session: Session, plan: CollectPlan, set_aside: Mapping[int, str], damaged: Sequence[str]) -> None:
        resolved = session.resolved
        attrs = {
            "model": resolved.model.name,
            "weights_sha256": resolved.model.weights_sha256,
            "preprocessing": str(resolved.model.preprocessing),
            "recipe_fingerprint": resolved.collect_fingerprint,
            "shards_digest": shards_digest(resolved.shard_urls),
        }
        if resolved.recipe.data.caption_key:
            attrs["caption_key"] = resolved.recipe.data.caption_key
        function = partial(
            merge_shards,
            resolved.root,
            resolved.recipe,
            resolved.shard_urls,
            plan,
            set_aside,
            damaged,
            resolved.model.layers(),
        )
        session.log.flush()  # the task quotes it
        outcome = session.do_one(self.name, function, Task(name="merge", argument=attrs), session.cpu_resources)
        if not outcome.ok:
            raise RunStoppedError(
                f"the shard statistics could not be merged: {outcome.attempt.error}\n{outcome.attempt.traceback}"
            )


def collect_shard(
    shared_model: Shared[Model],
    device: str,
    root: Root,
    recipe: Recipe,
    plan: CollectPlan,
    correlated_layers: Sequence[str],
    shard: TarShard,
) -> SampleCounts:
    """The task: run the images of one tar shard through the model and commit its statistics."""
    model = model_on(shared_model, device)
    budget = ErrorBudget(recipe.data.max_error_fraction)
    samples = iterate_samples(
        shard.url,
        image_key=recipe.data.image_key,
        label_key=recipe.data.label_key,
        caption_key=recipe.data.caption_key,
        num_classes=model.num_classes or None,  # a backbone takes any label
        on_skip=budget.add_skip,
    )
    with allocator_for_models(device), threads_beside(device) as decode_threads:
        recorded = collect(
            model,
            samples,
            shard_index=shard.index,
            layers=plan.layers,
            feature_layers=correlated_layers,
            top_k=recipe.statistics.top_k,
            batch_size=recipe.statistics.batch_size,
            activation=recipe.statistics.activation,
            budget=budget,
            max_pixels=recipe.data.max_pixels,
            max_value=recipe.data.max_value,
            decode_threads=decode_threads,
        )
    write_shard_statistics(
        root,
        shard.index,
        recorded,
        recipe_fingerprint=recipe.fingerprint("collect"),
        shard_url=shard.url,
        folder=plan.folder,
        captions=bool(recipe.data.caption_key),
    )
    return SampleCounts(
        num_samples=recorded.num_samples,
        num_skipped=recorded.num_skipped,
        skipped_for=recorded.account.skipped,
        passed_over=recorded.account.passed_over,
        skipped_examples=[
            f"{skip.reason} ({skip.key} in {skip.tar_shard}: {skip.detail})"
            for skip in budget.skipped[:NUM_EXAMPLES_SHOWN]
        ],
    )


def merge_shards(
    root: Root,
    recipe: Recipe,
    shard_urls: Sequence[str],
    plan: CollectPlan,
    set_aside: Mapping[int, str],
    damaged: Sequence[str],
    order: Sequence[str],
    attrs: Mapping[str, str],
) -> None:
    """The last task: merge all shard statistics but those of shards that are set aside, and commit the statistics.

    Raises:
        TooManyBadSamples: more than `data.max_error_fraction` of all samples, or no sample is left.
    """
    adds = plan.adds and not plan.retries
    aside = plan.set_aside if adds else {shard_urls[i]: error for i, error in sorted(set_aside.items())}
    merged = merge_shard_statistics(
        root,
        shard_urls,
        recipe_fingerprint=recipe.fingerprint("collect"),
        without=[index for index, url in enumerate(shard_urls) if url in aside],
        folder=plan.folder,
    )
    check_error_fraction(root, recipe, num_samples=merged.num_samples, num_skipped=merged.num_skipped)
    if adds:
        add_layers(root, merged, plan.layers, order)
    else:
        write_statistics(root, merged, {**attrs, SET_ASIDE: aside, DAMAGED: damaged} if aside else attrs)


def _finished(plan: CollectPlan, root: Root) -> StageReport:
    """The report of a run that found nothing to add."""
    statistics = committed_statistics(root)
    assert statistics is not None
    num_aside = len(plan.set_aside)
    return StageReport(
        stage=Collect.name,
        noun=Collect.noun,
        already=plan.done - num_aside,
        failed=num_aside,
        nothing_to_do=True,
        remark=describe_samples(statistics) if statistics.get(DAMAGED) else "",
    )


def check_error_fraction(root: Root, recipe: Recipe, *, num_samples: int, num_skipped: int) -> None:
    """Check the data set as a whole against `data.max_error_fraction`, whatever shards the bad samples are in.

    Raises:
        TooManyBadSamples: with the counts and the first reasons from the log.
    """
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


def _correlated_layers(session: Session) -> list[str]:
    """Feature layers whose channels are correlated with all units; none unless the recipe's relevance needs it."""
    recipe, model = session.resolved.recipe, session.resolved.model
    if recipe.targets.relevance != "correlation":
        return []
    chosen = recipe.targets.feature_layers or model.default_feature_layers()
    return [model.resolve_layer(entry.layer) for entry in chosen if entry.weight > 0]
