"""Reference images of a neuron: the dataset images that its target is made of.

Classes take their labeled samples; intermediate units the images that activate them most, whole or as patches around
the peak of activation, as VITAL does (ICCV 2025). Near-duplicates are left out, and the next best take their place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.activations.store import StatisticsStore, TopImage
from pipeline.models import Model, features_of
from pipeline.recipe.sections import TargetsSection
from pipeline.references.near_duplicates import DistinctImages
from pipeline.references.reading import Box, ReferenceReader
from pipeline.references.relmax import RelevanceRanking

_PATCH_CANDIDATES = 2  # patches scored per requested reference
_BATCH_SIZE = 16  # patches in one forward pass: bounds memory, changes nothing


@dataclass(frozen=True, kw_only=True)
class References:
    """The reference images of one neuron, the most activating ones first (or the most relevant ones).

    Attributes:
        top_images: which samples, with their activation.
        source: how they were found: `label`, `label+top_logit`, `top_logit`, `top_activation`, `top_relevance`,
            `folder` or `keys`.
        boxes: for intermediate units (x0, y0, x1, y1) in 0–1 of the square crop, around the peak of activation; else
            empty.
        num_duplicates: near-duplicates of these that were left out.
        folder: where they lie if they are not in the data set, else "".
    """

    top_images: Sequence[TopImage]
    source: str
    boxes: Sequence[Box]
    num_duplicates: int = 0
    folder: str = ""

    def subset(self, members: Sequence[int]) -> "References":
        """Those at the given places, in that order."""
        boxes = [self.boxes[i] for i in members] if self.boxes else []
        return replace(self, top_images=[self.top_images[i] for i in members], boxes=boxes)

    def columns(self, class_names: Sequence[str]) -> dict[str, Any]:
        """As columns of the target store and of an atlas row."""
        return {
            "reference_keys": [e.key for e in self.top_images],
            "reference_samples": [e.sample for e in self.top_images],
            "reference_activations": [e.activation for e in self.top_images],
            "reference_labels": [
                class_names[e.label] if 0 <= e.label < len(class_names) else "" for e in self.top_images
            ],
            "reference_positions": [edge for box in self.boxes for edge in box],
            "reference_source": self.source,
            "reference_folder": self.folder,
            "num_references": len(self.top_images),
            "num_duplicates": self.num_duplicates,
        }


def choose_class_references(
    statistics: StatisticsStore,
    layer: str,
    unit: int,
    *,
    num_references: int,
    min_references: int,
    distinct: DistinctImages[TopImage],
) -> References:
    """References of a class: its labeled samples, those of the highest logit first.

    A class with fewer than `min_references` of them is filled up to that number with the unlabeled or
    otherwise labeled samples of the highest logit; one with none takes `num_references` of these, as an
    intermediate unit does. The source says so.
    """
    candidates = statistics.class_top_images(unit)
    labeled = distinct.take(candidates, num_references)
    source = "label"
    if len(labeled) < min_references:
        known = {top_image.sample for top_image in candidates}
        others = [e for e in statistics.top_images(layer, unit) if e.sample not in known]
        source = "label+top_logit" if labeled else "top_logit"
        labeled += distinct.take(others, min_references - len(labeled) if labeled else num_references)
    return References(top_images=labeled, source=source, boxes=(), num_duplicates=distinct.num_duplicates)


def choose_unit_references(
    statistics: StatisticsStore,
    layer: str,
    unit: int,
    map_shape: tuple[int, int] | None,
    *,
    num_references: int,
    box_side: float,
    distinct: DistinctImages[TopImage],
    ranking: RelevanceRanking | None = None,
) -> References:
    """References of an intermediate unit: the images that activate it most, each with a box at the peak.

    Args:
        statistics: of the run.
        layer: the unit's layer.
        unit: index in the layer.
        map_shape: (H, W) of the layer's spatial grid, None where positions have no place in the image.
        num_references: at most so many; minimally activating images are left out.
        box_side: side of the box, as a fraction of the image's.
        distinct: leaves out near-duplicates.
        ranking: orders the images by relevance; None keeps the order of activation.
    """
    floor = float(statistics.activation_moments(layer).minimum[unit])
    activating = [e for e in statistics.top_images(layer, unit) if e.activation > floor]
    if ranking is not None:
        activating = ranking.rank(activating, unit)
    chosen = distinct.take(activating, num_references)
    return References(
        top_images=chosen,
        source="top_activation" if ranking is None else "top_relevance",
        boxes=[] if map_shape is None else [box_around(e.position, map_shape, box_side) for e in chosen],
        num_duplicates=distinct.num_duplicates,
    )


def box_around(position: tuple[int, int], map_shape: tuple[int, int], side: float) -> Box:
    """A square of `side` around the center of a position of the map, moved inside the image."""
    y, x = ((p + 0.5) / n for p, n in zip(position, map_shape, strict=True))
    side = min(side, 1.0)
    left, top = (min(max(center - side / 2, 0.0), 1.0 - side) for center in (x, y))
    return left, top, left + side, top + side


@torch.no_grad()
def best_patches(
    model: Model, layer: str, unit: int, candidates: References, patches: Tensor, num_references: int
) -> tuple[References, Tensor]:
    """Of the candidate patches, those on which the unit's spatial mean is highest, each from its own image.

    The published search scores every square on a grid of half-patch steps over each candidate image; ours only the one
    around the peak.

    Reference: VITAL (ICCV 2025), patch references: candidates by spatial maximum, scored by spatial mean.
    """
    scores = []
    for batch in patches.to(model.device).split(_BATCH_SIZE):
        features = features_of(model.module, batch, [layer])[layer]
        scores.append(model.activation(features, layer, [unit] * len(batch), "mean").cpu())
    best = torch.cat(scores).sort(descending=True, stable=True).indices[:num_references].tolist()
    order = sorted(best)  # keeps the order of activation
    return candidates.subset(order), patches[order]


def gather_references(
    model: Model,
    statistics: StatisticsStore,
    reader: ReferenceReader,
    layer: str,
    unit: int,
    settings: TargetsSection,
    ranking: RelevanceRanking | None = None,
) -> tuple[References, Tensor]:
    """Choose and read the references of a neuron.

    Args:
        model: of the neuron.
        statistics: of the run.
        reader: at the run's image size.
        layer: the neuron's layer.
        unit: index in the layer.
        settings: [targets] of the recipe.
        ranking: of the layer, if references are ranked by relevance.

    Returns:
        The references and their images [R, 3, H, W]; R = 0 for a unit that no image activates.
    """
    count = settings.num_references
    distinct = DistinctImages(reader.fingerprint, settings.duplicate_distance, reader.load)
    if layer == model.classifier_layer:
        chosen = choose_class_references(
            statistics, layer, unit, num_references=count, min_references=settings.min_references, distinct=distinct
        )
        return chosen, reader.images(chosen.top_images)
    map_shape = model.map_shape(layer)
    as_patches = settings.reference_mode == "patch" and map_shape is not None
    chosen = choose_unit_references(
        statistics,
        layer,
        unit,
        map_shape,
        num_references=count * _PATCH_CANDIDATES if as_patches else count,
        box_side=settings.patch_size_px / model.input_size_px,
        distinct=distinct,
        ranking=ranking,
    )
    if not chosen.top_images:
        return chosen, torch.empty(0, len(model.mean), 0, 0)
    if not as_patches:
        return chosen, reader.images(chosen.top_images)
    patches = reader.patches(chosen.top_images, chosen.boxes)
    return best_patches(model, layer, unit, chosen, patches, count)


@torch.no_grad()
def measure_references(
    model: Model, layer: str, unit: int, references: References, images: Tensor, *, reduction: str, box_side: float
) -> tuple[References, Tensor]:
    """References that a user chose, with the unit's activation and the box at its peak; the best come first.

    Args:
        model: of the neuron.
        layer: the neuron's layer.
        unit: index in the layer.
        references: without activations.
        images: [R, 3, H, W] of the references.
        reduction: over positions, as in the statistics: `max` or `mean`.
        box_side: side of the box, as a fraction of the image's.
    """
    map_shape = None if layer == model.classifier_layer else model.map_shape(layer, images.shape[-1])
    activations: list[float] = []
    boxes: list[Box] = []
    for batch in images.to(model.device).split(_BATCH_SIZE):
        features = features_of(model.module, batch, [layer])[layer]
        activations += model.activation(features, layer, [unit] * len(batch), reduction).tolist()
        if map_shape is not None:
            maps = features[:, unit].flatten(1)[:, model.num_prefix(layer) :]
            boxes += [
                box_around(divmod(peak, map_shape[1]), map_shape, box_side) for peak in maps.argmax(dim=1).tolist()
            ]
    top_images = [replace(e, activation=a) for e, a in zip(references.top_images, activations, strict=True)]
    order = sorted(range(len(top_images)), key=lambda i: -top_images[i].activation)
    return replace(references, top_images=top_images, boxes=boxes).subset(order), images[order]
