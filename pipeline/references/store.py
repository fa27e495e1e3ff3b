"""The target store: quantile functions and importance of each neuron in Zarr, its references in Parquet.

run/targets.zarr/<layer>/<aligned layer>/quantile    (row, channel, level) float32, one chunk per row
run/targets.zarr/<layer>/<aligned layer>/importance  (row, channel) float32, one chunk per row
run/targets/<layer>/<batch>.parquet                  references of a batch of units; its presence is the commit

A neuron has F facets (`AlignmentPlan.facets`), each a cluster of its references with a target of its own: facet f
of unit u is row u · F + f.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.alignment.losses import OWN_KEYS, LayerTarget, NeuronTarget
from pipeline.errors import UserError
from pipeline.io.parquet import read_rows as read_table_rows
from pipeline.io.parquet import write_table
from pipeline.io.root import Root
from pipeline.io.zarr_arrays import create_array, create_group, open_group, read_single_rows, write_rows
from pipeline.neurons import layer_file_name
from pipeline.synthesis.methods.vital_target import AlignmentPlan

REFERENCE_SCHEMA = {
    "unit": "int32",
    "facet": "int32",
    "num_facets": "int32",
    "status": "string",  # ok, dead (nothing activates the unit) or skipped (a facet without references)
    "status_reason": "string",
    "goal_activation": "float32",
    "num_references": "int32",
    "num_duplicates": "int32",  # near-duplicates that were left out, of all facets together
    "reference_source": "string",
    "reference_folder": "string",  # where they lie if they are not in the data set, else ""
    "reference_keys": "list<string>",
    "reference_samples": "list<int64>",
    "reference_activations": "list<float32>",
    "reference_labels": "list<string>",
    "reference_positions": "list<float32>",
}


def _array_folder(aligned_layer: str) -> str:
    return aligned_layer if aligned_layer in OWN_KEYS else layer_file_name(aligned_layer)


def _store_path(layer: str) -> str:
    return f"run/targets.zarr/{layer_file_name(layer)}"


def _row_of(plan: AlignmentPlan, unit: int, facet: int) -> int:
    return unit * plan.facets + facet


def prepare_store(
    root: Root,
    plan: AlignmentPlan,
    num_units: int,
    shapes: Mapping[str, tuple[int, int]],
    model_channels: Mapping[str, int],
) -> None:
    """Create the arrays of one layer before any worker writes to them. Idempotent.

    Args:
        root: the atlas folder.
        plan: of the layer.
        num_units: of the layer.
        shapes: aligned layer → (C·P, N/P) of its quantile functions.
        model_channels: feature layer → C.

    Raises:
        UserError: the existing targets were made with another recipe.
    """
    path = _store_path(plan.layer)
    attributes = {
        "schema": "targets/1",
        "rule": plan.rule,
        "grid": plan.grid,
        "image_size_px": plan.image_size_px,
        "weights": dict(plan.weights),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
    }
    if plan.side:
        attributes["side"] = plan.side
    if plan.facets > 1:
        attributes["facets"] = plan.facets
    marker = f"run/targets/{layer_file_name(plan.layer)}.json"
    if root.exists(marker):
        present = root.read_json(marker)
        different = [key for key in attributes | present if present.get(key) != attributes.get(key)]
        if different:
            raise UserError(
                f'{root.url}: the targets of layer "{plan.layer}" were made with another '
                f"{', '.join(different)}: {[present.get(k) for k in different]} there, "
                f"{[attributes.get(k) for k in different]} requested; choose another output.root"
            )
        return
    group = create_group(root, path, attributes)
    rows = num_units * plan.facets
    for name, (channels, levels) in shapes.items():
        create_array(
            group, f"{_array_folder(name)}/quantile", (rows, channels, levels), "float32", (1, channels, levels)
        )
        if plan.rule != "none" and name in plan.feature_layers:
            num_channels = model_channels[name]
            create_array(group, f"{_array_folder(name)}/importance", (rows, num_channels), "float32", (1, num_channels))
    root.write_json(marker, attributes)


class TargetWriter:
    """Writes targets of one layer, whose store it opens once; each unit has one writer."""

    def __init__(self, root: Root, plan: AlignmentPlan) -> None:
        self._plan = plan
        self._group = open_group(root, _store_path(plan.layer), "r+")

    def write(self, unit: int, facet: int, target: NeuronTarget) -> None:
        """Write the target of one facet of a unit."""
        row = _row_of(self._plan, unit, facet)
        for name, layer_target in target.layers.items():
            write_rows(self._group, f"{_array_folder(name)}/quantile", row, layer_target.quantile[None].numpy())
            if layer_target.importance is not None:
                write_rows(self._group, f"{_array_folder(name)}/importance", row, layer_target.importance[None].numpy())


def read_targets(
    root: Root, plan: AlignmentPlan, units: Sequence[int], facet: int = 0
) -> dict[int, tuple[NeuronTarget | None, dict[str, Any]]]:
    """Unit → (target, references as committed) of one facet of the given units of a layer.

    The target is None for a unit that is dead and for a facet that has no references.

    Raises:
        KeyError: a unit has no committed target.
    """
    references = _read_subset(root, plan.layer, units, facet)
    ready = [unit for unit in units if references[unit]["status"] == "ok"]
    layers = _read_layers(root, plan, [_row_of(plan, unit, facet) for unit in ready])
    targets = {
        unit: NeuronTarget(
            layers=layers[place], relevance=plan.rule, goal_activation=references[unit]["goal_activation"]
        )
        for place, unit in enumerate(ready)
    }
    return {unit: (targets.get(unit), references[unit]) for unit in units}


def _read_layers(root: Root, plan: AlignmentPlan, rows: Sequence[int]) -> list[dict[str, LayerTarget]]:
    """The aligned layers of each row; array by array, because opening one costs a round trip to an object store."""
    group = open_group(root, _store_path(plan.layer))
    found: list[dict[str, LayerTarget]] = [{} for _ in rows]
    for name, weight in plan.weights.items():
        quantiles = read_single_rows(group, f"{_array_folder(name)}/quantile", rows)
        importances: list[np.ndarray | None] = [None] * len(rows)
        if plan.rule != "none" and name in plan.feature_layers:
            importances = [*read_single_rows(group, f"{_array_folder(name)}/importance", rows)]
        for layers, quantile, importance in zip(found, quantiles, importances, strict=True):
            layers[name] = LayerTarget(
                quantile=torch.from_numpy(quantile),
                importance=None if importance is None else torch.from_numpy(importance),
                weight=weight,
            )
    return found


def write_references(root: Root, layer: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Commit a batch of units: the references of all their facets, written last."""
    columns = {column: [row[column] for row in rows] for column in REFERENCE_SCHEMA}
    write_table(root, references_path(layer, {row["unit"] for row in rows}), columns, REFERENCE_SCHEMA)


