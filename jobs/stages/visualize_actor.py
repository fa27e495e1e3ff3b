"""The actor of stage 3: it keeps the model, and optimizes the visualizations of a batch of neurons together.

A batch is committed whole: its visualizations first, then its fragment.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np

from jobs.engine.memory import CudaMemory, MemoryAwareBatching
from jobs.engine.tasks import Resources, TaskResult
from jobs.engine.worker import Shared, allocator_for_models
from jobs.run.work_plan import Batch, batch_sizes, facet_of
from jobs.stages.worker_model import model_on
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.format.fragments import write_fragment
from pipeline.atlas.format.schema import FRAGMENT_SCHEMA, alpha_path, image_path
from pipeline.attribution.relevance import RULES
from pipeline.derived_layers.layer import unit_label
from pipeline.io.images import encode_webp
from pipeline.io.root import Root
from pipeline.models import Model, Precision
from pipeline.neurons import Neuron, neuron_seed
from pipeline.recipe.recipe import Recipe
from pipeline.references.build import options_for
from pipeline.references.store import read_targets
from pipeline.synthesis.methods.options import VitalOptions
from pipeline.synthesis.methods.registry import method_named
from pipeline.synthesis.methods.vital_target import AlignmentPlan, NeuronTarget
from pipeline.synthesis.optimize import Visualization, synthesize
from pipeline.synthesis.step import ExecutionMode, TracingError

Row: TypeAlias = dict[str, object]  # columns of FRAGMENT_SCHEMA

IMAGE_QUALITY: Final = 90

# Steps of a layer and method, over all of its visualizations, from which on compiling and tracing save more than they
# take (benchmarks/gpu_speed.py, benchmarks/step_time.py).
COMPILE_FROM_STEPS: Final = 200_000
TRACE_FROM_STEPS: Final = 2_000


class Visualizer:
    """Makes the visualizations of batches; keeps the model, the plan of each layer and the spectrum of the data set.

    Args:
        shared_model: of the run.
        resources: of this worker.
        root: of the run.
        recipe: of the run.
        plans: layer → how its visualizations are aligned.
        num_visualizations: (layer, method) → how many visualizations all workers are to make.
    """

    def __init__(
        self,
        shared_model: Shared[Model],
        resources: Resources,
        root: Root,
        recipe: Recipe,
        plans: Mapping[str, AlignmentPlan],
        num_visualizations: Mapping[tuple[str, str], int],
    ) -> None:
        self._model = model_on(shared_model, resources.device)
        self._root = root
        self._recipe = recipe
        self._plans = plans
        self._num_visualizations = num_visualizations
        self._precision = precision_of(recipe)
        self._device = resources.device
        self._untraced: dict[tuple[str, str], str] = {}  # why steps are plain that should have been traced
        self._batching = MemoryAwareBatching(CudaMemory(resources.gpus) if resources.device == "cuda" else None)

    def __call__(self, batch: Batch) -> TaskResult:
        """Make and commit the visualizations of one batch."""
        plan = self._plans[batch.layer]
        rows: dict[int, Row] = {}
        targets: dict[int, NeuronTarget] = {}
        facet = facet_of(self._recipe, batch.seed)
        for unit, (target, references) in read_targets(self._root, plan, batch.units, facet).items():
            rows[unit] = base_row(self._model, self._recipe, batch, unit) | reference_columns(references)
            rows[unit]["relevance"] = plan.rule if method_named(batch.method).needs_targets else "none"
            if target is not None:
                targets[unit] = target
        if targets:
            for unit, visualization in self._synthesize(batch, targets).items():
                rows[unit] |= write_visualization(self._root, batch, unit, visualization)
        return TaskResult(
            committed=write_fragment(self._root, batch.name, list(rows.values())),
            at_once=min(len(targets), self._batching.size(_kind(batch)) or len(targets)),
            untraced=self._untraced.get(_kind(batch), ""),
        )

    def _synthesize(self, batch: Batch, targets: Mapping[int, NeuronTarget]) -> dict[int, Visualization]:
        """Unit → its visualization, as many at once as memory holds."""
        options = options_for(self._recipe, batch.method)

        def make(units: Sequence[int], steps: int = options.steps) -> list[Visualization]:
            execution_mode: ExecutionMode = "plain" if steps == 1 else self._execution_mode(batch, len(units), steps)
            try:
                return make_by(execution_mode, units, steps)
            except TracingError as error:
                if self._recipe.visualize.compile is True:
                    raise
                self._untraced[_kind(batch)] = str(error)
            return make_by("plain", units, steps)

        def make_by(execution_mode: ExecutionMode, units: Sequence[int], steps: int) -> list[Visualization]:
            return synthesize(
                self._model,
                [(batch.layer, unit) for unit in units],
                [targets[unit] for unit in units],
                method=batch.method,
                options=replace(options, steps=steps),
                image_size_px=self._plans[batch.layer].image_size_px,
                seeds=[seed_of(self._recipe, batch, unit) for unit in units],
                spectrum=self._spectrum if options.needs_spectrum else None,
                precision=self._precision,
                execution_mode=execution_mode,
            )

        with allocator_for_models(self._device):
            made = self._batching.run(_kind(batch), list(targets), make, probe=lambda unit: make([unit], steps=1))
        return dict(zip(targets, made, strict=True))

    def _execution_mode(self, batch: Batch, count: int, steps: int) -> ExecutionMode:
        """How a step is computed: traced or compiled where that is worth it, at the size that most batches have."""
        wish = self._recipe.visualize.compile
        if isinstance(wish, bool):
            return "compiled" if wish else "plain"
        if _kind(batch) in self._untraced:
            return "plain"
        total = self._num_visualizations[_kind(batch)]
        at_once = min(total, self._batching.size(_kind(batch)) or batch_sizes(self._recipe, self._device)[batch.method])
        if 2 * count <= at_once:
            return "plain"
        if self._device == "cuda":
            return "compiled" if total * steps >= COMPILE_FROM_STEPS else "plain"
        has_relevance = self._plans[batch.layer].rule in RULES and batch.method == "vital"
        return "traced" if has_relevance and total * steps >= TRACE_FROM_STEPS else "plain"

    @cached_property
    def _spectrum(self) -> np.ndarray:
        """Mean magnitude spectrum of the data set, [C, S, S // 2 + 1]."""
        return StatisticsStore.open(self._root).spectrum().magnitude


def precision_of(recipe: Recipe) -> Precision:
    """The precision of the network's arithmetic; `auto` is float32 on every device."""
    return "bfloat16" if recipe.visualize.precision == "bfloat16" else "float32"


def _kind(batch: Batch) -> tuple[str, str]:
    """Visualizations of one layer by one method need equal memory."""
    return batch.layer, batch.method


def write_visualization(root: Root, batch: Batch, unit: int, visualization: Visualization) -> Row:
    """Write the image and the attribution mask of one neuron and return the columns that describe them."""
    key = (batch.layer, unit, batch.method, batch.seed)
    image = encode_webp(visualization.image, quality=IMAGE_QUALITY)
    root.write_bytes(image_path(*key), image)
    root.write_bytes(alpha_path(*key), encode_webp(mask(visualization.alpha), lossless=True))
    height_px, width_px = visualization.image.shape[:2]
    return {
        "image_path": image_path(*key),
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "alpha_path": alpha_path(*key),
        "width_px": width_px,
        "height_px": height_px,
        "steps": visualization.steps,
        "seconds": visualization.seconds,
        "loss": visualization.loss,
        "activation": visualization.activation,
    }


def mask(alpha: np.ndarray) -> np.ndarray:
    """Attribution mask [H, W] in [0, 1] as a black RGBA image, uint8 [⌈H/2⌉, ⌈W/2⌉, 4], as CSS `mask-image` takes it.

    Half the resolution: browsers enlarge it smoothly, and at full size it would take three times its bytes.
    """
    H, W = alpha.shape
    even = np.pad(alpha, ((0, H % 2), (0, W % 2)), mode="edge")
    halved = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3))
    image = np.zeros((*halved.shape, 4), np.uint8)
    image[..., 3] = np.round(np.clip(halved, 0, 1) * 255)
    return image


