"""Reference images of a neuron: which real images stand for it, and how they are read.

Classes take their labeled samples; inner units the images that excite them most, whole or as patches around
the place that does (METHOD 4).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.images import decode_image
from pipeline.models import Model, features_of, unit_activation
from pipeline.shards import read_image_bytes
from pipeline.statistics.store import Exemplar, StatisticsStore

_PATCH_CANDIDATES = 2  # patches searched per reference wanted
_CACHED_IMAGES = 256  # decoded references kept per process: neighbors in a layer share many


@dataclass(frozen=True, kw_only=True)
class References:
    """The reference images of one neuron, those that excite it most first.

    Attributes:
        exemplars: which samples, with their activation.
        source: how they were found: `label`, `label+top_logit`, `top_logit` or `top_activation`.
        boxes: for inner units (x0, y0, x1, y1) in 0–1 of the square crop around what excites the unit; else empty.
    """

    exemplars: Sequence[Exemplar]
    source: str
    boxes: Sequence[tuple[float, float, float, float]]

    def columns(self, class_names: Sequence[str]) -> dict[str, Any]:
        """As columns of an atlas row."""
        return {
            "reference_keys": [e.key for e in self.exemplars],
            "reference_samples": [e.sample for e in self.exemplars],
            "reference_activations": [e.activation for e in self.exemplars],
            "reference_labels": [class_names[e.label] if e.label >= 0 else "" for e in self.exemplars],
            "reference_positions": [edge for box in self.boxes for edge in box],
            "reference_source": self.source,
            "num_references": len(self.exemplars),
        }


def choose_class_references(
    statistics: StatisticsStore, layer: str, unit: int, *, num_references: int, min_references: int
) -> References:
    """References of a class: its labeled samples, those its logit rates highest first.

    A class with fewer than `min_references` of them is filled up to that number with the unlabeled or
    otherwise labeled samples of the highest logit; one with none takes `num_references` of these, as an inner
    unit does. The source says so.
    """
    labeled = statistics.class_exemplars(unit, num_references)
    if len(labeled) >= min_references:
        return References(exemplars=labeled, source="label", boxes=())
    known = {exemplar.sample for exemplar in labeled}
    others = [e for e in statistics.exemplars(layer, unit) if e.sample not in known]
    if not labeled:
        return References(exemplars=others[:num_references], source="top_logit", boxes=())
    filled = [*labeled, *others[: min_references - len(labeled)]]
    return References(exemplars=filled, source="label+top_logit", boxes=())


def choose_unit_references(
    statistics: StatisticsStore,
    layer: str,
    unit: int,
    map_shape: Sequence[int],
    *,
    num_references: int,
    box_side: float,
) -> References:
    """References of an inner unit: the images that excite it most, each marked where it does.

    Args:
        statistics: of the run.
        layer: the unit's layer.
        unit: index in the layer.
        map_shape: (H, W) of the layer's maps, or (T,) or () where positions have no place in the image.
        num_references: at most so many; images that do not excite the unit at all are left out.
        box_side: side of the marking square, as a fraction of the image's.
    """
    exemplars = statistics.exemplars(layer, unit, num_references)
    floor = float(statistics.activation_moments(layer).minimum[unit])
    exciting = [e for e in exemplars if e.activation > floor]
    boxes = [_box(e.position, map_shape, box_side) for e in exciting] if len(map_shape) == 2 else []
    return References(exemplars=exciting, source="top_activation", boxes=boxes)


def _box(position: Sequence[int], map_shape: Sequence[int], side: float) -> tuple[float, float, float, float]:
    """A square of `side` around the center of a position of the map, moved inside the image."""
    y, x = ((p + 0.5) / n for p, n in zip(position, map_shape, strict=True))
    side = min(side, 1.0)
    left, top = (min(max(center - side / 2, 0.0), 1.0 - side) for center in (x, y))
    return left, top, left + side, top + side


class ReferenceReader:
    """Reads reference images by byte range and keeps the latest decoded crops."""

    def __init__(self, model: Model, *, image_size_px: int, max_pixels: int) -> None:
        self._model = model
        self._size_px = image_size_px
        self._max_pixels = max_pixels
        self._crops: OrderedDict[int, Image.Image] = OrderedDict()

    def crop(self, exemplar: Exemplar) -> Image.Image:
        """The square crop of a sample as the model sees it, at the run's image size.

        Raises:
            OSError: the tar shard cannot be read any more.
            BadImage: its bytes are no longer an image, though they were when statistics were collected.
        """
        if exemplar.sample not in self._crops:
            data = read_image_bytes(exemplar.tar_shard, exemplar.offset, exemplar.size)
            photograph = decode_image(data, max_pixels=self._max_pixels)
            self._crops[exemplar.sample] = self._model.preprocessing.square_crop(photograph, self._size_px)
            if len(self._crops) > _CACHED_IMAGES:
                self._crops.popitem(last=False)
        self._crops.move_to_end(exemplar.sample)
        return self._crops[exemplar.sample]

    def images(self, references: References) -> Tensor:
        """Whole reference images, [R, 3, H, W] in the model's input space."""
        return torch.stack([self._model.preprocessing.to_tensor(self.crop(e)) for e in references.exemplars])

    def patches(self, references: References) -> Tensor:
        """The marked square of each reference, enlarged to the image size: [R, 3, H, W]."""
        size = self._size_px
        patches = []
        for exemplar, (x0, y0, x1, y1) in zip(references.exemplars, references.boxes, strict=True):
            box = (x0 * size, y0 * size, x1 * size, y1 * size)
            patches.append(self.crop(exemplar).resize((size, size), Image.Resampling.BICUBIC, box=box))
        return torch.stack([self._model.preprocessing.to_tensor(patch) for patch in patches])


