"""A recipe resolved against its model and its data: all that planning needs, and nothing that runs."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from jobs.run.derived_layers import add_layers, pin_concepts
from jobs.run.run_folder import check_recipe
from jobs.run.work_plan import (
    Key,
    num_seeds,
    recorded_layers,
    requested_keys,
    requested_units,
    requested_visualizations,
)
from pipeline.errors import UserError
from pipeline.io.root import Root, expand_urls
from pipeline.models import Model, load_model
from pipeline.recipe.recipe import Recipe, RecipeError
from pipeline.references.build import check_targets
from pipeline.synthesis.methods.registry import check_method


# eq=False: compared and hashed by identity, cached properties hold large values.
@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedRecipe:
    """A recipe with its output folder and its model (on the CPU)."""

    recipe: Recipe
    root: Root
    model: Model

    @cached_property
    def shard_urls(self) -> list[str]:
        """The tar shards, sorted: in which order the recipe names them changes nothing."""
        return sorted(expand_urls(self.recipe.data.shards))

    @cached_property
    def layers(self) -> list[str]:
        """Layers with statistics, in model order."""
        return recorded_layers(self.recipe, self.model)

    @cached_property
    def units(self) -> dict[str, tuple[int, ...]]:
        """Layer → units to visualize, in the order of the recipe."""
        return requested_units(self.recipe, self.model)

    @cached_property
    def visualizations(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """(layer, method) → units to visualize, in the order of the recipe."""
        return requested_visualizations(self.recipe, self.model)

    @cached_property
    def keys(self) -> list[Key]:
        """Every (layer, unit, method, seed) to visualize."""
        return requested_keys(self.visualizations, num_seeds=num_seeds(self.recipe))

    @property
    def collect_fingerprint(self) -> str:
        """What the shard statistics and the statistics are stamped with."""
        return self.recipe.fingerprint("collect")


def resolve(recipe: Recipe, *, with_weights: bool = True) -> ResolvedRecipe:
    """Load the model and find every mistake of the recipe that can be found before any task starts.

    Args:
        recipe: what to resolve.
        with_weights: False leaves the weights where they are; layers and units are the same without them.

    Raises:
        RecipeError: an unknown model, layer or unit, concepts or labels that do not fit, a method that is not there,
            missing tar shards, or an output folder that holds results of another recipe.
        StorageError: the output folder or the weights cannot be read.
    """
    with recipe_errors():
        root = Root.open(recipe.output.root)
        recipe, concept_arrays = pin_concepts(recipe)
        check_recipe(root, recipe)
        model = _load_model(recipe, recipe.model.weights if with_weights else "random")
        add_layers(model, recipe, concept_arrays)
        resolved = ResolvedRecipe(recipe=recipe, root=root, model=model)
        _ = resolved.shard_urls, resolved.units, model.class_names  # all are checked by being made
        check_targets(recipe, model)
        for method in recipe.visualize.methods:
            check_method(model, method)
    return resolved


@contextlib.contextmanager
def recipe_errors() -> Iterator[None]:
    """Make a UserError inside the block a RecipeError: the recipe does not fit the model or the data."""
    try:
        yield
    except RecipeError:
        raise
    except UserError as error:
        raise RecipeError(str(error)) from error


def _load_model(recipe: Recipe, weights: str) -> Model:
    section = recipe.model
    return load_model(
        section.name,
        weights,
        seed=recipe.seed,
        labels=section.labels,
        input_size_px=section.input_size_px,
        options=section.options,
        output=section.output,
    )
