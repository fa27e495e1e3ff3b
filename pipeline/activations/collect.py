"""The activation pass over one tar shard: decode, run the model once, keep statistics of all layers.

Memory is bounded by some batches and the statistics themselves, whatever the number of images, plus one short row per
image of the tar shard.

Shapes: B images of a batch, U units, N positions, K classes. Positions are those on the image: class and register
tokens are left out.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.activations.accumulators.class_topk import NO_LABEL, ClassTopK
from pipeline.activations.accumulators.comoments import CoMoments
from pipeline.activations.accumulators.histogram import Histogram
from pipeline.activations.accumulators.moments import Moments
from pipeline.activations.accumulators.reduction import FeatureSummary, fetch, reduce_positions
from pipeline.activations.accumulators.shard_statistics import (
    LayerStatistics,
    SampleRow,
    ShardStatistics,
    add_digests,
    sample_digest,
)
from pipeline.activations.accumulators.spectrum import MeanSpectrum
from pipeline.activations.accumulators.topk import TopK
from pipeline.activations.decoding import decoded_batches
from pipeline.data.shards import ErrorBudget, Sample, sample_id
from pipeline.io.images import MAX_PIXELS
from pipeline.models import Model
from pipeline.models.calls import each_call
from pipeline.models.capture import channels_first

# Batches are joined until they have so many images, because ranking and adding up cost nearly the same for few.
IMAGES_AT_ONCE: Final = 128


class NonFiniteActivationError(ArithmeticError):
    """A unit gave NaN or infinity for a finite image: a fault of the model, not of the data."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is recorded of each image."""

    model: Model
    module: nn.Module  # the model's network, in the form that is quickest to run
    layers: tuple[str, ...]
    feature_layers: tuple[str, ...]
    top_k: int
    activation: Literal["max", "mean"]


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """What is recorded of one batch, before it becomes statistics.

    Attributes:
        rows: one per image.
        digest: sum over the images.
        reduced: layer → (features reduced over positions, width of their spatial grid).
        spectrum: mean over the images.
    """

    rows: Sequence[SampleRow]
    digest: int
    reduced: Mapping[str, tuple[FeatureSummary, int]]
    spectrum: MeanSpectrum


def collect(
    model: Model,
    samples: Iterable[Sample],
    *,
    shard_index: int,
    layers: Sequence[str],
    feature_layers: Sequence[str] = (),
    top_k: int = 64,
    batch_size: int = 128,
    activation: Literal["max", "mean"] = "max",
    budget: ErrorBudget,
    max_pixels: int = MAX_PIXELS,
    max_value: int | None = None,
    decode_threads: int = 0,
) -> ShardStatistics:
    """Statistics of the samples of one tar shard.

    Args:
        model: run once per batch in eval mode, without gradients.
        samples: of this tar shard, in order.
        shard_index: index of the tar shard among all of the run; the high part of the sample ids.
        layers: exact layer names; the classifier, if there is one, is recorded even if it is not among them.
        feature_layers: layers whose channels are correlated with the units; none, no co-moments.
        top_k: how many images each unit and each class keeps.
        batch_size: images per forward pass.
        activation: what one image's activation of a unit is, the maximum or the mean over positions.
        budget: counts every good sample and every image that cannot be decoded; the caller, who passes it to
            `iterate_samples` as well, decides with `budget.check()`.
        max_pixels: bound on a decoded image.
        max_value: range of images of 16 bits, see `decode_image`.
        decode_threads: number of threads that decode while the model runs, see `decoded_batches`; they change no
            result.

    Raises:
        NonFiniteActivationError: a unit gives NaN or infinity.
    """
    classifier = [] if model.classifier_layer is None else [model.classifier_layer]
    recorded_layers = tuple(dict.fromkeys([*layers, *classifier]))
    plan = _Plan(
        model=model,
        module=model.folded([*recorded_layers, *feature_layers]),
        layers=recorded_layers,
        feature_layers=tuple(feature_layers),
        top_k=top_k,
        activation=activation,
    )
    shards = frozenset({shard_index})
    total: ShardStatistics | None = None
    rows: list[SampleRow] = []
    recorded: list[_Recorded] = []
    before = budget.account()
    batches = decoded_batches(
        model,
        samples,
        batch_size=batch_size,
        budget=budget,
        max_pixels=max_pixels,
        max_value=max_value,
        threads=decode_threads,
    )
    for batch, inputs in batches:
        recorded.append(_record(plan, shard_index, batch, inputs))
        rows.extend(recorded[-1].rows)
        budget.add_good(len(batch))
        if sum(len(batch.rows) for batch in recorded) >= IMAGES_AT_ONCE:
            total, recorded = _add(total, _statistics(plan, recorded, shards)), []
    if recorded:
        total = _add(total, _statistics(plan, recorded, shards))
    account = budget.account().since(before)
    is_empty = not (rows or account.skipped or account.passed_over)
    return replace(total or _empty(plan, shards), samples=rows, account=replace(account, num_empty=int(is_empty)))


