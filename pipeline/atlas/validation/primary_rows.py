"""What `validate` keeps of a checked layer, to compare neighbors and map with."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.atlas.format.fragments import Row
from pipeline.atlas.format.rows import LayerRows
from pipeline.atlas.validation.image_checks import THUMBNAIL_PX


@dataclass
class PrimaryRows:
    """What later checks need of the primary rows of a layer.

    Attributes:
        layer: its name.
        places: unit → place.
        statuses: by place.
        image_paths: by place, "" without a visualization.
        thumbnails: uint8 [neurons, 16, 16, 3], by place; empty without a map.
        has_thumbnail: bool [neurons], by place.
    """

    layer: str
    places: dict[int, int]
    statuses: list[str]
    image_paths: list[str]
    thumbnails: np.ndarray
    has_thumbnail: np.ndarray

    @staticmethod
    def of(layer: LayerRows, thumbnails: Mapping[str, np.ndarray]) -> "PrimaryRows":
        rows = layer.primary_rows
        seen = [thumbnails.get(row["image_path"]) for row in rows]
        kept = np.zeros((len(rows) if thumbnails else 0, THUMBNAIL_PX, THUMBNAIL_PX, 3), np.uint8)
        for place, visualization in enumerate(seen):
            if visualization is not None:
                kept[place] = visualization
        return PrimaryRows(
            layer=layer.name,
            places={row["unit"]: place for place, row in enumerate(rows)},
            statuses=[sys.intern(row["status"]) for row in rows],
            image_paths=[row["image_path"] for row in rows],
            thumbnails=kept,
            has_thumbnail=np.array([visualization is not None for visualization in seen], bool),
        )

    def row(self, unit: int) -> Row:
        """The kept columns of a primary row."""
        place = self.places[unit]
        path, status = self.image_paths[place], self.statuses[place]
        return {"layer": self.layer, "unit": unit, "status": status, "image_path": path}

    def thumbnail(self, unit: int) -> np.ndarray | None:
        """The thumbnail of a neuron's visualization, None if it could not be read."""
        place = self.places[unit]
        return self.thumbnails[place] if self.has_thumbnail[place] else None
