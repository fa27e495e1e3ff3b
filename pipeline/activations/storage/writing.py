"""The statistics store of a run as it is written, once, after the merge.

run/statistics.zarr     arrays of `ShardStatistics.arrays`, by the same paths
run/samples.parquet     one row per sample, ordered by sample id
run/statistics.json     marker, written last
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from pipeline.activations.accumulators.histogram import unit_edges
from pipeline.activations.accumulators.shard_statistics import ShardStatistics
from pipeline.activations.storage.samples import SampleTable, write_samples
from pipeline.errors import UserError
from pipeline.io.root import Root
from pipeline.io.zarr_arrays import Group, create_group, open_group, write_array
from pipeline.neurons import layer_file_name

STORE: Final = "run/statistics.zarr"
MARKER: Final = "run/statistics.json"
STATISTICS_SCHEMA: Final = "statistics/2"

# Axes of the arrays, by the last or last but one part of their path; all others have the one axis "unit".
_DIMENSIONS: Final = {
    "histogram": ("unit", "bin"),
    "topk_activation": ("unit", "rank"),
    "topk_sample": ("unit", "rank"),
    "topk_position": ("unit", "rank", "yx"),
    "comoment": ("unit", "channel"),
    "comoment_mean_channel": ("channel",),
    "comoment_m2_channel": ("channel",),
    "class_topk_activation": ("class", "rank"),
    "class_topk_sample": ("class", "rank"),
    "class_count": ("class",),
    "spectrum": ("color", "frequency_y", "frequency_x"),
    "spectrum_count": ("one",),
}


def write_statistics(root: Root, merged: ShardStatistics, attrs: Mapping[str, Any]) -> None:
    """Write the store of all tar shards and commit it.

    Args:
        root: the atlas folder; it holds the committed shard statistics, from which the sample rows come.
        merged: the statistics of all tar shards.
        attrs: model, weights_sha256, preprocessing, recipe_fingerprint, …, kept with the store; `caption_key` if the
            sample rows have captions.

    Raises:
        UserError: there is no image.
    """
    if not merged.num_samples:
        raise UserError(f"no usable image in {len(merged.shards)} tar shards ({merged.num_skipped} skipped)")
    root.remove(MARKER)
    header = {
        "schema": STATISTICS_SCHEMA,
        **attrs,
        "data_fingerprint": merged.data_fingerprint,
        "num_samples": merged.num_samples,
        "num_skipped": merged.num_skipped,
        "account": asdict(merged.account),
        "layers": list(merged.layers),
        "feature_layers": list(merged.feature_layers),
    }
    root.remove(STORE)
    group = create_group(root, STORE, header)
    _write_arrays(group, merged.arrays(), merged.layers)
    write_samples(root, sorted(merged.shards), captions="caption_key" in attrs)
    root.write_json(MARKER, header | {"num_repeated_keys": SampleTable(root).num_repeated_keys()})


def add_layers(root: Root, merged: ShardStatistics, layers: Sequence[str], order: Sequence[str]) -> None:
    """Add layers to the committed store; the other layers stay as they are.

    Args:
        root: the atlas folder.
        merged: the statistics of all tar shards for (at least) these layers.
        layers: those to add.
        order: all layers of the model in model order.

    Raises:
        UserError: the tar shards have other images than those of the store.
    """
    header = committed_statistics(root)
    assert header is not None
    if merged.data_fingerprint != header["data_fingerprint"]:
        raise UserError(
            f"{root.url}: the tar shards have changed since their statistics were made (data_fingerprint "
            f"{header['data_fingerprint']}, now {merged.data_fingerprint}), so no layers can be added to these: "
            "restore the tar shards, or give another output.root"
        )
    known = {*header["layers"], *layers}
    header |= {"layers": [layer for layer in order if layer in known]}
    folders = tuple(f"layers/{layer_file_name(layer)}/" for layer in layers)
    own = {path: array for path, array in merged.arrays().items() if path.startswith(folders)}
    group = open_group(root, STORE, "r+")
    _write_arrays(group, own, layers)
    group.attrs["layers"] = header["layers"]
    root.write_json(MARKER, header)


def _write_arrays(group: Group, arrays: Mapping[str, np.ndarray], layers: Iterable[str]) -> None:
    for path, array in arrays.items():
        write_array(group, path, array, dimensions=_dimensions(path))
    for layer in layers:
        # Edges at exponent 0, so that other readers know the bins.
        write_array(
            group,
            f"layers/{layer_file_name(layer)}/bin_edge",
            unit_edges(),
            attrs={"meaning": "times 2 ** histogram_exponent[unit]"},
            dimensions=("edge",),
        )


def committed_statistics(root: Root) -> dict[str, Any] | None:
    """The attributes of the committed store, or None if there is none, or one of another version."""
    header: dict[str, Any] = root.read_json(MARKER) if root.exists(MARKER) else {}
    return header if header.get("schema") == STATISTICS_SCHEMA else None


def _dimensions(path: str) -> tuple[str, ...]:
    parts = path.split("/")
    # layers/<layer>/<name>[/<feature layer>], or <name>
    name = parts[2] if parts[0] == "layers" else parts[0]
    return _DIMENSIONS.get(name, ("unit",))
