"""Strips of dataset images that are published beside the visualizations, drawn in tasks, as the model sees them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from jobs.engine.tasks import RunStoppedError, Task
from jobs.engine.worker import Shared
from jobs.run.session import Session
from jobs.run.work_plan import chunk
from jobs.stages.rows import NUM_EXAMPLES, requested_rows
from jobs.stages.worker_model import model_on
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.format.schema import EXAMPLE_TILE_PX, examples_path
from pipeline.atlas.format.sheets import draw_examples
from pipeline.io.images import encode_webp
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.neurons import layer_file_name
from pipeline.recipe.recipe import Recipe
from pipeline.references.reading import ReferenceReader, top_images_of_row
from pipeline.references.store import read_references

EXAMPLES_QUALITY: Final = 80
STRIPS_PER_TASK: Final = 64


@dataclass(frozen=True, kw_only=True)
class StripChunk:
    """Units of one layer and facet whose strips are drawn in one task."""

    layer: str
    facet: int
    units: tuple[int, ...]

    @property
    def task(self) -> "Task[StripChunk]":
        """The task that draws them."""
        name = f"{self.layer}-examples-f{self.facet}-{self.units[0]:05d}-{len(self.units)}"
        return Task(name=name, argument=self, count=len(self.units))


def draw_missing_strips(session: Session) -> None:
    """Draw the strips that are not there yet.

    Raises:
        RunStoppedError: one could not be drawn.
    """
    tasks = [strips.task for strips in _missing(session)]
    if not tasks:
        return
    resolved, resources = session.resolved, session.task_resources
    function = partial(draw_strips, session.shared_model, resources.device, resolved.root, resolved.recipe)
    run = partial(session.engine.run_tasks, function)
    for outcome in session.do("build", run, tasks, resources, noun="example strips", already=0):
        if not outcome.ok:
            raise RunStoppedError(
                f"the dataset images of {outcome.task.name} could not be drawn: {outcome.attempt.error}"
            )


def draw_strips(shared_model: Shared[Model], device: str, root: Root, recipe: Recipe, strips: StripChunk) -> None:
    """The task: draw the dataset images of some units."""
    model, statistics = model_on(shared_model, device), StatisticsStore.open(root)
    reader = ReferenceReader(
        model,
        image_size_px=max(EXAMPLE_TILE_PX, model.input_size_px),
        max_pixels=recipe.data.max_pixels,
        max_value=recipe.data.max_value,
    )
    references = read_references(root, strips.layer, strips.facet)
    for unit in strips.units:
        top_images = top_images_of_row(statistics, references[unit], NUM_EXAMPLES)
        reader.load(top_images)
        strip = draw_examples([np.asarray(reader.crop(top_image).convert("RGB")) for top_image in top_images])
        path = examples_path(strips.layer, unit, strips.facet)
        root.write_bytes(path, encode_webp(strip, quality=EXAMPLES_QUALITY))


def _missing(session: Session) -> Iterator[StripChunk]:
    resolved = session.resolved
    rows = requested_rows(session)
    for layer in resolved.units:
        folder = f"examples/{layer_file_name(layer)}"
        present = {f"{folder}/{name}" for name in resolved.root.list(folder)}
        units: dict[int, set[int]] = {facet: set() for facet in range(resolved.recipe.targets.facets)}
        for row in rows[layer]:
            if row["num_references"]:
                units[row["facet"]].add(row["unit"])
        for facet, of_facet in units.items():
            left: Sequence[int] = [
                unit for unit in sorted(of_facet) if examples_path(layer, unit, facet) not in present
            ]
            for members in chunk(left, STRIPS_PER_TASK):
                yield StripChunk(layer=layer, facet=facet, units=members)
