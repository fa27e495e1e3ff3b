"""Similar neurons and the map, as a part of stage 5: from the statistics store to what `build_atlas` publishes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from jobs.run.resolved import ResolvedRecipe

if TYPE_CHECKING:
    from pipeline.activations.store import StatisticsStore
    from pipeline.atlas.neighbors.embeddings import TopImages
    from pipeline.atlas.neighbors.find import NeighborTables

NO_MAP: Final = "no map: it needs openTSNE, which `pip install 'neuron-atlas[map]'` brings; then build again"
# Raised when an atlas that is built already should get other neighbors or another map.
_VERSION: Final = 1


def neighbors_digest() -> str:
    """What neighbors and map depend on beside the statistics: an atlas built without openTSNE gets its map later."""
    from pipeline.atlas.neighbors.projection import layout_name

    return f"similar {_VERSION} {layout_name()}"


def neighbors_remark() -> str:
    """What a reader of the report should know: that there is no map, and how to get one."""
    from pipeline.atlas.neighbors.projection import layout_name

    return "" if layout_name() else NO_MAP


def nearest_neighbors(resolved: ResolvedRecipe) -> "NeighborTables":
    """Neighbors and map of the neurons that the recipe wants.

    One thread lays the map out, so that the same statistics give the same map on machines of any size.
    """
    from pipeline.activations.store import StatisticsStore
    from pipeline.atlas.neighbors.find import find_neighbors
    from pipeline.atlas.neighbors.projection import layout, layout_name

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


def stored_top_images(statistics: "StatisticsStore", neurons: Sequence[tuple[str, int]]) -> "TopImages":
    """The top-activating images of neurons that come layer by layer."""
    import numpy as np

    from pipeline.atlas.neighbors.embeddings import TopImages

    units: dict[str, list[int]] = {}
    for layer, unit in neurons:
        units.setdefault(layer, []).append(unit)
    parts = [
        (topk.activation[some], topk.sample[some], statistics.activation_moments(layer).mean[some])
        for layer, some in units.items()
        for topk in [statistics.topk(layer)]
    ]
    activation, sample, mean = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return TopImages(activation=activation, sample=sample, mean=mean)
