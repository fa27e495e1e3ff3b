"""The statistics of each tar shard in storage, and their merge.

    run/shard_statistics/<shard:06d>.safetensors.zst   arrays, see `packing`
    run/shard_statistics/<shard:06d>.parquet           one row per sample
    run/shard_statistics/<shard:06d>.json              marker, written last: recipe, tar shard, SHA-256 of both files

A tar shard is committed if its marker names this recipe, these layers and this tar shard. Statistics of another recipe
or of another tar shard count as none. Layers that are requested after the merge get shard statistics of their own in
another folder, `run/shard_statistics-<hash of the layers>`.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.activations.accumulators.shard_statistics import ShardStatistics, sample_schema
from pipeline.activations.storage.merging import merge_all
from pipeline.activations.storage.packing import pack, unpack
from pipeline.errors import UserError
from pipeline.io.parquet import table_bytes
from pipeline.io.prefetch import ahead
from pipeline.io.root import Root

SHARD_STATISTICS: Final = "run/shard_statistics"
SHARD_STATISTICS_SCHEMA: Final = "shard_statistics/2"
ARRAYS_SUFFIX: Final = "safetensors.zst"
# Threads that read for the merge: unpacking takes as long as adding, a request to object storage longer.
SHARD_FILES_AHEAD: Final = 3
_REMEDY: Final = "; remove the marker (.json) beside it and run `neuron-atlas collect` again"


class StaleShardStatisticsError(UserError):
    """Shard statistics are absent, or were made by another recipe or from another tar shard."""


class CorruptShardStatisticsError(OSError):
    """Files of shard statistics are not those that their marker names."""


def folder_of(layers: Collection[str]) -> str:
    """The folder of the shard statistics of layers that were added after the merge."""
    return f"{SHARD_STATISTICS}-{hashlib.sha256(json.dumps(sorted(layers)).encode()).hexdigest()[:8]}"


def write_shard_statistics(
    root: Root,
    shard_index: int,
    shard_statistics: ShardStatistics,
    *,
    recipe_fingerprint: str,
    shard_url: str,
    folder: str = SHARD_STATISTICS,
    captions: bool = False,
) -> None:
    """Commit the statistics of one tar shard below `root`.

    Args:
        root: the atlas folder.
        shard_index: index of the tar shard in the recipe's list.
        shard_statistics: of this tar shard alone, with its sample rows.
        recipe_fingerprint: of the collect stage.
        shard_url: of the tar shard.
        folder: SHARD_STATISTICS, or `folder_of` the layers that were added after the merge.
        captions: whether the sample rows have captions.
    """
    assert shard_statistics.shards == {shard_index}, (sorted(shard_statistics.shards), shard_index)
    files = {
        _name(folder, shard_index, ARRAYS_SUFFIX): pack(shard_statistics.arrays()),
        _name(folder, shard_index, "parquet"): table_bytes(shard_statistics.samples, sample_schema(captions=captions)),
    }
    # An older marker must not vouch for a mixture of old and new files.
    root.remove(_name(folder, shard_index, "json"))
    for name, data in files.items():
        root.write_bytes(name, data)
    root.write_json(
        _name(folder, shard_index, "json"),
        {
            "schema": SHARD_STATISTICS_SCHEMA,
            "recipe_fingerprint": recipe_fingerprint,
            "shard_url": shard_url,
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
            **shard_statistics.header(),
        },
    )


def committed_shards(
    root: Root,
    *,
    recipe_fingerprint: str,
    shard_urls: Sequence[str],
    layers: Collection[str] | None = None,
    folder: str = SHARD_STATISTICS,
) -> set[int]:
    """Indices into `shard_urls` of the tar shards with committed statistics of this recipe.

    `layers`: those that they must be of; None takes any.
    """
    names = set(root.list(folder))
    there = (i for i in range(len(shard_urls)) if _name(folder, i, "json").rpartition("/")[2] in names)
    markers = {index: _marker(root, folder, index) for index in there}
    return {
        index
        for index, marker in markers.items()
        if _matches(marker, recipe_fingerprint, shard_urls[index])
        and (layers is None or set(marker["layers"]) == set(layers))
    }


def read_shard_statistics(
    root: Root, shard_index: int, *, recipe_fingerprint: str, shard_url: str, folder: str = SHARD_STATISTICS
) -> ShardStatistics:
    """The committed statistics of one tar shard, without its sample rows.

    Raises:
        StaleShardStatisticsError: there are none, or they are of another recipe or tar shard.
        CorruptShardStatisticsError: their arrays changed since they were written.
    """
    marker = _marker(root, folder, shard_index)
    if not _matches(marker, recipe_fingerprint, shard_url):
        found = {key: marker.get(key) for key in ("schema", "recipe_fingerprint", "shard_url")}
        raise StaleShardStatisticsError(
            f"{root.url}/{_name(folder, shard_index, 'json')}: expected the shard statistics of recipe "
            f"{recipe_fingerprint} and {shard_url}, found {found if marker else 'none'}; "
            "run `neuron-atlas collect` to make them"
        )
    return ShardStatistics.from_arrays(
        marker, unpack(_checked(root, marker, _name(folder, shard_index, ARRAYS_SUFFIX)))
    )


def read_sample_table(root: Root, shard_index: int) -> bytes:
    """The Parquet file with the sample rows of one committed tar shard, checked.

    Raises:
        CorruptShardStatisticsError: it changed since it was written.
    """
    return _checked(root, _marker(root, SHARD_STATISTICS, shard_index), _name(SHARD_STATISTICS, shard_index, "parquet"))


def merge_shard_statistics(
    root: Root,
    shard_urls: Sequence[str],
    *,
    recipe_fingerprint: str,
    without: Collection[int] = (),
    folder: str = SHARD_STATISTICS,
) -> ShardStatistics:
    """Merge the statistics of all tar shards but those at `without`, in the order of `shard_urls`, see `merge_all`.

    The grouping depends on the number of tar shards alone, so equal shard statistics give equal bytes. Memory: that of
    `merge_all`, and the statistics of `SHARD_FILES_AHEAD` more tar shards.

    Raises:
        StaleShardStatisticsError: a tar shard has no statistics of this recipe.
        CorruptShardStatisticsError: files changed since they were written.
        UserError: there are no tar shards.
    """
    shards = {index: url for index, url in enumerate(shard_urls) if index not in without}
    return merge_all(_read_ahead(root, shards, recipe_fingerprint, folder))


def _read_ahead(
    root: Root, shards: Mapping[int, str], recipe_fingerprint: str, folder: str
) -> Iterator[ShardStatistics]:
    """The shard statistics of tar shards (index → URL) in order; the next ones are read while one is merged."""

    def read(index: int) -> ShardStatistics:
        return read_shard_statistics(
            root, index, recipe_fingerprint=recipe_fingerprint, shard_url=shards[index], folder=folder
        )

    return (
        shard_statistics
        for _, shard_statistics in ahead(read, shards, threads=SHARD_FILES_AHEAD, most=SHARD_FILES_AHEAD)
    )


def _name(folder: str, shard_index: int, suffix: str) -> str:
    return f"{folder}/{shard_index:06d}.{suffix}"


def _marker(root: Root, folder: str, shard_index: int) -> dict[str, Any]:
    """The marker of a tar shard; empty if there is none, or it is no JSON object (so: not committed)."""
    try:
        marker = root.read_json(_name(folder, shard_index, "json"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _matches(marker: dict[str, Any], recipe_fingerprint: str, shard_url: str) -> bool:
    requested = {"schema": SHARD_STATISTICS_SCHEMA, "recipe_fingerprint": recipe_fingerprint, "shard_url": shard_url}
    return all(marker.get(key) == value for key, value in requested.items())


def _checked(root: Root, marker: dict[str, Any], name: str) -> bytes:
    try:
        data = root.read_bytes(name)
    except FileNotFoundError as error:
        raise CorruptShardStatisticsError(
            f"{root.url}/{name} is missing although its marker is there{_REMEDY}"
        ) from error
    if hashlib.sha256(data).hexdigest() != marker.get("sha256", {}).get(name):
        raise CorruptShardStatisticsError(f"{root.url}/{name} is not the file that its marker names{_REMEDY}")
    return data
