"""The images of an atlas that is validated, each decoded once and compared with the tables."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from pipeline.atlas.format.rows import LayerRows
from pipeline.atlas.format.schema import EXAMPLE_TILE_PX
from pipeline.atlas.neighbors.find import NeuronKey
from pipeline.atlas.validation.image_checks import decode_bounded, sheet_problems, thumbnail
from pipeline.atlas.validation.listed_files import Fault, ListedFiles
from pipeline.atlas.validation.map_checks import map_sheet_problems
from pipeline.atlas.validation.primary_rows import PrimaryRows
from pipeline.io.images import BadImage

Seen = TypeVar("Seen")


class ComparedImages:
    """Compares the images of one layer after the other, then those that no layer names; `files` collects the faults."""

    def __init__(self, files: ListedFiles) -> None:
        self._files = files

    def check_layer(self, layer: LayerRows) -> dict[str, np.ndarray]:
        """Decode every image that a layer names, and compare it with its row and with its tile.

        Returns:
            image_path → thumbnail of the primary rows' visualizations.
        """
        rows = {row["image_path"]: row for row in layer.rows if row["image_path"]}
        strips = {row["examples_path"]: row for row in layer.rows if row["examples_path"]}
        masks = {row["alpha_path"] for row in layer.rows if row["alpha_path"]}
        sheets = {sheet.path: sheet for sheet in layer.sheets}
        painted = {row["image_path"] for row in layer.primary_rows}
        thumbnails: dict[str, np.ndarray] = {}

        def measure(path: str, image: np.ndarray) -> tuple[tuple[int, int], np.ndarray | None]:
            return (image.shape[1], image.shape[0]), thumbnail(image) if path in painted else None

        for path, (size_px, small) in self._seen(sorted({*rows, *strips, *masks} - {*sheets}), measure):
            if small is not None:
                thumbnails[path] = small
            expected_px = size_px
            if path in rows:
                expected_px = (rows[path]["width_px"], rows[path]["height_px"])
            elif path in strips:
                expected_px = ((strips[path]["num_examples"] or 0) * EXAMPLE_TILE_PX, EXAMPLE_TILE_PX)
            if size_px != expected_px:
                self._files.add(path, f"has {size_px} px (width, height), its row says {expected_px}")

        def compare(path: str, visualization: np.ndarray) -> list[str]:
            return list(sheet_problems(visualization, sheets[path].rows, thumbnails))

        self._note_problems(self._seen(sheets, compare))
        self._check_listed(sheets)
        return thumbnails

    def check_rest(self, map_sheets: Mapping[str, Sequence[NeuronKey]], primary: Mapping[str, PrimaryRows]) -> None:
        """Read every listed file that no layer names, and compare the sheets of the map with their neurons.

        Args:
            map_sheets: path → the neurons on it.
            primary: layer → its primary rows.
        """

        def compare(path: str, visualization: np.ndarray) -> list[str]:
            keys = map_sheets.get(path, ())
            rows = [primary[layer].row(unit) for layer, unit in keys]
            small = [primary[layer].thumbnail(unit) for layer, unit in keys]
            thumbnails = {row["image_path"]: seen for row, seen in zip(rows, small, strict=True) if seen is not None}
            return list(map_sheet_problems(visualization, rows, thumbnails)) if keys else []

        self._note_problems(self._seen([path for path in self._files.left if path.endswith(".webp")], compare))
        self._check_listed(map_sheets)
        for _ in self._files.intact(list(self._files.left)):
            pass  # tables of a layer that could not be read

    def _seen(self, paths: Iterable[str], see: Callable[[str, np.ndarray], Seen]) -> Iterator[tuple[str, Seen]]:
        """(path, what `see` makes of path and pixels) of the intact files that are images; the others become faults.

        Only the result of `see`, which runs in threads, stays in memory.
        """

        def decode(path: str, data: bytes) -> Seen | Fault:
            try:
                return see(path, decode_bounded(data))
            except BadImage as error:
                return Fault(path, f"does not decode: {error}")

        return self._files.seen(paths, decode)

    def _note_problems(self, found: Iterable[tuple[str, list[str]]]) -> None:
        for path, problems in found:
            for problem in problems:
                self._files.add(path, problem)

    def _check_listed(self, sheets: Iterable[str]) -> None:
        for path in sheets:
            if path not in self._files.listed:
                self._files.add(path, "missing: this contact sheet is not listed in atlas.json")
