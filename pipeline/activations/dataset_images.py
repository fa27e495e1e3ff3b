"""The dataset images of samples, read by byte range; the next ones are fetched and decoded ahead.

A request to an object store takes longer than decoding what it brings.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Final

import torch
from PIL import Image

from pipeline.activations.store import TopImage
from pipeline.data.shards import read_image_bytes
from pipeline.io.images import BadImage, decode_image
from pipeline.io.prefetch import READERS, ahead

DATASET_IMAGES_AHEAD: Final = 16  # fetched and not yet taken, at most: a decoded dataset image may be large


def dataset_images_ahead(
    top_images: Iterable[TopImage], *, max_pixels: int, max_value: int | None = None, keep_alpha: bool
) -> Iterator[tuple[TopImage, Image.Image | BadImage]]:
    """Samples in order, each with its dataset image, or with the error of decoding it.

    Several are fetched at once; as many are decoded at once as the process has torch threads, which are the CPUs of a
    worker.

    Raises:
        FileNotFoundError, StorageError: when it is the turn of a sample whose tar shard cannot be read any more.
    """
    decoders = threading.Semaphore(torch.get_num_threads())

    def read(top_image: TopImage) -> Image.Image | BadImage:
        data = read_image_bytes(top_image.tar_shard, top_image.offset, top_image.size)
        try:
            with decoders:
                return decode_image(data, max_pixels=max_pixels, max_value=max_value, keep_alpha=keep_alpha)
        except BadImage as error:
            return error

    return ahead(read, top_images, threads=READERS, most=DATASET_IMAGES_AHEAD)
