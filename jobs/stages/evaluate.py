"""Stage 4: tasks score the visualizations, evaluators predict them and dataset images, and further scores follow.

Three steps, each resumable: the model scores visualizations (ok, weak or dead); every evaluator predicts the dataset
images and the visualizations (`pipeline.evaluation.predictions`); scores of visualizations and of methods are derived
from all predictions together.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from jobs.engine.tasks import A, R, RunStoppedError, Task, TaskResult
from jobs.engine.worker import Shared
from jobs.run.session import Session
from jobs.run.stage import StageReport
from jobs.run.work_plan import Key
from jobs.stages.evaluate_plan import (
    DatasetImageChunk,
    EvaluationState,
    VisualizationChunk,
    summary_is_current,
    summary_sources,
)
from jobs.stages.evaluate_tasks import derive_layer, predict_dataset_images, predict_visualizations, score_batch, sum_up
from jobs.stages.evaluators import require_evaluators
from jobs.stages.visualize import tasks_of
from pipeline.activations.store import StatisticsStore
from pipeline.evaluation.derived import LayerPredictions
from pipeline.evaluation.predictions import MODEL, EvaluatorRecord, PredictionFolder
from pipeline.evaluation.summary import SUMMARY_MARKER
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.recipe.recipe import Recipe
from pipeline.references.build import plan_targets
from pipeline.synthesis.methods.vital_target import AlignmentPlan

NetworkTask = Callable[[Shared[Model], str, Root, Recipe, A], TaskResult]


class Evaluate:
    """The stage `evaluate`."""

    name: Final = "evaluate"
    noun: Final = "visualizations"

    def run(self, session: Session) -> StageReport:
        """Score the visualizations that have no scores yet, and let the evaluators predict what is left.

        Raises:
            RecipeError: an evaluator cannot be loaded.
            RunStoppedError: there are no visualizations yet, or scores could not be derived from predictions.
        """
        resolved = session.resolved
        state = EvaluationState(resolved=resolved)
        if not state.statuses:
            raise RunStoppedError(
                f"{resolved.root.url} has no visualizations yet: run `neuron-atlas visualize RECIPE` first"
            )
        already = state.finished
        chunks = state.dataset_image_chunks()
        if already == state.visualized and not chunks and summary_is_current(resolved):
            return StageReport(stage=self.name, noun=self.noun, already=len(already), nothing_to_do=True)
        evaluators = require_evaluators(resolved)
        plans = _Plans(session)
        num_unpredicted = self._predict(session, state, chunks, plans, len(already))
        state = EvaluationState(resolved=resolved)
        self._derive(session, state, evaluators, plans)
        finished = state.finished
        return StageReport(
            stage=self.name,
            noun=self.noun,
            done=len(finished - already),
            already=len(already),
            failed=len(state.visualized - finished) + num_unpredicted,
            remark=_remark(state, evaluators, num_unpredicted),
        )

    def _predict(
        self,
        session: Session,
        state: EvaluationState,
        chunks: Sequence[DatasetImageChunk],
        plans: "_Plans",
        already: int,
    ) -> int:
        """Make the scores and predictions that are left. Returns how often an evaluator failed on a dataset image."""
        self._do(
            session,
            score_batch,
            list(tasks_of(state.score_batches())),
            noun="visualizations",
            split=lambda batch: list(tasks_of(batch.split())),
            already=already,
        )
        num_unpredicted = self._do(
            session,
            predict_dataset_images,
            [chunk.task for chunk in chunks],
            noun="dataset images",
            split=DatasetImageChunk.split,
            already=already,
        )
        visualizations = [
            VisualizationChunk(evaluator=evaluator, batch=batch, plan=plans[batch.layer]).task
            for evaluator, batch in state.prediction_batches()
        ]
        self._do(
            session,
            predict_visualizations,
            visualizations,
            noun="visualizations",
            split=VisualizationChunk.split,
            already=already,
        )
        return num_unpredicted

    def _do(
        self,
        session: Session,
        function: NetworkTask[A],
        tasks: Sequence[Task[A]],
        *,
        noun: str,
        split: Callable[[A], Sequence[Task[A]]],
        already: int,
    ) -> int:
        """Do tasks of one kind. Returns how many items failed."""
        if not tasks:
            return 0
        resolved, resources = session.resolved, session.task_resources
        bound = partial(function, session.shared_model, resources.device, resolved.root, resolved.recipe)
        run = partial(session.engine.run_tasks, bound)
        outcomes = session.do(self.name, run, tasks, resources, noun=noun, already=already, split=split)
        return sum(0 if outcome.ok else outcome.task.count for outcome in outcomes)

    def _derive(
        self, session: Session, state: EvaluationState, evaluators: Sequence[EvaluatorRecord], plans: "_Plans"
    ) -> None:
        """Make the scores that follow from predictions, and log what could not be measured.

        Raises:
            RunStoppedError: a task failed; there is nothing in it that another attempt on another day could change.
        """
        resolved = session.resolved
        statistics, class_layer = StatisticsStore.open(resolved.root), resolved.model.classifier_layer
        resolved.root.remove(SUMMARY_MARKER)
        for layer in resolved.units:
            keys: list[Key] = sorted(key for key in state.visualized if key[0] == layer)
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
            self._do_one(session, partial(derive_layer, predictions), f"scores of {layer}", keys)
        summary = partial(
            sum_up, resolved.root, resolved.recipe, state.dataset_images, evaluators, resolved.keys, class_layer
        )
        for reason in self._do_one(session, summary, "scores", summary_sources(resolved)):
            session.log.append(stage=self.name, task="scores", status="left out", reason=reason)

    def _do_one(self, session: Session, function: Callable[[A], R], name: str, argument: A) -> R:
        """The result of one task that needs no GPU."""
        outcome = session.do_one(self.name, function, Task(name=name, argument=argument), session.cpu_resources)
        if not outcome.ok:
            raise RunStoppedError(f"{name} could not be made: {outcome.attempt.error}\n{outcome.attempt.traceback}")
        return outcome.result


class _Plans:
    """Layer → how its visualizations are aligned; each found when it is first needed, with a pass of the model."""

    def __init__(self, session: Session) -> None:
        self._resolved = session.resolved
        self._plans: dict[str, AlignmentPlan] = {}

    def __getitem__(self, layer: str) -> AlignmentPlan:
        if layer not in self._plans:
            self._plans[layer] = plan_targets(self._resolved.recipe, self._resolved.model, layer)
        return self._plans[layer]


def _remark(state: EvaluationState, evaluators: Sequence[EvaluatorRecord], num_unpredicted: int) -> str:
    """Who scored by how many dataset images, and what could not be predicted."""
    root = state.resolved.root
    others = ", ".join(evaluator.name for evaluator in evaluators[1:])
    by = f"the model and {others}" if others else "the model itself"
    num_dataset_images = len(state.dataset_images.random_sample) + len(state.dataset_images.remaining_top_images)
    text = f"{num_dataset_images} dataset images; scored by {by}"
    problems = {
        **PredictionFolder(root, MODEL, "random_sample").problems(),
        **PredictionFolder(root, MODEL, "top_images").problems(),
    }
    if problems:
        text += (
            f"; {len(problems)} dataset images cannot be read any more, the first is {next(iter(problems.values()))}"
        )
    if num_unpredicted:
        text += f"; {num_unpredicted} times an evaluator failed on a dataset image"
    return text
