"""Tar shards: stream their samples, or read one image of them by byte range.

The form is webdataset's: the members of a sample follow each other and share the part of their names before
the first dot (`n01440764_10026.jpg`, `.cls`, `.json`), so the public ImageNet shards are read unchanged.
webdataset groups the members (`grouping`); the tar is read by `tar_members`, which is strict and keeps each image's
byte range.

Every image in a shard becomes a sample, or is reported with the reason why not; of a damaged shard none does. What is
wrong with the *data* is bounded by `ErrorBudget`; an error of the *code* (or of the network) is never taken for a bad
sample and goes through.
"""

from collections.abc import Callable, Iterator

from pipeline.data.grouping import SampleReader, ShardMembers
from pipeline.data.sample import Sample, sample_id, split_sample_id
from pipeline.data.sample_errors import ErrorBudget, SampleAccount, SkippedSample, TooManyBadSamples
from pipeline.data.shard_writing import NewSample, ShardReport, unique_slugs, write_shards, write_tar_shards
from pipeline.data.tar_members import DamagedShardError
from pipeline.io.root import open_for_reading, read_range

__all__ = [
    "DamagedShardError",
    "ErrorBudget",
    "NewSample",
    "Sample",
    "SampleAccount",
    "ShardReport",
    "SkippedSample",
    "TooManyBadSamples",
    "iterate_samples",
    "read_image_bytes",
    "sample_id",
    "split_sample_id",
    "unique_slugs",
    "write_shards",
    "write_tar_shards",
]


def read_image_bytes(tar_shard_url: str, offset: int, size: int) -> bytes:
    """Return the image file at a byte range of a tar shard, as stored.

    Raises:
        FileNotFoundError, StorageError: the shard is gone, shorter than it was, or cannot be read.
    """
    return read_range(tar_shard_url, offset, size)


def iterate_samples(
    url: str,
    *,
    image_key: str = "jpg;jpeg;png;webp",
    label_key: str = "cls",
    caption_key: str = "",
    num_classes: int | None,
    on_skip: Callable[[SkippedSample], None],
) -> Iterator[Sample]:
    """Stream the samples of one tar shard in order.

    A sample without a label is yielded with label None. Reported to `on_skip` instead of yielded are:
    `no-image`; `bad-label` (not a whole number, or outside the classes); `duplicate-key`; `dotted-name` (an image
    whose name has more dots, so that it is no image of its key); `broken-link`, `sparse-member` and `not-a-file`
    (members without data in one piece); and, passed over as no bad data, `other-format` (PNG beside JPEG under one
    key), `annotation` (`mask.png` beside the images of most keys), `hidden-file` and `webdataset-note`.

    Args:
        url: local path or fsspec URL of an uncompressed tar.
        image_key: member suffixes that hold the image, separated by `;`, in order of preference.
        label_key: member suffixes that hold the class index as text.
        caption_key: where the caption stands, member suffixes or `json:KEY`; "" for no captions. See `captions`.
        num_classes: classes of the model; None takes any label ≥ 0.
        on_skip: called with each image that is left out, and each key without an image.

    Raises:
        DamagedShardError: the shard is compressed, ends early or is no tar; it is raised at the damage, and the samples
            before it must not be used either.
        FileNotFoundError, StorageError: the shard is missing or cannot be read.
    """
    read = SampleReader(url, image_key, label_key, caption_key, num_classes)
    num_used = num_skipped = 0

    def skip(skipped: SkippedSample) -> None:
        nonlocal num_skipped
        num_skipped += skipped.num_images
        on_skip(skipped)

    with open_for_reading(url) as file:
        members = ShardMembers(url, file, read, skip)
        seen: set[str] = set()
        index = 0
        for group in members.groups():
            key = group["__key__"]
            for found in read(group, index, is_repeated=key in seen):
                if isinstance(found, SkippedSample):
                    skip(found)
                else:
                    num_used += 1
                    yield found
            seen.add(key)
            index += 1
            for num_images in members.take_duplicates():
                detail = "its members stand twice in a row"
                skip(read.skipped(key, index, "duplicate-key", detail, num_images=num_images))
                index += 1
        for skipped in read.annotations(num_used):
            skip(skipped)
    assert members.num_images == num_used + num_skipped, (url, members.num_images, num_used, num_skipped)