def references_path(layer: str, units: Collection[int]) -> str:
    """The file whose presence commits the targets of a batch of units of a layer."""
    return f"{_folder(layer)}/{min(units):05d}-{len(units)}.parquet"


def read_references(root: Root, layer: str, facet: int = 0) -> dict[int, dict[str, Any]]:
    """Unit → its row of references for one facet, of every committed unit of a layer."""
    rows = (row for _, name in _batches(root, layer) for row in _read_batch(root, layer, name))
    return {row["unit"]: row for row in rows if row["facet"] == facet}


def committed_targets(root: Root, layer: str) -> set[int]:
    """Units of a layer whose targets are complete."""
    return set(read_references(root, layer))


def _read_subset(root: Root, layer: str, units: Sequence[int], facet: int) -> dict[int, dict[str, Any]]:
    """As `read_references`, of some units only: reads no more files than hold them."""
    missing = set(units)
    found: dict[int, dict[str, Any]] = {}
    for first, name in _batches(root, layer):
        if missing and first <= max(missing):
            rows = {row["unit"]: row for row in _read_batch(root, layer, name) if row["facet"] == facet}
            found |= {unit: rows[unit] for unit in missing & rows.keys()}
            missing -= rows.keys()
    return found


def _folder(layer: str) -> str:
    return f"run/targets/{layer_file_name(layer)}"


def _batches(root: Root, layer: str) -> list[tuple[int, str]]:
    """(first unit, file name) of each committed batch, those that begin at high units first."""
    names = [name for name in root.list(_folder(layer)) if name.endswith(".parquet")]
    return sorted(((int(name.partition("-")[0]), name) for name in names), reverse=True)


def _read_batch(root: Root, layer: str, name: str) -> list[dict[str, Any]]:
    return read_table_rows(root, f"{_folder(layer)}/{name}")
