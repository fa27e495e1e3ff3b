"""Build targets: for a batch of neurons choose references, read them, compute and store the targets."""

from collections.abc import Sequence
from typing import Any

from pipeline.models import FeatureLayer, Model
from pipeline.recipe import Recipe
from pipeline.statistics.store import StatisticsStore
from pipeline.storage import Root
from pipeline.synthesis.presets import SynthesisOptions, preset
from pipeline.synthesis.reference_target import AlignmentPlan, plan_alignment, reference_target, target_shapes
from pipeline.targets.references import ReferenceReader, gather_references
from pipeline.targets.store import prepare_store, write_references, write_target


def options_for(recipe: Recipe) -> SynthesisOptions:
    """The synthesis settings of a recipe: its preset, with the keys that the recipe sets itself."""
    overrides = dict(recipe.visualize.options)
    if recipe.visualize.steps is not None:
        overrides["steps"] = recipe.visualize.steps
    if recipe.targets.grid:
        overrides["grid"] = recipe.targets.grid
    return preset(recipe.visualize.preset, **overrides)


def plan_targets(recipe: Recipe, model: Model, layer: str) -> AlignmentPlan:
    """Where the neurons of one layer are aligned under a recipe.

    Raises:
        ValueError: a layer is unknown, or no feature layer feeds the neurons.
    """
    return plan_alignment(
        model,
        layer,
        options_for(recipe),
        rule=recipe.targets.relevance,
        feature_layers=[FeatureLayer(layer=f.layer, weight=f.weight) for f in recipe.targets.feature_layers],
        image_size_px=recipe.visualize.image_size_px,
    )


def prepare_targets(root: Root, model: Model, plan: AlignmentPlan) -> None:
    """Create the arrays of one layer; the driver calls this before any worker writes. Idempotent."""
    channels = {name: model.units(name) for name in plan.feature_layers}
    prepare_store(root, plan, model.units(plan.layer), target_shapes(model, plan), channels)


def build_targets(
    root: Root,
    recipe: Recipe,
    model: Model,
    statistics: StatisticsStore,
    plan: AlignmentPlan,
    units: Sequence[int],
) -> list[dict[str, Any]]:
    """Compute, store and commit the targets of a batch of units of one layer.

    A unit that no image of the data set excites has no target: its row says `dead` and why.

    Returns:
        One row per unit, as committed: see `pipeline.targets.store.REFERENCE_SCHEMA`.
    """
    reader = ReferenceReader(model, image_size_px=plan.image_size_px, max_pixels=recipe.data.max_pixels)
    settings = {
        name: getattr(recipe.targets, name)
        for name in ("num_references", "min_references", "reference_mode", "patch_size_px")
    }
    rows = []
    for unit in units:
        references, images = gather_references(model, statistics, reader, plan.layer, unit, settings)
        row = {"unit": unit, "status": "ok", "status_reason": "", "goal_activation": float("nan")}
        if len(images):
            write_target(root, plan, unit, reference_target(model, plan, unit, images))
            # On the whole images: an enlarged patch may excite the unit less than the image it is cut from.
            row["goal_activation"] = max(exemplar.activation for exemplar in references.exemplars)
        else:
            row |= {
                "status": "dead",
                "status_reason": f"none of the {statistics.num_samples} images excites this unit",
            }
        rows.append(row | references.columns(model.class_names))
    write_references(root, plan.layer, rows)
    return rows
