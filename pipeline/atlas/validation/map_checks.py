"""Checks of the map and of the nearest neighbors of an atlas."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.atlas.neighbors.find import NeuronKey
from pipeline.atlas.neighbors.map_sheets import (
    MAP_SHEET_COLUMNS,
    MAP_SHEET_PX,
    map_sheet_path,
    map_tile_box,
    num_map_sheets,
)
from pipeline.atlas.neighbors.projection import MAP_SIDE, morton_order
from pipeline.atlas.validation.image_checks import MAX_TILE_DIFFERENCE, tile_problems


def map_sheet_problems(
    sheet: np.ndarray, rows: Sequence[Mapping[str, Any]], thumbnails: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """What is wrong with a decoded sheet of the map, in words.

    Args:
        sheet: uint8 [H, W, 3].
        rows: the primary rows of its neurons, in the order of the map.
        thumbnails: float32 [16, 16, 3] by image_path; a visualization without one is not compared.
    """
    if sheet.shape != (MAP_SHEET_PX, MAP_SHEET_PX, 3):
        yield f"is {sheet.shape[1]} × {sheet.shape[0]} px, expected {MAP_SHEET_PX} × {MAP_SHEET_PX}"
        return
    # Twice the bound of a contact sheet: the tile is smaller and was compressed twice.
    yield from tile_problems(sheet, rows, thumbnails, box=map_tile_box, max_difference=2 * MAX_TILE_DIFFERENCE)


def neighbor_problems(
    rows: Sequence[Mapping[str, Any]], *, units: Sequence[int], neurons: frozenset[tuple[str, int]], layer: str
) -> Iterator[str]:
    """What is wrong with the rows of a layer's table of neighbors; `neurons` are all neurons of the atlas."""
    known, previous = set(units), -1
    for row in rows:
        where = f"unit {row['unit']}"
        if row["unit"] not in known:
            yield f"{where} is not in the layer's table"
        if row["unit"] <= previous:
            yield f"{where} is out of order or twice"
        previous = row["unit"]
        near_layers, near_units, values = row["neighbor_layers"], row["neighbor_units"], row["cosine_similarities"]
        near = list(zip(near_layers, near_units, strict=False))
        if not len(near_layers) == len(near_units) == len(values):
            yield f"{where}: its lists are of different lengths"
        if len(set(near)) != len(near) or (layer, row["unit"]) in near or not neurons.issuperset(near):
            yield f"{where}: neighbors must be other neurons of the atlas, each once"
        if any(not 0 < value <= 1.001 for value in values) or sorted(values, reverse=True) != list(values):
            yield f"{where}: cosine similarities must fall from at most 1 to above 0"


def map_problems(rows: Sequence[Mapping[str, Any]], neurons: frozenset[NeuronKey]) -> Iterator[str]:
    """What is wrong with the rows of `map.parquet`; `neurons` are all neurons of the atlas."""
    keys = [(row["layer"], row["unit"]) for row in rows]
    if len(set(keys)) != len(keys):
        yield "a neuron has two places"
    strangers = set(keys) - neurons
    if strangers:
        yield f"{len(strangers)} places belong to no neuron of this atlas, e.g. {str(min(strangers))[:200]}"
    places = np.array([(row["x"], row["y"]) for row in rows], np.int64).reshape(-1, 2)
    if ((places < 0) | (places >= MAP_SIDE)).any():
        yield f"places must be from 0 to {MAP_SIDE - 1}"
    elif (morton_order(places.astype(np.int32)) != np.arange(len(rows))).any():
        yield "rows must go along the Morton curve: thumbnails are found by it"


def map_sheet_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[NeuronKey]]:
    """Path → the neurons on it, for every sheet of a map with these rows."""
    keys = [(row["layer"], row["unit"]) for row in rows]
    return {
        map_sheet_path(number): keys[number * MAP_SHEET_COLUMNS**2 : (number + 1) * MAP_SHEET_COLUMNS**2]
        for number in range(num_map_sheets(len(keys)))
    }
