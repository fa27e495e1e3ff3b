"""The target store: quantile functions and importance of each neuron in Zarr, its references in Parquet.

run/targets.zarr/<layer>/<aligned layer>/quantile    (unit, channel, level) float32, one chunk per unit
run/targets.zarr/<layer>/<aligned layer>/importance  (unit, channel) float32, one chunk per unit
run/targets/<layer>/<batch>.parquet                  references of a batch of units; its presence is the commit
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipeline.alignment import LayerTarget, NeuronTarget
from pipeline.arrays import Group, create_array, create_group, open_group, read_rows, write_rows
from pipeline.neurons import check_layer_name
from pipeline.storage import Root
from pipeline.synthesis.reference_target import AlignmentPlan
from pipeline.tables import read_rows as read_table_rows
from pipeline.tables import write_table

REFERENCE_SCHEMA = {
    "unit": "int32",
    "status": "string",
    "status_reason": "string",
    "goal_activation": "float32",
    "num_references": "int32",
    "reference_source": "string",
    "reference_keys": "list<string>",
    "reference_samples": "list<int64>",
    "reference_activations": "list<float32>",
    "reference_labels": "list<string>",
    "reference_positions": "list<float32>",
}


def _store_path(layer: str) -> str:
    return f"run/targets.zarr/{check_layer_name(layer)}"


def prepare_store(
    root: Root,
    plan: AlignmentPlan,
    num_units: int,
    shapes: Mapping[str, tuple[int, int]],
    model_channels: Mapping[str, int],
) -> None:
    """Create the arrays of one layer before any worker writes to them; nothing is done if they are there.

    Args:
        root: the atlas folder.
        plan: of the layer.
        num_units: of the layer.
        shapes: aligned layer → (C·P, N/P) of its quantile functions.
        model_channels: feature layer → C.

    Raises:
        ValueError: the arrays there have other shapes: they belong to another recipe.
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
    marker = f"run/targets/{check_layer_name(plan.layer)}.json"
    if root.exists(marker):
        present = root.read_json(marker)
        different = [key for key, value in attributes.items() if present.get(key) != value]
        if different:
            raise ValueError(
                f'{root.url}: the targets of layer "{plan.layer}" were made with another '
                f"{', '.join(different)}: {[present.get(k) for k in different]} there, "
                f"{[attributes[k] for k in different]} wanted; choose another output.root"
            )
        return
    group = create_group(root, path, attributes)
    for name, (channels, levels) in shapes.items():
        create_array(group, f"{name}/quantile", (num_units, channels, levels), "float32", (1, channels, levels))
        if plan.rule != "none" and name in plan.feature_layers:
            num_channels = model_channels[name]
            create_array(group, f"{name}/importance", (num_units, num_channels), "float32", (1, num_channels))
    root.write_json(marker, attributes)


def write_target(root: Root, plan: AlignmentPlan, unit: int, target: NeuronTarget) -> None:
    """Write one neuron's target; the caller is the only writer of that unit."""
    group = open_group(root, _store_path(plan.layer), "r+")
    for name, layer_target in target.layers.items():
        write_rows(group, f"{name}/quantile", unit, layer_target.quantile[None].numpy())
        if layer_target.importance is not None:
            write_rows(group, f"{name}/importance", unit, layer_target.importance[None].numpy())


def read_targets(
    root: Root, plan: AlignmentPlan, units: Sequence[int]
) -> dict[int, tuple[NeuronTarget | None, dict[str, Any]]]:
    """Unit → (target, references as committed) of some units of a layer; the target of a dead unit is None.

    Raises:
        KeyError: a unit has no committed target.
    """
    references = read_references(root, plan.layer)
    group = open_group(root, _store_path(plan.layer))
    found: dict[int, tuple[NeuronTarget | None, dict[str, Any]]] = {}
    for unit in units:
        row = references[unit]
        found[unit] = (_read_target(group, plan, row) if row["status"] == "ok" else None, row)
    return found


def _read_target(group: Group, plan: AlignmentPlan, row: Mapping[str, Any]) -> NeuronTarget:
    unit = row["unit"]
    layers = {}
    for name, weight in plan.weights.items():
        quantile = torch.from_numpy(read_rows(group, f"{name}/quantile", unit, unit + 1)[0])
        importance = None
        if plan.rule != "none" and name in plan.feature_layers:
            importance = torch.from_numpy(read_rows(group, f"{name}/importance", unit, unit + 1)[0])
        layers[name] = LayerTarget(quantile=quantile, importance=importance, weight=weight)
    return NeuronTarget(layers=layers, relevance=plan.rule, goal_activation=row["goal_activation"])


def write_references(root: Root, layer: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Commit a batch of units: their references, written last."""
    units = [row["unit"] for row in rows]
    name = f"{min(units):05d}-{len(units)}"
    columns = {column: [row[column] for row in rows] for column in REFERENCE_SCHEMA}
    write_table(root, f"run/targets/{check_layer_name(layer)}/{name}.parquet", columns, REFERENCE_SCHEMA)


def read_references(root: Root, layer: str) -> dict[int, dict[str, Any]]:
    """Unit → its row of references, of every committed unit of a layer."""
    folder = f"run/targets/{check_layer_name(layer)}"
    rows: dict[int, dict[str, Any]] = {}
    for name in root.list(folder):
        if name.endswith(".parquet"):
            rows |= {row["unit"]: row for row in read_table_rows(root, f"{folder}/{name}")}
    return rows


def committed_targets(root: Root, layer: str) -> set[int]:
    """Units of a layer whose targets are complete."""
    return set(read_references(root, layer))
