"""Reading reference images by byte range, as the model's input; the latest ones are kept."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.activations.dataset_images import dataset_images_ahead
from pipeline.activations.store import StatisticsStore, TopImage
from pipeline.errors import UserError
from pipeline.io.images import BadImage
from pipeline.io.root import Root
from pipeline.models import Model
from pipeline.references.near_duplicates import Fingerprint, fingerprint_of

_CACHED_IMAGES = 256  # decoded references kept per process: neighbors in a layer share many
FOLDER_SAMPLE = -1  # the sample id of an image that is not in the data set

Place = tuple[str, int]  # file, first byte
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in 0–1 of the square crop


class ReferenceReader:
    """Reads reference images by byte range and keeps the latest decoded crops."""

    def __init__(self, model: Model, *, image_size_px: int, max_pixels: int, max_value: int | None = None) -> None:
        self._model = model
        self._size_px = image_size_px
        self._max_pixels, self._max_value = max_pixels, max_value
        self._crops: OrderedDict[Place, Image.Image] = OrderedDict()
        self._fingerprints: dict[Place, Fingerprint] = {}

    def load(self, top_images: Iterable[TopImage]) -> None:
        """Read the crops of samples that will be requested, several at once.

        Raises:
            OSError, UserError: as `crop`.
        """
        requested = {self._place(top_image): top_image for top_image in top_images}
        for place in requested.keys() & self._crops.keys():
            self._crops.move_to_end(place)  # so that the others do not displace them
        absent = [top_image for place, top_image in requested.items() if place not in self._crops][:_CACHED_IMAGES]
        for top_image, dataset_image in dataset_images_ahead(
            absent,
            max_pixels=self._max_pixels,
            max_value=self._max_value,
            keep_alpha=self._model.preprocessing.has_alpha,
        ):
            if isinstance(dataset_image, BadImage):
                raise UserError(
                    f'reference "{top_image.key}" in {top_image.tar_shard}: {dataset_image}'
                ) from dataset_image
            self._crops[self._place(top_image)] = self._model.preprocessing.square_crop(dataset_image, self._size_px)
            if len(self._crops) > _CACHED_IMAGES:
                self._crops.popitem(last=False)

    def crop(self, top_image: TopImage) -> Image.Image:
        """The square crop of a sample, as the model's preprocessing makes it, at the run's image size.

        Raises:
            OSError: the tar shard cannot be read any more.
            UserError: its bytes are not an image, or no longer since the activation pass.
        """
        place = self._place(top_image)
        if place not in self._crops:
            self.load([top_image])
        self._crops.move_to_end(place)
        return self._crops[place]

    def fingerprint(self, top_image: TopImage) -> Fingerprint:
        """The features by which near-duplicates of a sample are found."""
        place = self._place(top_image)
        if place not in self._fingerprints:
            self._fingerprints[place] = fingerprint_of(self.crop(top_image))
        return self._fingerprints[place]

    def images(self, top_images: Sequence[TopImage]) -> Tensor:
        """Whole reference images, [R, 3, H, W] in the model's input space."""
        self.load(top_images)
        return torch.stack([self._model.preprocessing.to_tensor(self.crop(top_image)) for top_image in top_images])

    def patches(self, top_images: Sequence[TopImage], boxes: Sequence[Box]) -> Tensor:
        """The marked square of each reference, enlarged to the image size: [R, 3, H, W]."""
        self.load(top_images)
        size = self._size_px
        patches = []
        for top_image, (x0, y0, x1, y1) in zip(top_images, boxes, strict=True):
            box = (x0 * size, y0 * size, x1 * size, y1 * size)
            patches.append(self.crop(top_image).resize((size, size), Image.Resampling.BICUBIC, box=box))
        return torch.stack([self._model.preprocessing.to_tensor(patch) for patch in patches])

    @staticmethod
    def _place(top_image: TopImage) -> Place:
        return top_image.tar_shard, top_image.offset


def folder_top_image(folder: Root, name: str) -> TopImage:
    """An image file of a folder as a sample without a label, whose activation is not known yet."""
    return TopImage(
        sample=FOLDER_SAMPLE,
        key=name,
        tar_shard=folder.join(name).url,
        offset=0,
        size=folder.size_bytes(name),
        label=-1,
        top1=-1,
        activation=float("nan"),
        position=(0, 0),
    )


def top_images_of_row(statistics: StatisticsStore, row: Mapping[str, Any], count: int | None = None) -> list[TopImage]:
    """Where the images of a committed row of references lie, in its order; at most `count` of them."""
    if row["reference_folder"]:
        folder = Root.open(row["reference_folder"])
        return [folder_top_image(folder, name) for name in row["reference_keys"][:count]]
    return statistics.top_images_of(row["reference_samples"][:count])
