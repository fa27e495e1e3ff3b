"""One partial per tar shard on disk, and their merge.

    run/partials/<shard:06d>.npz       arrays, no pickle
    run/partials/<shard:06d>.parquet   one row per sample
    run/partials/<shard:06d>.json      marker, written last: whose they are, and the SHA-256 of both files

A shard is committed if its marker is there, names this recipe and this tar shard. A partial of another
recipe or of a data set that was since rearranged is as good as none.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from pipeline.statistics.partial import SAMPLE_SCHEMA, Partial
from pipeline.storage import Root
from pipeline.tables import table_bytes

PARTIALS: Final = "run/partials"
PARTIAL_SCHEMA: Final = "partial/1"
_REMEDY: Final = "; remove the marker (.json) beside it and run `neuron-atlas collect` again"


class StalePartialError(ValueError):
    """A partial that is absent, or was made by another recipe or from another tar shard."""


class CorruptPartialError(OSError):
    """A partial whose files are not those its marker speaks of."""


def write_partial(root: Root, shard_index: int, partial: Partial, *, recipe_fingerprint: str, shard_url: str) -> None:
    """Commit the partial of one tar shard below `root`.

    Args:
        root: the atlas folder.
        shard_index: index of the tar shard in the recipe's list.
        partial: of this tar shard alone, with its sample rows.
        recipe_fingerprint: of the collect stage.
        shard_url: of the tar shard.
    """
    assert partial.shards == {shard_index}, (sorted(partial.shards), shard_index)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **partial.arrays(), allow_pickle=False)
    files = {
        _name(shard_index, "npz"): buffer.getvalue(),
        _name(shard_index, "parquet"): table_bytes(partial.samples, SAMPLE_SCHEMA),
    }
    # An older marker must not vouch for a mixture of old and new files.
    root.remove(_name(shard_index, "json"))
    for name, data in files.items():
        root.write_bytes(name, data)
    root.write_json(
        _name(shard_index, "json"),
        {
            "schema": PARTIAL_SCHEMA,
            "recipe_fingerprint": recipe_fingerprint,
            "shard_url": shard_url,
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
            **partial.header(),
        },
    )


def committed_shards(root: Root, *, recipe_fingerprint: str, shard_urls: Sequence[str]) -> set[int]:
    """Indices into `shard_urls` of the tar shards with a committed partial of this recipe."""
    names = set(root.list(PARTIALS))
    there = (index for index in range(len(shard_urls)) if _name(index, "json").rpartition("/")[2] in names)
    return {i for i in there if _matches(_marker(root, i), recipe_fingerprint, shard_urls[i])}


def read_partial(root: Root, shard_index: int, *, recipe_fingerprint: str, shard_url: str) -> Partial:
    """The committed partial of one tar shard, without its sample rows.

    Raises:
        StalePartialError: there is none, or it is of another recipe or tar shard.
        CorruptPartialError: its arrays changed since they were written.
    """
    marker = _marker(root, shard_index)
    if not _matches(marker, recipe_fingerprint, shard_url):
        found = {key: marker.get(key) for key in ("schema", "recipe_fingerprint", "shard_url")}
        raise StalePartialError(
            f"{root.url}/{_name(shard_index, 'json')}: expected the partial of recipe "
            f"{recipe_fingerprint} and {shard_url}, found {found if marker else 'none'}; "
            "run `neuron-atlas collect` to make it"
        )
    data = _checked(root, marker, _name(shard_index, "npz"))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Partial.from_arrays(marker, dict(arrays))


def read_sample_table(root: Root, shard_index: int) -> bytes:
    """The Parquet file with the sample rows of one committed tar shard, checked.

    Raises:
        CorruptPartialError: it changed since it was written.
    """
    return _checked(root, _marker(root, shard_index), _name(shard_index, "parquet"))


def merge_partials(root: Root, shard_urls: Sequence[str], *, recipe_fingerprint: str) -> Partial:
    """Merge the partials of all tar shards: pairwise, in the order of `shard_urls`.

    The grouping depends on the number of tar shards alone, so equal partials give equal bytes. Memory: at
    most log2(shards) + 2 partials.

    Raises:
        StalePartialError: a tar shard has no partial of this recipe.
        CorruptPartialError: a partial changed since it was written.
        ValueError: there are no tar shards.
    """
    return merge_tree(
        read_partial(root, index, recipe_fingerprint=recipe_fingerprint, shard_url=url)
        for index, url in enumerate(shard_urls)
    )


def merge_tree(partials: Iterable[Partial]) -> Partial:
    """Merge partials pairwise as they come, like the carries of a binary counter.

    Raises:
        ValueError: there are none.
    """
    stack: list[tuple[int, Partial]] = []  # (2^level partials are in it, merged); levels fall from left to right
    for partial in partials:
        level = 0
        while stack and stack[-1][0] == level:
            partial = stack.pop()[1].merge(partial)
            level += 1
        stack.append((level, partial))
    if not stack:
        raise ValueError("no partials to merge: data.shards names no tar shard")
    merged = stack.pop()[1]
    while stack:
        merged = stack.pop()[1].merge(merged)
    return merged


def _name(shard_index: int, suffix: str) -> str:
    return f"{PARTIALS}/{shard_index:06d}.{suffix}"


def _marker(root: Root, shard_index: int) -> dict[str, Any]:
    """The marker of a tar shard; empty if there is none, or it is no JSON object (so: not committed)."""
    try:
        marker = root.read_json(_name(shard_index, "json"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _matches(marker: dict[str, Any], recipe_fingerprint: str, shard_url: str) -> bool:
    wanted = {"schema": PARTIAL_SCHEMA, "recipe_fingerprint": recipe_fingerprint, "shard_url": shard_url}
    return all(marker.get(key) == value for key, value in wanted.items())


def _checked(root: Root, marker: dict[str, Any], name: str) -> bytes:
    try:
        data = root.read_bytes(name)
    except FileNotFoundError as error:
        raise CorruptPartialError(f"{root.url}/{name} is missing although its marker is there{_REMEDY}") from error
    if hashlib.sha256(data).hexdigest() != marker.get("sha256", {}).get(name):
        raise CorruptPartialError(f"{root.url}/{name} is not the file its marker speaks of{_REMEDY}")
    return data
