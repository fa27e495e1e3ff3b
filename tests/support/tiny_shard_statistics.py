"""The shard statistics of three recorded tar shards, committed and merged into a store."""

from pipeline.activations.store import merge_shard_statistics, write_shard_statistics, write_statistics
from pipeline.io.root import Root
from tests.support.tiny_collect import tiny_collect, tiny_samples

RECIPE = "0123456789abcdef"
URLS = ["s3://b/a-0.tar", "s3://b/a-1.tar", "s3://b/a-2.tar"]
ATTRS = {"model": "python:tiny", "recipe_fingerprint": RECIPE}
COUNTS = [9, 6, 8]
SAMPLES = [tiny_samples(n, first_seed=100 * i, tar_shard=URLS[i]) for i, n in enumerate(COUNTS)]
SHARD_STATISTICS = [tiny_collect(samples, index) for index, samples in enumerate(SAMPLES)]


def commit(root: Root, index: int) -> None:
    write_shard_statistics(root, index, SHARD_STATISTICS[index], recipe_fingerprint=RECIPE, shard_url=URLS[index])


def collect(root: Root, order: tuple[int, ...] = (0, 1, 2)) -> None:
    for index in order:
        commit(root, index)
    merge(root)


def merge(root: Root) -> None:
    write_statistics(root, merge_shard_statistics(root, URLS, recipe_fingerprint=RECIPE), ATTRS)


class KilledError(BaseException):
    """Stands for the end of a process between two writes."""
