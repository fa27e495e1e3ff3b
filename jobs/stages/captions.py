"""The captions of reference images, which only `build` needs."""

import sys
from collections.abc import Sequence
from typing import Any

from jobs.engine.tasks import RunStoppedError
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.format.schema import MAX_EXAMPLES
from pipeline.io.root import Root
from pipeline.recipe.recipe import Recipe
from pipeline.references.store import read_references


def require_captions(root: Root, recipe: Recipe, statistics: StatisticsStore) -> None:
    """Refuse to build with captions that were not collected.

    Raises:
        RunStoppedError: the statistics have none, or those of another `data.caption_key`.
    """
    requested, there = recipe.data.caption_key, statistics.caption_key
    if requested and requested != there:
        has = f'the captions of data.caption_key = "{there}"' if there else "no captions"
        raise RunStoppedError(
            f'{root.url}: data.caption_key = "{requested}", but the statistics there hold {has}: run '
            '`neuron-atlas collect RECIPE` first, which reads the tar shards again, or set data.caption_key = "'
            f'{there}"'
        )


def add_captions(root: Root, statistics: StatisticsStore, layer: str, rows: Sequence[dict[str, Any]]) -> None:
    """Give the rows of a layer `reference_captions`, in place; none to a row whose references have none.

    Args:
        root: the atlas folder.
        statistics: whose samples have captions.
        layer: of the rows.
        rows: with `unit`, `facet` and `reference_keys`.
    """
    references = {facet: read_references(root, layer, facet) for facet in {row["facet"] for row in rows}}
    samples_of = {
        (facet, unit): found["reference_samples"][:MAX_EXAMPLES]
        for facet, of_facet in references.items()
        for unit, found in of_facet.items()
        if not found["reference_folder"]  # those are no samples of the data set
    }
    samples = sorted({sample for of_neuron in samples_of.values() for sample in of_neuron})
    found = map(sys.intern, statistics.samples.captions(samples))  # neighbors share images, and rows of one neuron all
    caption_of = dict(zip(samples, found, strict=True))
    for row in rows:
        captions = [caption_of[sample] for sample in samples_of.get((row["facet"], row["unit"]), ())]
        row["reference_captions"] = captions if any(captions) else []
