"""`neuron-atlas shards`: an image folder as tar shards, labeled by the classes of a model."""

import os
from collections.abc import Mapping
from typing import Any

from pipeline.data.class_folders import FolderNaming
from pipeline.data.shards import ShardReport, write_shards
from pipeline.models.labels import IMAGENET, known_names

IN_ORDER = "sorted"


def shards_of_folder(
    images: str, out: str, *, name: str | None, labels: str | None, first_number: int, limits: Mapping[str, Any]
) -> ShardReport:
    """Write the tar shards of a folder.

    Args:
        images: the folder.
        out: folder for the shards.
        name: beginning of their names; None is the folder's.
        labels: `imagenet1k` or a text file of class names, one of which every class folder must have; `sorted` for
            places in the sorted list; None takes ImageNet's names or numbers if all folders have one.
        first_number: what the first class is called, where folders are called by numbers.
        limits: `max_samples` and `max_bytes` of `write_shards`.

    Raises:
        UserError, StorageError: see `write_shards` and `read_class_list`.
    """
    source = labels or IMAGENET
    naming = FolderNaming(
        names=() if labels == IN_ORDER else known_names(source),
        source=source,
        required=labels is not None,
        in_order=labels == IN_ORDER,
        first_number=first_number,
    )
    return write_shards(images, out, name=name or os.path.basename(os.path.abspath(images)), naming=naming, **limits)
