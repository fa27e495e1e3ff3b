"""An evaluator predicts dataset images and visualizations; the atlas's own model records more.

Columns of a prediction: `embedding` [D] and `logits` [K] (none for an evaluator that does not classify). The model adds

- `means/LAYER` [C]: the mean of each channel of each feature layer, for path similarity;
- `activation/LAYER` [U], of the random sample: the activation of each unit of each recorded layer, by which minimally
  activating images are found;
- `alignment_distance` [1], of visualizations: see `alignment_distances`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.activations.accumulators.reduction import extreme_of
from pipeline.activations.dataset_images import dataset_images_ahead
from pipeline.activations.store import StatisticsStore
from pipeline.alignment.losses import NeuronTarget
from pipeline.evaluation.evaluators.base import Evaluator, Prediction
from pipeline.evaluation.metrics.activation import visualization_inputs
from pipeline.evaluation.predictions import Kind, PredictionFolder, activation_column
from pipeline.io.images import BadImage
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.models.calls import each_call
from pipeline.models.capture import channels_first
from pipeline.recipe.recipe import Recipe
from pipeline.references.build import options_for
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.methods.vital_target import AlignmentPlan
from pipeline.synthesis.step import losses_of

_BATCH_SIZE = 16  # images in one forward pass: bounds memory
_ALIGNED_AT_ONCE = 8  # visualizations whose relevance is computed together, as in synthesis

Key = tuple[str, int, str, int]  # layer, unit, method, seed


def predict_dataset_images(
    root: Root,
    recipe: Recipe,
    statistics: StatisticsStore,
    evaluator: Evaluator,
    key: str,
    *,
    kind: Kind,
    name: str,
    samples: Sequence[int],
    model: Model | None = None,
) -> dict[str, Any]:
    """Predict some dataset images and commit the predictions. Those that cannot be decoded (any more) are left out.

    Args:
        root: the atlas folder.
        recipe: of the run.
        statistics: of the run, with the location of the dataset images.
        evaluator: that predicts.
        key: of the evaluator.
        kind: `random_sample` or `top_images`.
        name: of these dataset images together.
        samples: their ids.
        model: the atlas's own, if it is the evaluator.

    Returns:
        How many were predicted (`ok`), how many left out (`skipped`), and the path of the commit (`committed`).
    """
    has_alpha = model is not None and model.preprocessing.has_alpha
    batch: list[tuple[int, Image.Image]] = []
    problems: dict[int, str] = {}
    rows: list[dict[str, Any]] = []

    def predict_batch() -> None:
        images = [image for _, image in batch]
        columns = _columns(evaluator.predict(images))
        if model is not None:
            inputs = torch.stack([model.preprocess(image) for image in images]).to(model.device)
            layers = statistics.layers if kind == "random_sample" else []
            columns |= model_columns(model, inputs, recipe, layers)
        rows.extend(_rows([sample for sample, _ in batch], columns))
        batch.clear()

    for top_image, dataset_image in dataset_images_ahead(
        statistics.top_images_of(samples),
        max_pixels=recipe.data.max_pixels,
        max_value=recipe.data.max_value,
        keep_alpha=has_alpha,
    ):
        if isinstance(dataset_image, BadImage):
            problems[top_image.sample] = f'"{top_image.key}" in {top_image.tar_shard}: {dataset_image}'
            continue
        batch.append((top_image.sample, dataset_image))
        if len(batch) == _BATCH_SIZE:
            predict_batch()
    if batch:
        predict_batch()
    committed = PredictionFolder(root, key, kind).commit(name, rows, problems)
    return {"ok": len(rows), "skipped": len(problems), "committed": committed}


def predict_visualizations(
    root: Root,
    evaluator: Evaluator,
    key: str,
    *,
    name: str,
    keys: Sequence[Key],
    visualizations: Sequence[np.ndarray],
    **model_arguments: Any,
) -> str:
    """Predict some visualizations (uint8 [H, W, 3]) and commit the predictions. Returns the path of the commit.

    Args:
        root: the atlas folder.
        evaluator: that predicts.
        key: of the evaluator.
        name: of these visualizations together.
        keys: layer, unit, method and seed of each.
        visualizations: as published.
        model_arguments: for the atlas's own model, the arguments of `model_visualization_columns`.
    """
    rows: list[dict[str, Any]] = []
    for start in range(0, len(visualizations), _BATCH_SIZE):
        batch = slice(start, start + _BATCH_SIZE)
        columns = _columns(evaluator.predict(visualizations[batch]))
        if model_arguments:
            of_batch = {name: model_arguments[name][batch] for name in ("units", "targets")}
            columns |= model_visualization_columns(visualizations=visualizations[batch], **model_arguments | of_batch)
        rows += _rows(keys[batch], columns)
    return PredictionFolder(root, key, "visualizations").commit(name, rows)


def model_visualization_columns(
    *,
    model: Model,
    recipe: Recipe,
    plan: AlignmentPlan,
    units: Sequence[int],
    targets: Sequence[NeuronTarget | None],
    visualizations: Sequence[np.ndarray],
) -> dict[str, np.ndarray]:
    """The further columns of the atlas's own model for visualizations of one layer, [B, …] each.

    Args:
        model: the atlas's own.
        recipe: of the run.
        plan: of the layer.
        units: of each visualization.
        targets: of each visualization, None if it has none.
        visualizations: as published.
    """
    columns = model_columns(model, visualization_inputs(model, visualizations), recipe, [])
    distances = np.full((len(visualizations), 1), np.nan, np.float32)
    aligned = [place for place, target in enumerate(targets) if target is not None]
    for start in range(0, len(aligned), _ALIGNED_AT_ONCE):
        places = aligned[start : start + _ALIGNED_AT_ONCE]
        present = [target for place in places if (target := targets[place]) is not None]
        distances[places, 0] = alignment_distances(
            model, recipe, plan, [units[i] for i in places], present, [visualizations[i] for i in places]
        )
    return columns | {"alignment_distance": distances}


def alignment_distances(
    model: Model,
    recipe: Recipe,
    plan: AlignmentPlan,
    units: Sequence[int],
    targets: Sequence[NeuronTarget],
    visualizations: Sequence[np.ndarray],
) -> np.ndarray:
    """The distance of the features of published visualizations to the targets of their neurons, float32 [B], ≥ 0.

    The sort-matching distance of VITAL, whatever method and objective made the visualization: at each aligned layer the
    mean squared difference of sorted features, over the variance of the target; for intermediate neurons of features
    weighted by relevance, channels weighted by importance; then the mean over layers with the plan's weights. 0 for the
    target's own distribution. Where no relevance weights anything, 1 for features that are all at the target's mean.

    Reference: VITAL (ICCV 2025); the division by the variance is ours, so that layers have a common unit.
    """
    # Only options that the objective itself uses matter; those of the optimization do not.
    options = replace(
        options_for(recipe),
        alignment="sort",
        normalize_layers=True,
        activation_weight=0.0,
        relevance_every=1,
        grid=plan.grid,
        aligned_side=plan.side,
    )
    objective = AlignmentObjective(model, plan.layer, units, targets, options)
    size = (plan.image_size_px, plan.image_size_px)
    images = [Image.fromarray(visualization) for visualization in visualizations]
    resized = [image if image.size == size else image.resize(size, Image.Resampling.BICUBIC) for image in images]
    inputs = torch.stack([model.preprocessing.to_tensor(image) for image in resized]).to(model.device)
    with torch.no_grad():
        distances = losses_of(objective, inputs) / sum(plan.weights.values())
    return distances.float().cpu().numpy()


@torch.no_grad()
def model_columns(model: Model, inputs: Tensor, recipe: Recipe, recorded: Sequence[str]) -> dict[str, np.ndarray]:
    """Channel means of the feature layers, activations of the units of recorded layers: see the module's text."""
    means = feature_layers(model, recipe)
    found: dict[str, np.ndarray] = {}

    def reduce(layer: str, _inputs: object, output: object) -> None:
        features = channels_first(output, layer).float()
        features = features.flatten(2)[..., model.num_prefix(layer) :] if features.ndim > 2 else features[..., None]
        if layer in means:
            found[f"means/{layer}"] = features.mean(dim=2).cpu().numpy()
        if layer in recorded:
            activation = (
                extreme_of(features, torch.amax) if recipe.statistics.activation == "max" else features.mean(dim=2)
            )
            found[activation_column(layer)] = activation.cpu().numpy()

    with each_call(model.module, [*means, *recorded], reduce):
        model.module(inputs)
    return found


def feature_layers(model: Model, recipe: Recipe) -> list[str]:
    """The feature layers of a recipe that have a weight, in the model's order."""
    chosen = recipe.targets.feature_layers or model.default_feature_layers()
    names = {model.resolve_layer(entry.layer) for entry in chosen if entry.weight > 0}
    return [layer for layer in model.layers() if layer in names]


def _columns(prediction: Prediction) -> dict[str, np.ndarray]:
    return {"embedding": prediction.embedding} | ({} if prediction.logits is None else {"logits": prediction.logits})


def _rows(ids: Sequence[Any], columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"id": found} | {name: values[place] for name, values in columns.items()} for place, found in enumerate(ids)
    ]
