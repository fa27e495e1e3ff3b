"""A recipe resolved against its model and its data: all that planning needs, and nothing that runs."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from jobs.errors import is_worded_for_users
from jobs.runfolder import check_recipe
from jobs.wanted import Key, surveyed_layers, wanted_keys, wanted_units
from pipeline.recipe import Recipe, RecipeError
from pipeline.storage import Root, expand_urls

if TYPE_CHECKING:
    from pipeline.models import Model


# eq=False: compared and hashed by identity, cached properties hold large values.
@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedRecipe:
    """A recipe with its output folder and its model (on the CPU)."""

    recipe: Recipe
    root: Root
    model: "Model"

    @cached_property
    def shard_urls(self) -> list[str]:
        """The tar shards, in order."""
        return expand_urls(self.recipe.data.shards)

    @cached_property
    def layers(self) -> list[str]:
        """Layers with statistics, in model order."""
        return surveyed_layers(self.recipe, self.model)

    @cached_property
    def units(self) -> dict[str, tuple[int, ...]]:
        """Layer → units to visualize, in the order of the recipe."""
        return wanted_units(self.recipe, self.model)

    @cached_property
    def keys(self) -> list[Key]:
        """Every (layer, unit, method, seed) to visualize."""
        visualize = self.recipe.visualize
        return wanted_keys(self.units, methods=visualize.methods, num_seeds=visualize.seeds)

    @property
    def collect_fingerprint(self) -> str:
        """What the partials and the statistics are stamped with."""
        return self.recipe.fingerprint("collect")


def resolve(recipe: Recipe) -> ResolvedRecipe:
    """Load the model and find every mistake of the recipe that can be found before work starts.

    Raises:
        RecipeError: an unknown model, layer or unit, a method that is not there, missing tar shards, or an output
            folder that holds results of another recipe.
        StorageError: the output folder or the weights cannot be read.
    """
    with recipe_errors():
        _check_supported(recipe)
        root = Root.open(recipe.output.root)
        check_recipe(root, recipe)
        resolved = ResolvedRecipe(recipe=recipe, root=root, model=_load_model(recipe))
        _ = resolved.shard_urls, resolved.units  # both are checked by being made
    return resolved


@contextlib.contextmanager
def recipe_errors() -> Iterator[None]:
    """Make a ValueError inside the block a RecipeError: what the recipe says does not fit the model or the data."""
    try:
        yield
    except RecipeError:
        raise
    except ValueError as error:
        if not is_worded_for_users(error):
            raise
        raise RecipeError(str(error)) from error


def _check_supported(recipe: Recipe) -> None:
    """Refuse what the recipe's form allows and this version does not do, rather than do something else."""
    from pipeline.relevance import RULES
    from pipeline.synthesis.visualize import METHODS

    for method in recipe.visualize.methods:
        if method not in METHODS:
            raise RecipeError(f'visualize.methods names "{method}": this version has {", ".join(METHODS)}')
    if recipe.targets.relevance not in ("auto", "none", *RULES):
        raise RecipeError(
            f'targets.relevance = "{recipe.targets.relevance}": this version has auto, none, {", ".join(RULES)}'
        )
    if recipe.visualize.precision == "bfloat16":
        raise RecipeError('visualize.precision = "bfloat16": this version computes in float32; set it to "auto"')


def _load_model(recipe: Recipe) -> "Model":
    from pipeline.models import load_model

    section = recipe.model
    return load_model(section.name, section.weights, seed=recipe.seed, labels=section.labels)
