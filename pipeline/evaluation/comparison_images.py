"""The dataset images that visualizations are compared with: a random sample, and top-activating images per neuron."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.activations.accumulators.topk import NO_SAMPLE
from pipeline.activations.store import StatisticsStore
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe
from pipeline.references.store import read_references


@dataclass(frozen=True, kw_only=True)
class ComparisonImages:
    """The dataset images that the visualizations of a recipe are compared with, as sample ids.

    Attributes:
        random_sample: drawn at random from the data set, ascending.
        top_images: layer → unit → those that activate it most, without its references; strongest first.
        references: layer → unit → those that its visualizations were aligned with, of all its facets.
    """

    random_sample: tuple[int, ...]
    top_images: Mapping[str, Mapping[int, tuple[int, ...]]]
    references: Mapping[str, Mapping[int, frozenset[int]]]

    def of_layer(self, layer: str) -> "ComparisonImages":
        """Those that visualizations of one layer are compared with."""
        return replace(self, top_images={layer: self.top_images[layer]}, references={layer: self.references[layer]})

    @property
    def remaining_top_images(self) -> list[int]:
        """The top-activating images that are not in the random sample, each once, ascending."""
        every = {sample for units in self.top_images.values() for samples in units.values() for sample in samples}
        return sorted(every - set(self.random_sample))

    def labeled(self, statistics: StatisticsStore, layer: str, classes: Collection[int]) -> list[int]:
        """The images of the random sample and a layer's top-activating images labeled with one of the classes."""
        top_images = self.top_images.get(layer, {}).values()
        every = np.array(
            sorted({*self.random_sample, *(sample for members in top_images for sample in members)}), np.int64
        )
        return every[np.isin(statistics.samples.labels(every), sorted(classes))].tolist()


def choose_comparison_images(
    root: Root, recipe: Recipe, statistics: StatisticsStore, units: Mapping[str, Sequence[int]]
) -> ComparisonImages:
    """The random sample of a run and the top-activating images of some units.

    Args:
        root: the atlas folder, with the references of the units.
        recipe: of the run.
        statistics: of the run.
        units: layer → the units.
    """
    references = {layer: _references_of(root, layer, recipe.targets.facets) for layer in units}
    return ComparisonImages(
        random_sample=choose_random_sample(statistics.samples.ids, recipe.evaluate.num_dataset_images, recipe.seed),
        top_images={
            layer: {
                unit: choose_top_images(
                    statistics, layer, unit, references[layer].get(unit, frozenset()), recipe.evaluate.num_top_images
                )
                for unit in members
            }
            for layer, members in units.items()
        },
        references=references,
    )


def choose_random_sample(samples: np.ndarray, count: int, seed: int) -> tuple[int, ...]:
    """`count` samples drawn at random without replacement, all if there are no more; ascending.

    A larger random sample of the same seed contains the smaller one, so that enlarging it only adds work.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    return tuple(sorted(int(samples[place]) for place in order[:count]))


def choose_top_images(
    statistics: StatisticsStore, layer: str, unit: int, references: frozenset[int], count: int
) -> tuple[int, ...]:
    """The samples that activate a unit most, strongest first, without its references.

    A visualization resembles its references by construction, so they are left out. The rest comes from the kept
    `statistics.top_k`, so a unit with as many references has no top-activating images here. Minimally activating images
    are left out too.
    """
    topk = statistics.topk(layer)
    floor = float(statistics.activation_moments(layer).minimum[unit])
    kept = zip(topk.sample[unit].tolist(), topk.activation[unit].tolist(), strict=True)
    activating = [sample for sample, activation in kept if sample != NO_SAMPLE and activation > floor]
    return tuple([sample for sample in activating if sample not in references][:count])


def choose_minimally_activating(
    samples: Sequence[int], activations: np.ndarray, excluded: frozenset[int], count: int, seed: int
) -> tuple[int, ...]:
    """The samples that activate a unit least, weakest first.

    Args:
        samples: sample ids to choose from.
        activations: of the unit, one per sample.
        excluded: its top-activating images and references.
        count: at most so many.
        seed: decides among equal activations, which are common behind a ReLU.
    """
    tie_breaks = np.random.default_rng(seed).permutation(len(samples))
    order = np.lexsort((tie_breaks, activations))
    return tuple([samples[place] for place in order if samples[place] not in excluded][:count])


def _references_of(root: Root, layer: str, num_facets: int) -> dict[int, frozenset[int]]:
    """Unit → the samples that are references of any of its facets."""
    found: dict[int, frozenset[int]] = {}
    for facet in range(num_facets):
        for unit, row in read_references(root, layer, facet).items():
            found[unit] = found.get(unit, frozenset()) | frozenset(row["reference_samples"] or ())
    return found