def _add(total: ShardStatistics | None, found: ShardStatistics) -> ShardStatistics:
    return found if total is None else total.add(found, shards=found.shards)


def _empty(plan: _Plan, shards: frozenset[int]) -> ShardStatistics:
    units = {name: plan.model.units(name) for name in (*plan.layers, *plan.feature_layers)}
    num_channels = {name: units[name] for name in plan.feature_layers}
    return ShardStatistics(
        shards=shards,
        num_samples=0,
        digest=0,
        layers={name: LayerStatistics.empty(units[name], plan.top_k, num_channels) for name in plan.layers},
        classes=ClassTopK.empty(plan.model.num_classes, plan.top_k),
        spectrum=MeanSpectrum.empty(len(plan.model.mean), plan.model.input_size_px),
    )


def _record(plan: _Plan, shard_index: int, batch: Sequence[Sample], inputs: Tensor) -> _Recorded:
    """Run the model on one batch."""
    model = plan.model
    reduced = _run(plan, inputs)
    for layer, (summary, _) in reduced.items():
        _check_finite(layer, summary, batch)
    top1, top1_logit = np.full(len(batch), NO_LABEL), np.full(len(batch), np.nan, np.float32)
    if model.classifier_layer is not None:
        logits = _logits(reduced[model.classifier_layer][0])
        top1, top1_logit = logits.argmax(axis=1), logits.max(axis=1)
    labels = [NO_LABEL if sample.label is None else sample.label for sample in batch]
    rows: list[SampleRow] = [
        {
            "sample": sample_id(shard_index, sample.index),
            "key": sample.key,
            "tar_shard": sample.tar_shard,
            "offset": sample.offset,
            "size": sample.size,
            "label": labels[i],
            "top1": int(top1[i]),
            "top1_logit": float(top1_logit[i]),
            **({} if sample.caption is None else {"caption": sample.caption}),
        }
        for i, sample in enumerate(batch)
    ]
    return _Recorded(
        rows=rows,
        digest=add_digests(sample_digest(label, sample.image) for label, sample in zip(labels, batch, strict=True)),
        reduced=reduced,
        spectrum=MeanSpectrum.of(_pixels(model, inputs)),
    )


def _statistics(plan: _Plan, recorded: Sequence[_Recorded], shards: frozenset[int]) -> ShardStatistics:
    """Statistics of the images of some batches, without their rows."""
    rows = [row for batch in recorded for row in batch.rows]
    ids = np.array([row["sample"] for row in rows], np.int64)
    labels = np.array([row["label"] for row in rows], np.int64)
    reduced = {
        layer: (FeatureSummary.joined([batch.reduced[layer][0] for batch in recorded]), width)
        for layer, (_, width) in recorded[0].reduced.items()
    }
    classifier = plan.model.classifier_layer
    channel_means = {name: reduced[name][0].mean for name in plan.feature_layers}
    return ShardStatistics(
        shards=shards,
        num_samples=len(rows),
        digest=add_digests(batch.digest for batch in recorded),
        layers={name: _layer_statistics(plan, *reduced[name], ids, channel_means) for name in plan.layers},
        classes=ClassTopK.empty(0, plan.top_k)
        if classifier is None
        else ClassTopK.of(_logits(reduced[classifier][0]), labels, ids, plan.top_k),
        spectrum=functools.reduce(MeanSpectrum.merge, [batch.spectrum for batch in recorded]),
    )


