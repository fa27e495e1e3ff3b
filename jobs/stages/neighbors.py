"""Nearest neighbors and the map, a part of stage 5: from the statistics store to what `build_atlas` publishes."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from jobs.run.resolved import ResolvedRecipe
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.neighbors.embeddings import TopImages
from pipeline.atlas.neighbors.find import NeighborTables, find_neighbors
from pipeline.atlas.neighbors.projection import layout, layout_name

NO_MAP: Final = "no map: it needs openTSNE, which `pip install 'neuron-atlas[map]'` brings; then build again"
# Raised when an atlas that is built already should get other neighbors or another map.
_VERSION: Final = 1


def neighbors_digest() -> str:
    """What neighbors and map depend on beside the statistics: an atlas built without openTSNE gets its map later."""
    return f"neighbors {_VERSION} {layout_name()}"


def neighbors_remark() -> str:
    """For the report: that there is no map, and how to get one."""
    return "" if layout_name() else NO_MAP


def nearest_neighbors(resolved: ResolvedRecipe) -> NeighborTables:
    """Neighbors and map of the neurons that the recipe requests.

    One thread lays the map out, so that the same statistics give the same map on machines of any size.
    """
    name, units = layout_name(), resolved.units
    neurons = [(layer, unit) for layer in resolved.layers for unit in units.get(layer, ())]
    seed = resolved.recipe.seed
    return find_neighbors(
        neurons,
        stored_top_images(StatisticsStore.open(resolved.root), neurons),
        layout=(lambda unit_embedding: layout(unit_embedding, seed=seed)) if name else None,
        layout_name=name,
        seed=seed,
    )


def stored_top_images(statistics: StatisticsStore, neurons: Sequence[tuple[str, int]]) -> TopImages:
    """The top-activating images of neurons that come layer by layer."""
    units: dict[str, list[int]] = {}
    for layer, unit in neurons:
        units.setdefault(layer, []).append(unit)
    parts = [
        (topk.activation[members], topk.sample[members], statistics.activation_moments(layer).mean[members])
        for layer, members in units.items()
        for topk in [statistics.topk(layer)]
    ]
    activation, sample, mean = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return TopImages(activation=activation, sample=sample, mean=mean)