def seed_of(recipe: Recipe, batch: Batch, unit: int) -> int:
    """The seed of the generator of one visualization."""
    return neuron_seed(recipe.seed, batch.method, batch.layer, unit, batch.seed)


def base_row(model: Model, recipe: Recipe, batch: Batch, unit: int) -> Row:
    """The columns of a row that are known before anything is optimized."""
    options = options_for(recipe, batch.method)
    return {
        "neuron_id": Neuron(model.name, batch.layer, unit).id,
        "layer": batch.layer,
        "unit": unit,
        "label": unit_label(model, batch.layer, unit),
        "method": batch.method,
        "seed": batch.seed,
        "facet": facet_of(recipe, batch.seed),
        "num_facets": recipe.targets.facets,
        "status_reason": "",
        "alignment": options.alignment if isinstance(options, VitalOptions) else "none",
        "preset": recipe.visualize.preset,
        "parameterization": options.parameterization,
        "precision": precision_of(recipe),
        "recipe_fingerprint": recipe.fingerprint("visualize"),
        "seed_value": str(seed_of(recipe, batch, unit)),
    }


def reference_columns(references: Mapping[str, object]) -> Row:
    """Of a unit's row of references the columns of a fragment: the images, and `dead` with its reason."""
    return {name: value for name, value in references.items() if name in FRAGMENT_SCHEMA}
