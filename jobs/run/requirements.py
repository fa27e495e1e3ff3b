"""What a recipe requires of its model, tried before any task starts, so that no mistake is found after hours."""

from functools import partial

from jobs.run.resolved import ResolvedRecipe, recipe_errors
from pipeline.references.build import plan_targets
from pipeline.references.user_chosen import check_folders
from pipeline.synthesis.rehearsal import rehearse


def check_requirements(resolved: ResolvedRecipe) -> None:
    """Try the model on images of noise, and read the folders of references that the recipe names.

    Raises:
        RecipeError: features that cannot be repeated, layers without a gradient, feature layers that are unknown or do
            not feed the neurons, a relevance rule that does not work for the model, an image size that it does not
            take, or a folder of references without usable images.
    """
    recipe, model = resolved.recipe, resolved.model
    with recipe_errors():
        check_folders(recipe)
        rehearse(
            model, resolved.units, partial(plan_targets, recipe, model), image_size_px=recipe.visualize.image_size_px
        )