@torch.no_grad()
def best_patches(
    model: Model, layer: str, unit: int, candidates: References, patches: Tensor, num_references: int
) -> tuple[References, Tensor]:
    """Of the candidate patches, those on which the unit's spatial mean is highest, each from its own image.

    Reference: VITAL (ICCV 2025), patch references: candidates by spatial maximum, scored by spatial mean.
    """
    features = features_of(model.module, patches.to(model.device), [layer])[layer]
    scores = unit_activation(features, [unit] * len(patches), "mean").cpu()
    best = scores.sort(descending=True, stable=True).indices[:num_references].tolist()
    order = sorted(best)  # candidates come by activation, and so do the chosen ones
    chosen = References(
        exemplars=[candidates.exemplars[i] for i in order],
        source=candidates.source,
        boxes=[candidates.boxes[i] for i in order],
    )
    return chosen, patches[order]


def gather_references(
    model: Model,
    statistics: StatisticsStore,
    reader: ReferenceReader,
    layer: str,
    unit: int,
    settings: Mapping[str, Any],
) -> tuple[References, Tensor]:
    """Choose and read the references of a neuron.

    Args:
        model: whose neuron it is.
        statistics: of the run.
        reader: at the run's image size.
        layer: the neuron's layer.
        unit: index in the layer.
        settings: num_references, min_references, reference_mode, patch_size_px of the recipe's [targets].

    Returns:
        The references and their images [R, 3, H, W]; R = 0 for a unit that no image excites.
    """
    count = settings["num_references"]
    if layer == model.classifier_layer:
        chosen = choose_class_references(
            statistics, layer, unit, num_references=count, min_references=settings["min_references"]
        )
        return chosen, reader.images(chosen)
    map_shape = model.feature_shape(layer)[1:]
    side = settings["patch_size_px"] / model.input_size_px
    as_patches = settings["reference_mode"] == "patch" and len(map_shape) == 2
    chosen = choose_unit_references(
        statistics,
        layer,
        unit,
        map_shape,
        num_references=count * _PATCH_CANDIDATES if as_patches else count,
        box_side=side,
    )
    if not chosen.exemplars:
        return chosen, torch.empty(0, len(model.mean), 0, 0)
    if not as_patches:
        return chosen, reader.images(chosen)
    return best_patches(model, layer, unit, chosen, reader.patches(chosen), count)
