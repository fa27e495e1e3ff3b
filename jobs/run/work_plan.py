"""What a recipe requests, and the batches it is done in. Pure: `todo = requested − committed`.

Batches are cut from what is requested, never from what is left; of each batch the committed neurons are dropped.
Batches are committed whole, so a run that was killed and resumed computes the same batches as one that was
not, and the same bytes. A recipe that grew by neurons of a batch in the middle does the new ones without the
old: their visualizations have the same seeds, and may differ in the last bits of floating-point sums.
"""

import hashlib
from collections.abc import Collection, Container, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.derived_layers.layer import derived_layers
from pipeline.errors import UserError
from pipeline.models import Model
from pipeline.neurons import layer_file_name, match_layers, parse_units
from pipeline.recipe.recipe import Recipe
from pipeline.references.build import options_for
from pipeline.synthesis.transforms import num_views

Key = tuple[str, int, str, int]  # layer, unit, method, seed
RequestedUnits = Mapping[tuple[str, str], Sequence[int]]  # (layer, method) → units
CLASSIFIER: Final = "classifier"  # in a recipe: the layer of the class logits, whatever the model calls it

# Images that the model sees at once. On a CPU larger batches gain nothing; 128 images of 224 px keep a GPU busy
# (benchmarks/gpu_speed.py), and how many of them are optimized at once follows its memory.
AUTO_BATCH_SIZE: Final = {"cpu": 8, "cuda": 128}


@dataclass(frozen=True, kw_only=True, order=True)
class Batch:
    """Neurons of one layer that one worker does together, by one method and seed index."""

    layer: str
    method: str
    seed: int
    units: tuple[int, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        """(layer, unit, method, seed) of the members."""
        return tuple((self.layer, unit, self.method, self.seed) for unit in self.units)

    @property
    def name(self) -> str:
        """LAYER-METHOD-sSEED-FIRST-COUNT-HASH: depends on the members alone, so doing a batch twice writes one file."""
        digest = hashlib.sha256(repr(self.keys).encode()).hexdigest()[:8]
        members = f"s{self.seed}-{self.units[0]:05d}-{len(self.units)}-{digest}"
        return f"{layer_file_name(self.layer)}-{self.method}-{members}"

    def split(self) -> Iterator["Batch"]:
        """One batch per member, to tell a neuron that fails from its neighbors."""
        for unit in self.units:
            yield Batch(layer=self.layer, method=self.method, seed=self.seed, units=(unit,))


def chunk(units: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Cut into pieces of `size`, the last one may be shorter."""
    return (tuple(units[start : start + size]) for start in range(0, len(units), size))


def plan_batches(
    requested: RequestedUnits, *, num_seeds: int, batch_sizes: Mapping[str, int], done: Container[Hashable]
) -> list[Batch]:
    """The batches that are left to do, in the order of layers, methods, seeds, units; sizes by method."""
    batches = []
    for (layer, method), units in requested.items():
        for seed in range(num_seeds):
            for members in chunk(units, batch_sizes[method]):
                left = tuple(unit for unit in members if (layer, unit, method, seed) not in done)
                if left:
                    batches.append(Batch(layer=layer, method=method, seed=seed, units=left))
    return batches


def part_by_targets(
    batches: Sequence[Batch], committed: Mapping[str, Collection[int]]
) -> tuple[list[Batch], list[Batch]]:
    """Batches with the neurons that have targets (layer → units), and batches with those that have none. Pure."""
    ready: list[Batch] = []
    missing: list[Batch] = []
    for batch in batches:
        for there, parts in ((True, ready), (False, missing)):
            units = tuple(unit for unit in batch.units if (unit in committed[batch.layer]) == there)
            if units:
                parts.append(Batch(layer=batch.layer, method=batch.method, seed=batch.seed, units=units))
    return ready, missing


def requested_keys(requested: RequestedUnits, *, num_seeds: int) -> list[Key]:
    """Every (layer, unit, method, seed) that a recipe requests."""
    return [
        (layer, unit, method, seed)
        for (layer, method), units in requested.items()
        for seed in range(num_seeds)
        for unit in units
    ]


def num_seeds(recipe: Recipe) -> int:
    """Visualizations of one neuron by one method: seed s of facet f has the index s · facets + f."""
    return recipe.visualize.seeds * recipe.targets.facets


def facet_of(recipe: Recipe, seed: int) -> int:
    """The facet that the visualization of a seed index shows."""
    return seed % recipe.targets.facets


def batch_sizes(recipe: Recipe, device: str) -> dict[str, int]:
    """Method → neurons optimized together; "auto" depends on the device and the views of a visualization."""
    size = recipe.visualize.batch_size
    if not isinstance(size, str):
        return dict.fromkeys(recipe.visualize.methods, size)
    views = {method: num_views(options_for(recipe, method)) for method in recipe.visualize.methods}
    return {method: max(1, AUTO_BATCH_SIZE[device] // count) for method, count in views.items()}


def recorded_layers(recipe: Recipe, model: Model) -> list[str]:
    """Layers with statistics: `statistics.layers`, concepts, combinations and the class logits, in model order.

    The layers of `[[neurons]]` do not count, so that adding neurons never makes the statistics stale.

    Raises:
        UserError: a pattern matches no layer.
    """
    available = model.layers()
    patterns = [_without_alias(pattern, model) for pattern in recipe.statistics.layers]
    chosen = {*match_layers(patterns, available), *derived_layers(model.module), model.classifier_layer}
    return [layer for layer in available if layer in chosen]


def requested_units(recipe: Recipe, model: Model) -> dict[str, tuple[int, ...]]:
    """Layer → units that `[[neurons]]` requests, layers in the order of the recipe, units ascending.

    Raises:
        UserError: a layer or unit is not in the model, or a layer gets no statistics.
    """
    requested: dict[str, set[int]] = {}
    for (layer, _), units in requested_visualizations(recipe, model).items():
        requested.setdefault(layer, set()).update(units)
    return {layer: tuple(sorted(units)) for layer, units in requested.items()}


def requested_visualizations(recipe: Recipe, model: Model) -> dict[tuple[str, str], tuple[int, ...]]:
    """(layer, method) → units that get a visualization by that method, layers and methods in the recipe's order.

    Raises:
        UserError: a layer or unit is not in the model, or a layer gets no statistics.
    """
    recorded = recorded_layers(recipe, model)
    requested: dict[str, dict[str, set[int]]] = {}
    for block in recipe.neurons:
        pattern = _without_alias(block.layer, model)
        for layer in match_layers([pattern], model.layers()):
            if layer not in recorded:
                raise UserError(
                    f'neurons.layer = "{block.layer}": no statistics are collected for layer "{layer}"; '
                    f"add it to statistics.layers, which is {list(recipe.statistics.layers)}"
                )
            units = parse_units(block.units, model.units(layer), layer)
            by_method = requested.setdefault(layer, {method: set() for method in recipe.visualize.methods})
            for method in block.methods or recipe.visualize.methods:
                by_method[method].update(units)
    return {
        (layer, method): tuple(sorted(units))
        for layer, by_method in requested.items()
        for method, units in by_method.items()
        if units
    }


def _without_alias(layer: str, model: Model) -> str:
    return model.resolve_layer(layer) if layer == CLASSIFIER else layer
