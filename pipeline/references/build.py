"""Targets: choose the references of a batch of neurons, read them, compute and store the targets."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, overload

import torch
from torch import Tensor

from pipeline.activations.store import StatisticsStore
from pipeline.attribution.relevance import RULES
from pipeline.derived_layers.layer import derived_layers
from pipeline.io.root import Root
from pipeline.models import FeatureLayer, Model
from pipeline.recipe.recipe import Recipe
from pipeline.references.facets import channel_vectors, cluster
from pipeline.references.reading import ReferenceReader
from pipeline.references.relmax import RelevanceRanking, require_classifier
from pipeline.references.selection import References, gather_references, measure_references
from pipeline.references.store import TargetWriter, prepare_store, write_references
from pipeline.references.user_chosen import Chosen, blocks_with_references
from pipeline.synthesis.methods.options import SynthesisOptions, VitalOptions
from pipeline.synthesis.methods.presets import option_names, preset
from pipeline.synthesis.methods.vital_target import AlignmentPlan, plan_alignment, reference_target, target_shapes


@overload
def options_for(recipe: Recipe, method: Literal["vital"] = "vital") -> VitalOptions: ...
@overload
def options_for(recipe: Recipe, method: str) -> SynthesisOptions: ...
def options_for(recipe: Recipe, method: str = "vital") -> SynthesisOptions:
    """The synthesis settings of a method in a recipe.

    They are those of the method's preset, with the keys that [visualize] sets for all methods that have them, then
    those that [visualize.METHOD] sets for this one; `targets.grid` goes before them, where the method has a grid.

    Raises:
        UserError: an unknown method.
    """
    overrides = recipe.visualize.options_of(method)
    if recipe.targets.grid and "grid" in option_names(method):
        overrides["grid"] = recipe.targets.grid
    return preset(recipe.visualize.preset, method, **overrides)


def check_targets(recipe: Recipe, model: Model) -> None:
    """Check the references of a recipe before work starts.

    Raises:
        UserError: as `blocks_with_references`; references ranked by relevance for a model without classifier.
    """
    blocks_with_references(recipe, model)
    if recipe.targets.reference_ranking == "relevance":
        require_classifier(model)


def plan_targets(recipe: Recipe, model: Model, layer: str) -> AlignmentPlan:
    """Where the neurons of one layer are aligned under a recipe.

    Raises:
        UserError: a layer is unknown, or no feature layer feeds the neurons.
    """
    plan = plan_alignment(
        model,
        layer,
        options_for(recipe),
        rule=recipe.targets.relevance,
        feature_layers=[FeatureLayer(layer=f.layer, weight=f.weight) for f in recipe.targets.feature_layers],
        image_size_px=recipe.visualize.image_size_px,
    )
    return replace(plan, facets=recipe.targets.facets)


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
    chosen: Chosen | None = None,
) -> list[dict[str, Any]]:
    """Compute, store and commit the targets of a batch of units of one layer, all facets of each.

    A unit that no image of the data set activates has no target: the status of its rows is `dead`. A facet without
    references is `skipped`.

    Args:
        root: the atlas folder, in which the arrays of the layer exist.
        recipe: of the run.
        model: of the neurons.
        statistics: of the run.
        plan: of the layer.
        units: of the layer.
        chosen: references that the recipe names itself, see `find_chosen`.

    Returns:
        One row per unit and facet, as committed: see `pipeline.references.store.REFERENCE_SCHEMA`.
    """
    builder = _TargetBuilder(root, recipe, model, statistics, plan, chosen or {})
    rows = [row for unit in units for row in builder.build(unit)]
    write_references(root, plan.layer, rows)
    return rows


class _TargetBuilder:
    """What the units of one batch share: open store, decoded images, correlations, relevance of candidate images."""

    def __init__(
        self, root: Root, recipe: Recipe, model: Model, statistics: StatisticsStore, plan: AlignmentPlan, chosen: Chosen
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._statistics = statistics
        self._plan = plan
        self._chosen = chosen
        self._writer = TargetWriter(root, plan)
        self._reader = ReferenceReader(
            model,
            image_size_px=plan.image_size_px,
            max_pixels=recipe.data.max_pixels,
            max_value=recipe.data.max_value,
        )
        self._correlation: dict[str, Tensor] = {}
        if plan.rule == "correlation":
            self._correlation = {
                name: torch.from_numpy(statistics.correlation(plan.layer, name)).abs().float()
                for name in plan.feature_layers
            }
        self._ranking: RelevanceRanking | None = None
        # Nothing in the network is computed from a concept or a combination, so they have no relevance for a class.
        unranked = [model.classifier_layer, *derived_layers(model.module)]
        if recipe.targets.reference_ranking == "relevance" and plan.layer not in unranked:
            rule = plan.rule if plan.rule in RULES else "lrp"
            self._ranking = RelevanceRanking(model, plan.layer, self._reader, rule=rule)

    def build(self, unit: int) -> list[dict[str, Any]]:
        """Write the targets of one unit; its rows, one per facet."""
        references, images = self._references(unit)
        num_facets = self._plan.facets
        if not len(images):
            reason = f"none of the {self._statistics.num_samples} images activates this unit"
            return [self._row(unit, facet, references, "dead", reason) for facet in range(num_facets)]
        clusters = [list(range(len(images)))]
        if num_facets > 1:
            vectors = channel_vectors(self._model, self._plan.layer, images)
            clusters = cluster(vectors, [e.activation for e in references.top_images], num_facets)
        rows = []
        importance = {name: value[unit] for name, value in self._correlation.items()} or None
        for facet, members in enumerate(clusters):
            target = reference_target(self._model, self._plan, unit, images[members], importance=importance)
            self._writer.write(unit, facet, target)
            rows.append(self._row(unit, facet, references.subset(members)))
        for facet in range(len(clusters), num_facets):
            reason = f"the {len(images)} references of this unit form only {len(clusters)} clusters"
            rows.append(self._row(unit, facet, references.subset([]), "skipped", f"{reason}: facet {facet} has none"))
        return rows

    def _references(self, unit: int) -> tuple[References, Tensor]:
        model, layer, settings = self._model, self._plan.layer, self._recipe.targets
        chosen = self._chosen.get((layer, unit))
        if chosen is None:
            return gather_references(
                model, self._statistics, self._reader, layer, unit, settings, ranking=self._ranking
            )
        return measure_references(
            model,
            layer,
            unit,
            chosen,
            self._reader.images(chosen.top_images),
            reduction=self._recipe.statistics.activation,
            box_side=settings.patch_size_px / model.input_size_px,
        )

    def _row(
        self, unit: int, facet: int, references: References, status: str = "ok", reason: str = ""
    ) -> dict[str, Any]:
        # On the whole images: an enlarged patch may activate the unit less than the image it is cut from.
        goal = max((top_image.activation for top_image in references.top_images), default=float("nan"))
        return {
            "unit": unit,
            "facet": facet,
            "num_facets": self._plan.facets,
            "status": status,
            "status_reason": reason,
            "goal_activation": goal,
            **references.columns(self._model.class_names),
        }