def _logits(summary: FeatureSummary) -> np.ndarray:
    """Logits, float32 [B, K], of the classifier's summary: there is one position, so their mean is their value."""
    return summary.mean.astype(np.float32)


def _run(plan: _Plan, inputs: Tensor) -> dict[str, tuple[FeatureSummary, int]]:
    """One forward pass: layer → (features reduced over positions, width of their spatial grid).

    Each layer is reduced as soon as it is computed: a later in-place operation (a ReLU, a residual sum) cannot change
    it, no copy is needed, and one feature map is held at a time. The results are fetched after the pass, so that a GPU
    does not wait at every layer.
    """
    reduced: dict[str, tuple[int, dict[str, Tensor], int]] = {}
    with torch.no_grad():
        requested = dict.fromkeys([*plan.layers, *plan.feature_layers])
        grids = {layer: plan.model.token_grid(layer) for layer in requested}

        def reduce(layer: str, _inputs: object, output: object) -> None:
            features = channels_first(output, layer)
            positions = features.flatten(2) if features.ndim > 2 else features[..., None]  # [B, U, N]
            width = features.shape[-1] if features.ndim > 2 else 1
            if (grid := grids[layer]) is not None:
                positions, width = positions[..., grid.num_prefix :], grid.width
            reduced[layer] = positions.shape[-1], reduce_positions(positions), width

        with each_call(plan.module, requested, reduce):
            plan.module(inputs)
    return {layer: (fetch(num_positions, arrays), width) for layer, (num_positions, arrays, width) in reduced.items()}


def _layer_statistics(
    plan: _Plan, summary: FeatureSummary, width: int, ids: np.ndarray, channel_means: dict[str, np.ndarray]
) -> LayerStatistics:
    """Statistics of one layer from its reduced features; `width` is that of its spatial grid."""
    activation = summary.maximum if plan.activation == "max" else summary.mean.astype(np.float32)
    # Tokens without a grid are one row of positions, and logits a single one: their y is 0.
    position = np.stack(np.divmod(summary.peak, width), axis=-1).astype(np.int32)
    return LayerStatistics(
        moments=Moments.of_summary(summary),
        activation_moments=Moments.of(activation[..., None]),
        histogram=Histogram.of(activation),
        topk=TopK.of(activation, ids, position, plan.top_k),
        comoments={name: CoMoments.of(activation, means) for name, means in channel_means.items()},
    )


def _pixels(model: Model, inputs: Tensor) -> Tensor:
    """Preprocessed images back in [0, 1]."""
    mean, std = (inputs.new_tensor(values)[:, None, None] for values in (model.mean, model.std))
    return (inputs * std).add_(mean).clamp_(0, 1)


def _check_finite(layer: str, summary: FeatureSummary, batch: Sequence[Sample]) -> None:
    # A NaN or an infinity anywhere in a map makes its mean one.
    bad = np.argwhere(~np.isfinite(summary.mean))
    if not len(bad):
        return
    image, unit = bad[0]
    sample = batch[image]
    raise NonFiniteActivationError(
        f'layer "{layer}" unit {unit} is not finite (mean {summary.mean[image, unit]}) for sample '
        f'"{sample.key}" of {sample.tar_shard}, whose preprocessed image is finite; it is so for '
        f"{len(np.unique(bad[:, 1]))} units of this layer: check the model's weights and preprocessing"
    )
