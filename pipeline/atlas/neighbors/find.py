"""The tables of nearest neighbors of an atlas, and the map with its thumbnails.

`find_neighbors` computes (pure); `NeighborTables.files` gives what is published. `embeddings` has the formula.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.atlas.format.schema import MAP_TABLE, neighbors_path, sheet_path
from pipeline.atlas.format.sheets import TILES_PER_SHEET
from pipeline.atlas.neighbors.embeddings import TopImages, unit_embeddings
from pipeline.atlas.neighbors.map_sheets import (
    MAP_SHEET_COLUMNS,
    MAP_SHEET_QUALITY,
    MAP_TILE_PX,
    draw_map_sheets,
)
from pipeline.atlas.neighbors.nearest import NEIGHBORS_SCHEMA, NUM_NEIGHBORS, nearest_neighbors, neighbor_rows
from pipeline.atlas.neighbors.projection import MAP_ENCODINGS, MAP_SCHEMA, MAP_SIDE, MIN_NEURONS, morton_order, quantize
from pipeline.io.images import decode_webp, encode_webp
from pipeline.io.parquet import Columns, table_bytes
from pipeline.io.prefetch import ahead
from pipeline.io.root import Root
from pipeline.io.urls import explaining

NeuronKey = tuple[str, int]  # layer and unit
Layout = Callable[[np.ndarray], np.ndarray]  # unit embeddings [N, R] → places [N, 2]


@dataclass(frozen=True, kw_only=True, eq=False)
class NeighborTables:
    """Neighbors and places of the N neurons of an atlas.

    Attributes:
        neurons: all N, by layer in model order, then unit.
        index: int64 [N, k], neighbors by place in `neurons`; cosine: float32 [N, k]. See `nearest_neighbors`.
        num_dimensions: of the unit embeddings.
        num_top_images: dataset images that an embedding is made of, at most.
        on_map: int64 [M], the neurons on the map, in the order of its table; empty without a map.
        places: int32 [M, 2] of them.
        layout_name: what made the layout.
    """

    neurons: Sequence[NeuronKey]
    index: np.ndarray
    cosine: np.ndarray
    num_dimensions: int
    num_top_images: int
    on_map: np.ndarray
    places: np.ndarray
    layout_name: str

    def units_by_layer(self) -> dict[str, list[int]]:
        """Layer → its units among `neurons`."""
        found: dict[str, list[int]] = {}
        for layer, unit in self.neurons:
            found.setdefault(layer, []).append(unit)
        return found

    def note(self) -> dict[str, Any]:
        """`neighbors` of atlas.json: how the neighbors were found, and the map, null without one."""
        on_map = {
            "file": MAP_TABLE,
            "layout": self.layout_name,
            "num_neurons": len(self.on_map),
            "side": MAP_SIDE,
            "tile_size_px": MAP_TILE_PX,
            "sheet_columns": MAP_SHEET_COLUMNS,
        }
        return {
            "num_neighbors": self.index.shape[1],
            "num_top_images": self.num_top_images,
            "num_dimensions": self.num_dimensions,
            "map": on_map if len(self.on_map) else None,
        }

    def files(self, root: Root) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of every file to publish; the contact sheets of the neurons must be in `root`.

        Raises:
            StorageError: no room for the thumbnails in the folder of temporary files.
        """
        for layer, rows in neighbor_rows(self.neurons, self.index, self.cosine):
            yield neighbors_path(layer), table_bytes(rows, NEIGHBORS_SCHEMA)
        if not len(self.on_map):
            return
        shown = [self.neurons[place] for place in self.on_map]
        columns: Columns = {
            "layer": [layer for layer, _ in shown],
            "unit": np.array([unit for _, unit in shown], np.int32),
            "x": self.places[:, 0],
            "y": self.places[:, 1],
        }
        yield MAP_TABLE, table_bytes(columns, MAP_SCHEMA, encodings=MAP_ENCODINGS)
        tiles = dict(self._tiles())
        with explaining(tempfile.gettempdir(), "write"), tempfile.TemporaryFile() as spool:
            places = [tiles[key] for key in shown]
            sheets = draw_map_sheets(places, lambda path: decode_webp(root.read_bytes(path)), spool)
            for (path, _), data in ahead(_packed, sheets, threads=1, most=2):
                yield path, data

    def _tiles(self) -> Iterator[tuple[NeuronKey, tuple[str, int]]]:
        """Where each neuron stands on the contact sheets, as `plan_sheets` lays them out."""
        for layer, units in self.units_by_layer().items():
            for place, unit in enumerate(units):
                number, tile = divmod(place, TILES_PER_SHEET)
                yield (layer, unit), (sheet_path(layer, number), tile)


def _packed(drawn: tuple[str, np.ndarray]) -> bytes:
    return encode_webp(drawn[1], quality=MAP_SHEET_QUALITY)


def find_neighbors(
    neurons: Sequence[NeuronKey], top_images: TopImages, *, layout: Layout | None, layout_name: str = "", seed: int = 0
) -> NeighborTables:
    """Neighbors of all neurons and, with a layout, the map.

    Args:
        neurons: N of them, by layer in model order, then unit.
        top_images: theirs, in this order.
        layout: places unit embeddings on a plane; None for no map.
        layout_name: its name for readers.
        seed: of the factorization.
    """
    unit_embedding = unit_embeddings(top_images, seed=seed)
    index, cosine = nearest_neighbors(unit_embedding, NUM_NEIGHBORS)
    (present,) = np.nonzero(unit_embedding.any(axis=1))
    on_map, places = np.zeros(0, np.int64), np.zeros((0, 2), np.int32)
    if layout is not None and len(present) >= MIN_NEURONS:
        quantized = quantize(layout(unit_embedding[present]))
        order = morton_order(quantized)
        on_map, places = present[order], quantized[order]
    return NeighborTables(
        neurons=neurons,
        index=index,
        cosine=cosine,
        num_dimensions=unit_embedding.shape[1],
        num_top_images=top_images.sample.shape[1],
        on_map=on_map,
        places=places,
        layout_name=layout_name,
    )
