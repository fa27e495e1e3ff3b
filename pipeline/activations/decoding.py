"""The samples of a tar shard as batches of a model's inputs, decoded while the model runs if there are threads for it.

One core decodes slower than a GPU computes. Unpacking, scaling and normalizing images release Python's lock, so that
threads use several cores.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.data.shards import ErrorBudget, Sample, SkippedSample
from pipeline.io.images import BadImage, decode_image, narrow_to
from pipeline.io.prefetch import ahead
from pipeline.models import Model


def decoded_batches(
    model: Model,
    samples: Iterable[Sample],
    *,
    batch_size: int,
    budget: ErrorBudget,
    max_pixels: int,
    max_value: int | None = None,
    threads: int = 0,
) -> Iterator[tuple[list[Sample], Tensor]]:
    """Good samples in order, with their preprocessed images [B, C, S, S] on the model's device.

    Args:
        model: whose preprocessing it is.
        samples: taken in the caller's thread.
        batch_size: images of every batch but the last, which has what is left.
        budget: counts every image that cannot be used, and those of 16 bits with small values, in order.
        max_pixels: bound on a decoded image.
        max_value: range of images of 16 bits, see `decode_image`.
        threads: number that decode the next batch while the caller works on one; 0 decodes when a batch is requested.
    """
    decode = partial(_decode, model, max_pixels, max_value)
    decoded = (
        ahead(decode, samples, threads=threads, most=batch_size)
        if threads
        else ((sample, decode(sample)) for sample in samples)
    )
    batch: list[Sample] = []
    inputs: list[Tensor] = []
    for sample, found in decoded:
        if isinstance(found, SkippedSample):
            budget.add_skip(found)
            continue
        if found.narrow_to:
            budget.add_narrow(found.narrow_to)
        batch.append(sample)
        inputs.append(found.inputs)
        if len(batch) == batch_size:
            yield batch, _on_device(inputs, model.device)
            batch, inputs = [], []
    if batch:
        yield batch, _on_device(inputs, model.device)


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """The model's input [C, S, S] for one sample, and `narrow_to` of its image."""

    inputs: Tensor
    narrow_to: int


def _decode(model: Model, max_pixels: int, max_value: int | None, sample: Sample) -> _Decoded | SkippedSample:
    """The model's input for one sample, or why there is none."""
    try:
        image = decode_image(
            sample.image, max_pixels=max_pixels, max_value=max_value, keep_alpha=model.preprocessing.has_alpha
        )
        inputs = model.preprocess(image)
    except BadImage as error:
        return _skipped(sample, error.reason, error.detail)
    if not np.isfinite(inputs.numpy()).all():  # much faster than torch's
        # A model's own preprocessing may divide by the spread of a uniform image: bad data, not a bad model.
        return _skipped(sample, "not-finite", "preprocessing gives NaN or infinity")
    return _Decoded(inputs=inputs, narrow_to=narrow_to(image))


def _skipped(sample: Sample, reason: str, detail: str) -> SkippedSample:
    return SkippedSample(key=sample.key, tar_shard=sample.tar_shard, index=sample.index, reason=reason, detail=detail)


def _on_device(inputs: list[Tensor], device: torch.device) -> Tensor:
    """One batch; copied to a GPU from pinned memory, while the caller goes on."""
    if device.type != "cuda":
        return torch.stack(inputs).to(device)
    pinned = torch.empty(len(inputs), *inputs[0].shape, dtype=inputs[0].dtype, pin_memory=True)
    return torch.stack(inputs, out=pinned).to(device, non_blocking=True)
