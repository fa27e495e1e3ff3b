"""The judges of a recipe, loaded before any work starts, so that one that cannot be had does not end a long run."""

from typing import TYPE_CHECKING

from jobs.run.errors import is_worded_for_users
from jobs.run.resolved import ResolvedRecipe
from pipeline.recipe.recipe import RecipeError

if TYPE_CHECKING:
    from pipeline.evaluation.predictions import JudgeRecord


def own_record(resolved: ResolvedRecipe) -> "JudgeRecord":
    """The atlas's own model as a judge."""
    from pipeline.evaluation.predictions import MODEL, JudgeRecord

    model = resolved.model
    return JudgeRecord(
        key=MODEL,
        slug=MODEL,
        role="model",
        name=model.name,
        weights=resolved.recipe.model.weights,
        weights_sha256=model.weights_sha256,
        num_classes=model.num_classes,
    )


def require_judges(resolved: ResolvedRecipe) -> "list[JudgeRecord]":
    """The records of all judges, the model's first. Each is loaded: it must be there, and be the same as before.

    Raises:
        RecipeError: a judge cannot be loaded, or it has other weights than when it judged in this folder before.
    """
    from pipeline.evaluation.evaluators.load import load_judge
    from pipeline.evaluation.predictions import JudgeRecord, judge_key, read_judge, role_of, write_judge

    records = [own_record(resolved)]
    for choice in resolved.recipe.evaluate.judges:
        key, place = judge_key(choice), "evaluate.clip" if role_of(choice) == "clip" else "evaluate.held_out_models"
        try:
            judge = load_judge(choice.name, choice.weights, class_names=resolved.model.class_names or None)
        except Exception as error:  # whatever a library raises: of weights, of a download, of one's own factory
            is_worded = isinstance(error, ValueError) and is_worded_for_users(error)
            reason = str(error) if is_worded else f"{type(error).__name__}: {error}"
            raise RecipeError(
                f'{place} = "{choice.name}" with weights = "{choice.weights}" cannot be loaded: {reason}; '
                "give weights that are there, or leave this judge out"
            ) from error
        record = JudgeRecord(
            key=key,
            slug=judge.slug,
            role=role_of(choice),
            name=choice.name,
            weights=choice.weights,
            weights_sha256=judge.weights_sha256,
            num_classes=judge.num_classes or 0,
        )
        before = read_judge(resolved.root, key)
        if before is not None and before.weights_sha256 != record.weights_sha256:
            raise RecipeError(
                f'{place} = "{choice.name}": the weights in "{choice.weights}" are not those that it judged with in '
                f"{resolved.root.url} (sha256 {record.weights_sha256[:12]}, then {before.weights_sha256[:12]}); "
                "give the new weights a path of their own, or put the old ones back"
            )
        records.append(record)
    for record in records[1:]:  # all or none: a recipe with a mistake leaves nothing behind
        write_judge(resolved.root, record)
    return records
