"""Stage 4: tasks score the published visualizations, evaluators look at them and at dataset images, and scores follow from that.

Three steps, each resumable: the model scores visualizations (ok, weak or dead); every evaluator looks at the dataset
images and at the visualizations (`pipeline.evaluation.predictions`); scores of visualizations and of methods are
derived from all looks together.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from jobs.engine.work import Feed, Outcome, Resources, RunStoppedError, Work
from jobs.run.session import Session, StageReport, isolate
from jobs.stages.evaluate_plan import EvaluationState, summary_is_current, summary_sources
from jobs.stages.evaluate_tasks import derive_layer, predict_dataset_images, predict_visualizations, score_batch, sum_up
from jobs.stages.evaluators import require_evaluators
from jobs.stages.visualize import num_neurons

if TYPE_CHECKING:
    from pipeline.evaluation.predictions import EvaluatorRecord

STAGE: Final = "evaluate"


def run(session: Session) -> StageReport:
    """Score the visualizations that have no scores yet, and let the evaluators see what they have not seen.

    Raises:
        RecipeError: an evaluator cannot be loaded.
        RunStoppedError: there are no visualizations yet, or scores could not be derived from what was seen.
    """
    resolved, started = session.resolved, time.perf_counter()
    state = EvaluationState(resolved=resolved)
    if not state.statuses:
        raise RunStoppedError(
            f"{resolved.root.url} has no visualizations yet: run `neuron-atlas visualize RECIPE` first"
        )
    already = state.finished
    chunks = state.dataset_image_chunks()
    if already == state.visualized and not chunks and summary_is_current(resolved):
        return StageReport(stage=STAGE, noun="visualizations", done=0, already=len(already))
    evaluators = require_evaluators(resolved)

    scores = [Work(name=batch.name, arguments={"batch": batch}) for batch in state.score_batches()]
    _do(session, score_batch, scores, "visualizations", size=num_neurons, split=_split_batch, already=len(already))
    dataset_images = [Work(name=f"{c.evaluator}/{c.kind}/{c.name}", arguments={"dataset_images": c}) for c in chunks]
    num_unseen = _do(
        session,
        predict_dataset_images,
        dataset_images,
        "dataset_images",
        size=lambda work: len(work.arguments["dataset_images"].samples),
        split=lambda work: [
            Work(name=f"{c.evaluator}/{c.kind}/{c.name}", arguments={"dataset_images": c})
            for c in work.arguments["dataset_images"].split()
        ],
        already=len(already),
    )
    plans = _Plans(session)
    visualizations = [
        Work(
            name=f"{evaluator}/{batch.name}",
            arguments={"evaluator": evaluator, "batch": batch, "plan": plans[batch.layer]},
        )
        for evaluator, batch in state.prediction_batches()
    ]
    _do(
        session,
        predict_visualizations,
        visualizations,
        "visualizations",
        size=num_neurons,
        split=_split_batch,
        already=len(already),
    )

    state = EvaluationState(resolved=resolved)
    left_out = _derive(session, state, evaluators, plans)
    for reason in left_out:
        session.log.append(stage=STAGE, work="scores", status="left out", reason=reason)
    finished = state.finished
    return StageReport(
        stage=STAGE,
        noun="visualizations",
        done=len(finished - already),
        already=len(already),
        failed=len(state.visualized - finished) + num_unseen,
        seconds=time.perf_counter() - started,
        remark=_remark(state, evaluators, num_unseen),
    )


def _do(
    session: Session,
    task: Callable[..., Any],
    works: Sequence[Work],
    noun: str,
    *,
    size: Callable[[Work], int],
    split: Callable[[Work], Sequence[Work]],
    already: int,
) -> int:
    """Do works of one kind; one that keeps failing is done again in its parts. Returns how many things failed."""
    if not works:
        return 0
    resolved = session.resolved
    bound = partial(task, session.shared_model, session.task_resources.device, resolved.root, resolved.recipe)

    def start(some: Feed, resources: Resources) -> Iterator[Outcome]:
        return session.engine.run_tasks(bound, some, resources)

    outcomes = isolate(
        start,
        works,
        session.task_resources,
        split=split,
        on_split=lambda outcome: session.note(STAGE, outcome, count=0),
        failure_limit=session.failure_limit(already),
    )
    total = sum(size(work) for work in works)
    followed = session.follow(STAGE, outcomes, total=total, noun=noun, size=size)
    return sum(0 if outcome.ok else size(outcome.work) for outcome in followed)


def _split_batch(work: Work) -> list[Work]:
    prefix = f"{work.arguments['evaluator']}/" if "evaluator" in work.arguments else ""
    return [
        Work(name=f"{prefix}{batch.name}", arguments={**work.arguments, "batch": batch})
        for batch in work.arguments["batch"].split()
    ]


class _Plans:
    """Layer → where its visualizations are aligned; each found when it is first asked for, with a pass of the model."""

    def __init__(self, session: Session) -> None:
        self._resolved = session.resolved
        self._plans: dict[str, Any] = {}

    def __getitem__(self, layer: str) -> Any:
        from pipeline.references.build import plan_targets

        if layer not in self._plans:
            self._plans[layer] = plan_targets(self._resolved.recipe, self._resolved.model, layer)
        return self._plans[layer]


def _derive(
    session: Session, state: EvaluationState, evaluators: "Sequence[EvaluatorRecord]", plans: _Plans
) -> list[str]:
    """Make the scores that follow from looks. Returns what could not be measured, in words.

    Raises:
        RunStoppedError: a task failed; there is nothing in it that another attempt on another day could change.
    """
    from pipeline.activations.store import StatisticsStore
    from pipeline.evaluation.derived import LayerPredictions
    from pipeline.evaluation.summary import SUMMARY_MARKER

    resolved, statistics = session.resolved, StatisticsStore.open(session.resolved.root)
    class_layer = resolved.model.classifier_layer
    resolved.root.remove(SUMMARY_MARKER)
    for layer in resolved.units:
        keys = sorted(key for key in state.visualized if key[0] == layer)
        if not keys:
            continue
        predictions = LayerPredictions(
            root=resolved.root,
            recipe=resolved.recipe,
            statistics=statistics,
            dataset_images=state.dataset_images.of_layer(layer),
            evaluators=evaluators,
            layer=layer,
            is_classes=layer == class_layer,
            path_layers=plans[layer].feature_layers,
        )
        _do_one(session, partial(derive_layer, predictions), Work(name=f"scores of {layer}", arguments={"keys": keys}))
    work = Work(
        name="scores",
        arguments={
            "dataset_images": state.dataset_images,
            "evaluators": evaluators,
            "keys": resolved.keys,
            "class_layer": class_layer,
            "sources": summary_sources(resolved),
        },
    )
    left_out: list[str] = _do_one(session, partial(sum_up, resolved.root, resolved.recipe), work)
    return left_out


def _do_one(session: Session, task: Callable[..., Any], work: Work) -> Any:
    """Do one work that needs no GPU; its result."""
    (outcome,) = session.engine.run_tasks(task, [work], session.cpu_resources)
    session.note(STAGE, outcome, count=0)
    if not outcome.ok:
        raise RunStoppedError(f"{work.name} could not be made: {outcome.attempt.error}\n{outcome.attempt.traceback}")
    return outcome.attempt.result


def _remark(state: EvaluationState, evaluators: "Sequence[EvaluatorRecord]", num_unseen: int) -> str:
    """Who scored by how many dataset images, and what could not be seen."""
    from pipeline.evaluation.predictions import MODEL, PredictionFolder

    root = state.resolved.root
    by = "the model itself" if len(evaluators) == 1 else f"the model and {', '.join(j.name for j in evaluators[1:])}"
    num_dataset_images = len(state.dataset_images.random_sample) + len(state.dataset_images.remaining_top_images)
    text = f"{num_dataset_images} dataset images; scored by {by}"
    problems = {
        **PredictionFolder(root, MODEL, "random_sample").problems(),
        **PredictionFolder(root, MODEL, "top_images").problems(),
    }
    if problems:
        text += f"; {len(problems)} dataset images are no images any more, the first is {next(iter(problems.values()))}"
    return f"{text}; {num_unseen} times an evaluator failed on a dataset image" if num_unseen else text
