"""The evaluators of a recipe, loaded before any task starts, so that one that is missing does not end a long run."""

from jobs.run.resolved import ResolvedRecipe
from pipeline.errors import UserError
from pipeline.evaluation.evaluators.load import load_evaluator
from pipeline.evaluation.evaluators.network import check_evaluator
from pipeline.evaluation.predictions import (
    MODEL,
    EvaluatorRecord,
    evaluator_key,
    read_evaluator,
    role_of,
    write_evaluator,
)
from pipeline.recipe.recipe import RecipeError


def model_record(resolved: ResolvedRecipe) -> EvaluatorRecord:
    """The atlas's own model as an evaluator."""
    model = resolved.model
    return EvaluatorRecord(
        key=MODEL,
        slug=MODEL,
        role="model",
        name=model.name,
        weights=resolved.recipe.model.weights,
        weights_sha256=model.weights_sha256,
        num_classes=model.num_classes,
    )


def require_evaluators(resolved: ResolvedRecipe) -> list[EvaluatorRecord]:
    """The records of all evaluators, which are written, the model's first; see `check_evaluators`."""
    records = check_evaluators(resolved)
    for record in records[1:]:  # all or none: a recipe with a mistake leaves nothing behind
        write_evaluator(resolved.root, record)
    return records


def check_evaluators(resolved: ResolvedRecipe) -> list[EvaluatorRecord]:
    """The records of all evaluators, the model's first. Each is loaded: it must be there, and be the same as before.

    Raises:
        RecipeError: an evaluator cannot be loaded, its predictions cannot be repeated, or it has other weights than
            when it scored in this folder before.
    """
    records = [model_record(resolved)]
    for choice in resolved.recipe.evaluate.evaluators:
        key, place = evaluator_key(choice), "evaluate.clip" if role_of(choice) == "clip" else "evaluate.held_out_models"
        try:
            evaluator = load_evaluator(choice.name, choice.weights, class_names=resolved.model.class_names or None)
            check_evaluator(evaluator)
        except Exception as error:  # whatever a library raises: of weights, of a download, of a user's factory
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            raise RecipeError(
                f'{place} = "{choice.name}" with weights = "{choice.weights}" cannot be used: {reason}; '
                "give weights that are there, or leave this evaluator out"
            ) from error
        record = EvaluatorRecord(
            key=key,
            slug=evaluator.slug,
            role=role_of(choice),
            name=choice.name,
            weights=choice.weights,
            weights_sha256=evaluator.weights_sha256,
            num_classes=evaluator.num_classes or 0,
        )
        before = read_evaluator(resolved.root, key)
        if before is not None and before.weights_sha256 != record.weights_sha256:
            raise RecipeError(
                f'{place} = "{choice.name}": the weights in "{choice.weights}" are not those that it scored with in '
                f"{resolved.root.url} (sha256 {record.weights_sha256[:12]}, then {before.weights_sha256[:12]}); "
                "give the new weights a path of their own, or put the old ones back"
            )
        records.append(record)
    return records
